"""Looks back: at the runs of a folder by environment, and where what they measured changed. Importable without torch.

One run is one process, and its median is one sample: rounds of one process are no independent samples.
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

MIN_SIDE = 5  # runs on either side of a change; with fewer, a change is the gate's to find
PART = 64  # runs that a process reads at a time; a second one starts in half a second
LEAST_NOISE = 1e-3  # relative; less between two processes is the clock, whatever the series says
ROOM = 32  # candidates that come before the dropped ones go
_NO_CANDIDATE = np.array([-1.0, -np.inf, 0.0, -np.inf, np.inf])  # place, gain, sum, lowest and highest mean
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


@dataclass(frozen=True, slots=True)
class Run:
    """What a trend takes of a run: of a hundred benchmarks ten kilobytes, where all of it is a megabyte."""

    name: str  # of its file
    began: datetime
    when: str  # the same, as the run has it
    machine: dict[str, str]
    commit: str | None
    dirty: bool
    seconds: dict[str, float]  # medians, by full name


def read_history(place: Place, begin: Begin = lambda *step: None) -> tuple[list[list[Run]], dict[str, str]]:
    """Read all JSON files of a place, many of them in as many processes as there are cores.

    Return runs that are comparable with each other, the oldest first, the most runs first; and by file why it is no
    run. Raise ResultsError where there is no such folder, or no file is a run.
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
        alone = f" {name}" if UNKNOWN in here.values() else ""  # it compares with nothing
        groups.setdefault(json.dumps(here, sort_keys=True) + alone, []).append(run)
    if not groups:
        raise ResultsError(f"a history must hold at least one run, got {len(unreadable)} other files in {place}")
    ordered = (sorted(runs, key=lambda run: run.began) for runs in groups.values())
    return sorted(ordered, key=len, reverse=True), unreadable


def _each_read(place: Place, names: Sequence[str]) -> Iterator[tuple[str, Run | ResultsError]]:
    """Yield each file with its run, or why it is none, in their order."""
    parts, read = [names[i : i + PART] for i in range(0, len(names), PART)], partial(_read, place)
    if len(parts) < 2 or place.is_in_memory:
        yield from zip(names, chain.from_iterable(map(read, parts)), strict=True)
        return
    try:
        with ProcessPoolExecutor(min(cores(), len(parts)), get_context("spawn"), _prepare_reader) as pool:
            yield from zip(names, chain.from_iterable(pool.map(read, parts)), strict=True)
    except BrokenProcessPool as error:
        raise ResultsError("runs are read by processes that end by themselves, got one that was ended") from error


def _prepare_reader() -> None:
    """Leave a signal from the terminal to the parent, and end when it has ended, however it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # nothing that is read holds itself
    Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _read(place: Place, names: Sequence[str]) -> list[Run | ResultsError]:
    """Return of each file its run, or why it is none."""
    read = zip(names, each_read_at(place, names), strict=True)
    return [run if isinstance(run, ResultsError) else _run_of(name, run, place.where(name)) for name, run in read]


def _run_of(name: str, run: Results, where: Path | str) -> Run | ResultsError:
    """Take of a run what a trend needs; a time without a zone is in UTC."""
    try:
        began = datetime.fromisoformat(run["datetime"])
    except (KeyError, ValueError) as error:
        return ResultsError(f"the run {where} must hold the time when it was made, got {error!r}")
    seconds = {sys.intern(name): benchmark["stats"]["median"] for name, benchmark in by_name(run).items()}
    commit, zoned = run.get("commit_info") or {}, began if began.tzinfo else began.replace(tzinfo=UTC)
    return Run(name, zoned, run["datetime"], run["machine_info"], commit.get("id"), bool(commit.get("dirty")), seconds)


def series_of(runs: Sequence[Run]) -> list[Series]:
    """Look at each benchmark of comparable runs, the oldest run first; see `find_changes`."""
    names = {name: None for run in runs for name in run.seconds}  # in the order of the suite
    holding = {name: [run for run in runs if name in run.seconds] for name in names}
    found: dict[str, Series] = {}
    for length in {len(each) for each in holding.values()}:  # those of one length at once
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

    It comes from the median absolute difference of neighbours, to which one step or outlier adds little; the difference
    of two samples has twice the variance of one.
    """
    found: Array = np.maximum(LEAST_NOISE, statistics.NORMAL * np.median(np.abs(np.diff(logs)), -1) / np.sqrt(2))
    return found


def find_changes(logs: Array) -> list[tuple[list[int], list[int]]]:
    """Find steps in the logarithms of seconds (series, runs), of at least twice `MIN_SIDE` runs; see `steps`.

    Return of each series the indices of the first sample after each step, and of the outliers, which are taken for the
    median of their five neighbours (Hampel's filter) before steps are looked for.
    """
    from scipy.ndimage import median_filter  # takes a quarter of a second, for which a comparison need not wait

    deviations, neighbours = noise(logs), median_filter(logs, size=(1, 5), mode="nearest")
    outliers = [statistics.outliers(*each) for each in zip(logs, neighbours, deviations, strict=True)]
    calm = logs.copy()
    for places, series, near in zip(outliers, calm, neighbours, strict=True):
        series[places] = near[places]
    return list(zip(steps(calm / deviations[:, None], MIN_SIDE, PENALTY), outliers, strict=True))


def steps(series: Array, least: int, penalty: float) -> list[list[int]]:
    """Cut series (b, n) where squared deviations from the parts' means, and a penalty a cut, add up to the least.

    A part has at least so many samples. The last cut before a sample is one of its candidates, of which one is dropped
    as soon as a later one is better whatever the mean after both is (functional pruning: Rigaill, 2010; Maidstone and
    others, 2017; here by an interval of means each): some hundred are left of 5000. That is exact, and all series go
    side by side, because what takes time is Python's.
    """
    count, n = series.shape
    sums = np.pad(np.cumsum(series - series.mean(-1, keepdims=True), -1), ((0, 0), (1, 0)))
    gains, last = np.full((count, n + 1), -np.inf), np.zeros((count, n + 1), int)  # of the best cuts of the first ones
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
    """Leave dropped candidates out, and make room for `ROOM` new ones, the last of each series."""
    alive = np.isfinite(kept[1])
    order = np.argsort(~alive, axis=-1, kind="stable")[None, :, : int(alive.sum(-1).max(initial=0))]
    room = np.broadcast_to(_NO_CANDIDATE[:, None, None], (*kept.shape[:2], ROOM))
    return np.concatenate([np.take_along_axis(kept, order, -1), room], -1)


def _add_candidate(kept: Array, born: int, gain: Array, total: Array) -> None:
    """Drop candidates that this one, of all series, is better than, and add it in the room that is left."""
    if born % 4 == 0:  # to look at each would take longer than those that it drops
        places, gains, before, low, high = kept
        span, moved = born - places, total[:, None] - before
        root = moved**2 - span * (gain[:, None] - gains)  # of where they are equal; below 0 the later one is better
        half = np.sqrt(np.maximum(root, 0))
        np.maximum(low, (moved - half) / span, out=low)
        np.minimum(high, (moved + half) / span, out=high)
        gains[(root < 0) | (low > high)] = -np.inf
    column = kept[:, :, born % ROOM - ROOM]
    column[0], column[1], column[2], column[3], column[4] = born, gain, total, -np.inf, np.inf


def _cuts(last: Sequence[int]) -> list[int]:
    """Go back from the end, from each cut to the one before it."""
    found = [last[-1]]
    while found[-1]:
        found.append(last[found[-1]])
    return found[-2::-1]


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
