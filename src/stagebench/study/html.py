"""A report as one HTML file, with its pictures in it: no script, and nothing from the network."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from stagebench.study.document import Figure, Points, Section, Table

_KINDS = {Table: "table", Figure: "figure", Points: "points", str: "text"}


def to_html(title: str, sections: Sequence[Section], pictures: Mapping[str, bytes]) -> str:
    """Fill in the template.

    Args:
        title: of the page.
        sections: in order; each gets an entry in the table of contents.
        pictures: SVG by name; a figure without one is left out.
    """
    environment = Environment(
        loader=PackageLoader("stagebench.study"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["of_kind"] = lambda part, kind: _KINDS[type(part)] == kind
    encoded = {name: b64encode(picture).decode("ascii") for name, picture in pictures.items()}
    return environment.get_template("report.html").render(title=title, sections=sections, pictures=encoded)
