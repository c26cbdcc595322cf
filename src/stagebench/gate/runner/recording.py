"""Makes results out of fresh processes: one proves what it runs and counts its work, the others time it.

The process is the sample: it gives one median a benchmark, and the results are made of these medians. Importable
without torch.
"""

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

from stagebench.core.errors import ResultsError
from stagebench.core.machine import environment
from stagebench.core.results import (
    Benchmark,
    Info,
    Process,
    Results,
    Session,
    by_name,
    is_reference,
    read_results,
    write_results,
)
from stagebench.gate.runner.fresh_process import FreshProcess, Variant, measure, selection

PROOF = 0
"""The number of the process that proves; the timing ones count from 1."""

OWN = ("--stage-rounds", "--stage-times-only", "--stage-order-seed", "--benchmark-", "@")
"""How arguments of pytest begin that each process gets from here."""

CHOOSING = re.compile(r"-[hlqsvVx]*[km]|--(deselect|ignore|ignore-glob|collect-only|co)?(=|$)")
"""Arguments that choose benchmarks, alone or after flags, with a value or not: `-k`, `-kdecode`, `-qk`, `--`."""


def plan_of(root: Path, rounds: int, select: str, arguments: Sequence[str]) -> Process:
    """Return what all processes of a recording run; another plan is another recording.

    Args:
        root: the checkout that is measured.
        rounds: of each benchmark in a timing process.
        select: which benchmarks, as in pytest's `-k`; empty for all.
        arguments: further ones of pytest.

    Raises:
        ResultsError: for an argument that is the recording's own to give, or chooses benchmarks.
    """
    for argument in arguments:
        if argument.startswith(OWN):
            raise ResultsError(f"a recording gives rounds, order and what is kept to pytest itself, got {argument}")
        if CHOOSING.match(argument):
            raise ResultsError(f"the benchmarks of a recording are chosen by --select, got {argument}")
    return {"rounds": rounds, "select": select, "arguments": list(arguments), "code": digest_of(root)}


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
        plan: what they run, see `plan_of`.
    """

    folder: Path
    root: Path
    plan: Process

    def record(self, processes: int, minutes: float | None, say: Callable[[str], None]) -> dict[int, Results]:
        """Run what is not there yet: the proving process, then the timing ones.

        Args:
            processes: timing ones in all.
            minutes: no process is started that would not end by then, if it takes as long as those before it; None for
                no limit.
            say: gets a line on each process.

        Returns:
            All processes by number; fewer than were asked for where the time did not suffice.

        Raises:
            FailedError: where a benchmark failed, with the reason; what pytest said is kept beside the others.
            ResultsError: where a process is of another plan or environment, or the code changed meanwhile.
        """
        until = float("inf") if minutes is None else time.monotonic() + minutes * 60
        runs = self.kept(processes)
        for number in range(processes + 1):
            if number in runs:
                say(f"{name_of(number)} is there already")
                continue
            left, needed = until - time.monotonic(), expected_seconds(runs)
            if left < needed:
                say(f"{name_of(number)} would take {needed:.0f} s, {left:.0f} s are left: the same command goes on")
                break
            runs[number] = self.measure(number, runs)
            say(f"{name_of(number)} took {_seconds(runs[number]):.0f} s")
        return runs

    def kept(self, processes: int) -> dict[int, Results]:
        """Read the processes that are there already, by number."""
        paths = {number: self._path(number) for number in range(processes + 1)}
        runs = {number: read_results(path) for number, path in paths.items() if path.exists()}
        here: Mapping[str, object] = self.plan
        for number, run in runs.items():
            there: Mapping[str, object] = run["stagebench"].get("recording", {})
            if other := [f"{k}: {here[k]!r} here, {there.get(k)!r} there" for k in here if here[k] != there.get(k)]:
                raise ResultsError(f"{self._path(number)} is of another recording: {'; '.join(other)}")
            _require_same_environment(number, run, runs)
        return runs

    def measure(self, number: int, others: Mapping[int, Results]) -> Results:
        """Run one process, and keep what it measured; nothing where it is not one of this recording.

        Args:
            number: `PROOF`, or from 1.
            others: those that are there already.
        """
        if digest_of(self.root) != self.plan["code"]:
            raise ResultsError(f"the code in {self.root} must stay as it was while it is recorded, got other files")
        seed = random.Random(f"process {number}").randrange(2**16)
        own = (
            ("--stage-rounds=1",)
            if number == PROOF
            else ("--stage-times-only", f"--stage-rounds={self.plan['rounds']}")
        )
        select = selection(self.plan["select"]) if self.plan["select"] else ()
        arguments = ("benchmarks", *self.plan["arguments"], *select, *own, f"--stage-order-seed={seed}")
        variant = Variant(name_of(number), self.root, Path(sys.executable))
        began = time.monotonic()
        (run,) = measure([FreshProcess(variant, arguments, self._path(number))])
        if all(map(is_reference, by_name(run))):
            chosen = f" of --select {self.plan['select']!r}" if self.plan["select"] else ""
            raise ResultsError(
                f"the {variant.name} must run a benchmark beside the reference workload, got none{chosen}"
            )
        _require_same_environment(number, run, others)
        seconds = time.monotonic() - began
        run["stagebench"]["recording"] = {**self.plan, "process": number, "seconds": seconds}
        write_results(self._path(number), run)
        return run

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:02}.json"


def _require_same_environment(number: int, run: Results, others: Mapping[int, Results]) -> None:
    here, there = run["machine_info"], next(iter(others.values()), run)["machine_info"]
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


def expected_seconds(runs: Mapping[int, Results]) -> float:
    """Return how long the next process may take: as the longest timing one, else as the proof; 0 for the first."""
    seconds = {number: _seconds(run) for number, run in runs.items()}
    return max((s for number, s in seconds.items() if number != PROOF), default=seconds.get(PROOF, 0.0))


def _seconds(run: Results) -> float:
    return run["stagebench"]["recording"].get("seconds", 0.0)


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
    named = [by_name(run) for run in (proof, *timed)]
    shared = [name for name in named[0] if all(name in each for each in named)]
    if not shared:
        raise ResultsError("results need at least one benchmark that ran in every process, got none")
    own: Session = {
        **proof["stagebench"],
        "load_warning": next((w for run in timed if (w := run["stagebench"].get("load_warning"))), None),
        "recording": {
            **proof["stagebench"]["recording"],
            "processes": len(timed),
            "seconds": sum(map(_seconds, runs.values())),
            "left_out": list(dict.fromkeys(name for each in named for name in each if name not in shared)),
        },
    }
    benchmarks = [_combined(*(each[name] for each in named)) for name in shared]
    return {**proof, "benchmarks": benchmarks, "stagebench": own}


def _combined(proven: Benchmark, *timed: Benchmark) -> Benchmark:
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
    """Return what all processes noted: of numbers the median, of anything else the first."""
    return {key: _middle([info[key] for info in infos]) for key in infos[0] if all(key in info for info in infos)}


def _middle(values: Sequence[Any]) -> Any:
    if all(isinstance(value, Mapping) for value in values):
        return _typical(values)
    if all(isinstance(value, int) for value in values):  # bytes and counts stay whole, flags stay flags
        return statistics.median_low(values)
    if all(isinstance(value, int | float) for value in values):
        return statistics.median(values)
    return values[0]
