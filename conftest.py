"""Loads stagebench's pytest plugin for tests and benchmarks alike."""

pytest_plugins = ("stagebench.pytest_plugin",)
