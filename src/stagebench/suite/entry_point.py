"""The entry point that pytest loads in every project where this package is installed.

It registers the markers. It imports, changes and prints nothing more until an option or a benchmark of this package is
used, or a conftest.py or `-p` names the plugin. Its entry point has the module's name, so that pytest sees one plugin
however it is found.
"""

import os
import shlex
from pathlib import Path
from typing import Any

import pytest

_PACKAGE = Path(__file__).parents[1]
_PLUGIN = "stagebench.suite.plugin"
_MAY_BE_OURS = ("--stage-", "--help", "-h", "@")  # "@" reads a file of arguments


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add our options only where one of them, or help, may be requested, because making them takes 20 ms."""
    config: Any = pluginmanager.get_plugin("pytestconfig")
    more = shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    typed = map(str, (*config.invocation_params.args, *config.getini("addopts"), *more))
    if any(argument.startswith(_MAY_BE_OURS) for argument in typed):
        from stagebench.suite.options import add_to_pytest

        add_to_pytest(parser)


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Load the plugin where something of ours is requested, before anything reads pytest-benchmark's options."""
    given = early_config.known_args_namespace
    options = any(name.startswith("stage_") and value is not None for name, value in vars(given).items())
    if options or any(_is_ours(argument, given.pyargs) for argument in given.file_or_dir):
        early_config.pluginmanager.import_plugin(_PLUGIN)


def _is_ours(argument: str, names_packages: bool) -> bool:
    """Return whether an argument of pytest names something in this package, as a module or a path."""
    name = argument.partition("::")[0]
    if names_packages and name.partition(".")[0] == _PACKAGE.name:
        return True
    return Path(name).absolute().is_relative_to(_PACKAGE)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, which benchmarks also have where they run without us."""
    config.addinivalue_line("markers", "gate(threshold, floor): the limits above which a benchmark is too slow")
    config.addinivalue_line("markers", "eager: plain code whatever the backend, so it is timed once")
