"""Families of transformers, one file each: the shapes of a checkpoint, and what its processor is made of."""
