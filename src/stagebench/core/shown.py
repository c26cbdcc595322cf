"""Names and texts of strangers, fit to be shown, and one table for a terminal and Markdown; HTML is a template's.

An id, a path or an error may hold escape sequences, characters that reverse the direction of writing, line ends, and
the markup of whatever shows it: nothing but a line of text comes out, and whoever fills a table need not clean it.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

LONGEST = 2000
_MARKUP = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|#~$&"})
Value = str | float | tuple[float, float] | Mapping[str, float] | None
"""A text, a number in its base unit, a range (a pair, or an interval as JSON has it: low and high), or nothing."""
Begin = Callable[[str, int, int], object]
"""Gets what begins now, how many steps were done before it, and how many there are."""
GAP = "  "
RULE = 60  # characters of the line below a heading, at most


def plain(text: str, longest: int = LONGEST) -> str:
    r"""Make it one line, in which what would not be seen is written out, as "\x1b" and "\u202e"."""
    line = " ".join(text.split())
    line = line if len(line) <= longest else f"{line[: longest - 3]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def one_line(error: BaseException) -> str:
    """Say which error it was, in one line that is not too long."""
    return plain(f"{type(error).__name__}: {error}", 300)  # some quote the whole file


def cell(text: str) -> Text:
    """Make the same for a terminal's tables and messages, where brackets would be markup."""
    return Text(plain(text))


def teller(console: Console) -> Callable[[str], None]:
    """Return what prints such text there, but for line ends, which are ours."""
    return lambda text: console.print(Text("\n").join(map(cell, text.split("\n"))))


@contextmanager
def progress(console: Console, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Yield what says which step begins, and can say of how many it is: a terminal shows a bar, with the time left.

    The bar is drawn by these calls and by no thread, so that nothing is drawn while a step is timed; "" takes it away,
    before something is printed. A file, a pipe and the log of a CI job get nothing.
    """
    seen = console.is_interactive and console.file.isatty() and not os.environ.get("CI")
    columns = TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn()
    options: Any = {"auto_refresh": False, "transient": True, "redirect_stdout": False, "disable": not seen}
    with Progress(*columns, console=console, speed_estimate_period=math.inf, **options) as bars:
        steps, bar = count(), bars.add_task("", total=total, visible=False)

        def begin(text: str, done: int | None = None, total: int | None = None) -> None:
            if text:
                bars.update(bar, total=total, completed=next(steps) if done is None else done)
            bars.update(bar, description=plain(text, 60), visible=bool(text), refresh=True)

        yield begin


def duration(seconds: float) -> str:
    """Write a time that nobody measures by, rounded up."""
    return f"{math.ceil(seconds)} s" if seconds < 120 else f"{math.ceil(seconds / 60)} min"


def markdown(text: str) -> str:
    """Make the same as Markdown that shows it as it is."""
    return plain(text).translate(_MARKUP)


def _code(text: str) -> str:
    """Make the same as code in a table, in which only what would end the code or its cell has to be another sign."""
    line = re.sub(r"\\*\|", r"\|", plain(text).replace("`", "'"))
    return f"`{line}`" if line else ""


@dataclass(frozen=True, slots=True)
class Unit:
    """How the values of a column are written."""

    form: str = ""  # of a number, as `str.format` takes it; "" for words
    scale: float = 1.0  # from the base unit (seconds, bytes, 1) to the one that is written
    label: str = ""  # of that unit, behind the heading
    long: bool = False  # whether these are sentences, which give way where it is narrow
    code: bool = False  # whether these are names, which Markdown is not to make links of
    small: float = 0.0  # as written: what is less gets three digits, down to a ten millionth of it, which is nothing

    def write(self, value: Value) -> str:
        """Write a value; a text stays as it is, and nothing is nothing."""
        if value is None or isinstance(value, str):
            return value or ""
        if isinstance(value, Mapping):
            value = value["low"], value["high"]
        if isinstance(value, tuple):
            return " to ".join(map(self.write, value))
        written = value * self.scale
        small = 1e-7 * self.small <= abs(written) < self.small
        return f"{written:.3g}" if small else self.form.format(written)


WORDS, SENTENCES, NAMES = Unit(), Unit(long=True), Unit(code=True)
MS = Unit("{:z,.3f}", 1e3, "ms", small=0.01)
COUNT, RATIO, MEGA = Unit("{:,.10g}"), Unit("{:z.3f}"), Unit("{:,.2f}", 1e-6, "millions")
PERCENT, CHANGE = Unit("{:z.1f} %", 100), Unit("{:+.1f} %", 100)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of values under named columns."""

    title: str  # "" for none
    columns: Sequence[tuple[str, Unit]]
    rows: Sequence[Sequence[Value]]  # as many values each as there are columns
    notes: Sequence[str] = ()  # sentences under it
    styles: Sequence[str] = ()  # of each row on a terminal, as rich names them; none for plain rows

    def grid(self) -> tuple[list[str], list[Unit], list[list[str]]]:
        """Write all values: headings with their units, and cells of one line.

        A column that is empty goes, and no other: a row is found by what stands in it.
        """
        units = [unit for _, unit in self.columns]
        heads = [plain(", ".join(filter(None, (name, unit.label)))) for name, unit in self.columns]
        rows = [[plain(unit.write(v)) for unit, v in zip(units, row, strict=True)] for row in self.rows]
        shown = [i for i in range(len(units)) if any(row[i] for row in rows)] or [0]
        return [heads[i] for i in shown], [units[i] for i in shown], [[row[i] for i in shown] for row in rows]


def of_records(title: str, columns: Mapping[str, Unit], records: Iterable[Mapping[str, Any]], *notes: str) -> Table:
    """Make a table of records by those of their keys that are headings."""
    rows = [[record.get(key) for key in columns] for record in records]
    return Table(title, [(key.replace("_", " "), unit) for key, unit in columns.items()], rows, notes)


def show(table: Table, console: Console) -> None:
    """Print a table: in a log file a row is a line; where a terminal is narrow, sentences go below their rows."""
    (heads, units, rows), room = table.grid(), console.width if console.is_terminal else None
    for line in table.title.splitlines():
        console.print(Text(plain(line), "bold"), soft_wrap=room is None)
    if rows:
        widths = [max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)]
        narrow = room is not None and sum(widths) + len(GAP) * (len(widths) - 1) > room
        below = [i for i, unit in enumerate(units) if narrow and unit.long]
        across = [(i, widths[i], bool(unit.form)) for i, unit in enumerate(units) if i not in below]
        rule = ["-" * min(width, RULE) for width in widths]
        for cells in (heads, rule):
            console.print(_line(cells, across), soft_wrap=True)  # one too long is for the terminal to wrap
        for row, style in zip(rows, table.styles or [""] * len(rows), strict=True):
            console.print(_line(row, across, style), soft_wrap=True)
            for sentence in (row[i] for i in below if row[i]):
                console.print(Padding.indent(Text(sentence, style), len(GAP)))
    for note in table.notes:
        console.print(Text(plain(note)), soft_wrap=room is None)


def _line(cells: Sequence[str], across: Sequence[tuple[int, int, bool]], style: str = "") -> Text:
    """Put cells side by side; of each column its place, its width, and whether it holds numbers."""
    blanks = [" " * (width - cell_len(cells[i])) for i, width, _ in across]
    padded = [b + cells[i] if right else cells[i] + b for (i, _, right), b in zip(across, blanks, strict=True)]
    return Text(GAP.join(padded).rstrip(), style)


def to_markdown(table: Table) -> str:
    """Write a table in GitHub's Markdown, without a line end after it."""
    heads, units, rows = table.grid()
    rule = ["---:" if unit.form else "---" for unit in units]
    writers = [_code if unit.code else markdown for unit in units]
    body = [[write(cell) for write, cell in zip(writers, row, strict=True)] for row in rows]
    cells = [list(map(markdown, heads)), rule, *body]
    blocks = [
        f"**{markdown(table.title)}**" if table.title else "",
        "\n".join(f"| {' | '.join(line)} |" for line in cells) if rows else "",
        "\n".join(f"- {markdown(note)}" for note in table.notes),
    ]
    return "\n\n".join(filter(None, blocks))
