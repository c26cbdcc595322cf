"""A verdict, the exit code of many, what a confirmation does to them, and a decision made of them."""

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
"""Of each verdict alone, the gravest first: a regression outweighs what could not be measured.

A change that is known to be slower stays so whatever else is missing, and what is missing no further run will decide.
"""
JUDGED = ("counter", "time")  # kinds of verdicts that count; others are shown
_COLUMNS = {"verdict": WORDS, "benchmark": NAMES, "base": MS, "head": MS, "change": CHANGE, "why": SENTENCES}
_NOT_JUDGED = {"drift": "(drift)", "uncounted": "(not counted)"}
KINDS = (*JUDGED, *_NOT_JUDGED)
_STYLES = {"pass": "green", "improvement": "cyan", "inconclusive": "yellow"}


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


@dataclass
class Decision:
    """What was decided, in the making: shown to a person, in a step summary or a comment, and to a machine."""

    verdicts: Sequence[Verdict] = ()  # none where there is an error
    rules_differ: list[str] = field(default_factory=list)  # how the rules of the head differ from those that judge
    allowed: tuple[str, ...] = ()  # stages whose other content, or other number of what they work on, passes
    more: dict[str, Any] = field(default_factory=dict)  # what else its JSON holds
    error: str | None = None  # why nothing could be decided

    def as_json(self) -> dict[str, Any]:
        """Return all numbers: seconds, and changes as ratios less one. What has no value is absent."""
        numbers = {
            "headline": self.headline(),
            "rules_differ": self.rules_differ,
            **({"error": self.error} if self.error else {}),
            "exit_code": exit_code(self.verdicts),
            "verdicts": [{k: v for k, v in asdict(verdict).items() if v is not None} for verdict in self.verdicts],
        }
        return versioned("verdicts", numbers) | self.more

    def as_markdown(self) -> str:
        """Write it in GitHub's Markdown: other rules, a headline, what needs eyes, and the rest folded away."""
        quiet = [v for v in self.verdicts if v.verdict == "pass" and not v.allowed]
        loud = [v for v in self.verdicts if v not in quiet]
        blocks = [f"**{markdown(line)}**" for line in self.about_rules()]
        blocks += [f"### {self.headline()}", shown.to_markdown(_table("", loud)), markdown(self.error or "")]
        if quiet:
            folded = shown.to_markdown(_table("", quiet))
            blocks += [f"<details><summary>{len(quiet)} that pass</summary>", folded, "</details>"]
        return "\n\n".join(filter(None, blocks)) + "\n\n"

    def as_table(self) -> Table:
        """Lay it out for a terminal, the worst first, under how the rules differ."""
        return _table("\n".join([*self.about_rules(), self.headline()]), self.verdicts)

    def headline(self) -> str:
        """Say the whole in a line: what it comes to, and how many say what."""
        counts = Counter(v.verdict if v.kind in JUDGED else v.kind for v in self.verdicts)
        gravest = next((verdict for verdict in EXIT_CODES if counts[verdict]), "")
        word = {NOT_MEASURED: "could not be measured", PASS: "pass"}.get(exit_code(self.verdicts), gravest)
        parts = [f"{counts[verdict]} {verdict}" for verdict in EXIT_CODES if counts[verdict]]
        parts += [f"{counts['uncounted']} not counted"] if counts["uncounted"] else []
        parts += [f"{n} allowed"] if (n := sum(v.allowed is not None for v in self.verdicts)) else []
        return f"stagebench gate: {word} ({', '.join(parts) or ('an error' if self.error else 'nothing ran')})"

    def about_rules(self) -> list[str]:
        """Give the line that comes before all others where the head has other rules."""
        line = f"the rules differ, and those of the base or the stricter ones hold: {'; '.join(self.rules_differ)}"
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
