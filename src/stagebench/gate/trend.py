"""Looks back: at the runs of a folder by environment, and where what they measured changed. Importable without torch.

One run is one process, and its median is one sample: rounds of one process are no independent samples.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np

from stagebench.core import statistics
from stagebench.core.errors import ResultsError
from stagebench.core.machine.environment import ADDED, UNKNOWN
from stagebench.core.results import Results, by_name, read_results, short_name

MIN_SIDE = 5  # runs on either side of a change; with fewer, a change is the gate's to find
LEAST_NOISE = 1e-3  # relative; less between two processes is the clock, whatever the series says
PENALTY = 45.0
"""What a change must explain, in variances of the noise, to be one.

Chosen by simulation (`tests/test_trend.py` repeats a part of it): in 10 to 365 runs of unchanging normal, Laplace or
Student (4 degrees) noise at most 2 series in 1000 show a change, less than 1 from 20 runs on. Only independent noise is
meant: where much of a night's deviation carries over to the next one, the machine drifts, and steps are seen in it.
"""


@dataclass(frozen=True, slots=True)
class Change:
    """A step in a series, in JSON's types."""

    benchmark: str  # its full name
    when: str  # the first run after it began
    age: int  # how many runs were made since, with that one: at least `MIN_SIDE`
    before: float  # median seconds of the runs between this change and the one before
    after: float
    ratio: float  # above 1 where it became slower
    good: str | None  # commit of the last run surely before it; one run is left between, as a step may be seen early
    bad: str | None  # commit of the first run that is surely after it
    dirty: bool  # whether either was made of code that was not committed
    bisect: str | None  # see `bisect_command`


@dataclass(frozen=True, slots=True)
class Series:
    """One benchmark in one environment over time, in JSON's types, the oldest first."""

    benchmark: str  # its full name
    seconds: list[float]  # median of each run that holds it
    noise: float | None  # standard deviation between neighbouring runs, relative; None of a single run
    changes: list[Change]
    outliers: list[str]  # when runs began that are far from their neighbours; no change is seen in one of them


def read_history(folder: Path) -> tuple[list[list[Results]], dict[str, str]]:
    """Read all JSON files in a folder and below it.

    Return runs that are comparable with each other, the oldest first, the most runs first; and by file why it is no
    run. Raise ResultsError where there is no such folder, or no file is a run.
    """
    if not folder.is_dir():
        raise ResultsError(f"a history must be a folder, got {folder}")
    groups: dict[str, list[Results]] = {}
    unreadable: dict[str, str] = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            run = read_results(path)
            began(run, f"the run {path}")
        except ResultsError as error:
            unreadable[str(path)] = str(error)
            continue
        here = ADDED | run["machine_info"]
        alone = f" {path}" if UNKNOWN in here.values() else ""  # it compares with nothing
        groups.setdefault(json.dumps(here, sort_keys=True) + alone, []).append(run)
    if not groups:
        raise ResultsError(f"a history must hold at least one run, got {len(unreadable)} other files in {folder}")
    return sorted((sorted(runs, key=began) for runs in groups.values()), key=len, reverse=True), unreadable


def began(run: Results, where: str = "a run") -> datetime:
    """Return when a run began, without a zone in UTC; raise ResultsError where it does not hold that."""
    try:
        when = datetime.fromisoformat(run["datetime"])
    except (KeyError, ValueError) as error:
        raise ResultsError(f"{where} must hold the time when it was made, got {error!r}") from error
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def series_of(runs: Sequence[Results]) -> list[Series]:
    """Look at each benchmark of comparable runs, the oldest run first; see `find_changes`."""
    names = {name: None for run in runs for name in by_name(run)}  # in the order of the suite
    return [_series(name, [run for run in runs if name in by_name(run)]) for name in names]


def _series(benchmark: str, runs: Sequence[Results]) -> Series:
    seconds = [by_name(run)[benchmark]["stats"]["median"] for run in runs]
    logs = np.log(seconds)
    places, outliers = find_changes(logs) if len(runs) >= 2 * MIN_SIDE else ([], [])
    levels = [float(np.median(seconds[start:end])) for start, end in pairwise([0, *places, len(runs)])]
    changes = [_change(benchmark, runs, place, *step) for place, step in zip(places, pairwise(levels), strict=True)]
    spread = noise(logs) if len(runs) > 1 else None
    return Series(benchmark, seconds, spread, changes, [runs[i]["datetime"] for i in outliers])


def _change(benchmark: str, runs: Sequence[Results], place: int, before: float, after: float) -> Change:
    sides = [runs[i].get("commit_info") or {} for i in (max(place - 2, 0), min(place + 1, len(runs) - 1))]
    good, bad = (side.get("id") for side in sides)
    bisect = bisect_command(benchmark, good, bad, slower=after > before)
    dirty, step = any(side.get("dirty") for side in sides), (before, after, after / before)
    return Change(benchmark, runs[place]["datetime"], len(runs) - place, *step, good, bad, dirty, bisect)


def noise(logs: statistics.Array) -> float:
    """Return the standard deviation of the noise of a series that may hold steps.

    It comes from the median absolute difference of neighbours, to which one step or outlier adds little; the difference
    of two samples has twice the variance of one.
    """
    return max(LEAST_NOISE, float(statistics.NORMAL * np.median(np.abs(np.diff(logs))) / np.sqrt(2)))


def find_changes(logs: statistics.Array) -> tuple[list[int], list[int]]:
    """Find steps in the logarithms of seconds (runs,): PELT (Killick and others, 2012) with squared deviations.

    Of at least twice `MIN_SIDE`, return the indices of the first sample after each step, and of the outliers, which are
    taken for the median of their five neighbours (Hampel's filter) before steps are looked for. Raise ResultsError
    where the extra "trend" is not installed.
    """
    from scipy.ndimage import median_filter  # takes a quarter of a second, for which a comparison need not wait

    try:
        import ruptures
    except ImportError as error:
        raise ResultsError(f"changes are found by the extra 'trend', got no {error.name}") from error
    deviation, neighbours = noise(logs), median_filter(logs, size=5, mode="nearest")
    outliers, calm = statistics.outliers(logs, neighbours, deviation), logs.copy()
    calm[outliers] = neighbours[outliers]
    found = ruptures.KernelCPD(kernel="linear", min_size=MIN_SIDE).fit(calm[:, None] / deviation).predict(pen=PENALTY)
    return [int(i) for i in found[:-1]], outliers


def bisect_command(benchmark: str, good: str | None, bad: str | None, slower: bool) -> str | None:
    """Return the command line with which git finds the commit of a change; None where these are no two commits.

    `git bisect run` takes 0 for good, 125 for "cannot say" and other codes up to 127 for bad: a gate that could not
    measure or decide (2, 3) is no verdict. A commit that made it faster is found by a gate against the fast side, which
    fails on what is still slow.
    """
    if good == bad or not all(commit and re.fullmatch("[0-9a-f]{7,64}", commit) for commit in (good, bad)):
        return None
    verdict = '"$@" || exit $(( $? > 1 ? 125 : 1 ))' if slower else '"$@" && exit 1; exit $(( $? > 1 ? 125 : 0 ))'
    gate = ["stagebench", "gate", "--base", str(good if slower else bad), "--select", short_name(benchmark)]
    return f"git bisect start {bad} {good} && git bisect run {shlex.join(['sh', '-c', verdict, 'gate', *gate])}"
