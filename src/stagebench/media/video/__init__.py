"""Read a clip's container and exact frames of it."""
