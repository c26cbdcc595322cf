"""What measured seconds mean: attribution, summaries, fits. Numbers in, numbers out; importable without torch."""
