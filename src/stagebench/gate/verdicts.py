"""A verdict, the exit code of many, and what a confirmation does to them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

PASS, REGRESSION, NOT_MEASURED, INCONCLUSIVE = 0, 1, 2, 3
EXIT_CODES = {
    "regression": REGRESSION,
    "changed": REGRESSION,
    "missing": NOT_MEASURED,
    "incomparable": NOT_MEASURED,
    "inconclusive": INCONCLUSIVE,
    "improvement": PASS,
    "pass": PASS,
}
"""Of each verdict alone, the gravest first: a regression outweighs what could not be measured.

A change that is known to be slower stays so whatever else is missing, and what is missing no further run will decide.
"""
JUDGED = ("counter", "time")  # kinds of verdicts that count; others are shown


@dataclass(frozen=True)
class Verdict:
    """What is known about one benchmark, by its full name, by one kind of evidence."""

    benchmark: str
    kind: str  # "time" (and whether there is any), "counter" (and content), or not judged: "drift", "uncounted"
    verdict: str  # of EXIT_CODES
    reason: str
    n: int  # pairs of processes
    base: float | None = None  # median seconds, or the counter's value
    head: float | None = None
    estimate: float | None = None  # the median of the pairs' head over base, less one
    interval: tuple[float, float] | None = None  # of the estimate
    threshold: float | None = None  # the relative limit
    floor: float | None = None  # the limit in seconds
    counter: str | None = None  # where the verdict is about a single one
    allowed: str | None = None  # the stage whose other content, or other number of its work, a person let pass


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """Return one code for all: that of the gravest verdict; 2 without any."""
    given = {v.verdict for v in verdicts if v.kind in JUDGED}
    return next((code for verdict, code in EXIT_CODES.items() if verdict in given), NOT_MEASURED)


def undecided(verdicts: Iterable[Verdict]) -> list[str]:
    """Name the benchmarks whose time a first look did not clear: the confirmation measures these again."""
    return [v.benchmark for v in verdicts if v.kind == "time" and v.verdict in ("regression", "inconclusive")]


def confirmed(first: Sequence[Verdict], second: Iterable[Verdict]) -> list[Verdict]:
    """Let the times of fresh processes, of the benchmarks that `undecided` named, replace those of the first look.

    A first look can clear a time or send it to confirmation, and nothing else; the confirmation sees other processes,
    so its error rate is that of a single decision, however the first look chose.
    """
    again = {v.benchmark: v for v in second if v.kind == "time"}
    unclear = set(undecided(first))
    return [
        again.get(v.benchmark, replace(v, verdict="missing", reason="not in the confirmation"))
        if v.kind == "time" and v.benchmark in unclear
        else v
        for v in first
    ]
