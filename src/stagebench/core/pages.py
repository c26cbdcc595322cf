"""Render HTML pages and pictures that need no server and no network."""

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
        raise StagebenchError("a page or picture needs the extra: pip install 'stagebench[report]', got no jinja2")


def fill(package: str, name: str, filters: Mapping[str, Any], **values: Any) -> str:
    """Render a package's template; the policy of a page allows only the script of the same name."""
    import jinja2  # in an extra, which terminals and Markdown don't need

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    source = files(package) / "templates" / name.replace(".html", ".js")
    script = source.read_text(encoding="utf-8") if name.endswith(".html") else ""
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template(name).render(values, script=script, digest=digest)
