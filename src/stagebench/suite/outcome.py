"""Note how a run ended in what pytest-benchmark saved of it, which is written before the last hook had its say.

Saved runs say `complete: false` until pytest has its exit status; one that is killed before stays so.
"""

import secrets
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stagebench.core.errors import ResultsError
from stagebench.core.results import SCHEMAS, Results, Session, read_results, write_results
from stagebench.suite.judging import session_of

_NAME = pytest.StashKey[str]()
ENDED = pytest.StashKey[set[str]]()  # items that came to some end: who stops early can still say 0


def so_far(config: pytest.Config) -> Session:
    """Say that there is no end yet, and by which name the files of the run are found again."""
    session: Any = config.pluginmanager.getplugin("session")
    return {
        "schema": SCHEMAS["results"],
        "failed": session.testsfailed,
        "exit_status": int(session.exitstatus),
        "regressed": [],
        "complete": False,
        "session": config.stash.setdefault(_NAME, secrets.token_hex(8)),
    }


def finish(config: pytest.Config, status: int, regressed: Collection[str]) -> None:
    """Write the final exit status, and what got slower, to all that was saved of this session, each file whole.

    What `--benchmark-compare-fail` fails has regressed too: pytest-benchmark checks it after it saved.
    """
    if _NAME not in config.stash:
        return
    session: Any = config.pluginmanager.getplugin("session")
    slower = sorted({*regressed, *(name for name, _ in session_of(config).performance_regressions)})
    complete = config.stash[ENDED].issuperset(item.nodeid for item in session.items)
    for path, results in _saved(config):
        results["stagebench"] |= {"final_status": int(status), "complete": complete, "regressed": slower}
        write_results(path, results)


def _saved(config: pytest.Config) -> Iterator[tuple[Path, Results]]:
    """Yield the files of this session: of `--benchmark-json`, and the latest one where it is also kept with others."""
    option, storage, places = config.option, session_of(config).storage, []
    if (place := option.benchmark_json) is not None:  # a path, or before pytest-benchmark 5.3 a file
        path = config.invocation_params.dir / (place if isinstance(place, Path) else place.name)
        places.append([path] if path.is_file() else [])  # a terminal would be waited for
    if (option.benchmark_save or option.benchmark_autosave) and hasattr(storage, "query"):
        places.append(storage.query()[::-1])
    for paths in places:
        for path in paths:
            with suppress(ResultsError):  # others' files lie there too
                results = read_results(path)
                if results["stagebench"].get("session") == config.stash[_NAME]:
                    yield path, results
                    break
