"""What every layer uses: the objects between stages, settings, results on disk, environment, errors, statistics."""
