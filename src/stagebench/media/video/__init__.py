"""Clips: what a container says, and exact frames of it."""
