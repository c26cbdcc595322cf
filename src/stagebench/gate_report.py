"""A decision for a person (a table), for a step summary or a comment (Markdown), and for a machine (JSON)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from stagebench.verdict import EXIT_CODES, Verdict, exit_code

SCHEMA = 1
_HEAD = ("verdict", "benchmark", "base ms", "head ms", "change", "why")
_NUMBERS = ("base ms", "head ms", "change")
_STYLES = {"pass": "green", "improvement": "cyan", "inconclusive": "yellow"}


def to_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The decision with all numbers: seconds, and changes as ratios less one. What has no value is absent."""
    return {
        "schema": SCHEMA,
        "exit_code": exit_code(verdicts),
        "verdicts": [{k: v for k, v in asdict(verdict).items() if v is not None} for verdict in verdicts],
    }


def to_markdown(verdicts: Sequence[Verdict]) -> str:
    """The decision in GitHub's Markdown: a headline, what needs eyes, and the rest folded away."""
    loud = [v for v in verdicts if v.verdict != "pass"]
    quiet = [v for v in verdicts if v.verdict == "pass"]
    lines = [f"### {headline(verdicts)}", "", *(_markdown_table(loud) if loud else [])]
    if quiet:
        lines += [f"<details><summary>{len(quiet)} that pass</summary>", "", *_markdown_table(quiet), "</details>"]
    return "\n".join(lines) + "\n"


def to_table(verdicts: Sequence[Verdict]) -> Table:
    """The decision for a terminal, the worst first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=headline(verdicts), title_justify="left")
    for name in _HEAD:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=name != "why")
    for verdict in _worst_first(verdicts):
        table.add_row(*map(escape, _cells(verdict)), style=_STYLES.get(verdict.verdict, "red"))
    return table


def headline(verdicts: Sequence[Verdict]) -> str:
    """The whole in a line: what it comes to, and how many say what."""
    code = exit_code(verdicts)
    word = {0: "pass", 1: "regression", 2: "could not be measured", 3: "inconclusive"}[code]
    counts = Counter(v.verdict for v in verdicts if v.kind != "drift")
    return (
        f"stagebench gate: {word} ({', '.join(f'{counts[v]} {v}' for v in EXIT_CODES if counts[v]) or 'nothing ran'})"
    )


def _worst_first(verdicts: Sequence[Verdict]) -> list[Verdict]:
    order = list(EXIT_CODES)
    return sorted(verdicts, key=lambda v: order.index(v.verdict))


def _cells(verdict: Verdict) -> tuple[str, ...]:
    timed = verdict.kind != "counter"
    return (
        verdict.verdict if verdict.kind != "drift" else "(drift)",
        verdict.benchmark.split("::")[-1],
        f"{verdict.base * 1e3:.2f}" if timed and verdict.base is not None else "",
        f"{verdict.head * 1e3:.2f}" if timed and verdict.head is not None else "",
        f"{verdict.estimate:+.1%}" if verdict.estimate is not None else "",
        verdict.reason,
    )


def _markdown_table(verdicts: Sequence[Verdict]) -> list[str]:
    rows = (" | ".join(cell.replace("|", "\\|") for cell in _cells(v)) for v in _worst_first(verdicts))
    return [f"| {' | '.join(_HEAD)} |", "| --- | --- | ---: | ---: | ---: | --- |", *(f"| {row} |" for row in rows), ""]
