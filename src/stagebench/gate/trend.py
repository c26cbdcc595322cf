"""Find changes in a history of runs, by environment. Importable without torch.

One run is one process, and its median is one sample, because rounds of one process are not independent.
"""

import gc
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain, pairwise
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import numpy as np

from stagebench.core import statistics
from stagebench.core.errors import ResultsError
from stagebench.core.machine.environment import ADDED, UNKNOWN, cores
from stagebench.core.places import Place
from stagebench.core.results import Results, by_name, each_read_at, short_name
from stagebench.core.shown import Begin
from stagebench.core.statistics import Array

MIN_SIDE = 5  # runs on either side of a change; the gate finds changes with fewer
PART = 64  # runs per task of a reading process; starting a process takes half a second
LEAST_NOISE = 1e-3  # relative; less is the clock's resolution
ROOM = 32  # new candidates before dropped ones are removed
_NO_CANDIDATE = np.array([-1.0, -np.inf, 0.0, -np.inf, np.inf])  # place, gain, sum, lowest and highest mean
PENALTY = 45.0
"""The sum of squares that a change must explain, in variances of the noise.

It was chosen by simulation; `tests/test_trend.py` repeats a part of it. In 10 to 365 runs of constant normal, Laplace
or Student (4 degrees) noise at most 2 series in 1000 show a change. From 20 runs on it is less than 1. This assumes
independent noise. Where much of one night's deviation carries over to the next, the drift shows as steps.
"""


@dataclass(frozen=True, slots=True)
class Change:
    """A step in a series, in JSON's types."""

    benchmark: str  # its full name
    when: str  # time of the first run after the change
    age: int  # number of runs since, that one included: at least `MIN_SIDE`
    before: float  # median seconds of the runs between the previous change and this one
    after: float
    ratio: float  # above 1 where it became slower
    good: str | None  # commit of the last run surely before it; one run lies between, because a step may be found early
    bad: str | None  # commit of the first run surely after it
    dirty: bool  # whether the code of either was not committed
    bisect: str | None  # see `bisect_command`


@dataclass(frozen=True, slots=True)
class Series:
    """One benchmark in one environment over time, in JSON's types, the oldest first."""

    benchmark: str  # its full name
    seconds: list[float]  # median of each run with it
    noise: float | None  # relative standard deviation between neighbouring runs; None for a single run
    changes: list[Change]
    outliers: list[str]  # times of runs far from their neighbours, which don't count as changes


@dataclass(frozen=True, slots=True)
class Run:
    """The part of a run that a trend needs: 10 kB instead of 1 MB for a hundred benchmarks."""

    name: str  # of its file
    began: datetime
    when: str  # the same, as in the run
    machine: dict[str, str]
    commit: str | None
    dirty: bool
    seconds: dict[str, float]  # medians, by full name


def read_history(place: Place, begin: Begin = lambda *step: None) -> tuple[list[list[Run]], dict[str, str]]:
    """Read all JSON files of a place, on all cores where there are many.

    Return groups of comparable runs, the largest group first and the oldest run first, and by file why it is not a run.
    Raise ResultsError where the folder does not exist, or no file is a run.
    """
    if not place.store and not place.folder.is_dir():
        raise ResultsError(f"a history must be a folder, got {place}")
    groups: dict[str, list[Run]] = {}
    unreadable: dict[str, str] = {}
    names = place.names("**/*.json")
    for done, (name, run) in enumerate(_each_read(place, names)):
        if done % PART == 0:
            begin("reading runs", done, len(names))
        if isinstance(run, ResultsError):
            unreadable[str(place.where(name))] = str(run)
            continue
        here = ADDED | run.machine
        alone = f" {name}" if UNKNOWN in here.values() else ""  # comparable with nothing
        groups.setdefault(json.dumps(here, sort_keys=True) + alone, []).append(run)
    if not groups:
        raise ResultsError(f"a history must hold at least one run, got {len(unreadable)} other files in {place}")
    ordered = (sorted(runs, key=lambda run: run.began) for runs in groups.values())
    return sorted(ordered, key=len, reverse=True), unreadable


def _each_read(place: Place, names: Sequence[str]) -> Iterator[tuple[str, Run | ResultsError]]:
    """Yield each file with its run or the error, in order."""
    parts, read = [names[i : i + PART] for i in range(0, len(names), PART)], partial(_read, place)
    if len(parts) < 2 or place.is_in_memory:
        yield from zip(names, chain.from_iterable(map(read, parts)), strict=True)
        return
    try:
        with ProcessPoolExecutor(min(cores(), len(parts)), get_context("spawn"), _prepare_reader) as pool:
            yield from zip(names, chain.from_iterable(pool.map(read, parts)), strict=True)
    except BrokenProcessPool as error:
        raise ResultsError("processes that read runs must not be killed, got one that was") from error


def _prepare_reader() -> None:
    """Leave terminal signals to the parent, and end when it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # the data have no cycles
    Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _read(place: Place, names: Sequence[str]) -> list[Run | ResultsError]:
    """Return for each file its run or the error."""
    read = zip(names, each_read_at(place, names), strict=True)
    return [run if isinstance(run, ResultsError) else _run_of(name, run, place.where(name)) for name, run in read]


def _run_of(name: str, run: Results, where: Path | str) -> Run | ResultsError:
    """Return the part of a run that a trend needs; a time without a zone is in UTC."""
    try:
        began = datetime.fromisoformat(run["datetime"])
    except (KeyError, ValueError) as error:
        return ResultsError(f"the run {where} must hold its time, got {error!r}")
    seconds = {sys.intern(name): benchmark["stats"]["median"] for name, benchmark in by_name(run).items()}
    commit, zoned = run.get("commit_info") or {}, began if began.tzinfo else began.replace(tzinfo=UTC)
    return Run(name, zoned, run["datetime"], run["machine_info"], commit.get("id"), bool(commit.get("dirty")), seconds)


def series_of(runs: Sequence[Run]) -> list[Series]:
    """Return the series of each benchmark of comparable runs, the oldest run first; see `find_changes`."""
    names = {name: None for run in runs for name in run.seconds}  # in the order of the suite
    holding = {name: [run for run in runs if name in run.seconds] for name in names}
    found: dict[str, Series] = {}
    for length in {len(each) for each in holding.values()}:  # all of one length at once
        alike = [name for name in names if len(holding[name]) == length]
        seconds = np.array([[run.seconds[name] for run in holding[name]] for name in alike])
        logs = np.log(seconds)
        changed = find_changes(logs) if length >= 2 * MIN_SIDE else [([], [])] * len(alike)
        spread = noise(logs).tolist() if length > 1 else [None] * len(alike)
        for name, times, deviation, places in zip(alike, seconds, spread, changed, strict=True):
            found[name] = _series(name, holding[name], times, deviation, *places)
    return [found[name] for name in names]


def _series(
    name: str, runs: Sequence[Run], seconds: Array, spread: float | None, places: list[int], outliers: list[int]
) -> Series:
    levels = [float(np.median(seconds[start:end])) for start, end in pairwise([0, *places, len(runs)])]
    changes = [_change(name, runs, place, *step) for place, step in zip(places, pairwise(levels), strict=True)]
    return Series(name, seconds.tolist(), spread, changes, [runs[i].when for i in outliers])


def _change(benchmark: str, runs: Sequence[Run], place: int, before: float, after: float) -> Change:
    good, bad = runs[max(place - 2, 0)], runs[min(place + 1, len(runs) - 1)]
    bisect = bisect_command(benchmark, good.commit, bad.commit, slower=after > before)
    step, sides = (before, after, after / before), (good.commit, bad.commit, good.dirty or bad.dirty)
    return Change(benchmark, runs[place].when, len(runs) - place, *step, *sides, bisect)


def noise(logs: Array) -> Array:
    """Return the standard deviation of the noise of series (..., n) that may hold steps, shape (...).

    It uses the median absolute difference of neighbours, which a step or an outlier hardly affects. The difference of
    two samples has twice the variance of one.
    """
    found: Array = np.maximum(LEAST_NOISE, statistics.NORMAL * np.median(np.abs(np.diff(logs)), -1) / np.sqrt(2))
    return found


def find_changes(logs: Array) -> list[tuple[list[int], list[int]]]:
    """Find steps in the logarithms of seconds (series, runs), of at least twice `MIN_SIDE` runs; see `steps`.

    Return for each series the indices of the first sample after each step, and of outliers. Outliers are replaced by
    the median of their five neighbours (Hampel's filter) before the search.
    """
    from scipy.ndimage import median_filter  # takes 0.25 s to import, and a comparison does not need it

    deviations, neighbours = noise(logs), median_filter(logs, size=(1, 5), mode="nearest")
    outliers = [statistics.outliers(*each) for each in zip(logs, neighbours, deviations, strict=True)]
    calm = logs.copy()
    for places, series, near in zip(outliers, calm, neighbours, strict=True):
        series[places] = near[places]
    return list(zip(steps(calm / deviations[:, None], MIN_SIDE, PENALTY), outliers, strict=True))


def steps(series: Array, least: int, penalty: float) -> list[list[int]]:
    """Cut series (b, n) so that squared deviations from the parts' means, plus a penalty per cut, are minimal.

    A part has at least `least` samples. The candidates for the last cut before a sample are pruned exactly (functional
    pruning: Rigaill, 2010; Maidstone and others, 2017). One is dropped once a later one is better for every mean after
    both. Here each candidate keeps an interval of means. About a hundred of 5000 remain. All series are cut side by
    side, because Python's overhead dominates.
    """
    count, n = series.shape
    sums = np.pad(np.cumsum(series - series.mean(-1, keepdims=True), -1), ((0, 0), (1, 0)))
    gains, last = np.full((count, n + 1), -np.inf), np.zeros((count, n + 1), int)  # of the best cuts up to each sample
    gains[:, 0] = penalty
    kept = np.empty((5, count, 0))
    for end in range(least, n + 1):
        born = end - least
        if born % ROOM == 0:
            kept = _with_room(kept)
        if born == 0 or born >= least:
            _add_candidate(kept, born, gains[:, born], sums[:, born])
        total = kept[1] + (sums[:, end, None] - kept[2]) ** 2 / (end - kept[0]) - penalty
        chosen = total.argmax(-1)[:, None]
        gains[:, end] = np.take_along_axis(total, chosen, -1)[:, 0]
        last[:, end] = np.take_along_axis(kept[0], chosen, -1)[:, 0]
    return [_cuts(row) for row in last.tolist()]


def _with_room(kept: Array) -> Array:
    """Remove dropped candidates, and make room for `ROOM` new ones at the end of each series."""
    alive = np.isfinite(kept[1])
    order = np.argsort(~alive, axis=-1, kind="stable")[None, :, : int(alive.sum(-1).max(initial=0))]
    room = np.broadcast_to(_NO_CANDIDATE[:, None, None], (*kept.shape[:2], ROOM))
    return np.concatenate([np.take_along_axis(kept, order, -1), room], -1)


def _add_candidate(kept: Array, born: int, gain: Array, total: Array) -> None:
    """Drop candidates that the new one always beats, and add it in the free room."""
    if born % 4 == 0:  # dropping more often would cost more than it saves
        places, gains, before, low, high = kept
        span, moved = born - places, total[:, None] - before
        root = moved**2 - span * (gain[:, None] - gains)  # where both are equal; below 0 the later one is better
        half = np.sqrt(np.maximum(root, 0))
        np.maximum(low, (moved - half) / span, out=low)
        np.minimum(high, (moved + half) / span, out=high)
        gains[(root < 0) | (low > high)] = -np.inf
    column = kept[:, :, born % ROOM - ROOM]
    column[0], column[1], column[2], column[3], column[4] = born, gain, total, -np.inf, np.inf


def _cuts(last: Sequence[int]) -> list[int]:
    """Follow the cuts back from the end."""
    found = [last[-1]]
    while found[-1]:
        found.append(last[found[-1]])
    return found[-2::-1]


def bisect_command(benchmark: str, good: str | None, bad: str | None, slower: bool) -> str | None:
    """Return git's command to find the commit of a change; None unless there are two commits.

    `git bisect run` takes 0 for good, 125 for "skip" and other codes up to 127 for bad. A gate that could not measure
    or decide (2, 3) becomes 125. A commit that made it faster is found by a gate against the fast side, which fails on
    slow commits.
    """
    if good == bad or not all(commit and re.fullmatch("[0-9a-f]{7,64}", commit) for commit in (good, bad)):
        return None
    verdict = '"$@" || exit $(( $? > 1 ? 125 : 1 ))' if slower else '"$@" && exit 1; exit $(( $? > 1 ? 125 : 0 ))'
    gate = ["stagebench", "gate", "--base", str(good if slower else bad), "--select", short_name(benchmark)]
    return f"git bisect start {bad} {good} && git bisect run {shlex.join(['sh', '-c', verdict, 'gate', *gate])}"
