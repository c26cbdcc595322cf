"""Reads what failed in a process that measures, and why: from the JUnit XML of pytest, which any revision writes.

A stage that breaks its contract, by more work than `generate()` does or by none, is a verdict on the change. Whatever
else fails is no verdict: then nothing was measured.
"""

import re
import signal
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stagebench.core.errors import GateError, StageError
from stagebench.gate.verdicts import Verdict

NONE_SELECTED = 5  # exit status of pytest where it collected nothing

_BY_A_STAGE = f"{StageError.__name__}: "
_KILLED = 128
_LONGEST = 500


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
            return f"{first.benchmark.split('::')[-1]}: {first.reason}{more}"
        if self.status == NONE_SELECTED:
            return "none that is selected"
        if (number := self.status - _KILLED) > 0:
            return f"a process killed by signal {number}, {signal.strsignal(number)}"
        error = _last_error(said.decode(errors="replace"))
        if unknown := error.partition("unrecognized arguments: ")[2]:
            return f"a revision without the options {unknown}"
        return f"exit status {self.status}: {error}"


def options(path: Path) -> tuple[str, ...]:
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
