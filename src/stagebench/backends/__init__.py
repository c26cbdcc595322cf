"""Faster ways to run the stages, as CUDA graphs over a static cache, each verified against the plain path."""
