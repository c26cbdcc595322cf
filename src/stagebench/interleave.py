"""Fresh processes of two sides by turns: the process is the sample, and the machine's moods are shared out fairly."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stagebench import baseline
from stagebench.errors import GateError
from stagebench.gate import REFERENCE
from stagebench.json_files import write_json

Run = dict[str, Any]
"""As `baseline.read_run` gives it."""

ARMS = ("base", "head")
PROCESSES = 4
"""In a block."""
CLOCKS = {"wall": "time.perf_counter", "cpu": "time.process_time"}
"""What pytest-benchmark calls them."""

# Let the allocator keep what it has: pages handed back after each round and faulted in again cost up to a third of a
# load, and how much differs from process to process.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}

_LAST_LINES = 15


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
        arguments: further ones of pytest, for all processes.
    """

    blocks: int
    rounds: int
    select: str
    clock: str
    seed: int
    counters_only: bool
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
    turns = []
    for block in range(blocks):
        first, second = draw.sample(ARMS, 2)
        order_seed = draw.randrange(2**16)
        turns += [Turn(phase, block, i, arm, order_seed) for i, arm in enumerate((first, second, second, first))]
    return turns


@dataclass(frozen=True, slots=True)
class Recorder:
    """Runs one process after the other and keeps what each of them measured.

    Attributes:
        arms: both sides by name.
        plan: what is measured.
        folder: where the runs are kept, each as pytest-benchmark's JSON with its turn noted in it.
        track: what the turns of a phase are drawn through: a progress bar.
    """

    arms: dict[str, Arm]
    plan: Plan
    folder: Path
    track: Callable[[Sequence[Turn]], Iterable[Turn]]

    def count(self) -> tuple[list[Run], list[Run]]:
        """Run one process a side that proves what it runs and counts its work; its single round is no measurement."""
        turns = [Turn("counters", 0, i, arm, self.plan.seed) for i, arm in enumerate(ARMS)]
        return self._sides(turns, ["benchmarks"], "--rounds=1")

    def time(self, phase: str, paths: Sequence[str]) -> tuple[list[Run], list[Run]]:
        """Run both sides by turns; nothing is proven again, nor counted.

        Args:
            phase: "first" or "confirmation".
            paths: what pytest is to collect, folders or node ids.

        Returns:
            The runs of base and head; those of one position ran one right after the other.
        """
        turns = schedule(phase, self.plan.blocks, self.plan.seed)
        timer = f"--benchmark-timer={CLOCKS[self.plan.clock]}"
        return self._sides(turns, paths, "--times-only", f"--rounds={self.plan.rounds}", timer)

    def _sides(self, turns: Sequence[Turn], paths: Sequence[str], *more: str) -> tuple[list[Run], list[Run]]:
        runs: dict[str, list[Run]] = {arm: [] for arm in ARMS}
        for turn in self.track(turns):
            runs[turn.arm].append(self._run(turn, paths, more))
        return runs["base"], runs["head"]

    def _run(self, turn: Turn, paths: Sequence[str], more: Sequence[str]) -> Run:
        arm = self.arms[turn.arm]
        raw = arm.root.parent / f"{arm.name}.json"  # goes with the checkouts, should it be left half written
        paths = random.Random(turn.order_seed).sample(paths, len(paths))
        own = (*selection(self.plan.select), *more, *self.plan.arguments, f"--order-seed={turn.order_seed}")
        run = run_process(arm, [*paths, *own], raw)
        run["stagebench"]["turn"] = asdict(turn)
        write_json(self.folder / turn.file_name, run)
        return run


def selection(select: str) -> tuple[str, str]:
    """Options of pytest for these benchmarks and the reference workload, which is always among them."""
    return "-k", f"({select}) or {REFERENCE}"


def run_process(arm: Arm, arguments: Sequence[str], raw: Path) -> Run:
    """Run pytest in a process of its own, and read what it measured.

    Args:
        arm: whose benchmarks.
        arguments: of pytest.
        raw: where pytest-benchmark writes; half a file, if it is killed.

    Raises:
        GateError: where it failed, with the end of what it said.
        BaselineError: where it wrote no run.
    """
    run_pytest(arm, [*arguments, f"--benchmark-json={raw}"])
    return baseline.read_run(raw)


def run_pytest(arm: Arm, arguments: Sequence[str]) -> None:
    """Run pytest on one side, with its own sources and no plugins but pytest-benchmark: they would cost a second.

    Raises:
        GateError: where it failed, with the end of what it said.
    """
    command = [str(arm.python), "-m", "pytest", "-p", "pytest_benchmark.plugin", "-p", "no:cacheprovider", "-q"]
    environment = (
        os.environ
        | {
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join([str(arm.root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTHONHASHSEED": "0",
        }
        | _KEEP_MEMORY
    )
    done = subprocess.run(  # noqa: S603 # our own interpreter
        [*command, *arguments],
        cwd=arm.root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = "\n".join(done.stdout.strip().splitlines()[-_LAST_LINES:])
        raise GateError(f"the benchmarks of the {arm.name} must pass, got exit status {done.returncode}:\n{said}")
