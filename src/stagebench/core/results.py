"""Read, check and write results: pytest-benchmark's JSON with our keys. No other module reads or writes such a file.

A run, a process of a recording, a recording, a baseline and an entry of a history are all results. Results that were
read need no further check: names are texts, times are finite and above 0, counters are whole numbers, and no benchmark
occurs twice. Three other formats are samples (of an analysis), verdicts (what was decided) and reports (for people).
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from os import PathLike
from pathlib import Path
from reprlib import repr as short
from typing import Any, Required, TypedDict, cast

from stagebench.core.checks import Count, Flag, Number, Object, Positive, Spread, Text, Time, Whole, check, fits
from stagebench.core.errors import ResultsError
from stagebench.core.json_files import json_of, json_text, read_bytes, write_text
from stagebench.core.places import Place

SCHEMAS = {"results": 1, "samples": 1, "verdicts": 1, "report": 1, "bisect": 1}  # the version of each format
BENCHMARKS = "benchmarks"  # the folder of a checkout, and the package, that hold them
REFERENCE = "test_reference"  # runs nothing of ours: it shows what the machine did, and is never judged
NAMING = ("device", "profile", "dtype")  # keys that every environment has
COUNTED = ("work", "content", "counters")  # keys of `Info` that are compared exactly
ROUNDING = 1e-6  # relative; statistics that differ by more are not of the same times

Counters = dict[str, Count | dict[str, Count]]  # by name, or by stage and name
Digests = dict[str, Text | list[Number] | dict[str, Text | list[Number]]]  # and sketches, named as counters are


class Setup(TypedDict):
    """Cost of a backend before the first round."""

    seconds: Required[Spread]
    bytes: Required[Spread]
    captures: Required[Spread]


class Stats(TypedDict, total=False):
    """pytest-benchmark's statistics of the rounds of a benchmark, in seconds."""

    median: Required[Time]
    min: Time
    max: Time
    mean: Time
    q1: Time
    q3: Time
    ld15iqr: Time
    hd15iqr: Time
    total: Time
    ops: Time
    stddev: Spread
    iqr: Spread
    rounds: Positive
    iterations: Positive
    data: list[Time] | None
    outliers: Text


class Info(TypedDict, total=False):
    """What a benchmark records about itself, beside its times."""

    model: Text
    backend: Text
    stage: Text
    unit: Text
    text: Text
    finish_reason: Text
    ceiling: Text
    images: Count
    batch: Count
    context: Count
    new_tokens: Count
    units: Count | None
    work: Counters
    generate_work: Counters
    bytes: Counters
    content: Digests
    counters: Counters  # of a benchmark that is not ours: its exact counts, by its own names
    processes: Positive
    device_seconds: list[Spread]
    device_median: Spread
    unattributed_share: Number | None
    setup: Setup
    stages: dict[str, Text]  # by name: what runs each stage of a backend
    gpu: Object | None
    gate: Object


class Benchmark(TypedDict, total=False):
    """One benchmark of results."""

    fullname: Required[Text]
    name: Text | None
    group: Text | None
    param: Text | None
    params: Object | None  # by name, as pytest has them
    stats: Required[Stats]
    extra_info: Info


class Process(TypedDict, total=False):
    """The plan that all processes of a recording share, and the process or processes that gave these results."""

    arguments: list[Text]
    code: Text
    left_out: list[Text]
    process: Count
    processes: Positive
    rounds: Positive
    seconds: Spread
    select: Text


class Accepted(TypedDict, total=False):
    """Who made results a baseline, and what they replaced."""

    who: Text | None
    when: Text | None
    reason: Text | None
    commit: Text | None
    version: Text | None
    replaces: Object | None
    history: list[Object]
    dropped: Flag  # the other keys then say by whom and why


class Session(TypedDict, total=False):
    """Our own keys: what pytest's session ran, and how it ended."""

    schema: Required[Whole]
    failed: Required[Count]
    exit_status: Required[Whole]
    regressed: Required[list[Text]]
    final_status: Whole
    complete: Flag
    session: Text
    selection: list[Text]
    deselected: list[Text]
    times_only: Flag
    order_seed: Whole | None
    load_warning: Text | None
    turns: Count
    scheduled: Object
    recording: Process
    accepted: Accepted


class Commit(TypedDict, total=False):
    """The code that was measured."""

    id: Text | None
    dirty: Flag | None


class Results(TypedDict, total=False):
    """Benchmarks, with the environment and the session that they were measured in."""

    stagebench: Required[Session]
    machine_info: Required[dict[str, Text]]
    benchmarks: Required[list[Benchmark]]
    datetime: Text
    commit_info: Commit | None


def read_results(path: str | PathLike[str]) -> Results:
    """Read what `pytest benchmarks --benchmark-json` wrote, or a recording or baseline made from it; see `validate`.

    >>> [benchmark["stats"]["median"] for benchmark in stagebench.read_results("base.json")["benchmarks"]]
    [0.1]
    """
    return _results_of(read_bytes(Path(path), f"the run {path}", ResultsError), path)


def read_at(place: Place, name: str) -> Results:
    """Read results from a place; see `read_results`."""
    [found] = each_read_at(place, [name])
    if isinstance(found, ResultsError):
        raise found
    return found


def each_read_at(place: Place, names: Sequence[str]) -> Iterator[Results | ResultsError]:
    """Read results from a place, and yield for each name the results or the error."""
    for name, data in zip(names, place.read(names), strict=True):
        try:
            yield data if isinstance(data, ResultsError) else _results_of(data, place.where(name))
        except ResultsError as error:
            yield error


def _results_of(data: bytes, where: str | PathLike[str]) -> Results:
    return validate(json_of(data, f"the run {where}", ResultsError), f"the run {where}")


def write_results(path: Path, results: Results) -> None:
    """Write results atomically."""
    write_text(path, json_text(results))


def versioned(schema: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document of another of the `SCHEMAS`, with its kind and version."""
    return {"kind": schema, "schema": SCHEMAS[schema], **data}


def by_name(results: Results) -> dict[str, Benchmark]:
    """Return the benchmarks by full name, in order."""
    return {benchmark["fullname"]: benchmark for benchmark in results["benchmarks"]}


def shared(*results: Results) -> list[str]:
    """Return the names of the benchmarks that all of the results have, in order."""
    each = [by_name(some) for some in results]
    return [name for name in each[0] if all(name in names for names in each)]


def is_reference(name: str) -> bool:
    """Return whether a benchmark is the reference workload, which runs nothing of ours."""
    return name.endswith(f"{REFERENCE}.py::{REFERENCE}")


def short_name(name: str) -> str:
    """Return the name of a benchmark without its file and class; its parameters may hold any text."""
    function, bracket, parameters = name.partition("[")
    return function.split("::")[-1] + bracket + parameters


def require_sound(results: Results, where: str) -> Results:
    """Return the results; raise ResultsError where they hold no benchmark, or anything failed."""
    own = results["stagebench"]
    if own["failed"] or own["exit_status"]:
        got = f"{own['failed']} failures and pytest's exit status {own['exit_status']}"
        raise ResultsError(f"{where} must be one in which nothing failed, got {got}")
    if not results["benchmarks"]:
        raise ResultsError(f"{where} must hold at least one benchmark, got none")
    return results


def validate(data: Any, where: str) -> Results:
    """Return JSON data as results; raise ResultsError, naming `where`, for a wrong value or a repeated benchmark."""
    if not isinstance(data, dict) or not isinstance(data.get("stagebench"), dict):
        raise ResultsError(f"{where} must be written by stagebench's pytest plugin, got none of its keys")
    schema = data["stagebench"].get("schema")
    if schema != SCHEMAS["results"] or isinstance(schema, bool):
        raise ResultsError(f"{where} must have schema {SCHEMAS['results']}, got {short(schema)}")
    benchmarks, fit = data.get("benchmarks"), fits(data, Results)
    for place, benchmark in enumerate(benchmarks if isinstance(benchmarks, list) else ()):
        name = benchmark.get("fullname") if isinstance(benchmark, dict) else None
        here = f"{where}: {name:.2000}" if isinstance(name, str) else f"{where}: benchmark {place}"
        if not fit:
            check(benchmark, Benchmark, here, ResultsError)
        _validate_stats(benchmark["stats"], here)
    if not fit:
        check(data | {"benchmarks": []} if isinstance(benchmarks, list) else data, Results, where, ResultsError)
    check(data["machine_info"], dict.fromkeys(NAMING, Text), f"{where}: machine_info", ResultsError)
    if twice := [name for name, count in Counter(b["fullname"] for b in data["benchmarks"]).items() if count > 1]:
        raise ResultsError(f"{where} must hold every benchmark once, got {', '.join(twice)} more often")
    return cast("Results", data)


def _validate_stats(stats: Mapping[str, Any], where: str) -> None:
    """Check that statistics contradict neither each other nor their data."""
    for chain in (("min", "q1", "median", "q3", "max"), ("min", "mean", "max")):
        values = [stats[key] for key in chain if key in stats]
        for lower, upper in pairwise([key for key in chain if key in stats]) if values != sorted(values) else ():
            if stats[lower] > stats[upper] * (1 + ROUNDING):
                raise ResultsError(f"{where}: {lower} must be at most {upper}, got {stats[lower]} and {stats[upper]}")
    if data := sorted(stats.get("data") or ()):
        count, total = len(data), math.fsum(data)
        of_data = {"median": (data[(count - 1) // 2] + data[count // 2]) / 2, "min": data[0], "max": data[-1]}
        for key, value in (of_data | {"mean": total / count, "total": total, "rounds": count}).items():
            if key in stats and stats[key] != value and not math.isclose(stats[key], value, rel_tol=ROUNDING):
                raise ResultsError(f"{where}: {key} must be that of its data, {value}, got {stats[key]}")
