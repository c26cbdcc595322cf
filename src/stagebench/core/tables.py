"""Lay out one table for a terminal, as Markdown and as HTML: columns have units, and those that say nothing go.

What strangers wrote is cleaned here, as `shown` does it, so that whoever fills a table need not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from stagebench.core.shown import markdown, plain

Value = str | float | tuple[float, float] | Mapping[str, float] | None
"""A text, a number in its base unit, a range (a pair, or an interval as JSON has it: low and high), or nothing."""
GAP = "  "


@dataclass(frozen=True, slots=True)
class Unit:
    """How the values of a column are written.

    Attributes:
        form: of a number, as `str.format` takes it; "" for words.
        scale: from the base unit (seconds, bytes, 1) to the one that is written.
        label: of that unit, behind the heading.
        long: whether these are sentences, which give way where it is narrow.
    """

    form: str = ""
    scale: float = 1.0
    label: str = ""
    long: bool = False

    def write(self, value: Value) -> str:
        """Write a value; a text stays as it is, and nothing is nothing."""
        if value is None or isinstance(value, str):
            return value or ""
        if isinstance(value, Mapping):
            value = value["low"], value["high"]
        if isinstance(value, tuple):
            return " to ".join(map(self.write, value))
        return self.form.format(value * self.scale)


WORDS, SENTENCES = Unit(), Unit(long=True)
SECONDS, MS = Unit("{:z,.3f}", label="s"), Unit("{:z,.3f}", 1e3, "ms")
COUNT, RATIO, MEGA = Unit("{:,.10g}"), Unit("{:z.3f}"), Unit("{:,.2f}", 1e-6, "millions")
PERCENT, CHANGE = Unit("{:z.1f} %", 100), Unit("{:+.1f} %", 100)


@dataclass(frozen=True, slots=True)
class Grid:
    """What is left to show: headings, cells of one line, and above them what was equal in every row."""

    said: str
    heads: list[str]
    units: list[Unit]
    rows: list[list[str]]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of values under named columns.

    Attributes:
        title: what it shows; "" for none.
        columns: headings with their units.
        rows: as many values each as there are columns.
        notes: sentences under it.
        styles: of each row on a terminal, as rich names them; none for plain rows.
    """

    title: str
    columns: Sequence[tuple[str, Unit]]
    rows: Sequence[Sequence[Value]]
    notes: Sequence[str] = ()
    styles: Sequence[str] = ()

    def grid(self) -> Grid:
        """Write all values; a column that is empty goes, and so does, of several rows, one that is always the same."""
        units = [unit for _, unit in self.columns]
        heads = [plain(", ".join(filter(None, (name, unit.label)))) for name, unit in self.columns]
        rows = [[plain(unit.write(v)) for unit, v in zip(units, row, strict=True)] for row in self.rows]
        values = [{row[i] for row in rows} for i in range(len(units))]
        shown = [i for i, found in enumerate(values) if found != {""} and (len(found) > 1 or len(rows) < 2)] or [0]
        gone = [i for i, found in enumerate(values) if i not in shown and found != {""}]
        said = [": ".join(filter(None, (heads[i], *values[i]))) for i in gone]
        kept = [[row[i] for i in shown] for row in rows]
        return Grid("; ".join(said), [heads[i] for i in shown], [units[i] for i in shown], kept)


def of_records(title: str, columns: Mapping[str, Unit], records: Iterable[Mapping[str, Any]]) -> Table:
    """Make a table of records by those of their keys that are headings."""
    rows = [[record.get(key) for key in columns] for record in records]
    return Table(title, [(key.replace("_", " "), unit) for key, unit in columns.items()], rows)


def show(table: Table, console: Console) -> None:
    """Print a table: in a log file a row is a line, and on a narrow terminal what does not fit goes below its row."""
    grid, room = table.grid(), console.width if console.is_terminal else None
    above = [*table.title.splitlines(), grid.said] if grid.said else table.title.splitlines()
    for line in above:
        console.print(Text(plain(line), "bold"), soft_wrap=room is None)
    if grid.rows:
        widths = [max(map(cell_len, column)) for column in zip(grid.heads, *grid.rows, strict=True)]
        across = _across(widths, grid.units, room)
        styles = table.styles or [""] * len(grid.rows)
        rule = ["-" * min(width, 60) for width in widths]
        for row, style in zip((grid.heads, rule, *grid.rows), ("", "", *styles), strict=True):
            cells = [_padded(row[i], widths[i], grid.units[i]) for i in across]
            console.print(Text(GAP.join(cells).rstrip(), style), soft_wrap=True)
            below = [] if row is grid.heads or row is rule else [row[i] for i in range(len(row)) if i not in across]
            for cell in filter(None, below):
                console.print(Padding.indent(Text(cell, style), len(GAP)))
    for note in table.notes:
        console.print(Text(plain(note)), soft_wrap=room is None)


def _across(widths: Sequence[int], units: Sequence[Unit], room: int | None) -> list[int]:
    """Choose the columns that stand side by side: sentences give way first, then what is widest, and never numbers."""
    across = list(range(len(widths)))
    while room is not None and sum(widths[i] + len(GAP) for i in across) - len(GAP) > room:
        words = [i for i in across if not units[i].form]
        if not words or len(across) == 1:
            break
        across.remove(max(words, key=lambda i: (units[i].long, widths[i])))
    return across


def _padded(cell: str, width: int, unit: Unit) -> str:
    blanks = " " * (width - cell_len(cell))
    return blanks + cell if unit.form else cell + blanks


def to_markdown(table: Table) -> str:
    """Write a table in GitHub's Markdown, without a line end after it."""
    grid = table.grid()
    rule = ["---:" if unit.form else "---" for unit in grid.units]
    cells = [list(map(markdown, grid.heads)), rule, *(list(map(markdown, row)) for row in grid.rows)]
    blocks = [
        f"**{markdown(table.title)}**" if table.title else "",
        markdown(grid.said),
        "\n".join(f"| {' | '.join(line)} |" for line in cells) if grid.rows else "",
        "\n".join(f"- {markdown(note)}" for note in table.notes),
    ]
    return "\n\n".join(filter(None, blocks))


def to_html(table: Table) -> str:
    """Write a table in HTML; numbers have the class "number", sentences "long"."""
    grid = table.grid()
    classes = [' class="number"' if unit.form else ' class="long"' if unit.long else "" for unit in grid.units]
    heads = [f'<th scope="col"{c}>{escape(head)}</th>' for c, head in zip(classes, grid.heads, strict=True)]
    rows = [[f"<td{c}>{escape(cell)}</td>" for c, cell in zip(classes, row, strict=True)] for row in grid.rows]
    lines = [
        "<table>",
        f"<caption>{escape(plain(table.title))}{f'<br>{escape(grid.said)}' if grid.said else ''}</caption>",
        f"<thead><tr>{''.join(heads)}</tr></thead>",
        "<tbody>",
        *(f"<tr>{''.join(cells)}</tr>" for cells in rows),
        "</tbody>",
        "</table>",
        *(f"<p>{escape(plain(note))}</p>" for note in table.notes),
    ]
    return "\n".join(lines)
