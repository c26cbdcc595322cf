"""A report as one HTML file, with its pictures in it: no script, and nothing from the network."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stagebench.analysis.report.sections import Figure, Points, Section, Table
from stagebench.core.shown import plain

_KINDS = {Table: "table", Figure: "figure", Points: "points", str: "text"}


def to_html(title: str, sections: Sequence[Section], pictures: Mapping[str, bytes]) -> str:
    """Fill in the template.

    Args:
        title: of the page.
        sections: in order; each gets an entry in the table of contents.
        pictures: SVG by name; a figure without one is left out.
    """
    environment = Environment(
        loader=PackageLoader("stagebench.analysis.report"),
        autoescape=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["of_kind"] = lambda part, kind: _KINDS[type(part)] == kind
    encoded = {name: Markup(b64encode(data).decode("ascii")) for name, data in pictures.items()}  # noqa: S704 # no markup
    return environment.get_template("report.html").render(title=title, sections=sections, pictures=encoded)
