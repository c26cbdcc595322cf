"""Render HTML pages that need no server and no network."""

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from stagebench.core.errors import StagebenchError
from stagebench.core.shown import plain


def require_pages() -> None:
    """Raise StagebenchError that names the extra where jinja2 is missing."""
    if find_spec("jinja2") is None:
        raise StagebenchError("a page needs the extra: pip install 'stagebench[report]', got no jinja2")


def fill(package: str, name: str, filters: Mapping[str, Any], **values: Any) -> str:
    """Render a package's template; its policy allows only the script of the same name."""
    from jinja2 import (  # in an extra, which terminals and Markdown don't need
        Environment,
        PackageLoader,
        StrictUndefined,
    )

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    script = (files(package) / "templates" / f"{name}.js").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template(f"{name}.html").render(values, script=script, digest=digest)
