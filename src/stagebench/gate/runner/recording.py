"""Results and baselines out of fresh processes: one proves what it runs and counts its work, the others time it.

The process is the sample: it gives one median a benchmark, and the results are made of these medians. Importable
without torch.
"""

from __future__ import annotations

import hashlib
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pytest_benchmark.stats import Stats

from stagebench.core import environment
from stagebench.core.errors import ResultsError
from stagebench.core.results import (
    Benchmark,
    Info,
    Process,
    Results,
    Session,
    is_reference,
    read_results,
    write_results,
)
from stagebench.gate.runner.fresh_process import FreshProcess, Variant, measure, selection

PROOF = 0
"""The number of the process that proves; the timing ones count from 1."""

OWN = ("--stage-rounds", "--stage-times-only", "--stage-order-seed", "--benchmark-")
"""Options of pytest that each process gets from here, by how they begin."""

SELECTING = ("--deselect", "--ignore", "--ignore-glob", "--collect-only", "--co")
"""Options of pytest that choose benchmarks, beside -k and -m."""

_CHOOSES = re.compile("-[hlqsvVx]*[km]")
"""-k and -m, alone or after flags, with the expression behind it or not: `-k`, `-kdecode`, `-qk`."""


@dataclass(frozen=True, slots=True)
class RecordingPlan:
    """What all processes of a recording run; another plan is another recording.

    Attributes:
        rounds: of each benchmark in a timing process.
        select: which benchmarks, as in pytest's `-k`; empty for all.
        arguments: further ones of pytest.
        code: digest of what is measured, see `digest_of`.

    Raises:
        ResultsError: for an argument that is the recording's own to give, or chooses benchmarks.
    """

    rounds: int
    select: str
    arguments: tuple[str, ...]
    code: str

    def __post_init__(self) -> None:
        for argument in self.arguments:
            _require_free(argument)

    def as_json(self) -> Process:
        """Return it as it is kept with every process."""
        return {"rounds": self.rounds, "select": self.select, "arguments": list(self.arguments), "code": self.code}


def _require_free(argument: str) -> None:
    """Refuse an argument in any form that argparse may take: abbreviated, with its value behind it, from a file."""
    name = argument.partition("=")[0]
    if argument == "--" or argument.startswith("@"):
        raise ResultsError(f"pytest's arguments must be options as they stand, got {argument}")
    if name.startswith(OWN) or any(_abbreviates(name, option) for option in OWN):
        raise ResultsError(f"a recording gives rounds, order and what is kept to pytest itself, got {argument}")
    if _CHOOSES.match(argument) or any(_abbreviates(name, option) for option in SELECTING):
        raise ResultsError(f"the benchmarks of a recording are chosen by --select, got {argument}")


def _abbreviates(name: str, option: str) -> bool:
    return name.startswith("--") and option.startswith(name)


def digest_of(root: Path) -> str:
    """Return a digest of the Python files of a checkout that a benchmark can depend on."""
    digest = hashlib.sha256()
    for pattern in ("conftest.py", "benchmarks/**/*.py", "src/**/*.py"):
        for file in sorted(root.glob(pattern)):
            digest.update(file.relative_to(root).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Recording:
    """A folder of processes that all run one plan. Each is written whole or not at all: a kill loses the one in hand.

    Attributes:
        folder: where they are kept, each as pytest-benchmark's JSON with the plan noted in it.
        root: the checkout that they run in, with this interpreter.
        plan: what they run.
    """

    folder: Path
    root: Path
    plan: RecordingPlan

    def kept(self, processes: int) -> dict[int, Results]:
        """Read the processes that are there already, by number.

        Raises:
            ResultsError: where one of them ran another plan, or in another environment.
            ResultsError: where a file is no run.
        """
        paths = {number: self._path(number) for number in range(processes + 1)}
        runs = {number: read_results(path) for number, path in paths.items() if path.exists()}
        for number, run in runs.items():
            self._require_same_plan(number, run)
            _require_same_environment(number, run, runs)
        return runs

    def measure(self, number: int, others: Mapping[int, Results]) -> Results:
        """Run one process, and keep what it measured.

        Args:
            number: `PROOF`, or from 1.
            others: those that are there already.

        Raises:
            FailedError: where a benchmark failed, with the reason; what pytest said is kept beside the others.
            ResultsError: where the code is no longer that of the plan, the environment not that of the others, or no
                benchmark was selected; then nothing is kept.
        """
        if digest_of(self.root) != self.plan.code:
            raise ResultsError(f"the code in {self.root} must stay as it was while it is recorded, got other files")
        seed = random.Random(f"process {number}").randrange(2**16)
        own = ("--stage-rounds=1",) if number == PROOF else ("--stage-times-only", f"--stage-rounds={self.plan.rounds}")
        select = selection(self.plan.select) if self.plan.select else ()
        arguments = ("benchmarks", *self.plan.arguments, *select, *own, f"--stage-order-seed={seed}")
        variant = Variant(name_of(number), self.root, Path(sys.executable))
        began = time.monotonic()
        (run,) = measure([FreshProcess(variant, arguments, self._path(number))])
        if all(is_reference(benchmark["fullname"]) for benchmark in run["benchmarks"]):
            chosen = f" of --select {self.plan.select!r}" if self.plan.select else ""
            raise ResultsError(
                f"the {variant.name} must run a benchmark beside the reference workload, got none{chosen}"
            )
        _require_same_environment(number, run, others)
        seconds = time.monotonic() - began
        run["stagebench"]["recording"] = {**self.plan.as_json(), "process": number, "seconds": seconds}
        write_results(self._path(number), run)
        return run

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:02}.json"

    def _require_same_plan(self, number: int, run: Results) -> None:
        there: Mapping[str, object] = run["stagebench"].get("recording", {})
        here: Mapping[str, object] = self.plan.as_json()
        if differing := [
            f"{key}: {here[key]!r} here, {there.get(key)!r} there" for key in here if here[key] != there.get(key)
        ]:
            raise ResultsError(f"{self._path(number)} is of another recording: {'; '.join(differing)}")
        if "seconds" not in there:
            raise ResultsError(f"{self._path(number)} must say how long the process took, got nothing of it")


def _require_same_environment(number: int, run: Results, others: Mapping[int, Results]) -> None:
    here = run["machine_info"]
    there = next(iter(others.values()), run)["machine_info"]
    if here != there:  # an unknown driver is no reason to refuse a recording, though it compares with no other one
        differing = "; ".join(environment.differences(here, there))
        raise ResultsError(f"the {name_of(number)} ran in another environment: {differing}")


def sweep(out: Path) -> None:
    """Remove what a killed recording was writing in its folder, half done."""
    for half in [*out.glob(".results.*.*"), *out.glob("processes/.[0-9]*")]:
        half.unlink()


def name_of(number: int) -> str:
    """Return what a process is called."""
    return "proving process" if number == PROOF else f"timing process {number}"


def record(
    recording: Recording, processes: int, minutes: float | None, say: Callable[[str], None]
) -> dict[int, Results]:
    """Run what is not there yet: the proving process, then the timing ones.

    Args:
        recording: where, and what.
        processes: timing ones in all.
        minutes: no process is started that would not end by then, if it takes as long as those before it; None for no
            limit.
        say: gets a line on each process.

    Returns:
        All processes by number; fewer than were asked for where the time did not suffice.
    """
    began = time.monotonic()
    runs = recording.kept(processes)
    for number in range(processes + 1):
        if number in runs:
            say(f"{name_of(number)} is there already")
            continue
        left, needed = _left(began, minutes), expected_seconds(runs)
        if left < needed:
            say(f"{name_of(number)} would take {needed:.0f} s, {left:.0f} s are left: the same command goes on later")
            break
        runs[number] = recording.measure(number, runs)
        say(f"{name_of(number)} took {runs[number]['stagebench']['recording']['seconds']:.0f} s")
    return runs


def _left(began: float, minutes: float | None) -> float:
    return float("inf") if minutes is None else began + minutes * 60 - time.monotonic()


def expected_seconds(runs: Mapping[int, Results]) -> float:
    """Return how long the next process may take: as the longest timing one, else as the proof; 0 for the first."""
    seconds: dict[int, float] = {number: run["stagebench"]["recording"]["seconds"] for number, run in runs.items()}
    return max((s for number, s in seconds.items() if number != PROOF), default=seconds.get(PROOF, 0.0))


def combine(runs: Mapping[int, Results]) -> Results:
    """Make one run of all processes, in which each benchmark's rounds are the medians of the timing processes.

    Args:
        runs: by number, the proof and at least one other.

    Returns:
        A run as pytest-benchmark writes it: the proof's, with the others' times. A benchmark that a process left out
        is named in its `left_out`, and is not among its benchmarks.

    Raises:
        ResultsError: where no benchmark is in all of them.
    """
    proof, timed = runs[PROOF], [run for number, run in sorted(runs.items()) if number != PROOF]
    found = [{b["fullname"]: b for b in run["benchmarks"]} for run in timed]
    shared = [b for b in proof["benchmarks"] if all(b["fullname"] in each for each in found)]
    if not shared:
        raise ResultsError("results need at least one benchmark that ran in every process, got none")
    every = {name: None for run in runs.values() for name in (b["fullname"] for b in run["benchmarks"])}
    own: Session = {
        **proof["stagebench"],
        "load_warning": next((w for run in timed if (w := run["stagebench"].get("load_warning"))), None),
        "recording": {
            **proof["stagebench"]["recording"],
            "processes": len(timed),
            "seconds": sum(run["stagebench"]["recording"]["seconds"] for run in runs.values()),
            "left_out": [name for name in every if name not in {b["fullname"] for b in shared}],
        },
    }
    benchmarks = [_combined(b, [each[b["fullname"]] for each in found]) for b in shared]
    return {**proof, "benchmarks": benchmarks, "stagebench": own}


def _combined(proven: Benchmark, timed: Sequence[Benchmark]) -> Benchmark:
    stats = Stats()
    for benchmark in timed:
        stats.update(benchmark["stats"]["median"])
    infos = [benchmark.get("extra_info", {}) for benchmark in timed]
    info = dict(proven.get("extra_info", {})) | _typical(infos) | {"processes": len(timed)}
    if "device_seconds" in info:  # of the rounds of one process
        info["device_seconds"] = [each["device_median"] for each in infos if "device_median" in each]
    return {
        **proven,
        "stats": stats.as_dict() | {"data": stats.data, "iterations": 1},
        "extra_info": cast("Info", info),
    }


def _typical(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all processes noted: of numbers the median, of anything else the first."""
    return {key: _middle([info[key] for info in infos]) for key in infos[0] if all(key in info for info in infos)}


def _middle(values: Sequence[Any]) -> Any:
    if all(isinstance(value, Mapping) for value in values):
        return _typical(values)
    if all(isinstance(value, int) for value in values):  # bytes and counts stay whole, flags stay flags
        return statistics.median_low(values)
    if all(isinstance(value, int | float) for value in values):
        return statistics.median(values)
    return values[0]
