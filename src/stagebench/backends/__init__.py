"""Faster ways to run the stages, each proven against the plain path: over a static cache, as CUDA graphs."""
