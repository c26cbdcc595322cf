"""Fill the pages of the reference from the commands, the table of options and docstrings, and draw formulas."""

import re
import sys
from html import unescape
from typing import Any
from unittest.mock import MagicMock

import click
import griffe
from latex2mathml.converter import convert

from stagebench.cli import COMMANDS, main
from stagebench.suite.options import PREFIX, PYTEST

# What runs models, and imports torch for it: `analyze` imports it at once, and its help needs none of it.
RUNS_MODELS = (
    "analysis.experiments.design",
    "analysis.experiments.runner",
    "media.synthetic_clip",
    "suite.measure",
    "suite.settings",
)
sys.modules.update({f"stagebench.{name}": MagicMock() for name in RUNS_MODELS})


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the help of all commands, or pytest's options, where a page asks for them."""
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", "\n\n".join(map(_help_of, COMMANDS)))
    return markdown.replace("<!-- options -->", _options()) if "<!-- options -->" in markdown else markdown


class Doctests(griffe.Extension):
    """Shows the example of a docstring as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Put a fence around it."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?ms)^>>> .*?(?=\n\n|\Z)", r"```pycon\n\g<0>\n```", obj.docstring.value)


def on_page_content(html: str, **_: Any) -> str:
    """Make MathML of formulas, which a browser draws without a script."""
    inline = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda found: _formula(found[1], "inline"), html)
    block = r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>'
    return re.sub(block, lambda found: _formula(found[1], "block"), inline, flags=re.DOTALL)


def on_post_page(output: str, **_: Any) -> str:
    """Name the theme's search for those who hear a page."""
    return output.replace('role="dialog">', 'role="dialog" aria-label="Search">')


def on_post_template(output_content: str, **_: Any) -> str:
    """Name it on the page of what is not found, too."""
    return on_post_page(output_content)


def _formula(tex: str, display: str) -> str:
    return convert(unescape(tex).strip(), display=display)


def _help_of(name: str) -> str:
    command = main.get_command(click.Context(main), name)
    if command is None:
        raise LookupError(f"there must be a command {name}")
    whole = click.Context(main, info_name="stagebench", terminal_width=80)
    contexts = [click.Context(command, whole, info_name=name)]
    if isinstance(command, click.Group):
        contexts += [click.Context(each, contexts[0], info_name=sub) for sub, each in command.commands.items()]
    blocks = [f"```text\n{context.get_help()}\n```" for context in contexts]
    return "\n\n".join([f"## {name}", *blocks])


def _options() -> str:
    cells = ((option.opts[0].replace("--", PREFIX), (option.help or "").replace("|", "\\|")) for option in PYTEST)
    rows = [f"| `{name}` | {said} |" for name, said in cells]
    return "\n".join(["| option | what it is |", "| --- | --- |", *rows])
