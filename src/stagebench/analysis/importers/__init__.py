"""Read stage timings of other tools, one module per format, with checks of their numbers."""
