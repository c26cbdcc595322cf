"""Note how a run ended in what pytest-benchmark saved of it, which is written before the last hook had its say.

Saved runs say `complete: false` until pytest has its exit status; one that is killed before stays so.
"""

import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stagebench.core.errors import ResultsError
from stagebench.core.results import SCHEMAS, Results, Session, read_results, write_results

_NAME = pytest.StashKey[str]()
_JSON = pytest.StashKey[Path]()
_ENDED = pytest.StashKey[set[str]]()


def so_far(config: pytest.Config) -> Session:
    """Say that there is no end yet, and by which name the files of the run are found again."""
    if (place := config.getoption("benchmark_json")) is not None:  # a path, or before pytest-benchmark 5.3 a file
        config.stash[_JSON] = (place if isinstance(place, Path) else Path(place.name)).resolve()
    name = config.stash.setdefault(_NAME, secrets.token_hex(8))
    session: Any = config.pluginmanager.getplugin("session")
    return {
        "schema": SCHEMAS["results"],
        "failed": session.testsfailed,
        "exit_status": int(session.exitstatus),
        "regressed": [],
        "complete": False,
        "session": name,
    }


def note_end(item: pytest.Item) -> None:
    """Note that an item came to its end, whatever that was: who stops early can still say 0."""
    item.config.stash.setdefault(_ENDED, set()).add(item.nodeid)


def finish(config: pytest.Config, status: int) -> None:
    """Write the final exit status to all that was saved of this session, each file whole or not at all.

    Raises:
        StagebenchError: where a file can't be written.
    """
    session: Any = config.pluginmanager.getplugin("session")
    if session is None:  # pytest --help
        return
    complete = config.stash.get(_ENDED, set()).issuperset(item.nodeid for item in session.items)
    for path, results in _saved(config):
        results["stagebench"] |= {"final_status": int(status), "complete": complete}
        write_results(path, results)


def _saved(config: pytest.Config) -> Iterator[tuple[Path, Results]]:
    """Yield the files of this session: of `--benchmark-json`, and the latest one where it is also kept with others."""
    for paths in _places(config):
        for path in paths:
            with suppress(ResultsError):  # others' files lie there too
                results = read_results(path)
                if results["stagebench"].get("session") == config.stash[_NAME]:
                    yield path, results
                    break


def _places(config: pytest.Config) -> Iterator[list[Path]]:
    if _NAME not in config.stash:
        return
    if _JSON in config.stash and config.stash[_JSON].is_file():  # a terminal would be waited for
        yield [config.stash[_JSON]]
    storage: Any = config._benchmarksession.storage  # type: ignore[attr-defined] # pytest-benchmark puts it there
    if (config.option.benchmark_save or config.option.benchmark_autosave) and hasattr(storage, "query"):
        yield storage.query()[::-1]
