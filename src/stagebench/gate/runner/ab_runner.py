"""Fresh processes of two sides by turns: the process is the sample, and the machine's moods are shared out fairly."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from stagebench.core import processes
from stagebench.core.errors import GateError
from stagebench.core.results import REFERENCE, Results, read_results, write_results
from stagebench.core.supervisor import CANNOT_RUN
from stagebench.gate.runner import failures, lockstep
from stagebench.gate.runner.failures import FailedError
from stagebench.gate.runner.worktrees import ELSEWHERE

ARMS = ("base", "head")
PROCESSES = 4
"""In a block."""
CLOCKS = {"wall": "time.perf_counter", "cpu": "time.process_time"}
"""What pytest-benchmark calls them."""

# Let the allocator keep what it has: pages handed back after each round and faulted in again cost up to a third of a
# load, and how much differs from process to process.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}

_POLL = 0.05

Started = tuple["Arm", subprocess.Popen[bytes], IO[bytes]]
"""A process of a side, and what it says."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One side.

    Attributes:
        name: "base" or "head", or what else an error is to call it.
        root: a checkout, with `src`, `benchmarks` and a `conftest.py`.
        python: the interpreter, with what the checkout depends on.
    """

    name: str
    root: Path
    python: Path


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        blocks: of four processes, in the first look and again in the confirmation.
        rounds: of each benchmark in a process.
        select: which benchmarks, as in pytest's `-k`; the reference workload is always among them.
        clock: one of `CLOCKS`.
        seed: of all orders.
        counters_only: nothing is timed.
        lockstep: both processes of a pair live at the same time and take turns, round by round.
        cpu: the core that both keep to while they take turns; None for any.
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
class Turn:
    """One process of an interleaved series.

    Attributes:
        phase: "counters", "first" or "confirmation".
        block: from 0.
        position: in its block, 0 to 3.
        arm: whose turn it is.
        order_seed: of the benchmarks within the process; one for both sides of a block.
    """

    phase: str
    block: int
    position: int
    arm: str
    order_seed: int

    @property
    def file_name(self) -> str:
        """Where its run is kept; sorts as the processes ran."""
        return f"{self.phase}-{self.block:02}-{self.position}-{self.arm}.json"


def schedule(phase: str, blocks: int, seed: int) -> list[Turn]:
    """Plan blocks of four: base, head, head, base, or the other way round as the seed draws it for each block.

    A drift that is even over a block weighs on both sides alike, and so does a first process that comes off badly.
    """
    draw = random.Random(f"{seed} {phase}")
    lockstep = []
    for block in range(blocks):
        first, second = draw.sample(ARMS, 2)
        order_seed = draw.randrange(2**16)
        lockstep += [Turn(phase, block, i, arm, order_seed) for i, arm in enumerate((first, second, second, first))]
    return lockstep


@dataclass(frozen=True, slots=True)
class Recorder:
    """Runs one process after the other, or pairs that take turns, and keeps what each of them measured.

    Attributes:
        arms: both sides by name.
        plan: what is measured.
        folder: where the runs are kept, each as pytest-benchmark's JSON with its turn noted in it.
        track: what the turns of a phase are drawn through, in groups of those that run at once: a progress bar.
    """

    arms: dict[str, Arm]
    plan: Plan
    folder: Path
    track: Callable[[Sequence[Sequence[Turn]]], Iterable[Sequence[Turn]]]

    def count(self) -> tuple[list[Results], list[Results]]:
        """Run one process a side that proves what it runs and counts its work; its single round is no measurement."""
        lockstep = [Turn("counters", 0, i, arm, self.plan.seed) for i, arm in enumerate(ARMS)]
        return self._sides([(turn,) for turn in lockstep], ["benchmarks"], "--stage-rounds=1")

    def time(self, phase: str, paths: Sequence[str]) -> tuple[list[Results], list[Results]]:
        """Run both sides by turns; nothing is proven again, nor counted.

        Args:
            phase: "first" or "confirmation".
            paths: what pytest is to collect, folders or node ids.

        Returns:
            The runs of base and head; those of one position ran one right after the other.
        """
        lockstep = schedule(phase, self.plan.blocks, self.plan.seed)
        together = 2 if self.plan.lockstep else 1
        groups = [lockstep[i : i + together] for i in range(0, len(lockstep), together)]
        timer = f"--benchmark-timer={CLOCKS[self.plan.clock]}"
        return self._sides(groups, paths, "--stage-times-only", f"--stage-rounds={self.plan.rounds}", timer)

    def _sides(
        self, groups: Sequence[Sequence[Turn]], paths: Sequence[str], *more: str
    ) -> tuple[list[Results], list[Results]]:
        runs: dict[str, list[Results]] = {arm: [] for arm in ARMS}
        for group in self.track(groups):
            for turn, run in zip(group, self._run(group, paths, more), strict=True):
                runs[turn.arm].append(run)
        return runs["base"], runs["head"]

    def _run(self, group: Sequence[Turn], paths: Sequence[str], more: Sequence[str]) -> list[Results]:
        """Run a process, or both of a pair, and keep what they measured."""
        jobs = [(self.arms[turn.arm], self._arguments(turn, paths, more)) for turn in group]
        for turn in group:
            self._raw(turn).unlink(missing_ok=True)  # of the turn before: a process that measures nothing writes none
        try:
            run_pytest(jobs, self.plan.cpu)
        except FailedError as failed:
            (turn,) = (turn for turn in group if turn.arm == failed.side)
            failed.keep((self.folder / turn.file_name).with_suffix(".txt"))
            raise
        if empty := [turn.arm for turn in group if not self._raw(turn).exists()]:
            raise GateError(f"the {empty[0]} must run a benchmark, got none (all skipped?)")
        runs = [read_results(self._raw(turn)) for turn in group]
        if self.plan.lockstep:
            _require_turns(group, runs)
        for turn, run in zip(group, runs, strict=True):
            run["stagebench"]["turn"] = asdict(turn)
            write_results(self.folder / turn.file_name, run)
        return runs

    def _raw(self, turn: Turn) -> Path:
        """Where a process writes; goes with the checkouts, should it be left half written."""
        return self.arms[turn.arm].root.parent / f"{turn.arm}.json"

    def _arguments(self, turn: Turn, paths: Sequence[str], more: Sequence[str]) -> list[str]:
        shuffled = random.Random(turn.order_seed).sample(paths, len(paths))
        own = (*selection(self.plan.select), *more, *self.plan.arguments, f"--stage-order-seed={turn.order_seed}")
        return [*shuffled, *own, f"--benchmark-json={self._raw(turn)}"]


def _require_turns(group: Sequence[Turn], runs: Sequence[Results]) -> None:
    for turn, run in zip(group, runs, strict=True):
        if "turns" not in run["stagebench"]:
            raise GateError(f"--lockstep needs a revision that has it on both sides, got an older {turn.arm}")
    if len(group) > 1 and not runs[0]["stagebench"]["turns"]:  # the other one gives it its first turn
        raise GateError("--lockstep needs revisions that take turns in the same way, got a base or head with another")


def selection(select: str) -> tuple[str, str]:
    """Options of pytest for these benchmarks and the reference workload, which is always among them."""
    return "-k", f"({select}) or {REFERENCE}"


def run_process(arm: Arm, arguments: Sequence[str], raw: Path) -> Results:
    """Run pytest in a process of its own, and read what it measured.

    Args:
        arm: whose benchmarks.
        arguments: of pytest.
        raw: where pytest-benchmark writes; half a file, if it is killed.

    Raises:
        FailedError: where it failed, with the reason.
        ResultsError: where it wrote no run.
    """
    run_pytest([(arm, [*arguments, f"--benchmark-json={raw}"])])
    return read_results(raw)


def run_pytest(jobs: Sequence[tuple[Arm, Sequence[str]]], cpu: int | None = None) -> None:
    """Run pytest on one side, or on both at once, taking turns on one core if it is named. None outlives this call.

    Raises:
        FailedError: where one failed, with the reason.
    """
    with ExitStack() as stack:
        started: list[Started] = []
        reports = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with lockstep.pipes() as ends:
            for (arm, arguments), own in zip(jobs, ends, strict=False):
                taking, given = (lockstep.variables(own, cpu), own) if len(jobs) > 1 else ({}, ())
                output: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
                options = {"env": _environment(arm) | taking, "pass_fds": given, "stdout": output}
                process = _started(arm, [*arguments, *failures.options(reports / f"{arm.name}.xml")], **options)
                started.append((arm, stack.enter_context(process), output))
        for arm, process, output in _as_they_end(started):
            if status := process.wait():
                output.seek(0)
                said = output.read()
                if status == CANNOT_RUN:
                    why = said.decode(errors="replace").strip()
                    raise GateError(f"the {arm.name} needs an interpreter that runs, got {arm.python}: {why}")
                raise FailedError(arm.name, status, failures.read_failures(reports / f"{arm.name}.xml"), said)


def _started(arm: Arm, arguments: Sequence[str], **options: Any) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Start pytest without plugins but pytest-benchmark: they would cost a second."""
    command = [str(arm.python), "-m", "pytest", "-p", "pytest_benchmark.plugin", "-p", "no:cacheprovider", "-q"]
    return processes.started([*command, *arguments], cwd=arm.root, stderr=subprocess.STDOUT, **options)


def _environment(arm: Arm) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if name not in ELSEWHERE},
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join([str(arm.root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONHASHSEED": "0",
        **_KEEP_MEMORY,
    }


def _as_they_end(started: Sequence[Started]) -> Iterator[Started]:
    """Those that failed before those that still run: of a pair one goes on alone, in vain."""
    left = list(started)
    while left:
        for each in [each for each in left if each[1].poll() is not None]:
            left.remove(each)
            yield each
        time.sleep(_POLL)
