"""Measure in fresh processes, one side, or two sides in turns."""

# Environment variable of each process: the repository it measures a copy of, and the folder of all copies; "" without.
COPY_OF = "STAGEBENCH_COPY_OF"
