"""Render HTML pages and pictures that need no server and no network."""

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from stagebench.core.shown import plain


def fill(package: str, name: str, filters: Mapping[str, Any], **values: Any) -> str:
    """Render a package's template; the policy of a page allows only the script of the same name."""
    import jinja2  # here, because most commands make no page and start sooner without it

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
