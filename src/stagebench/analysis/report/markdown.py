"""A report as Markdown, without the pictures."""

from __future__ import annotations

from collections.abc import Sequence

from stagebench.analysis.report.sections import Figure, Part, Points, Section, Table
from stagebench.core.shown import markdown


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Write all sections; pictures are left to the HTML."""
    lines = [f"# {markdown(title)}", ""]
    for section in sections:
        lines += [f"## {markdown(section.title)}", ""]
        for part in section.parts:
            lines += _part(part)
    return "\n".join(lines)


def _part(part: Part) -> list[str]:
    if isinstance(part, Figure):
        return []
    if isinstance(part, Points):
        return [*(f"- {markdown(line)}" for line in part.lines), ""]
    if isinstance(part, Table):
        return [f"**{markdown(part.caption)}**", "", *_table(part), ""]
    return [markdown(part), ""]


def _table(table: Table) -> list[str]:
    rule = ["---", *(["---"] if table.prose else ["---:"]) * (len(table.head) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (_row(table.head), rule, *map(_row, table.rows))]


def _row(cells: Sequence[str]) -> list[str]:
    return [markdown(cell) for cell in cells]
