"""Which benchmarks a session of pytest was asked for: what was left out on purpose is neither missing nor forgotten."""

import os
import shlex
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from stagebench.core.results import Benchmark
from stagebench.core.settings import BACKENDS
from stagebench.models.registry import MODELS
from stagebench.suite.options import PREFIX
from stagebench.suite.settings import Settings

SETTINGS = pytest.StashKey[Settings]()
"""What the session was asked to run, and how."""

BY_DEFAULT = pytest.StashKey[bool]()
"""Of an item that the suite itself leaves out until asked for it: to leave that out is no choice of this session."""

_DESELECTED = pytest.StashKey[dict[str, bool]]()
"""By name, whether to leave it out was a choice."""

_OPTIONS = {
    "-k": "keyword",
    "-m": "markexpr",
    "--deselect": "deselect",
    "--ignore": "ignore",
    "--ignore-glob": "ignore_glob",
    "--lf": "lf",
    "--stepwise": "stepwise",
}


def note_deselected(items: Iterable[pytest.Item]) -> None:
    """Note which benchmarks are left out on purpose, by whatever option or plugin."""
    for item in items:
        if "benchmark" in getattr(item, "fixturenames", ()):
            noted = item.config.stash.setdefault(_DESELECTED, {})
            noted[item.nodeid] = not item.stash.get(BY_DEFAULT, False)


def deselected(config: pytest.Config) -> list[str]:
    """Return the benchmarks that a default session has, and this one was asked to leave out."""
    return sorted(name for name, chosen in config.stash.get(_DESELECTED, {}).items() if chosen)


def described(config: pytest.Config) -> list[str]:
    """Return the arguments that choose some of the benchmarks; empty where all were run."""
    given = [(name, config.getoption(option, None)) for name, option in _OPTIONS.items()]
    chosen = [name if value is True else shlex.join([name, *_texts(value)]) for name, value in given if value]
    if left_out := set(MODELS) - set(config.stash[SETTINGS].models):
        chosen.append(f"{PREFIX}model without {', '.join(sorted(left_out))}")
    if "eager" not in config.stash[SETTINGS].backends:
        chosen.append(f"{PREFIX}backend without eager")
    if config.args_source is config.ArgsSource.ARGS:
        chosen += sorted(arg for arg in config.args if "::" in arg or (config.invocation_params.dir / arg).is_file())
    return chosen or ["what a plugin deselects"][: len(deselected(config))]


def _texts(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def is_left_out(config: pytest.Config, benchmark: Benchmark) -> bool:
    """Return whether a stored benchmark is not among those that this session was asked for."""
    info, name = benchmark.get("extra_info", {}), benchmark["fullname"]
    backend = info.get("backend", "eager" if "model" in info else None)
    noted = config.stash.get(_DESELECTED, {})
    if not any(_is_within(config, name, arg) for arg in config.args) or noted.get(name) is False:
        return True
    return not _by_file_alone(config) and (
        name in noted
        or info.get("model") in set(MODELS) - set(config.stash[SETTINGS].models)
        or backend in set(BACKENDS) - set(config.stash[SETTINGS].backends)
        or bool(config.getoption("lf", None))
        or _is_ignored(config, config.rootpath / name.partition("::")[0])
    )


def _by_file_alone(config: pytest.Config) -> bool:
    """Say whether only the project's own file of settings selects: a change does not choose what judges it."""
    typed = [*config.invocation_params.args, *shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))]
    return any(map(_selects, config.getini("addopts"))) and not any(
        _selects(str(each)) or "::" in str(each) for each in typed
    )


def _selects(argument: str) -> bool:
    return argument.startswith((*_OPTIONS, "--last-failed", "--sw", f"{PREFIX}model", f"{PREFIX}backend"))


def _is_ignored(config: pytest.Config, path: Path) -> bool:
    """Decide as pytest does: a pattern also matches a folder, with all that is in it."""
    here = config.invocation_params.dir
    ignored = [Path(here, name) for name in config.getoption("ignore", None) or ()]
    patterns = [str(Path(here, pattern)) for pattern in config.getoption("ignore_glob", None) or ()]
    above = (path, *path.parents)
    return any(p in above for p in ignored) or any(fnmatchcase(str(p), pattern) for p in above for pattern in patterns)


def _is_within(config: pytest.Config, name: str, argument: str) -> bool:
    """Say whether an argument of pytest names a benchmark: itself, or its file, class, function or folder.

    What is not there as a path (a package, with `--pyargs`) may name anything.
    """
    file, _, inside = name.partition("::")
    asked, _, part = argument.partition("::")
    folder, path = (config.invocation_params.dir / asked).resolve(), (config.rootpath / file).resolve()
    if not folder.exists():
        return True
    return path.is_relative_to(folder) and (not part or inside == part or inside.startswith((f"{part}::", f"{part}[")))
