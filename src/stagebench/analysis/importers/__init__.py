"""Stage timings in the formats that people have: one module a format, with the checks that its claims must pass."""
