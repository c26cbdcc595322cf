"""Starts pytest in fresh processes, alone or two in lockstep, and reads what each measured: the process is the sample.

None of them outlives the one that started it.
"""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from stagebench.core.errors import GateError
from stagebench.core.machine import processes
from stagebench.core.machine.locks import scratch_folder
from stagebench.core.results import REFERENCE, Results, read_results
from stagebench.gate.runner import failures, lockstep
from stagebench.gate.runner.failures import FailedError
from stagebench.gate.runner.worktrees import ELSEWHERE

# No plugins but pytest-benchmark, as they would cost a second. The allocator keeps what it has: pages handed back after
# each round and faulted in again cost up to a third of a load, and how much differs from process to process.
_PYTEST = "-m pytest -p pytest_benchmark.plugin -p no:cacheprovider -q".split()
_ENVIRONMENT = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTHONHASHSEED": "0",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}

_POLL = 0.05


@dataclass(frozen=True, slots=True)
class Variant:
    """What is measured."""

    name: str  # "base" or "head", or what else an error is to call it
    root: Path  # a checkout, with `src`, `benchmarks` and a `conftest.py`
    python: Path  # the interpreter, with what the checkout depends on


@dataclass(frozen=True, slots=True)
class FreshProcess:
    """A process to be started."""

    variant: Variant
    arguments: Sequence[str]  # of pytest
    kept: Path  # the file that is to keep its run; where it fails, what it said is kept beside that

    def at(self, scratch: Path, suffix: str) -> Path:
        """Return a file of its own in a scratch folder."""
        return scratch / f"{self.variant.name}{suffix}"


def pytest_arguments(
    paths: Sequence[str], more: Sequence[str], select: str, rounds: int | None, order_seed: int
) -> tuple[str, ...]:
    """Return what a process runs: that many rounds to time; or, with None, one round that is proven and counted.

    Of `select`, as in pytest's `-k`, all is run if it is empty; the reference workload always is.
    """
    chosen = ("-k", f"({select}) or {REFERENCE}") if select else ()
    timed = ("--stage-rounds=1",) if rounds is None else ("--stage-times-only", f"--stage-rounds={rounds}")
    return (*paths, *more, *chosen, *timed, f"--stage-order-seed={order_seed}")


def measure(planned: Sequence[FreshProcess]) -> list[Results]:
    """Run one process, or two at once in lockstep, and return what each measured.

    Raise FailedError with the reason where a benchmark failed, GateError where a process ran none, ResultsError where
    it wrote no run.
    """
    with scratch_folder() as scratch:
        with ExitStack() as stack:
            with lockstep.pipes() as ends:
                both = ends if len(planned) > 1 else (None,)
                pairs = zip(planned, both, strict=True)
                running = [stack.enter_context(_started(each, scratch, own)) for each, own in pairs]
            statuses: list[int | None] = [None]
            while None in statuses and not any(statuses):  # where one of a pair fails, the other ends for nothing
                time.sleep(_POLL)
                statuses = [process.poll() for process in running]
        for each, status in zip(planned, statuses, strict=True):
            if status:
                raise _failure(each, status, scratch)
        for each in planned:
            if not each.at(scratch, ".json").exists():
                raise GateError(f"the {each.variant.name} must run a benchmark, got none (all skipped?)")
        return [read_results(each.at(scratch, ".json")) for each in planned]


@contextmanager
def _started(each: FreshProcess, scratch: Path, ends: lockstep.Ends | None) -> Iterator[subprocess.Popen[bytes]]:
    given = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    path = os.pathsep.join(filter(None, [str(each.variant.root / "src"), given.get("PYTHONPATH")]))
    environment = given | _ENVIRONMENT | {"PYTHONPATH": path} | (lockstep.variables(ends) if ends else {})
    written = (f"--benchmark-json={each.at(scratch, '.json')}", *failures.options(each.at(scratch, ".xml")))
    with (
        each.at(scratch, ".txt").open("wb") as output,
        processes.started(
            [str(each.variant.python), *_PYTEST, *each.arguments, *written],
            cwd=each.variant.root,
            env=environment,
            pass_fds=ends[:2] if ends else (),
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        yield process


def _failure(each: FreshProcess, status: int, scratch: Path) -> FailedError:
    """Return the error of a process that failed, and keep what it said."""
    name, said = each.variant.name, each.at(scratch, ".txt").read_bytes()
    kept = each.kept.with_suffix(".txt")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(said)
    return FailedError(name, status, failures.read_failures(each.at(scratch, ".xml")), said, kept)
