"""Make results from fresh processes, which are the samples: one verifies and counts the work, the others time it."""

import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from pytest_benchmark.stats import Stats

from stagebench.core.errors import GateError, ResultsError
from stagebench.core.machine.environment import differences, fingerprint
from stagebench.core.machine.locks import locked, measurement
from stagebench.core.results import (
    BENCHMARKS,
    Benchmark,
    Process,
    Results,
    by_name,
    is_reference,
    read_results,
    shared,
    write_results,
)
from stagebench.core.shown import Begin
from stagebench.gate.runner.fresh_process import FreshProcess, Variant, measure, pytest_arguments, require_models

PROOF = 0  # the number of the verifying process; timing processes count from 1

# Arguments of pytest that a recording sets itself, or that choose benchmarks: `-k`, `-kdecode`, `-qk`, `--`.
OWN = re.compile(
    r"--stage-(rounds|times-only|order-seed)|--benchmark-|@"
    r"|-[hlqsvVx]*[km]|--(deselect|ignore|ignore-glob|collect-only|co)?(=|$)"
)


def bench(
    out: str | PathLike[str],
    *,
    processes: int = 7,
    rounds: int = 10,
    select: str = "",
    arguments: Sequence[str] = (),
    say: Callable[[str], object] = lambda line: None,
) -> Results:
    """Run the working folder's benchmarks in fresh processes; write and return OUT/results.json.

    Options have the names of `stagebench bench`; `arguments` are further ones of pytest. Progress goes in lines to
    `say`, by default nowhere. Raise StagebenchError where a benchmark failed, or OUT holds another recording.

    >>> results = stagebench.bench("out", processes=1, rounds=1)
    >>> [benchmark["stats"]["rounds"] for benchmark in results["benchmarks"]]
    [1, 1, 1]
    """
    with recorded(Path(out), processes, say, lambda *step: None, rounds, select, arguments) as results:
        write_results(Path(out, "results.json"), results)
    return results


@contextmanager
def recorded(
    out: Path,
    processes: int,
    say: Callable[[str], object],
    begin: Begin,
    rounds: int,
    select: str,
    arguments: Sequence[str],
) -> Iterator[Results]:
    """Record the working folder's benchmarks, and keep OUT locked until the block ends."""
    here = Variant("", Path.cwd(), Path(sys.executable))
    plan = plan_of(here.root, rounds, select, arguments)
    with locked(out, "only one recording at a time may write to a folder"), measurement(say):
        for half in [*out.glob(".results.*.*"), *out.glob("processes/.[0-9]*")]:  # of a killed process
            half.unlink()
        yield combine(Recording(out / "processes", here, plan).record(processes, say, begin))


def plan_of(root: Path, rounds: int, select: str, arguments: Sequence[str]) -> Process:
    """Return the plan of a recording's processes; raise ResultsError for pytest's arguments that it sets itself."""
    for argument in arguments:
        if OWN.match(argument):
            raise ResultsError(f"a recording must be chosen by --select, --rounds and OUT, got {argument}")
    return {"rounds": rounds, "select": select, "arguments": list(arguments), "code": _code(root)}


def _code(root: Path) -> str:
    """Return a digest of a checkout's code and its tables: at its top, and in `BENCHMARKS`, `src` and packages."""
    packages = sorted(path.parent.name for path in root.glob("*/__init__.py"))
    below = [f"{folder}/**/*" for folder in (BENCHMARKS, "src", *packages)]
    return fingerprint(root, "*.py", *(f"{each}.{suffix}" for each in below for suffix in ("py", "toml")))


@dataclass(frozen=True, slots=True)
class Recording:
    """A folder of processes of one plan, each written atomically: a kill loses only the current one."""

    folder: Path  # for the processes, each as pytest-benchmark's JSON with the plan in it
    variant: Variant  # the checkout, and the interpreter that runs it
    plan: Process  # see `plan_of`

    def record(self, processes: int, say: Callable[[str], object], begin: Begin) -> dict[int, Results]:
        """Run the missing processes, the verifying one, then `processes` timing ones; return all by number.

        `begin` gets the name of each before it runs. Raise FailedError where a benchmark failed, and ResultsError where
        a process has another plan or environment, or the code changed meanwhile.
        """
        runs = self.kept(processes)
        for number in runs:
            say(f"{name_of(number)} exists already")
        missing = [number for number in range(processes + 1) if number not in runs]
        for done, number in enumerate(missing):
            begin(name_of(number), done, len(missing))
            runs[number] = self.measure(number, runs)
            say(f"{name_of(number)} took {_seconds(runs[number]):.0f} s")
        return runs

    def kept(self, processes: int) -> dict[int, Results]:
        """Read the existing processes, by number."""
        paths = {number: self._path(number) for number in range(processes + 1)}
        runs = {number: read_results(path) for number, path in paths.items() if path.exists()}
        for number, run in runs.items():
            there: Mapping[str, object] = run["stagebench"].get("recording", {})
            if other := differences(self.plan, {key: there[key] for key in self.plan if key in there}):
                raise ResultsError(f"{paths[number]} is of another recording: {'; '.join(other)}")
            _require_same_environment(number, run, runs)
        return runs

    def measure(self, number: int, others: Mapping[int, Results]) -> Results:
        """Run one process, and keep its results if its environment is that of the others."""
        plan = self.plan
        root = self.variant.root
        if _code(root) != plan["code"]:
            raise ResultsError(f"the code in {root} must not change during a recording, got other files")
        seed = random.Random(f"process {number}").randrange(2**16)
        rounds = None if number == PROOF else plan["rounds"]
        arguments = pytest_arguments(root, [], plan["arguments"], plan["select"], rounds, seed)
        variant = replace(self.variant, name=name_of(number))
        began = time.monotonic()
        (run,) = measure([FreshProcess(variant, arguments, self._path(number))])
        if all(map(is_reference, by_name(run))):
            chosen = f" of --select {plan['select']!r}" if plan["select"] else ""
            raise GateError(f"the {variant.name} must run a benchmark besides the reference workload, got none{chosen}")
        require_models(plan["arguments"], run)
        _require_same_environment(number, run, others)
        run["stagebench"]["recording"] = {**plan, "process": number, "seconds": time.monotonic() - began}
        write_results(self._path(number), run)
        return run

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:02}.json"


def _require_same_environment(number: int, run: Results, others: Mapping[int, Results]) -> None:
    here, there = run["machine_info"], next(iter(others.values()), run)["machine_info"]
    if here != there:  # not by `differences`: an unknown driver is no reason to refuse
        differing = "; ".join(differences(here, there))
        raise ResultsError(f"the {name_of(number)} ran in another environment: {differing}")


def name_of(number: int) -> str:
    """Return the name of a process."""
    return "verifying process" if number == PROOF else f"timing process {number}"


def _seconds(run: Results) -> float:
    return run["stagebench"]["recording"].get("seconds", 0.0)


def combine(runs: Mapping[int, Results]) -> Results:
    """Make one run of the verifying process's counters and the others' medians; raise ResultsError for none in all."""
    proof, timed = runs[PROOF], [run for number, run in sorted(runs.items()) if number != PROOF]
    named = [by_name(run) for run in (proof, *timed)]
    if not (in_all := shared(proof, *timed)):
        raise ResultsError("results need at least one benchmark that ran in every process, got none")
    own = proof["stagebench"]
    recording: Process = {
        **own["recording"],
        "processes": len(timed),
        "seconds": sum(map(_seconds, runs.values())),
        "left_out": list(dict.fromkeys(name for each in named for name in each if name not in in_all)),
    }
    warning = next((w for run in timed if (w := run["stagebench"].get("load_warning"))), None)
    return {
        **proof,
        "benchmarks": [_combined(*(each[name] for each in named)) for name in in_all],
        "stagebench": {**own, "load_warning": warning, "recording": recording},
    }


def _combined(proven: Benchmark, *timed: Benchmark) -> Benchmark:
    stats = Stats()
    for benchmark in timed:
        stats.update(benchmark["stats"]["median"])
    infos = [benchmark.get("extra_info", {}) for benchmark in timed]
    info: Any = {**proven.get("extra_info", {}), **_typical(infos), "processes": len(timed)}
    if "device_seconds" in info:  # until now of the rounds of one process
        info["device_seconds"] = [each["device_median"] for each in infos if "device_median" in each]
    kept = stats.as_dict() | {"data": stats.data, "iterations": 1}
    return {**proven, "stats": kept, "extra_info": info}


def _typical(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what all processes recorded: the median of numbers, else the first value."""
    return {key: _middle([info[key] for info in infos]) for key in infos[0] if all(key in info for info in infos)}


def _middle(values: Sequence[Any]) -> Any:
    if all(isinstance(value, Mapping) for value in values):
        return _typical(values)
    if all(isinstance(value, int) for value in values):  # keeps counts whole and flags flags
        return statistics.median_low(values)
    if all(isinstance(value, int | float) for value in values):
        return statistics.median(values)
    return values[0]
