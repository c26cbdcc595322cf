"""Collect these benchmarks under one name, from this package and from the repository's folder `benchmarks`."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from stagebench.core.results import BENCHMARKS
from stagebench.core.settings import ENGINES
from stagebench.core.stages import BEFORE_GENERATE
from stagebench.suite import plugin
from stagebench.suite.selection import BY_DEFAULT


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the plugin where only the command line names a folder with these fixtures."""
    begun = pluginmanager.has_plugin("session")  # options have been read
    if not begun and not pluginmanager.has_plugin(plugin.__name__):
        pluginmanager.register(plugin, plugin.__name__)


class _OfPackage(pytest.Module):
    """One of our files, named by its place in `benchmarks`, not by its installed path."""

    def funcnamefilter(self, name: str) -> bool:
        """Accept our functions, whatever names the project's settings require."""
        return name.startswith("test_")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Collect a file of this package, whatever names the project's settings require."""
    found = yield
    if file_path.parent != Path(__file__).parent or not file_path.match("test_*.py"):
        return found
    return [_OfPackage.from_parent(parent, path=file_path, nodeid=f"{BENCHMARKS}/{file_path.name}")]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore the benchmarks of engines where none but transformers is named."""
    of_engines = collection_path.name == "test_engine.py" and collection_path.parent.name == BENCHMARKS
    return True if of_engines and plugin.settings(config).engines == ENGINES[:1] else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Name the same file in failure reports, not the one that a function was imported from."""
    item.location = (item.nodeid.partition("::")[0], *item.location[1:])


@pytest.hookimpl(tryfirst=True)  # before -k and -m, so that these don't count as the reason
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out plain code for all backends but one, and the scaling benchmarks without `--stage-scale`."""
    timed_plainly = "eager" in plugin.settings(config).backends
    transformers = ENGINES[0] in plugin.settings(config).engines
    left = [
        item
        for item in items
        if (timed_plainly and _is_repeated(item))
        or (not transformers and "stage_model" in getattr(item, "fixturenames", ()))
        or (item.path.name == "test_scale.py" and not config.option.stage_scale)
    ]
    items[:] = [item for item in items if item not in left]
    for item in left:
        item.stash[BY_DEFAULT] = True
    config.hook.pytest_deselected(items=left)


def _is_repeated(item: pytest.Item) -> bool:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    plain = item.get_closest_marker("eager") is not None or params.get("stage") in BEFORE_GENERATE
    return plain and params.get("stage_model", "eager") != "eager"
