"""Verdicts, their exit code, their confirmation, and the decision made of them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from stagebench.core import shown
from stagebench.core.results import short_name, versioned
from stagebench.core.shown import CHANGE, MS, NAMES, SENTENCES, WORDS, Table, Value, markdown

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
"""The exit code of each verdict, the most serious first.

A known regression stays one, so it outweighs what could not be measured. A missing benchmark outweighs an inconclusive
one, because no further run will decide it.
"""
JUDGED = ("counter", "time")  # kinds of verdicts that count; others are only shown
_COLUMNS = {"verdict": WORDS, "benchmark": NAMES, "base": MS, "head": MS, "change": CHANGE, "why": SENTENCES}
_NOT_JUDGED = {"drift": "(drift)", "uncounted": "(not counted)"}
KINDS = (*JUDGED, *_NOT_JUDGED)
_STYLES = {"pass": "green", "improvement": "cyan", "inconclusive": "yellow"}


@dataclass(frozen=True)
class Verdict:
    """The verdict on one benchmark by one kind of evidence."""

    benchmark: str
    kind: str  # "time" (or a missing one), "counter" (or content), or not judged: "drift", "uncounted"
    verdict: str  # of EXIT_CODES
    reason: str
    n: int  # pairs of processes
    base: float | None = None  # median seconds, or the counter's value
    head: float | None = None
    estimate: float | None = None  # the median over pairs of head over base, minus one
    interval: tuple[float, float] | None = None  # of the estimate
    threshold: float | None = None  # the relative limit
    floor: float | None = None  # the limit in seconds
    counter: str | None = None  # if the verdict is about a single one
    allowed: str | None = None  # the stage with changed content or requested work that a person allowed


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """Return the exit code of the most serious verdict; 2 without any."""
    given = {v.verdict for v in verdicts if v.kind in JUDGED}
    return next((code for verdict, code in EXIT_CODES.items() if verdict in given), NOT_MEASURED)


def undecided(verdicts: Iterable[Verdict]) -> list[str]:
    """Return the benchmarks whose times the first phase leaves open; the confirmation measures them further."""
    return [v.benchmark for v in verdicts if v.kind == "time" and v.verdict == "inconclusive"]


def confirmed(first: Sequence[Verdict], second: Iterable[Verdict]) -> list[Verdict]:
    """Return the first phase's verdicts, with the confirmation's times for the benchmarks that `undecided` named."""
    again = {v.benchmark: v for v in second if v.kind == "time"}
    unclear = set(undecided(first))
    return [
        again.get(v.benchmark, replace(v, verdict="missing", reason="not in the confirmation"))
        if v.benchmark in unclear
        else v
        for v in first
    ]


@dataclass
class Decision:
    """A decision in progress, for a person, a step summary or comment, and a program."""

    verdicts: Sequence[Verdict] = ()  # none after an error
    rules_differ: list[str] = field(default_factory=list)  # how the rules of the head differ from those that judge
    allowed: tuple[str, ...] = ()  # stages with content and requested work that may change
    more: dict[str, Any] = field(default_factory=dict)  # further keys of its JSON
    error: str | None = None  # the reason where nothing could be decided

    def as_json(self) -> dict[str, Any]:
        """Return all numbers as JSON: seconds, and changes as ratios minus one. Missing values are absent."""
        numbers = {
            "headline": self.headline(),
            "rules_differ": self.rules_differ,
            **({"error": self.error} if self.error else {}),
            "exit_code": exit_code(self.verdicts),
            "verdicts": [{k: v for k, v in asdict(verdict).items() if v is not None} for verdict in self.verdicts],
        }
        return versioned("verdicts", numbers) | self.more

    def as_markdown(self) -> str:
        """Return GitHub's Markdown: differing rules, the headline, notable verdicts, and the passing ones folded."""
        quiet = [v for v in self.verdicts if v.verdict == "pass" and not v.allowed]
        loud = [v for v in self.verdicts if v not in quiet]
        blocks = [f"**{markdown(line)}**" for line in self.about_rules()]
        blocks += [f"### {self.headline()}", shown.to_markdown(_table("", loud)), markdown(self.error or "")]
        if quiet:
            folded = shown.to_markdown(_table("", quiet))
            blocks += [f"<details><summary>{len(quiet)} that pass</summary>", folded, "</details>"]
        return "\n\n".join(filter(None, blocks)) + "\n\n"

    def as_table(self) -> Table:
        """Return a table for the terminal, the worst first, after the differing rules."""
        return _table("\n".join([*self.about_rules(), self.headline()]), self.verdicts)

    def headline(self) -> str:
        """Return the outcome and the numbers of verdicts in one line."""
        counts = Counter(v.verdict if v.kind in JUDGED else v.kind for v in self.verdicts)
        gravest = next((verdict for verdict in EXIT_CODES if counts[verdict]), "")
        word = {NOT_MEASURED: "could not be measured", PASS: "pass"}.get(exit_code(self.verdicts), gravest)
        parts = [f"{counts[verdict]} {verdict}" for verdict in EXIT_CODES if counts[verdict]]
        parts += [f"{counts['uncounted']} not counted"] if counts["uncounted"] else []
        parts += [f"{n} allowed"] if (n := sum(v.allowed is not None for v in self.verdicts)) else []
        return f"stagebench gate: {word} ({', '.join(parts) or ('an error' if self.error else 'nothing ran')})"

    def about_rules(self) -> list[str]:
        """Return the line that comes first where the head has other rules."""
        line = f"the rules differ, so the base's or the stricter ones hold: {'; '.join(self.rules_differ)}"
        return [line] if self.rules_differ else []


def _table(title: str, verdicts: Sequence[Verdict]) -> Table:
    order = list(EXIT_CODES)
    worst_first = sorted(verdicts, key=lambda v: order.index(v.verdict))
    styles = ["yellow" if v.allowed else _STYLES.get(v.verdict, "red") for v in worst_first]
    rows: list[tuple[Value, ...]] = []
    for v in worst_first:
        times = (None, None) if v.kind == "counter" else (v.base, v.head)
        rows.append((_NOT_JUDGED.get(v.kind, v.verdict), short_name(v.benchmark), *times, v.estimate, v.reason))
    return Table(title, tuple(_COLUMNS.items()), rows, styles=styles)
