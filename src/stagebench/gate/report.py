"""Show a decision to a person (a table), in a step summary or a comment (Markdown), and to a machine (JSON)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from stagebench.core import tables
from stagebench.core.results import short_name, versioned
from stagebench.core.shown import markdown
from stagebench.core.tables import CHANGE, MS, SENTENCES, WORDS, Table, Value
from stagebench.gate.verdicts import EXIT_CODES, JUDGED, NOT_MEASURED, PASS, Verdict, exit_code

_COLUMNS = {"verdict": WORDS, "benchmark": WORDS, "base": MS, "head": MS, "change": CHANGE, "why": SENTENCES}
_NOT_JUDGED = {"drift": "(drift)", "uncounted": "(not counted)"}
_STYLES = {"pass": "green", "improvement": "cyan", "inconclusive": "yellow"}


def to_json(verdicts: Sequence[Verdict], rules_differ: Sequence[str] = (), error: str | None = None) -> dict[str, Any]:
    """Return the decision with all numbers: seconds, and changes as ratios less one. What has no value is absent.

    Beside verdicts it has how the head's rules differ from the base's, which judge; or why nothing could be decided.
    """
    numbers = {
        "headline": headline(verdicts, error),
        "rules_differ": list(rules_differ),
        **({"error": error} if error else {}),
        "exit_code": exit_code(verdicts),
        "verdicts": [{k: v for k, v in asdict(verdict).items() if v is not None} for verdict in verdicts],
    }
    return versioned("verdicts", numbers)


def to_markdown(verdicts: Sequence[Verdict], rules_differ: Sequence[str] = (), error: str | None = None) -> str:
    """Write the decision in GitHub's Markdown: other rules, a headline, what needs eyes, and the rest folded away."""
    quiet = [v for v in verdicts if v.verdict == "pass" and not v.allowed]
    loud = [v for v in verdicts if v not in quiet]
    blocks = [f"**{markdown(line)}**" for line in about_rules(rules_differ)]
    blocks += [f"### {headline(verdicts, error)}", tables.to_markdown(_table("", loud)), markdown(error or "")]
    if quiet:
        blocks += [f"<details><summary>{len(quiet)} that pass</summary>", tables.to_markdown(_table("", quiet))]
        blocks += ["</details>"]
    return "\n\n".join(filter(None, blocks)) + "\n\n"


def to_table(verdicts: Sequence[Verdict], rules_differ: Sequence[str] = ()) -> Table:
    """Lay out the decision for a terminal, the worst first, under how the rules differ."""
    return _table("\n".join([*about_rules(rules_differ), headline(verdicts)]), verdicts)


def headline(verdicts: Sequence[Verdict], error: str | None = None) -> str:
    """Say the whole in a line: what it comes to, and how many say what."""
    counts = Counter(v.verdict if v.kind in JUDGED else v.kind for v in verdicts if v.kind != "drift")
    gravest = next((verdict for verdict in EXIT_CODES if counts[verdict]), "")
    word = {NOT_MEASURED: "could not be measured", PASS: "pass"}.get(exit_code(verdicts), gravest)
    parts = [f"{counts[verdict]} {verdict}" for verdict in EXIT_CODES if counts[verdict]]
    parts += [f"{counts['uncounted']} not counted"] if counts["uncounted"] else []
    parts += [f"{n} allowed"] if (n := sum(v.allowed is not None for v in verdicts)) else []
    return f"stagebench gate: {word} ({', '.join(parts) or ('an error' if error else 'nothing ran')})"


def about_rules(rules_differ: Sequence[str]) -> list[str]:
    """Give the line that comes before all others where the head has other rules."""
    line = f"the rules differ, and those of the base or the stricter ones hold: {'; '.join(rules_differ)}"
    return [line] if rules_differ else []


def _table(title: str, verdicts: Sequence[Verdict]) -> Table:
    order = list(EXIT_CODES)
    worst_first = sorted(verdicts, key=lambda v: order.index(v.verdict))
    styles = ["yellow" if v.allowed else _STYLES.get(v.verdict, "red") for v in worst_first]
    rows: list[tuple[Value, ...]] = []
    for v in worst_first:
        times = (None, None) if v.kind == "counter" else (v.base, v.head)
        rows.append((_NOT_JUDGED.get(v.kind, v.verdict), short_name(v.benchmark), *times, v.estimate, v.reason))
    return Table(title, tuple(_COLUMNS.items()), rows, styles=styles)
