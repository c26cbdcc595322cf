"""An experiment: several models over many samples, recorded line by line, and the report of the lines."""
