"""Write a report as Markdown, and as one HTML page with its pictures in it: no script, and nothing from the network."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stagebench.core import tables
from stagebench.core.shown import markdown, plain
from stagebench.core.tables import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture, by its name in `pictures.draw`, and what it shows."""

    name: str
    caption: str


Part = str | tuple[str, ...] | Table | Figure
"""A paragraph, a list of sentences, a table or a picture."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    title: str
    parts: tuple[Part, ...]


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Write all sections; pictures are left to the HTML."""
    blocks = [f"# {markdown(title)}"]
    for section in sections:
        blocks += [f"## {markdown(section.title)}", *filter(None, map(_part, section.parts))]
    return "\n\n".join(blocks) + "\n"


def _part(part: Part) -> str:
    if isinstance(part, Table):
        return tables.to_markdown(part)
    if isinstance(part, tuple):
        return "\n".join(f"- {markdown(line)}" for line in part)
    return markdown(part) if isinstance(part, str) else ""


def to_html(title: str, sections: Sequence[Section], pictures: Mapping[str, bytes]) -> str:
    """Fill in the page.

    Args:
        title: of the page.
        sections: in order; each gets an entry in the table of contents.
        pictures: SVG by name; a figure without one is left out.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # of an extra, which Markdown does without

    environment = Environment(
        loader=PackageLoader("stagebench.analysis.report"),
        autoescape=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["table"] = tables.to_html
    encoded = {name: b64encode(data).decode("ascii") for name, data in pictures.items()}
    return environment.get_template("report.html").render(title=title, sections=sections, pictures=encoded)
