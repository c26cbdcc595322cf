"""Run pytest in fresh processes, alone or two in lockstep, and read each one's results or failures.

The process is the sample, and none outlives the one that started it. Failures are read from pytest's JUnit XML, which
every revision writes. A stage that breaks its contract, by more work than `generate()` or by none, is a verdict on the
change. Any other failure is not a verdict, because nothing was measured.
"""

import os
import re
import signal
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
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

# The allocator keeps its pages: returning them after each round costs up to a third of a load, and a different share in
# each process.
_PYTEST = (*"-m pytest -p benchmark -p stagebench.suite.plugin -q --rootdir=.".split(),)
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}

SECONDS, FEW = 0.1, 5  # for benchmarks without their own rounds; pytest-benchmark has 1.0 and 5
_POLL = 0.05
_BY_A_STAGE = f"{StageError.__name__}: "
_OF_MODELS = re.compile("--stage-(model|backend|profile|weights)(?![^=])")
_NONE_SELECTED, _KILLED = 5, 128  # exit statuses: pytest's where it collected nothing; a signal's minus its number
_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Variant:
    """The code and the interpreter that are measured."""

    name: str  # "base", "head", or another name for errors
    root: Path  # a checkout
    python: Path  # the interpreter, with the checkout's dependencies
    imports: Sequence[Path] = ()  # folders first on its search path, after its `src`
    not_from: str = ""  # of a copy: its repository and the folder of all copies, as a search path


@dataclass(frozen=True, slots=True)
class FreshProcess:
    """A process to start."""

    variant: Variant
    arguments: Sequence[str]  # of pytest
    kept: Path  # the file for its run; the output of a failed process is kept beside it

    def at(self, scratch: Path, suffix: str) -> Path:
        """Return a path for this process in a scratch folder."""
        return scratch / f"{self.variant.name}{suffix}"


def require_models(arguments: Iterable[str], results: Results) -> None:
    """Raise GateError where an argument chooses a model or how it runs, and no benchmark of all that ran has one."""
    asked = next(filter(None, map(_OF_MODELS.match, arguments)), None)
    of_models = {"stage_plain_model", "stage_passes"}
    if asked and not any(of_models & (each.get("params") or {}).keys() for each in results["benchmarks"]):
        how = "a file in benchmarks/ with `from stagebench.benchmarks.test_stages import *` adds stagebench's"
        raise GateError(f"{asked[0]} must have a selected benchmark that runs a model, got none; {how}")


def pytest_arguments(
    root: Path, names: Sequence[str], more: Sequence[str], select: str, rounds: int | None, order_seed: int
) -> tuple[str, ...]:
    """Return pytest's arguments for a process that times `rounds` rounds, or with None verifies and counts one.

    Run the named benchmarks, else all in the files or folders at the start of `more`, else in `BENCHMARKS`. Else run
    those of this package if `more` has an option of ours, or all that pytest finds. `select` is pytest's `-k`; the
    reference workload always runs.

    Benchmarks that leave their time to pytest-benchmark get `SECONDS`, and at least `FEW` of the rounds.
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
    """A benchmark that failed, or a file that could not be collected."""

    benchmark: str  # its full name
    reason: str  # the error with its type, in one line

    @property
    def by_a_stage(self) -> bool:
        """Whether a stage refused its input or its own work."""
        return self.reason.startswith(_BY_A_STAGE)


class FailedError(GateError):
    """A process in which not all benchmarks passed, with pytest's exit status (above 128 for a signal)."""

    def __init__(self, side: str, status: int, failures: Sequence[Failure], said: bytes, kept: Path | None = None):
        """Describe a process by its output `said`, kept in the file `kept`."""
        self.side, self.status, self.failures = side, status, failures
        self.none_selected = status == _NONE_SELECTED
        more = f"; its full output is in {kept}" if kept else ""
        super().__init__(f"the benchmarks of the {side} must pass, got {self._what(said)}{more}")

    def verdicts(self) -> list[Verdict]:
        """Return a regression for each benchmark that failed by a stage's error; others that failed are missing."""
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
            return "none selected"
        if (number := self.status - _KILLED) > 0:
            return f"a process killed by signal {number}, {signal.strsignal(number)}"
        error = _last_error(said.decode(errors="replace"))
        if unknown := error.partition("unrecognized arguments: ")[2]:
            return f"a revision without the options {unknown}"
        return f"exit status {self.status}: {error}"


def measure(planned: Sequence[FreshProcess]) -> list[Results]:
    """Return the results of one process, or of two in lockstep; raise FailedError, or GateError without results."""
    with scratch_folder() as scratch:
        with ExitStack() as stack:
            with lockstep.pipes() as ends:
                both = ends if len(planned) > 1 else (None,)
                pairs = zip(planned, both, strict=True)
                running = [stack.enter_context(_started(each, scratch, own)) for each, own in pairs]
            statuses: list[int | None] = [None]
            while None in statuses and not any(statuses):  # if one of a pair fails, stop the other
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
    cache = ("-o", f"cache_dir={each.at(scratch, '.cache')}")  # where a project's settings can't move it
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
    """Return the error of a failed process, and keep its output."""
    name, said = each.variant.name, each.at(scratch, ".txt").read_bytes()
    kept = each.kept.with_suffix(".txt")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(said)
    return FailedError(name, status, read_failures(each.at(scratch, ".xml")), said, kept)


def xml_options(path: Path) -> tuple[str, ...]:
    """Return pytest's options for writing failures to a file, in the format that has file names."""
    return f"--junitxml={path}", "-o", "junit_family=xunit1"


def read_failures(path: Path) -> list[Failure]:
    """Read the failures; none where pytest did not write the file."""
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
    """Return the full name as pytest-benchmark has it, or the file alone where it could not be collected."""
    file, module, name = (case.get(key) or "" for key in ("file", "classname", "name"))
    classes = module.removeprefix(file.removesuffix(".py").replace("/", ".")).strip(".")
    return "::".join(filter(None, [file, *classes.split("."), name]))


def _reason(message: str, text: str) -> str:
    if message in ("collection failure", "internal error"):
        return _last_error(text)
    found = re.fullmatch(r'failed on (?:setup|teardown) with "(.*)"', message, flags=re.DOTALL)
    lines = (found[1] if found else message).strip().splitlines()
    marked = [line.removeprefix("E ") for line in lines if line.startswith("E ")]  # an error without a location
    return _one_line((marked or lines or ["no word"])[0])


def _last_error(said: str) -> str:
    """Return the last line that names an error, else the last line."""
    lines = [line.removeprefix("E ").strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|exception", line, flags=re.IGNORECASE)]
    return _one_line((errors or lines or ["no word"])[-1])


def _one_line(text: str) -> str:
    """Return a message in one line, without the module of its type."""
    return re.sub(r"^(?:\w+\.)+(?=\w+:)", "", " ".join(text.split()))[:_LONGEST]
