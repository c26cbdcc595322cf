"""Measures both sides of a gate: counts, then times, then times once more what the first look left open.

Fresh processes of the sides run by turns, so that whatever drifts on the machine weighs on both alike.
"""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from stagebench.core.errors import GateError
from stagebench.core.machine import environment
from stagebench.core.results import Results, by_name, is_reference, short_name, write_results
from stagebench.gate import decide as gate
from stagebench.gate.counters import judge_counters
from stagebench.gate.limits import Rules
from stagebench.gate.runner.fresh_process import FailedError, FreshProcess, Variant, measure, pytest_arguments
from stagebench.gate.verdicts import Decision, Verdict, confirmed, undecided

SIDES = ("base", "head")
BLOCK = 4  # processes
CLOCKS = {"wall": "time.perf_counter", "cpu": "time.process_time"}  # as pytest-benchmark calls them

Sides = tuple[list[Results], list[Results]]  # of base and head; those of one position ran one right after the other


@dataclass(frozen=True, slots=True)
class ABPlan:
    """What is measured."""

    blocks: int  # in the first look, and again in the confirmation
    rounds: int  # of each benchmark in a process
    select: str  # which benchmarks, as in pytest's `-k`; the reference workload is always among them
    clock: str  # one of `CLOCKS`
    seed: int  # of all orders
    counters_only: bool  # nothing is timed
    lockstep: bool  # both processes of a pair live at the same time and take turns, round by round
    arguments: tuple[str, ...]  # further ones of pytest, for all processes


@dataclass(frozen=True, slots=True)
class ScheduledProcess:
    """One process of a series."""

    phase: str  # "counters", "first" or "confirmation"
    block: int  # from 0
    position: int  # in its block, 0 to 3
    variant: str  # one of `SIDES`
    order_seed: int  # of the benchmarks within the process; one for both sides of a block

    @property
    def file_name(self) -> str:
        """Name the file of its run, which sorts as the processes ran."""
        return f"{self.phase}-{self.block:02}-{self.position}-{self.variant}.json"


def schedule(phase: str, blocks: int, seed: int) -> list[ScheduledProcess]:
    """Plan blocks of four: base, head, head, base, or the other way round as the seed draws it for each block.

    A drift that is even over a block weighs on both sides alike, and so does a first process that comes off badly.
    """
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
    """Runs one process after the other, or pairs in lockstep, and keeps what each of them measured.

    Raise GateError where a process failed, or the runs of a phase are not comparable.
    """

    variants: dict[str, Variant]  # both sides by name
    plan: ABPlan
    folder: Path  # where the runs are kept, each as pytest-benchmark's JSON with its place in the schedule
    changed: Collection[str]  # keys of the environment that are part of the change
    console: Console  # where progress is shown

    def count(self) -> Sides:
        """Run one process a side that proves what it runs and counts its work; its single round is no measurement."""
        planned = [ScheduledProcess("counters", 0, i, side, self.plan.seed) for i, side in enumerate(SIDES)]
        return self._sides(planned, 1, [], None)

    def time(self, phase: str, paths: Sequence[str]) -> Sides:
        """Run both sides of "first" or "confirmation" by turns, nothing proven nor counted, of benchmarks by name."""
        planned = schedule(phase, self.plan.blocks, self.plan.seed)
        return self._sides(planned, 2 if self.plan.lockstep else 1, paths, self.plan.rounds)

    def _sides(
        self, planned: Sequence[ScheduledProcess], at_once: int, paths: Sequence[str], rounds: int | None
    ) -> Sides:
        runs: dict[str, list[Results]] = {side: [] for side in SIDES}
        groups = [planned[i : i + at_once] for i in range(0, len(planned), at_once)]
        for group in track(groups, planned[0].phase, console=self.console):
            measured = measure([self._process(each, paths, rounds) for each in group])
            if self.plan.lockstep:
                _require_turns(group, measured)
            for each, run in zip(group, measured, strict=True):
                run["stagebench"]["scheduled"] = asdict(each)
                write_results(self.folder / each.file_name, run)
                runs[each.variant].append(run)
        gate.require_comparable(runs["base"], runs["head"], self.changed)
        return runs["base"], runs["head"]

    def _process(self, each: ScheduledProcess, paths: Sequence[str], rounds: int | None) -> FreshProcess:
        shuffled = random.Random(each.order_seed).sample(paths, len(paths))
        more = (*self.plan.arguments, f"--benchmark-timer={CLOCKS[self.plan.clock]}")
        base = self.variants["base"].root  # a change does not choose what judges it
        arguments = pytest_arguments(base, shuffled, more, self.plan.select, rounds, each.order_seed)
        return FreshProcess(self.variants[each.variant], arguments, self.folder / each.file_name)


def _require_turns(group: Sequence[ScheduledProcess], runs: Sequence[Results]) -> None:
    for each, run in zip(group, runs, strict=True):
        if "turns" not in run["stagebench"]:
            raise GateError(f"--lockstep needs a revision that has it on both sides, got an older {each.variant}")
    if len(group) > 1 and not runs[0]["stagebench"]["turns"]:  # the other one gives it its first turn
        raise GateError("--lockstep needs revisions that take turns in the same way, got a base or head with another")


@dataclass(frozen=True, slots=True)
class Phases:
    """The phases of one gate."""

    runner: ABRunner
    rules: Rules
    decision: Decision  # says which content may be another one, and gets how markers of the head differ
    say: Callable[[str], None]  # gets a line on a changed environment, and on the confirmation

    def decide(self) -> list[Verdict]:
        """Run them; raise GateError where a process failed, ran nothing, or in another environment.

        Where a stage of the head refused what it got or did, that is a verdict.
        """
        counters: list[Verdict] = []
        try:
            base, head = self.runner.count()
            counters += self._counters(base, head)
            times = [] if self.runner.plan.counters_only else self._times(base, head, counters)
            return [*gate.judge_presence(base, head), *counters, *times]
        except FailedError as failed:
            if failed.none_selected:
                raise self._nothing_selected(failed.side) from failed
            if failed.side == "base":
                raise GateError(f"the base fails, so there is nothing to compare with: {failed}") from failed
            if not (verdicts := failed.verdicts()):
                raise
            self.say(str(failed))
            return [*counters, *verdicts]

    def _counters(self, base: Sequence[Results], head: Sequence[Results]) -> list[Verdict]:
        if all(map(is_reference, by_name(base[0]))):
            raise self._nothing_selected("base")
        if changed := self.runner.changed:
            infos = (side[0]["machine_info"] for side in (head, base))
            mine, others = ({key: info[key] for key in changed if key in info} for info in infos)
            differing = "; ".join(environment.differences(mine, others))
            self.say(f"part of the change: {differing or 'nothing that is measured'}")
        self.decision.rules_differ.extend(gate.differing_markers(base, head))
        return judge_counters(base, head, self.rules, self.decision.allowed)

    def _times(self, base: list[Results], head: list[Results], counters: Sequence[Verdict]) -> list[Verdict]:
        """Time both sides, and add their runs to those that counted."""
        first = self.runner.time("first", [])
        base += first[0]
        head += first[1]
        times = gate.judge_times(*first, self.rules, counters)
        if again := undecided(times):
            self.say(f"not cleared, so measured once more: {', '.join(map(short_name, again))}")
            second = self.runner.time("confirmation", [*again, *filter(is_reference, by_name(base[0]))])
            times = confirmed(times, gate.judge_times(*second, self.rules, counters))
        return times

    def _nothing_selected(self, side: str) -> GateError:
        select = self.runner.plan.select
        if select:
            return GateError(f"--select must match a benchmark of the {side}, got {select!r}, which matches none")
        more = "name its files behind --, or with --stage-model=NAME a model for those of stagebench"
        return GateError(f"the {side} must have a benchmark, got none that pytest finds; {more}")
