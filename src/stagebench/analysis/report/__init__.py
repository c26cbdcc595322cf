"""The report made of a run's lines, on whatever it is printed."""
