"""Runs fresh processes of two sides by turns, so that whatever drifts on the machine weighs on both alike."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stagebench.core.errors import GateError
from stagebench.core.results import Results, write_results
from stagebench.gate.runner.fresh_process import FreshProcess, Variant, measure, selection

SIDES = ("base", "head")
BLOCK = 4
"""Processes in a block."""
CLOCKS = {"wall": "time.perf_counter", "cpu": "time.process_time"}
"""What pytest-benchmark calls them."""


@dataclass(frozen=True, slots=True)
class ABPlan:
    """What is measured.

    Attributes:
        blocks: of four processes, in the first look and again in the confirmation.
        rounds: of each benchmark in a process.
        select: which benchmarks, as in pytest's `-k`; the reference workload is always among them.
        clock: one of `CLOCKS`.
        seed: of all orders.
        counters_only: nothing is timed.
        lockstep: both processes of a pair live at the same time and take turns, round by round.
        cpu: the core that both keep to in lockstep; None for any.
        arguments: further ones of pytest, for all processes.
    """

    blocks: int
    rounds: int
    select: str
    clock: str
    seed: int
    counters_only: bool
    lockstep: bool
    cpu: int | None
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScheduledProcess:
    """One process of a series.

    Attributes:
        phase: "counters", "first" or "confirmation".
        block: from 0.
        position: in its block, 0 to 3.
        variant: "base" or "head".
        order_seed: of the benchmarks within the process; one for both sides of a block.
    """

    phase: str
    block: int
    position: int
    variant: str
    order_seed: int

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

    Attributes:
        variants: both sides by name.
        plan: what is measured.
        folder: where the runs are kept, each as pytest-benchmark's JSON with its place in the schedule.
        track: what the processes of a phase are drawn through, in groups of those that run at once: a progress bar.
    """

    variants: dict[str, Variant]
    plan: ABPlan
    folder: Path
    track: Callable[[Sequence[Sequence[ScheduledProcess]]], Iterable[Sequence[ScheduledProcess]]]

    def count(self) -> tuple[list[Results], list[Results]]:
        """Run one process a side that proves what it runs and counts its work; its single round is no measurement."""
        planned = [ScheduledProcess("counters", 0, i, side, self.plan.seed) for i, side in enumerate(SIDES)]
        return self._sides([(each,) for each in planned], ["benchmarks"], "--stage-rounds=1")

    def time(self, phase: str, paths: Sequence[str]) -> tuple[list[Results], list[Results]]:
        """Run both sides by turns; nothing is proven again, nor counted.

        Args:
            phase: "first" or "confirmation".
            paths: what pytest is to collect, folders or node ids.

        Returns:
            The runs of base and head; those of one position ran one right after the other.
        """
        planned = schedule(phase, self.plan.blocks, self.plan.seed)
        together = 2 if self.plan.lockstep else 1
        groups = [planned[i : i + together] for i in range(0, len(planned), together)]
        timer = f"--benchmark-timer={CLOCKS[self.plan.clock]}"
        return self._sides(groups, paths, "--stage-times-only", f"--stage-rounds={self.plan.rounds}", timer)

    def _sides(
        self, groups: Sequence[Sequence[ScheduledProcess]], paths: Sequence[str], *more: str
    ) -> tuple[list[Results], list[Results]]:
        runs: dict[str, list[Results]] = {side: [] for side in SIDES}
        for group in self.track(groups):
            measured = measure([self._process(each, paths, more) for each in group], self.plan.cpu)
            if self.plan.lockstep:
                _require_turns(group, measured)
            for each, run in zip(group, measured, strict=True):
                run["stagebench"]["scheduled"] = asdict(each)
                write_results(self.folder / each.file_name, run)
                runs[each.variant].append(run)
        return runs["base"], runs["head"]

    def _process(self, each: ScheduledProcess, paths: Sequence[str], more: Sequence[str]) -> FreshProcess:
        shuffled = random.Random(each.order_seed).sample(paths, len(paths))
        own = (*selection(self.plan.select), *more, *self.plan.arguments, f"--stage-order-seed={each.order_seed}")
        return FreshProcess(self.variants[each.variant], (*shuffled, *own), self.folder / each.file_name)


def _require_turns(group: Sequence[ScheduledProcess], runs: Sequence[Results]) -> None:
    for each, run in zip(group, runs, strict=True):
        if "turns" not in run["stagebench"]:
            raise GateError(f"--lockstep needs a revision that has it on both sides, got an older {each.variant}")
    if len(group) > 1 and not runs[0]["stagebench"]["turns"]:  # the other one gives it its first turn
        raise GateError("--lockstep needs revisions that take turns in the same way, got a base or head with another")
