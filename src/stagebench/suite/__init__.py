"""The pytest plugin: options, fixtures, hooks."""
