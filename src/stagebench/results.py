"""Results on disk: pytest-benchmark's JSON with our keys. Whatever reads such a file reads it here, and only here.

A run, a recording and a baseline are all such files. What a check has let pass needs no further look: names are texts,
times are finite and above 0, counters are whole numbers, and no benchmark is there twice.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from reprlib import repr as short
from typing import Any

from stagebench.errors import BaselineError
from stagebench.json_files import read_json

SCHEMA = 1
LONGEST_TEXT = 10_000
ROUNDING = 1e-6
"""Relative; statistics that are further apart are not of the same times."""

Run = dict[str, Any]
Check = tuple[Callable[[Any], bool], str]
"""Whether a value is what it must be, and that in words."""


def read_run(path: Path) -> Run:
    """Read a run that `pytest benchmarks --benchmark-json` wrote, or a recording or baseline made of such.

    Raises:
        BaselineError: where the file is missing, is no such run, or was written by another stagebench.
    """
    return validate(read_json(path, f"the run {path}", BaselineError), f"the run {path}")


def read_sound_run(path: Path) -> Run:
    """Read a run that another one can be held against.

    Raises:
        BaselineError: also where it holds no benchmark, or something failed in it.
    """
    return require_sound(read_run(path), f"the run {path}")


def require_sound(run: Run, where: str) -> Run:
    """Refuse a run that nothing can be held against.

    Raises:
        BaselineError: where it holds no benchmark, or something failed in it.
    """
    own = run["stagebench"]
    if own["failed"] or own["exit_status"]:
        raise BaselineError(
            f"{where} must be one in which nothing failed, got {own['failed']} failures and pytest's exit status "
            f"{own['exit_status']}"
        )
    if not run["benchmarks"]:
        raise BaselineError(f"{where} must hold at least one benchmark, got none")
    return run


def validate(run: Any, where: str) -> Run:
    """Check that data are a run: every number is one, every name a text, every benchmark there once.

    Args:
        run: as JSON holds it.
        where: it was read, for an error.

    Raises:
        BaselineError: naming the first thing that is something else.
    """
    if not isinstance(run, dict) or not isinstance(run.get("stagebench"), dict):
        raise BaselineError(f"{where} must be written by stagebench's pytest plugin, got none of its keys")
    own = run["stagebench"]
    if own.get("schema") != SCHEMA or isinstance(own["schema"], bool):
        raise BaselineError(f"{where} must have schema {SCHEMA}, got {short(own.get('schema'))}")
    if missing := [key for key in ("failed", "regressed", "exit_status") if key not in own]:
        raise BaselineError(f"{where} must say what failed, got no {', '.join(missing)}")
    _check(own, _OWN, f"{where}: stagebench")
    _check(own.get("recording", {}), _RECORDING, f"{where}: recording")
    _check(own.get("accepted", {}), _ACCEPTED, f"{where}: accepted")
    _check(run, _TOP, where)
    _check(run.get("commit_info") or {}, _COMMIT, f"{where}: commit_info")
    _validate_place(run.get("machine_info"), where)
    _validate_benchmarks(run.get("benchmarks"), where)
    return run


def _validate_place(place: Any, where: str) -> None:
    if not isinstance(place, dict) or not {"device", "profile", "dtype"} <= place.keys():
        raise BaselineError(f"{where} must say where it was made, got no device, profile and dtype")
    if wrong := [key for key, value in place.items() if not _is_text(value)]:
        raise BaselineError(f"{where} must say in text where it was made, got another {', '.join(wrong)}")


def _validate_benchmarks(benchmarks: Any, where: str) -> None:
    if not isinstance(benchmarks, list):
        raise BaselineError(f"{where} must list benchmarks with names and stats, got {short(benchmarks)}")
    for place, benchmark in enumerate(benchmarks):
        name = benchmark.get("fullname") if isinstance(benchmark, dict) else None
        if not isinstance(name, str) or not name or not _is_text(name):
            raise BaselineError(
                f"{where} must list benchmarks with names and stats, got {short(benchmark)} in place {place}"
            )
        _validate_benchmark(benchmark, f"{where}: {name}")
    if twice := [name for name, count in Counter(b["fullname"] for b in benchmarks).items() if count > 1]:
        raise BaselineError(f"{where} must hold every benchmark once, got {', '.join(twice)} more often")


def _validate_benchmark(benchmark: Mapping[str, Any], where: str) -> None:
    _check(benchmark, _BENCHMARK, where)
    if "stats" not in benchmark or "median" not in benchmark["stats"]:
        raise BaselineError(f"{where} must have stats with a median, got none")
    stats = benchmark["stats"]
    _check(stats, _STATS, f"{where}: stats")
    data = stats.get("data") or []
    for chain in (("min", "q1", "median", "q3", "max"), ("min", "mean", "max")):
        for lower, upper in pairwise([key for key in chain if key in stats]):
            if stats[lower] > stats[upper] * (1 + ROUNDING):
                raise BaselineError(f"{where}: {lower} must be at most {upper}, got {stats[lower]} and {stats[upper]}")
    of_data: Mapping[str, float] = {key: take(data) for key, take in _OF_DATA.items() if data and key in stats}
    for key, value in of_data.items():
        if not math.isclose(stats[key], value, rel_tol=ROUNDING):
            raise BaselineError(f"{where}: {key} must be that of its data, {value}, got {stats[key]}")
    _check(benchmark.get("extra_info", {}), _INFO, f"{where}: extra_info")


def _check(data: Mapping[str, Any], checks: Mapping[str, Check], where: str) -> None:
    for key, (holds, what) in checks.items():
        if key in data and not holds(data[key]):
            raise BaselineError(f"{where}: {key} must be {what}, got {short(data[key])}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TEXT


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _each(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _named(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Objects of such values, or of stages with such objects."""

    def named(value: Any) -> bool:
        inner = [v for each in value.values() for v in (each.values() if _is_object(each) else [each])]
        return all(map(holds, inner))

    return lambda value: _is_object(value) and named(value)


def _or_none(check: Check) -> Check:
    holds, what = check
    return lambda value: value is None or holds(value), f"{what} or null"


TEXT: Check = (_is_text, f"a text of at most {LONGEST_TEXT} characters")
TEXTS: Check = (_each(_is_text), "a list of texts")
COUNT: Check = (_is_count, "a whole number of at least 0")
POSITIVE: Check = (lambda value: _is_count(value) and value > 0, "a whole number above 0")
STATUS: Check = (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number")
FLAG: Check = (lambda value: isinstance(value, bool), "true or false")
NUMBER: Check = (_is_number, "a finite number")
SPREAD: Check = (lambda value: _is_number(value) and value >= 0, "a finite number of at least 0")
TIME: Check = (lambda value: _is_number(value) and value > 0, "a finite number above 0")
TIMES: Check = (_each(TIME[0]), "a list of finite numbers above 0")
SPREADS: Check = (_each(SPREAD[0]), "a list of finite numbers of at least 0")
OBJECT: Check = (_is_object, "an object")
OBJECTS: Check = (_each(_is_object), "a list of objects")
WORK: Check = (_named(_is_count), "counters, whole numbers of at least 0")
CONTENT: Check = (_named(lambda v: _is_text(v) or _each(_is_number)(v)), "digests: texts, or lists of finite numbers")
SET_UP: Check = (
    lambda value: _is_object(value) and all(SPREAD[0](value.get(key)) for key in ("seconds", "bytes", "captures")),
    "seconds, bytes and captures, numbers of at least 0",
)

_TOP = {"datetime": TEXT, "commit_info": _or_none(OBJECT)}
_COMMIT = {"id": _or_none(TEXT), "dirty": _or_none(FLAG)}
_OWN = {
    "failed": COUNT,
    "exit_status": STATUS,
    "regressed": TEXTS,
    "complete": FLAG,
    "session": TEXT,
    "selection": TEXTS,
    "deselected": TEXTS,
    "times_only": FLAG,
    "order_seed": _or_none(STATUS),
    "load_warning": _or_none(TEXT),
    "turns": COUNT,
    "turn": OBJECT,
    "recording": OBJECT,
    "accepted": OBJECT,
}
_RECORDING = {
    "arguments": TEXTS,
    "code": TEXT,
    "left_out": TEXTS,
    "process": COUNT,
    "processes": POSITIVE,
    "rounds": POSITIVE,
    "seconds": SPREAD,
    "select": TEXT,
}
_ACCEPTED = dict.fromkeys(("who", "when", "reason", "commit", "version"), _or_none(TEXT)) | {
    "history": OBJECTS,
    "replaces": _or_none(OBJECT),
}
_BENCHMARK = dict.fromkeys(("name", "group", "param"), _or_none(TEXT)) | {"stats": OBJECT, "extra_info": OBJECT}
_STATS = {
    **dict.fromkeys(("median", "min", "max", "mean", "q1", "q3", "ld15iqr", "hd15iqr", "total", "ops"), TIME),
    **dict.fromkeys(("stddev", "iqr"), SPREAD),
    **dict.fromkeys(("rounds", "iterations"), POSITIVE),
    "data": _or_none(TIMES),
}
_OF_DATA: Mapping[str, Callable[[Sequence[float]], float]] = {
    "median": statistics.median,
    "min": min,
    "max": max,
    "mean": statistics.fmean,
    "total": math.fsum,
    "rounds": len,
}
_INFO = {
    **dict.fromkeys(("model", "backend", "stage", "unit", "text", "finish_reason", "ceiling"), TEXT),
    **dict.fromkeys(("images", "batch", "context", "new_tokens"), COUNT),
    **dict.fromkeys(("work", "generate_work", "bytes"), WORK),
    "content": CONTENT,
    "units": _or_none(COUNT),
    "processes": POSITIVE,
    "device_seconds": SPREADS,
    "device_median": SPREAD,
    "unattributed_share": _or_none(NUMBER),
    "setup": SET_UP,
    "gpu": _or_none(OBJECT),
    "gate": OBJECT,
}


def processes_of(run: Mapping[str, Any]) -> list[Run]:
    """Take what `stagebench record` wrote apart into its processes, each with its own medians.

    Any other run is one process already.

    Raises:
        BaselineError: where not every benchmark has a time for each process.
    """
    counts = {benchmark.get("extra_info", {}).get("processes") for benchmark in run["benchmarks"]}
    if counts <= {None}:
        return [dict(run)]
    times = {b["fullname"]: b["stats"].get("data") or [] for b in run["benchmarks"]}
    n, *others = {len(medians) for medians in times.values()}
    if others or counts != {n}:
        raise BaselineError(
            f"a recorded benchmark must have a time of each process, got {sorted([n, *others])} times "
            f"of {', '.join(map(str, counts))} processes"
        )
    return [
        dict(run) | {"benchmarks": [b | {"stats": {"median": times[b["fullname"]][i]}} for b in run["benchmarks"]]}
        for i in range(n)
    ]
