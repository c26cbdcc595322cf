"""Measure both sides of a gate in fresh processes, in turns, so that the machine's drift affects both equally."""

import random
import statistics
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stagebench.core.errors import GateError
from stagebench.core.json_files import write_text
from stagebench.core.results import Results, write_results
from stagebench.core.shown import Begin
from stagebench.gate import decide as gate
from stagebench.gate.runner.fresh_process import FreshProcess, Variant, measure, pytest_arguments

SIDES = ("base", "head")
DOES = {"counters": "counting", "first": "timing", "confirmation": "timing again"}  # of each phase
BLOCK, PAIRS = 4, 2  # processes, and their pairs
CLOCKS = {"wall": "time.perf_counter", "cpu": "time.process_time"}  # pytest-benchmark's names

Sides = tuple[list[Results], list[Results]]  # base and head; those of one index ran one after the other


@dataclass(frozen=True, slots=True)
class ABPlan:
    """What is measured."""

    blocks: int | None  # at most twice as many; None for a number that depends on the time of a process
    rounds: int  # of each benchmark in a process
    select: str  # benchmarks as in pytest's `-k`; the reference workload always runs
    clock: str  # one of `CLOCKS`
    seed: int  # of all orders
    counters_only: bool  # no timing
    lockstep: bool  # both processes of a pair run at once and take turns, round by round
    arguments: tuple[str, ...]  # further arguments of pytest, for all processes
    budget: float | None = None  # seconds; then as many blocks as fit, with fewer rounds if necessary


@dataclass(frozen=True, slots=True)
class ScheduledProcess:
    """One process of a series."""

    phase: str  # "counters", "first" or "confirmation"
    block: int  # from 0
    position: int  # in its block, 0 to 3
    variant: str  # one of `SIDES`
    order_seed: int  # of the benchmarks in the process; equal in all of a block

    @property
    def file_name(self) -> str:
        """Return the file name of its run; names sort in the order of running."""
        return f"{self.phase}-{self.block:02}-{self.position}-{self.variant}.json"


def schedule(phase: str, blocks: int, seed: int) -> list[ScheduledProcess]:
    """Plan blocks of four: base, head, head, base, or the reverse by the seed, so that drift affects both equally."""
    draw = random.Random(f"{seed} {phase}")
    planned = []
    for block in range(blocks):
        first, second = draw.sample(SIDES, 2)
        order_seed = draw.randrange(2**16)
        sides = enumerate((first, second, second, first))
        planned += [ScheduledProcess(phase, block, i, side, order_seed) for i, side in sides]
    return planned


@dataclass(frozen=True, slots=True)
class ABRunner:
    """Runs processes, or pairs in lockstep; GateError where one fails, or a phase's runs are not comparable."""

    variants: dict[str, Variant]  # both sides by name
    plan: ABPlan
    folder: Path  # for the runs, each as pytest-benchmark's JSON with its place in the schedule
    changed: Collection[str]  # keys of the environment that may differ
    begin: Begin  # called before each process
    took: list[float] = field(default_factory=list)  # seconds, by process

    def count(self, sides: Sequence[str] = SIDES) -> Sides:
        """Run one process per side that verifies and counts its work; its single round is not a measurement."""
        planned = [ScheduledProcess("counters", 0, SIDES.index(side), side, self.plan.seed) for side in sides]
        return self._sides(planned, len(SIDES), [], None)

    def time(self, phase: str, block: int, blocks: int, paths: Sequence[str], rounds: int) -> Sides:
        """Time one of `blocks` blocks of the phase "first" or "confirmation", for benchmarks by name."""
        planned = schedule(phase, block + 1, self.plan.seed)[block * BLOCK :]
        return self._sides(planned, blocks * BLOCK, paths, rounds)

    def _sides(
        self, planned: Sequence[ScheduledProcess], total: int, paths: Sequence[str], rounds: int | None
    ) -> Sides:
        runs: dict[str, list[Results]] = {side: [] for side in SIDES}
        at_once = 2 if self.plan.lockstep and rounds else 1
        for group in (planned[i : i + at_once] for i in range(0, len(planned), at_once)):
            began, done = time.monotonic(), group[0].block * BLOCK + group[0].position
            self.begin(DOES[group[0].phase], done, total)
            measured = measure([self._process(each, paths, rounds) for each in group])
            self.took.append((time.monotonic() - began) / at_once)
            if self.plan.lockstep:
                _require_turns(group, measured)
            for each, run in zip(group, measured, strict=True):
                run["stagebench"]["scheduled"] = asdict(each)
                write_text(self.folder / ".gitignore", "*\n")  # keeps them out of the next gate's working tree
                write_results(self.folder / each.file_name, run)
                runs[each.variant].append(run)
        if runs["base"]:
            gate.require_comparable(runs["base"], runs["head"], self.changed)
        return runs["base"], runs["head"]

    @property
    def seconds(self) -> float:
        """The mean time of the last processes."""
        return statistics.fmean(self.took[-BLOCK:])

    def _process(self, each: ScheduledProcess, paths: Sequence[str], rounds: int | None) -> FreshProcess:
        shuffled = random.Random(each.order_seed).sample(paths, len(paths))
        more = (*self.plan.arguments, f"--benchmark-timer={CLOCKS[self.plan.clock]}")
        base = self.variants["base"].root  # the base chooses the benchmarks
        arguments = pytest_arguments(base, shuffled, more, self.plan.select, rounds, each.order_seed)
        return FreshProcess(self.variants[each.variant], arguments, self.folder / each.file_name)


def _require_turns(group: Sequence[ScheduledProcess], runs: Sequence[Results]) -> None:
    for each, run in zip(group, runs, strict=True):
        if "turns" not in run["stagebench"]:
            raise GateError(f"--lockstep needs a revision that has it on both sides, got an older {each.variant}")
    if len(group) > 1 and not runs[0]["stagebench"]["turns"]:  # no turn from the other process
        raise GateError("--lockstep needs one version of its protocol on both sides, got two")
