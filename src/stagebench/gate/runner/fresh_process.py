"""Starts pytest in fresh processes, alone or two in lockstep, and reads what each measured, or what failed in it.

The process is the sample; none outlives the one that started it. What failed is in the JUnit XML of pytest, which any
revision writes. A stage that breaks its contract, by more work than `generate()` does or by none, is a verdict on the
change; whatever else fails is none, as nothing was measured then.
"""

import os
import re
import signal
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from stagebench.core.errors import GateError, StageError
from stagebench.core.machine import processes
from stagebench.core.machine.locks import scratch_folder
from stagebench.core.results import BENCHMARKS, REFERENCE, Results, read_results, short_name
from stagebench.gate.runner import COPY_OF, lockstep
from stagebench.gate.runner.worktrees import ELSEWHERE
from stagebench.gate.verdicts import Verdict

# The allocator keeps what it has: pages handed back after each round and faulted in again cost up to a third of a load,
# and how much differs from process to process.
_PYTEST = (*"-m pytest -p benchmark -p stagebench.suite.plugin -q --rootdir=.".split(),)
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}

SECONDS, FEW = 0.1, 5  # of a benchmark that leaves it to pytest-benchmark, whose own are 1.0 and 5
_POLL = 0.05
_BY_A_STAGE = f"{StageError.__name__}: "
_NONE_SELECTED, _KILLED = 5, 128  # exit statuses: of pytest where it collected nothing; of a signal, less its number
_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Variant:
    """What is measured."""

    name: str  # "base" or "head", or what else an error is to call it
    root: Path  # a checkout, with a `conftest.py`, and with `src` and `benchmarks` where it has them
    python: Path  # the interpreter, with what the checkout depends on
    imports: Sequence[Path] = ()  # folders that its modules are looked for in first, after its `src`
    not_from: str = ""  # of a copy: the repository that it is of, and the folder of all copies, as a search path


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
    root: Path, names: Sequence[str], more: Sequence[str], select: str, rounds: int | None, order_seed: int
) -> tuple[str, ...]:
    """Return what a process runs: that many rounds to time; or, with None, one round that is proven and counted.

    Run are benchmarks by name; without names all: in the files or folders that `more` begins with, else in
    `BENCHMARKS`, else of this package where an option of its own is among `more`, else all that pytest finds. Of
    `select`, as in pytest's `-k`, all is run if it is empty; the reference workload always is.

    A benchmark that leaves it to pytest-benchmark how long it is timed is timed for `SECONDS`, and that many rounds, of
    which `FEW` are enough.
    """
    chosen = ("-k", f"({select}) or {REFERENCE}") if select else ()
    timed = ("--stage-rounds=1",) if rounds is None else ("--stage-times-only", f"--stage-rounds={rounds}")
    free = (f"--benchmark-max-time={SECONDS if rounds else 0}", f"--benchmark-min-rounds={min(rounds or 1, FEW)}")
    given = [*takewhile(lambda each: (root / each.partition("::")[0]).exists(), more)]
    folder = [BENCHMARKS] if (root / BENCHMARKS).is_dir() else []
    if not (given or folder) and any(each.startswith("--stage-") for each in more):
        paths = ["--pyargs", *map(_shipped, names or [BENCHMARKS])]
    else:
        paths = [*(names or given or folder)]
    return (*paths, *more[len(given) :], *chosen, *timed, *free, f"--stage-order-seed={order_seed}")


def _shipped(name: str) -> str:
    file, *inside = name.split("::", 1)
    return "::".join([f"stagebench.{file.removesuffix('.py').replace('/', '.')}", *inside])


@dataclass(frozen=True, slots=True)
class Failure:
    """One benchmark that failed, or a file that could not be collected."""

    benchmark: str  # its full name
    reason: str  # the error with its type, in one line

    @property
    def by_a_stage(self) -> bool:
        """Whether a stage refused what it got or did."""
        return self.reason.startswith(_BY_A_STAGE)


class FailedError(GateError):
    """A process of a side in which not all benchmarks passed, with pytest's exit status (of a signal above 128)."""

    def __init__(self, side: str, status: int, failures: Sequence[Failure], said: bytes, kept: Path | None = None):
        """Make the error of a process that said this, which is kept there."""
        self.side, self.status, self.failures = side, status, failures
        self.none_selected = status == _NONE_SELECTED
        more = f"; all that it said is in {kept}" if kept else ""
        super().__init__(f"the benchmarks of the {side} must pass, got {self._what(said)}{more}")

    def verdicts(self) -> list[Verdict]:
        """Return a regression for each benchmark that a stage's error failed; what else failed is missing."""
        return [
            Verdict(each.benchmark, "counter", "regression" if each.by_a_stage else "missing", each.reason, 1)
            for each in self.failures
            if any(other.by_a_stage for other in self.failures)
        ]

    def _what(self, said: bytes) -> str:
        if self.failures:
            first, *others = self.failures
            more = f" (and {len(others)} more)" if others else ""
            return f"{short_name(first.benchmark)}: {first.reason}{more}"
        if self.none_selected:
            return "none that is selected"
        if (number := self.status - _KILLED) > 0:
            return f"a process killed by signal {number}, {signal.strsignal(number)}"
        error = _last_error(said.decode(errors="replace"))
        if unknown := error.partition("unrecognized arguments: ")[2]:
            return f"a revision without the options {unknown}"
        return f"exit status {self.status}: {error}"


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
    imports = map(str, (each.variant.root / "src", *each.variant.imports))
    path = os.pathsep.join(filter(None, [*imports, given.get("PYTHONPATH")]))
    own = {"PYTHONPATH": path, COPY_OF: each.variant.not_from}
    turns = {lockstep.VARIABLE: ",".join(map(str, ends))} if ends else {}
    environment = given | _ENVIRONMENT | own | turns
    cache = ("-o", f"cache_dir={each.at(scratch, '.cache')}")  # settings may have options of it
    written = (f"--benchmark-json={each.at(scratch, '.json')}", *cache, *xml_options(each.at(scratch, ".xml")))
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
    return FailedError(name, status, read_failures(each.at(scratch, ".xml")), said, kept)


def xml_options(path: Path) -> tuple[str, ...]:
    """Return options of pytest that let it write there what failed; this family names files."""
    return f"--junitxml={path}", "-o", "junit_family=xunit1"


def read_failures(path: Path) -> list[Failure]:
    """Read what failed; nothing where pytest did not come so far as to write it."""
    try:
        cases = ET.parse(path).getroot().iter("testcase")  # noqa: S314 # expat refuses entities that blow up
        return [
            Failure(_name(case), _reason(child.get("message") or "", child.text or ""))
            for case in cases
            for child in case
            if child.tag in ("failure", "error")
        ]
    except (OSError, ET.ParseError):
        return []


def _name(case: ET.Element) -> str:
    """Return the full name, as pytest-benchmark has it: of a file that was not collected, the file alone."""
    file, module, name = (case.get(key) or "" for key in ("file", "classname", "name"))
    classes = module.removeprefix(file.removesuffix(".py").replace("/", ".")).strip(".")
    return "::".join(filter(None, [file, *classes.split("."), name]))


def _reason(message: str, text: str) -> str:
    if message in ("collection failure", "internal error"):
        return _last_error(text)
    found = re.fullmatch(r'failed on (?:setup|teardown) with "(.*)"', message, flags=re.DOTALL)
    lines = (found[1] if found else message).strip().splitlines()
    marked = [line.removeprefix("E ") for line in lines if line.startswith("E ")]  # of an error without a place
    return _one_line((marked or lines or ["no word"])[0])


def _last_error(said: str) -> str:
    """Return the last line that names an error, or the last one."""
    lines = [line.removeprefix("E ").strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|exception", line, flags=re.IGNORECASE)]
    return _one_line((errors or lines or ["no word"])[-1])


def _one_line(text: str) -> str:
    """Return a message without the module of its type."""
    return re.sub(r"^(?:\w+\.)+(?=\w+:)", "", " ".join(text.split()))[:_LONGEST]
