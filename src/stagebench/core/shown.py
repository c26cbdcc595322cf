"""Names and texts of strangers, fit to be shown: whatever is in them, nothing but a line of text comes out.

An id, a path or an error may hold escape sequences, characters that reverse the direction of writing, line ends, and
the markup of whatever shows it. In HTML the templates escape what `plain` leaves.
"""

from collections.abc import Callable

from rich.console import Console
from rich.text import Text

LONGEST = 2000
_MARKUP = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|#~$&"})


def plain(text: str, longest: int = LONGEST) -> str:
    r"""Make it one line, in which what would not be seen is written out, as "\x1b" and "\u202e"."""
    line = " ".join(text.split())
    line = line if len(line) <= longest else f"{line[: longest - 3]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def cell(text: str) -> Text:
    """Make the same for a terminal's tables and messages, where brackets would be markup."""
    return Text(plain(text))


def teller(console: Console) -> Callable[[str], None]:
    """Return what prints such text there, but for line ends, which are ours."""
    return lambda text: console.print(Text("\n").join(map(cell, text.split("\n"))))


def markdown(text: str) -> str:
    """Make the same as Markdown that shows it as it is."""
    return plain(text).translate(_MARKUP)
