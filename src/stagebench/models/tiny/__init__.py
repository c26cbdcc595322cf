"""Tiny models that were trained to say what happens in synthetic clips, and how."""
