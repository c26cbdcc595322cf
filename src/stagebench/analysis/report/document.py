"""Write a report as Markdown, and as one HTML page with its pictures in it: no script, and nothing from the network."""

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stagebench.core import shown
from stagebench.core.shown import Table, markdown, plain


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture, which only HTML shows."""

    caption: str
    draw: Callable[[], Any]  # a figure of matplotlib, in the look that is set when it is called


Part = str | tuple[str, ...] | Table | Figure  # a paragraph, a list of sentences, a table or a picture
Sections = Mapping[str, Iterable[Part]]  # what stands under each heading


def without_empty(sections: Sections) -> Sections:
    """Leave out lists and tables without rows, and then sections that have nothing to say."""
    kept = {title: [p for p in parts if (p.rows if isinstance(p, Table) else p)] for title, parts in sections.items()}
    return {title: parts for title, parts in kept.items() if parts}


def to_markdown(title: str, sections: Sections) -> str:
    """Write all sections, without their pictures."""
    blocks = [f"# {markdown(title)}"]
    for heading, parts in sections.items():
        blocks += [f"## {markdown(heading)}", *filter(None, map(_part, parts))]
    return "\n\n".join(blocks) + "\n"


def _part(part: Part) -> str:
    if isinstance(part, Table):
        return shown.to_markdown(part)
    if isinstance(part, tuple):
        return "\n".join(f"- {markdown(line)}" for line in part)
    return markdown(part) if isinstance(part, str) else ""


def to_html(title: str, sections: Sections) -> str:
    """Fill in the page, with a table of contents."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # of an extra, which Markdown does without

    from stagebench.analysis.report import pictures

    environment = Environment(
        loader=PackageLoader("stagebench.analysis.report"),
        autoescape=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["picture"] = lambda figure: b64encode(pictures.svg(figure.draw)).decode("ascii")
    return environment.get_template("report.html").render(title=title, sections=sections)
