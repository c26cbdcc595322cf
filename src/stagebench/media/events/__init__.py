"""Event recordings: formats read into four columns, and columns drawn as images."""
