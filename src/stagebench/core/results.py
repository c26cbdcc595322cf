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

from stagebench.core.checks import (
    CONTENT,
    COUNT,
    FLAG,
    NUMBER,
    OBJECT,
    OBJECTS,
    POSITIVE,
    SET_UP,
    SPREAD,
    SPREADS,
    STATUS,
    TEXT,
    TEXTS,
    TIME,
    TIMES,
    WORK,
    check,
    is_text,
    or_none,
)
from stagebench.core.errors import BaselineError
from stagebench.core.json_files import read_json

SCHEMA = 1
ROUNDING = 1e-6
"""Relative; statistics that are further apart are not of the same times."""

Run = dict[str, Any]


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
    check(own, _OWN, f"{where}: stagebench", BaselineError)
    check(own.get("recording", {}), _RECORDING, f"{where}: recording", BaselineError)
    check(own.get("accepted", {}), _ACCEPTED, f"{where}: accepted", BaselineError)
    check(run, _TOP, where, BaselineError)
    check(run.get("commit_info") or {}, _COMMIT, f"{where}: commit_info", BaselineError)
    _validate_place(run.get("machine_info"), where)
    _validate_benchmarks(run.get("benchmarks"), where)
    return run


def _validate_place(place: Any, where: str) -> None:
    if not isinstance(place, dict) or not {"device", "profile", "dtype"} <= place.keys():
        raise BaselineError(f"{where} must say where it was made, got no device, profile and dtype")
    if wrong := [key for key, value in place.items() if not is_text(value)]:
        raise BaselineError(f"{where} must say in text where it was made, got another {', '.join(wrong)}")


def _validate_benchmarks(benchmarks: Any, where: str) -> None:
    if not isinstance(benchmarks, list):
        raise BaselineError(f"{where} must list benchmarks with names and stats, got {short(benchmarks)}")
    for place, benchmark in enumerate(benchmarks):
        name = benchmark.get("fullname") if isinstance(benchmark, dict) else None
        if not isinstance(name, str) or not name or not is_text(name):
            raise BaselineError(
                f"{where} must list benchmarks with names and stats, got {short(benchmark)} in place {place}"
            )
        _validate_benchmark(benchmark, f"{where}: {name}")
    if twice := [name for name, count in Counter(b["fullname"] for b in benchmarks).items() if count > 1]:
        raise BaselineError(f"{where} must hold every benchmark once, got {', '.join(twice)} more often")


def _validate_benchmark(benchmark: Mapping[str, Any], where: str) -> None:
    check(benchmark, _BENCHMARK, where, BaselineError)
    if "stats" not in benchmark or "median" not in benchmark["stats"]:
        raise BaselineError(f"{where} must have stats with a median, got none")
    stats = benchmark["stats"]
    check(stats, _STATS, f"{where}: stats", BaselineError)
    data = stats.get("data") or []
    for chain in (("min", "q1", "median", "q3", "max"), ("min", "mean", "max")):
        for lower, upper in pairwise([key for key in chain if key in stats]):
            if stats[lower] > stats[upper] * (1 + ROUNDING):
                raise BaselineError(f"{where}: {lower} must be at most {upper}, got {stats[lower]} and {stats[upper]}")
    of_data: Mapping[str, float] = {key: take(data) for key, take in _OF_DATA.items() if data and key in stats}
    for key, value in of_data.items():
        if not math.isclose(stats[key], value, rel_tol=ROUNDING):
            raise BaselineError(f"{where}: {key} must be that of its data, {value}, got {stats[key]}")
    check(benchmark.get("extra_info", {}), _INFO, f"{where}: extra_info", BaselineError)


_TOP = {"datetime": TEXT, "commit_info": or_none(OBJECT)}
_COMMIT = {"id": or_none(TEXT), "dirty": or_none(FLAG)}
_OWN = {
    "failed": COUNT,
    "exit_status": STATUS,
    "regressed": TEXTS,
    "final_status": STATUS,
    "complete": FLAG,
    "session": TEXT,
    "selection": TEXTS,
    "deselected": TEXTS,
    "times_only": FLAG,
    "order_seed": or_none(STATUS),
    "load_warning": or_none(TEXT),
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
_ACCEPTED = dict.fromkeys(("who", "when", "reason", "commit", "version"), or_none(TEXT)) | {
    "history": OBJECTS,
    "replaces": or_none(OBJECT),
}
_BENCHMARK = dict.fromkeys(("name", "group", "param"), or_none(TEXT)) | {"stats": OBJECT, "extra_info": OBJECT}
_STATS = {
    **dict.fromkeys(("median", "min", "max", "mean", "q1", "q3", "ld15iqr", "hd15iqr", "total", "ops"), TIME),
    **dict.fromkeys(("stddev", "iqr"), SPREAD),
    **dict.fromkeys(("rounds", "iterations"), POSITIVE),
    "data": or_none(TIMES),
    "outliers": TEXT,
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
    "units": or_none(COUNT),
    "processes": POSITIVE,
    "device_seconds": SPREADS,
    "device_median": SPREAD,
    "unattributed_share": or_none(NUMBER),
    "setup": SET_UP,
    "gpu": or_none(OBJECT),
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
