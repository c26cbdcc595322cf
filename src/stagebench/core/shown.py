"""Show untrusted text safely, and tables on a terminal and in Markdown; HTML has templates.

An id, a path or an error may hold escape sequences, characters that reverse the writing direction, line ends, and
markup. Only a line of text is shown, so callers that fill tables need not clean it.
"""

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, zip_longest
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

LONGEST = 2000
_MARKUP = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|#~$&"})
Value = str | float | tuple[float, float] | Mapping[str, float] | None
"""A text, a number in its base unit, a range (a pair, or JSON's interval of low and high), or nothing."""
Begin = Callable[[str, int, int], object]
"""Gets the text of the step that begins, the number of steps before it, and the total."""
GAP = "  "
RULE = 60  # the most characters of the line below a heading
NARROW, COLUMN = 80, 20  # characters of the narrowest terminal, and of a column that is still readable
_EIGHTHS = ("", *map(chr, range(0x258F, 0x2587, -1)))  # eighths of a character, from none to a full one
_BLOCKS = "[\u2588-\u258f]+"


def plain(text: str, longest: int = LONGEST) -> str:
    r"""Return a text as one line, with invisible characters escaped, such as "\x1b" and "\u202e"."""
    line = " ".join(text.split())
    line = line if len(line) <= longest else f"{line[: longest - 3]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def one_line(error: BaseException) -> str:
    """Return an error with its type in one short line."""
    return plain(f"{type(error).__name__}: {error}", 300)  # some errors quote a whole file


def cell(text: str) -> Text:
    """Return the same for a terminal, where brackets would be markup."""
    return Text(plain(text))


def teller(console: Console) -> Callable[[str], None]:
    """Return a function that prints such text, keeping line ends; a terminal wraps at words."""
    whole = not console.is_terminal
    return lambda text: console.print(Text("\n").join(map(cell, text.split("\n"))), soft_wrap=whole)


@contextmanager
def progress(console: Console, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Yield a function to call when a step begins, by its text; a terminal shows a bar with the time left.

    Only these calls draw the bar, so nothing is drawn while a step is timed. "" removes it before something is printed.
    Files, pipes and logs of CI jobs get nothing.
    """
    if not (console.is_interactive and console.file.isatty()) or os.environ.get("CI"):
        yield lambda *step: None
        return
    columns = TextColumn("{task.description}", markup=False), BarColumn(15), MofNCompleteColumn(), TimeRemainingColumn()
    options: Any = {"auto_refresh": False, "transient": True, "redirect_stdout": False}
    with Progress(*columns, console=console, speed_estimate_period=math.inf, **options) as bars:
        steps, bar = count(), bars.add_task("", total=total, visible=False)

        def begin(text: str, done: int | None = None, total: int | None = None) -> None:
            if text:
                bars.update(bar, total=total, completed=next(steps) if done is None else done)
            bars.update(bar, description=plain(text, max(20, console.width - 40)), visible=bool(text), refresh=True)

        yield begin


def duration(seconds: float) -> str:
    """Return an approximate time in words, rounded up."""
    return f"{math.ceil(seconds)} s" if seconds < 120 else f"{math.ceil(seconds / 60)} min"


def markdown(text: str) -> str:
    """Return a text as Markdown that shows it unchanged."""
    return plain(text).translate(_MARKUP)


def _code(text: str) -> str:
    """Return a text as Markdown code in a table, without the characters that would end the code or its cell."""
    line = re.sub(r"\\*\|", r"\|", plain(text).replace("`", "'"))
    return f"`{line}`" if line else ""


@dataclass(frozen=True, slots=True)
class Unit:
    """How the values of a column are written."""

    form: str = ""  # of a number, as `str.format` takes it; "" for words
    scale: float = 1.0  # from the base unit (seconds, bytes, 1) to the written one
    label: str = ""  # of the written unit, after the heading
    long: bool = False  # whether values are sentences, which go below their rows where it is narrow
    code: bool = False  # whether values are names, which must not become links in Markdown
    small: float = 0.0  # below it, down to a ten millionth of it, values have three significant digits

    def write(self, value: Value) -> str:
        """Return a value as text; a text is unchanged, and None is empty."""
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
    rows: Sequence[Sequence[Value]]  # one value per column
    notes: Sequence[str] = ()  # sentences under it
    styles: Sequence[str] = ()  # rich's style of each row, or of its bars, on a terminal; none for plain rows
    bars: Mapping[str, Sequence[float]] = field(default_factory=dict)  # on a terminal: by heading, of the longest

    def grid(self) -> tuple[list[str], list[Unit], list[list[str]]]:
        """Return headings with units, units, and cells of one line, without empty columns."""
        units = [unit for _, unit in self.columns]
        heads = [plain(", ".join(filter(None, (name, unit.label)))) for name, unit in self.columns]
        rows = [[plain(unit.write(v)) for unit, v in zip(units, row, strict=True)] for row in self.rows]
        shown = [i for i in range(len(units)) if any(row[i] for row in rows)] or [0]
        return [heads[i] for i in shown], [units[i] for i in shown], [[row[i] for i in shown] for row in rows]


def of_records(title: str, columns: Mapping[str, Unit], records: Iterable[Mapping[str, Any]], *notes: str) -> Table:
    """Return a table of records, with the keys that are headings."""
    rows = [[record.get(key) for key in columns] for record in records]
    return Table(title, [(key.replace("_", " "), unit) for key, unit in columns.items()], rows, notes)


def show(table: Table, console: Console) -> None:
    """Print a table: in a log file each row is a line; on a terminal no line is wider than it.

    On a narrow terminal sentences, and if necessary names, go below their rows, and long words are folded. Columns
    without room follow in further parts, which repeat the first column.
    """
    (heads, units, rows), room = table.grid(), console.width if console.is_terminal else sys.maxsize
    for line in table.title.splitlines():
        console.print(Text(plain(line), "bold"), soft_wrap=not console.is_terminal)
    if rows:
        _draw_bars(table.bars, heads, rows, console)
        widths = {i: max(map(cell_len, column)) for i, column in enumerate(zip(heads, *rows, strict=True))}
        parts = _parts(widths, units, room)
        below = [i for i in widths if not any(i in part for part in parts)]
        for part in parts:
            _print_row(console, heads, part, units)
            _print_row(console, ["-" * min(part.get(i, 0), RULE) for i in widths], part, units)
            for row, style in zip(rows, table.styles or [""] * len(rows), strict=True):
                _print_row(console, row, part, units, style)
                for sentence in (row[i] for i in below if row[i] and part is parts[0]):
                    console.print(Padding.indent(Text(sentence, style), len(GAP)))
    for note in table.notes:
        console.print(Text(plain(note)), soft_wrap=not console.is_terminal)


def _draw_bars(
    bars: Mapping[str, Sequence[float]], heads: Sequence[str], rows: Sequence[list[str]], console: Console
) -> None:
    """Put a bar before each of the first values of columns, in the room that is left."""
    room = (console.width if console.is_terminal else NARROW) - max(cell_len(row[0]) for row in rows)
    of_each = room // max(1, min(len(bars), room // COLUMN)) - len(GAP)
    for i, shares in ((heads.index(head), shares) for head, shares in bars.items()):
        number = max(len(row[i]) for row, _ in zip(rows, shares, strict=False))
        cells = min(24, max(4, max(of_each, cell_len(heads[i])) - number - 1))
        for row, share in zip(rows, shares, strict=False):
            full, rest = divmod(math.ceil(share * cells * 8), 8)
            ascii_only = "#" * (full + (rest > 3))
            bar = ascii_only if console.options.ascii_only else _EIGHTHS[8] * full + _EIGHTHS[rest]
            row[i] = f"{bar:{cells}} {row[i]:>{number}}"


def _width(widths: Mapping[int, int]) -> int:
    return sum(widths.values()) + len(GAP) * (len(widths) - 1)


def _parts(widths: dict[int, int], units: Sequence[Unit], room: int) -> list[dict[int, int]]:
    """Return the columns with their widths in parts that fit the room, without those that go below rows."""
    for leave in ("", "long", "code"):
        widths = {i: width for i, width in widths.items() if not (i and leave and getattr(units[i], leave))}
        if _width(widths) <= room:
            return [widths]
    words = [i for i in widths if not units[i].form]
    if words and _width(folded := _narrowed(widths, words, room)) <= room:
        return [folded]
    (first, width), *others = widths.items()
    parts = [{first: width}]
    for i, each in others:
        if len(parts[-1]) > 1 and _width(parts[-1] | {i: each}) > room:
            parts.append({first: width})
        parts[-1][i] = each
    return [_narrowed(part, list(part), room) for part in parts]


def _narrowed(widths: dict[int, int], columns: Sequence[int], room: int) -> dict[int, int]:
    """Narrow the widest of some columns until all fit, but none below `COLUMN`."""
    widths = dict(widths)
    while _width(widths) > room and widths[widest := max(columns, key=widths.__getitem__)] > COLUMN:
        widths[widest] -= 1
    return widths


def _print_row(
    console: Console, cells: Sequence[str], widths: Mapping[int, int], units: Sequence[Unit], style: str = ""
) -> None:
    """Print cells side by side, numbers on the right, folded to their column's width; bars alone get the style."""
    folded = [chop_cells(cells[i], width) for i, width in widths.items()]
    for line in zip_longest(*folded, fillvalue=""):
        blanks = [" " * (width - cell_len(cell)) for cell, width in zip(line, widths.values(), strict=True)]
        padded = [b + c if units[i].form else c + b for i, b, c in zip(widths, blanks, line, strict=True)]
        text = Text(GAP.join(padded).rstrip())
        if not text.highlight_regex(_BLOCKS, style):
            text.stylize(style)
        console.print(text, soft_wrap=True)


def to_markdown(table: Table) -> str:
    """Return a table in GitHub's Markdown, without a final line end."""
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
