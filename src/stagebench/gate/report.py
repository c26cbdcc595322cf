"""A decision for a person (a table), for a step summary or a comment (Markdown), and for a machine (JSON)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from stagebench.core.shown import cell, markdown
from stagebench.gate.verdicts import EXIT_CODES, JUDGED, NOT_MEASURED, PASS, Verdict, exit_code

SCHEMA = 1
_HEAD = ("verdict", "benchmark", "base ms", "head ms", "change", "why")
_NUMBERS = ("base ms", "head ms", "change")
_NOT_JUDGED = {"drift": "drift", "uncounted": "not counted"}
_STYLES = {"pass": "green", "improvement": "cyan", "inconclusive": "yellow"}


def to_json(verdicts: Sequence[Verdict], rules_differ: Sequence[str] = (), error: str | None = None) -> dict[str, Any]:
    """The decision with all numbers: seconds, and changes as ratios less one. What has no value is absent.

    Args:
        verdicts: none where there is an error.
        rules_differ: how the rules of the head differ from those of the base, which judge.
        error: why nothing could be decided.
    """
    return {
        "schema": SCHEMA,
        "headline": headline(verdicts, error),
        "rules_differ": list(rules_differ),
        **({"error": error} if error else {}),
        "exit_code": exit_code(verdicts),
        "verdicts": [{k: v for k, v in asdict(verdict).items() if v is not None} for verdict in verdicts],
    }


def to_markdown(verdicts: Sequence[Verdict], rules_differ: Sequence[str] = (), error: str | None = None) -> str:
    """The decision in GitHub's Markdown: other rules, a headline, what needs eyes, and the rest folded away."""
    quiet = [v for v in verdicts if v.verdict == "pass" and not v.allowed]
    loud = [v for v in verdicts if v not in quiet]
    lines = [f"**{markdown(line)}**\n" for line in about_rules(rules_differ)]
    lines += [f"### {headline(verdicts, error)}", "", *(_markdown_table(loud) if loud else [])]
    lines += [markdown(error), ""] if error else []
    if quiet:
        lines += [f"<details><summary>{len(quiet)} that pass</summary>", "", *_markdown_table(quiet), "</details>"]
    return "\n".join(lines) + "\n"


def to_table(verdicts: Sequence[Verdict], rules_differ: Sequence[str] = ()) -> Table:
    """The decision for a terminal, the worst first, under how the rules differ."""
    title = Text("\n").join(map(cell, [*about_rules(rules_differ), headline(verdicts)]))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    rows = [(_cells(verdict), verdict) for verdict in _worst_first(verdicts)]
    shown = [i for i, name in enumerate(_HEAD) if name not in _NUMBERS or any(cells[i] for cells, _ in rows)]
    for name in (_HEAD[i] for i in shown):
        table.add_column(
            name,
            justify="right" if name in _NUMBERS else "left",
            no_wrap=name in ("verdict", *_NUMBERS),
            overflow="fold",  # where it is narrow, names give way as reasons do
        )
    for cells, verdict in rows:
        style = "yellow" if verdict.allowed else _STYLES.get(verdict.verdict, "red")
        table.add_row(*(cell(cells[i]) for i in shown), style=style)
    return table


def headline(verdicts: Sequence[Verdict], error: str | None = None) -> str:
    """The whole in a line: what it comes to, and how many say what."""
    counts = Counter(v.verdict if v.kind in JUDGED else v.kind for v in verdicts if v.kind != "drift")
    gravest = next((verdict for verdict in EXIT_CODES if counts[verdict]), "")
    word = {NOT_MEASURED: "could not be measured", PASS: "pass"}.get(exit_code(verdicts), gravest)
    parts = [f"{counts[verdict]} {verdict}" for verdict in EXIT_CODES if counts[verdict]]
    parts += [f"{counts['uncounted']} not counted"] if counts["uncounted"] else []
    parts += [f"{n} allowed"] if (n := sum(v.allowed is not None for v in verdicts)) else []
    return f"stagebench gate: {word} ({', '.join(parts) or ('an error' if error else 'nothing ran')})"


def about_rules(rules_differ: Sequence[str]) -> list[str]:
    """The line that comes before all others where the head has other rules."""
    if not rules_differ:
        return []
    return [f"the rules differ, and those of the base or the stricter ones hold: {'; '.join(rules_differ)}"]


def _worst_first(verdicts: Sequence[Verdict]) -> list[Verdict]:
    order = list(EXIT_CODES)
    return sorted(verdicts, key=lambda v: order.index(v.verdict))


def _cells(verdict: Verdict) -> tuple[str, ...]:
    timed = verdict.kind != "counter"
    return (
        verdict.verdict if verdict.kind in JUDGED else f"({_NOT_JUDGED[verdict.kind]})",
        verdict.benchmark.split("::")[-1],
        f"{verdict.base * 1e3:.2f}" if timed and verdict.base is not None else "",
        f"{verdict.head * 1e3:.2f}" if timed and verdict.head is not None else "",
        f"{verdict.estimate:+.1%}" if verdict.estimate is not None else "",
        verdict.reason,
    )


def _markdown_table(verdicts: Sequence[Verdict]) -> list[str]:
    rows = (" | ".join(map(markdown, _cells(v))) for v in _worst_first(verdicts))
    return [f"| {' | '.join(_HEAD)} |", "| --- | --- | ---: | ---: | ---: | --- |", *(f"| {row} |" for row in rows), ""]
