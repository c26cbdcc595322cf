"""What pytest loads in every project where this package is installed: the options, and the plugin where it is wanted.

Nothing else is imported, changed or printed before one of these options, or a benchmark of this package, is asked for;
or before a conftest.py, or `-p`, names the plugin. Its name as an entry point is that of the module, so that it is the
same plugin for pytest however it is found.
"""

from pathlib import Path

import pytest

from stagebench.suite.options import PREFIX, PYTEST

_PACKAGE = Path(__file__).parents[1]
_PLUGIN = "stagebench.suite.plugin"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite; None is what was not given."""
    group = parser.getgroup("stagebench")
    for option in PYTEST:
        action = "store_true" if option.is_flag else "append" if option.multiple else "store"
        names = {"dest": f"stage_{option.name}", "help": option.help}
        group.addoption(option.opts[0].replace("--", PREFIX), action=action, default=None, **names)


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Load the plugin where something of ours is asked for, before anything reads pytest-benchmark's options."""
    given = early_config.known_args_namespace
    options = any(getattr(given, f"stage_{option.name}") is not None for option in PYTEST)
    if options or any(_is_ours(argument, given.pyargs) for argument in given.file_or_dir):
        early_config.pluginmanager.import_plugin(_PLUGIN)


def _is_ours(argument: str, names_packages: bool) -> bool:
    """Say whether an argument of pytest names something in this package, as a module or as a path."""
    name = argument.partition("::")[0]
    if names_packages and name.partition(".")[0] == _PACKAGE.name:
        return True
    return Path(name).absolute().is_relative_to(_PACKAGE)


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known, which stand at benchmarks that also run without us."""
    config.addinivalue_line("markers", "gate(threshold, floor): how much slower than its baseline is too much")
    config.addinivalue_line("markers", "eager: plain code whatever the backend, and so timed once")
