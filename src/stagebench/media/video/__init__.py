"""Read what the container of a clip says, and exact frames of it."""
