"""Looking back: the runs of a folder by environment, and where what they measured changed. Importable without torch.

One run is one process, and its median is one sample: rounds of one process are no independent samples.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from stagebench.core.environment import ADDED, UNKNOWN
from stagebench.core.errors import BaselineError, HistoryError
from stagebench.core.results import read_run

MIN_SIDE = 5
"""Runs on either side of a change; with fewer, a change is the gate's to find, not history's."""

PENALTY = 45.0
"""What a change must explain, in variances of the noise, to be one.

Chosen by simulation (`tests/test_history.py` repeats a part of it): in 10 to 365 runs of unchanging normal, Laplace or
Student (4 degrees) noise at most 2 series in 1000 show a change, less than 1 from 20 runs on. Only independent noise is
meant: where much of a night's deviation carries over to the next one, the machine drifts, and steps are seen in it.
"""

OUTLIER = 5.0
"""How many standard deviations of the noise a run lies from the median of its five neighbours to be an outlier."""

LEAST_NOISE = 1e-3
"""Relative; what differs by less than that between two processes is the clock, whatever the series says."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One run of the suite, as a file holds it.

    Attributes:
        path: of the file.
        when: it began.
        commit: of the code; None outside a repository.
        dirty: whether the code differed from its commit.
        identity: of the environment.
        rounds: seconds of each timed round, by benchmark; empty where the file leaves them out.
        medians: seconds, by benchmark.
    """

    path: Path
    when: datetime
    commit: str | None
    dirty: bool
    identity: dict[str, str]
    rounds: dict[str, list[float]]
    medians: dict[str, float]


@dataclass(frozen=True, slots=True)
class Change:
    """A step in a series.

    Attributes:
        at: the first run after it.
        before: median of the runs between this change and the one before, in seconds.
        after: likewise, after it.
        good: the last run that is surely before it: one run is left between, because a step may be seen a run early.
        bad: the first run that is surely after it, likewise.
    """

    at: StoredRun
    before: float
    after: float
    good: StoredRun
    bad: StoredRun

    @property
    def ratio(self) -> float:
        """Above 1 where it became slower."""
        return self.after / self.before


@dataclass(frozen=True, slots=True)
class Series:
    """One benchmark in one environment, over time.

    Attributes:
        benchmark: its full name.
        runs: those that hold it, the oldest first.
        noise: standard deviation between neighbouring runs, relative; None of a single run.
        changes: the oldest first.
        outliers: runs far from their neighbours; no change is seen in one of them.
    """

    benchmark: str
    runs: tuple[StoredRun, ...]
    noise: float | None
    changes: tuple[Change, ...]
    outliers: tuple[StoredRun, ...]

    @property
    def seconds(self) -> list[float]:
        """The medians of the runs."""
        return [run.medians[self.benchmark] for run in self.runs]


@dataclass(frozen=True, slots=True)
class History:
    """What a folder holds.

    Attributes:
        environments: runs that are comparable with each other, the oldest first; most runs first.
        unreadable: why not, by file.
    """

    environments: tuple[tuple[StoredRun, ...], ...]
    unreadable: dict[Path, str]


def read_history(folder: Path) -> History:
    """Read all JSON files in a folder and below it.

    Raises:
        HistoryError: where there is no such folder, or no file is a run.
    """
    if not folder.is_dir():
        raise HistoryError(f"a history must be a folder, got {folder}")
    groups: dict[str, list[StoredRun]] = {}
    unreadable: dict[Path, str] = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            run = read_stored(path)
        except BaselineError as error:
            unreadable[path] = str(error)
            continue
        key = json.dumps(run.identity, sort_keys=True)
        alone = UNKNOWN in run.identity.values()  # it compares with nothing
        groups.setdefault(f"{key} {path}" if alone else key, []).append(run)
    if not groups:
        raise HistoryError(f"a history must hold at least one run, got {len(unreadable)} other files in {folder}")
    environments = [tuple(sorted(runs, key=lambda run: run.when)) for runs in groups.values()]
    return History(tuple(sorted(environments, key=len, reverse=True)), unreadable)


def read_stored(path: Path) -> StoredRun:
    """Read one run.

    Raises:
        BaselineError: where the file is no run, or lacks the time.
    """
    run = read_run(path)
    commit = run.get("commit_info") or {}
    try:
        when = datetime.fromisoformat(run["datetime"])
    except (KeyError, ValueError) as error:
        raise BaselineError(f"the run {path} must hold the time when it was made, got {error!r}") from error
    return StoredRun(
        path,
        when if when.tzinfo else when.replace(tzinfo=UTC),
        commit.get("id"),
        bool(commit.get("dirty")),
        ADDED | run["machine_info"],
        {b["fullname"]: b["stats"].get("data") or [] for b in run["benchmarks"]},
        {b["fullname"]: b["stats"]["median"] for b in run["benchmarks"]},
    )


def series_of(runs: Sequence[StoredRun]) -> list[Series]:
    """Look at each benchmark of comparable runs, the oldest run first.

    Raises:
        HistoryError: where there are runs enough to look for changes, and the extra "trend" is not installed.
    """
    names = {name: None for run in runs for name in run.medians}  # in the order of the suite
    return [_series(name, tuple(run for run in runs if name in run.medians)) for name in names]


def _series(benchmark: str, runs: tuple[StoredRun, ...]) -> Series:
    logs = np.log([run.medians[benchmark] for run in runs])
    if len(runs) < 2 * MIN_SIDE:
        return Series(benchmark, runs, noise(logs) if len(runs) > 1 else None, (), ())
    changes, outliers = find_changes(logs)
    levels = [float(np.exp(np.median(logs[start:end]))) for start, end in pairwise([0, *changes, len(runs)])]
    return Series(
        benchmark,
        runs,
        noise(logs),
        tuple(
            Change(runs[i], before, after, runs[max(i - 2, 0)], runs[min(i + 1, len(runs) - 1)])
            for i, (before, after) in zip(changes, pairwise(levels), strict=True)
        ),
        tuple(runs[i] for i in outliers),
    )


def recent_slowdowns(series: Sequence[Series], runs: int) -> list[tuple[Series, Change]]:
    """The slowdowns that began in one of the last runs; a step is seen when it is `MIN_SIDE` runs old.

    Args:
        series: of one environment.
        runs: how many of the last ones count.
    """
    return [
        (each, change)
        for each in series
        for change in each.changes
        if change.ratio > 1 and change.at in each.runs[-runs:]
    ]


def noise(logs: NDArray[np.float64]) -> float:
    """Standard deviation of the noise of a series that may hold steps.

    From the median absolute difference of neighbours, to which one step or outlier adds little; 1.4826 makes it the
    standard deviation of normal noise, and the difference of two samples has twice the variance of one.
    """
    return max(LEAST_NOISE, float(1.4826 * np.median(np.abs(np.diff(logs))) / np.sqrt(2)))


def find_changes(logs: NDArray[np.float64]) -> tuple[list[int], list[int]]:
    """Find steps in the level of a series: PELT (Killick and others, 2012) with squared deviations, from ruptures.

    Args:
        logs: (runs,), float64: logarithms of seconds; at least twice `MIN_SIDE`.

    Returns:
        Indices of the first sample after each step, and of the outliers, which are taken for the median of their five
        neighbours (Hampel's filter) before steps are looked for.

    Raises:
        HistoryError: where the extra "trend" is not installed.
    """
    try:
        import ruptures
    except ImportError as error:
        raise HistoryError(f"changes are found by the extra 'trend', got no {error.name}") from error
    deviation = noise(logs)
    neighbours = median_filter(logs, size=5, mode="nearest")
    outlying = np.abs(logs - neighbours) > OUTLIER * deviation
    calm = np.where(outlying, neighbours, logs) / deviation
    found = ruptures.KernelCPD(kernel="linear", min_size=MIN_SIDE).fit(calm[:, None]).predict(pen=PENALTY)
    return [int(i) for i in found[:-1]], [int(i) for i in np.flatnonzero(outlying)]


def bisect_command(benchmark: str, change: Change) -> str | None:
    """The command line with which git finds the commit of a change; None where the two sides name no two commits.

    `git bisect run` takes 0 for good, 125 for "cannot say" and other codes up to 127 for bad: a gate that could not
    measure or decide (2, 3) is no verdict. A commit that made it faster is found by a gate against the fast side, which
    fails on what is still slow.
    """
    good, bad = change.good.commit, change.bad.commit
    if good == bad or not all(commit and re.fullmatch("[0-9a-f]{7,64}", commit) for commit in (good, bad)):
        return None
    slower = change.ratio > 1
    verdict = '"$@" || exit $(( $? > 1 ? 125 : 1 ))' if slower else '"$@" && exit 1; exit $(( $? > 1 ? 125 : 0 ))'
    gate = ["stagebench", "gate", "--base", str(good if slower else bad), "--select", benchmark.split("::")[-1]]
    return f"git bisect start {bad} {good} && git bisect run {shlex.join(['sh', '-c', verdict, 'gate', *gate])}"
