"""An experiment: several models over many samples, kept line by line, and the report made of the lines."""
