"""Which benchmarks a session of pytest selects, so that those left out on purpose do not count as missing."""

from __future__ import annotations

import os
import shlex
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stagebench.core.results import BENCHMARKS, Benchmark
from stagebench.core.settings import BACKENDS, DEFAULT_MODELS
from stagebench.suite.options import PREFIX

if TYPE_CHECKING:
    from stagebench.suite.settings import Settings

SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()  # settings of models; other benchmarks have none
BY_DEFAULT = pytest.StashKey[bool]()  # of an item that is left out by default, not by a choice
DESELECTED = pytest.StashKey[dict[str, bool]]()  # by name, whether leaving it out was a choice
_OPTIONS = ("-k", "-m", "--deselect", "--ignore", "--ignore-glob", "--lf", "--stepwise")
_SELECTS = (*_OPTIONS, "--last-failed", "--sw", f"{PREFIX}model", f"{PREFIX}backend", f"{PREFIX}engine")


def deselected(config: pytest.Config) -> list[str]:
    """Return the benchmarks of a default session that this one leaves out by choice."""
    return sorted(name for name, chosen in config.stash[DESELECTED].items() if chosen)


def described(config: pytest.Config) -> list[str]:
    """Return the arguments that select some of the benchmarks; empty where all run."""
    chosen = []
    for name in _OPTIONS:
        if value := config.getoption(name, None):
            texts = [] if value is True else map(str, value) if isinstance(value, list) else [str(value)]
            chosen.append(shlex.join([name, *texts]))
    if settings := config.stash.get(SETTINGS, None):
        left_out = set(DEFAULT_MODELS) - set(settings.models)
        if left_out and left_out != set(DEFAULT_MODELS):  # other models alone are not a part of the default ones
            chosen.append(f"{PREFIX}model without {', '.join(sorted(left_out))}")
        if "eager" not in settings.backends:
            chosen.append(f"{PREFIX}backend without eager")
    if config.args_source is config.ArgsSource.ARGS:
        chosen += sorted(arg for arg in config.args if "::" in arg or _file_of(config, arg).suffix == ".py")
    return chosen or ["the selection of a plugin"][: len(deselected(config))]


def is_left_out(config: pytest.Config, benchmark: Benchmark) -> bool:
    """Return whether this session's selection leaves a stored benchmark out."""
    info, name, settings = benchmark.get("extra_info", {}), benchmark["fullname"], config.stash.get(SETTINGS, None)
    models, backends = (settings.models, settings.backends) if settings else ((), BACKENDS)
    backend = info.get("backend", "eager" if "model" in info else None)
    noted = config.stash[DESELECTED]
    if not any(_is_within(config, name, arg) for arg in config.args) or noted.get(name) is False:
        return True
    return not _by_file_alone(config) and (
        name in noted
        or ("model" in info and bool(config.option.stage_model) and info["model"] not in models)
        or backend in set(BACKENDS) - set(backends)
        or bool(config.getoption("lf", None))
        or _is_ignored(config, config.rootpath / name.partition("::")[0])
    )


def _by_file_alone(config: pytest.Config) -> bool:
    """Return whether only the project's settings select: a change can't choose the benchmarks that judge it."""
    typed = map(str, (*config.invocation_params.args, *shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))))
    own = any(argument.startswith(_SELECTS) for argument in config.getini("addopts"))
    return own and not any(argument.startswith(_SELECTS) or "::" in argument for argument in typed)


def _is_ignored(config: pytest.Config, path: Path) -> bool:
    """Return whether pytest ignores a path; as in pytest, a pattern also matches a folder with all its contents."""
    here, above = config.invocation_params.dir, (path, *path.parents)
    patterns = [str(here / pattern) for pattern in config.getoption("ignore_glob", None) or ()]
    ignored = any(here / name in above for name in config.getoption("ignore", None) or ())
    return ignored or any(fnmatchcase(str(p), pattern) for p in above for pattern in patterns)


def _is_within(config: pytest.Config, name: str, argument: str) -> bool:
    """Return whether an argument of pytest names a benchmark, its file, class, function or folder, or no path."""
    file, _, inside = name.partition("::")
    folder, path, part = _file_of(config, argument), (config.rootpath / file).resolve(), argument.partition("::")[2]
    if not folder.exists() and not _is_shipped(config, argument):
        return True
    return path.is_relative_to(folder) and (not part or inside == part or inside.startswith((f"{part}::", f"{part}[")))


def _file_of(config: pytest.Config, argument: str) -> Path:
    """Return the file or folder that an argument of pytest names; for our package, the one in benchmark names."""
    asked = argument.partition("::")[0]
    if not _is_shipped(config, argument):
        return (config.invocation_params.dir / asked).resolve()
    place = (config.rootpath / Path(*asked.split(".")[1:])).resolve()
    return place if place.name == BENCHMARKS else place.with_suffix(".py")


def _is_shipped(config: pytest.Config, argument: str) -> bool:
    return bool(config.option.pyargs) and argument.partition("::")[0].startswith(f"stagebench.{BENCHMARKS}")
