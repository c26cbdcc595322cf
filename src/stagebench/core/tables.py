"""Lay out one table for a terminal, as Markdown and as HTML: columns have units, and those that say nothing go.

What strangers wrote is cleaned here, as `shown` does it, so that whoever fills a table need not.
"""

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
NARROWEST, RULE = 12, 60
"""Characters of a column of words on a narrow terminal, at least; of the line below a heading, at most."""


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
    """Print a table: in a log file a row is a line; where a terminal is narrow, sentences go below their rows."""
    grid, room = table.grid(), console.width if console.is_terminal else None
    above = [*table.title.splitlines(), grid.said] if grid.said else table.title.splitlines()
    for line in above:
        console.print(Text(plain(line), "bold"), soft_wrap=room is None)
    if grid.rows:
        widths = [max(map(cell_len, column)) for column in zip(grid.heads, *grid.rows, strict=True)]
        across = _fit(widths, grid.units, room)
        rule = ["-" * min(width, RULE) for width in widths]
        console.print(_side_by_side(grid.heads, widths, grid.units, across), soft_wrap=True)
        console.print(_side_by_side(rule, widths, grid.units, across), soft_wrap=True)
        for row, style in zip(grid.rows, table.styles or [""] * len(grid.rows), strict=True):
            console.print(_side_by_side(row, widths, grid.units, across, style), soft_wrap=True)
            for below in (row[i] for i in range(len(row)) if i not in across and row[i]):
                console.print(Padding.indent(Text(below, style), len(GAP)))
    for note in table.notes:
        console.print(Text(plain(note)), soft_wrap=room is None)


def _fit(widths: list[int], units: Sequence[Unit], room: int | None) -> list[int]:
    """Choose the columns that stand side by side, and narrow the widest of words where these have no room."""
    across = list(range(len(widths)))
    if room is not None and sum(widths) + len(GAP) * (len(widths) - 1) > room:
        across = [i for i in across if not units[i].long] or across
        excess = sum(widths[i] + len(GAP) for i in across) - len(GAP) - room
        words = [i for i in across if not units[i].form]
        if excess > 0 and words:
            widest = max(words, key=lambda i: widths[i])
            widths[widest] = max(widths[widest] - excess, NARROWEST)
    return across


def _side_by_side(
    cells: Sequence[str], widths: Sequence[int], units: Sequence[Unit], across: Sequence[int], style: str = ""
) -> Text:
    """Pad cells to their columns; what is wider than its column has the line to itself, and the row goes on below."""
    lines, start = [""], 0
    for i in across:
        if cell_len(lines[-1]) > start:
            lines.append("")
        lines[-1] += " " * (start - cell_len(lines[-1]))
        blanks = " " * (widths[i] - cell_len(cells[i]))
        lines[-1] += blanks + cells[i] if units[i].form else cells[i]
        start += widths[i] + len(GAP)
    return Text("\n".join(lines), style)


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
    tags = ['th scope="row"', *["td"] * (len(classes) - 1)]
    heads = [f'<th scope="col"{c}>{escape(head)}</th>' for c, head in zip(classes, grid.heads, strict=True)]
    lines = [
        "<table>",
        f"<caption>{'<br>'.join(map(escape, filter(None, (plain(table.title), grid.said))))}</caption>",
        f"<thead><tr>{''.join(heads)}</tr></thead>",
        "<tbody>",
    ]
    for row in grid.rows:
        cells = (f"<{t}{c}>{escape(cell)}</{t[:2]}>" for t, c, cell in zip(tags, classes, row, strict=True))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody>", "</table>", *(f"<p>{escape(plain(note))}</p>" for note in table.notes)])
