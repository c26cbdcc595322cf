"""What every layer speaks: the objects between stages, settings, results on disk, environment, errors, statistics."""
