"""Let a table or a formula that is wider than the page be scrolled by keyboard."""

import re
from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """Put a focus around each; tables of highlighted code have a class and are left alone."""
    for name, pattern in {"Table": "<table>.*?</table>", "Formula": '<math [^>]*display="block".*?</math>'}.items():
        around = rf'<div class="scroll" tabindex="0" role="group" aria-label="{name}">\g<0></div>'
        html = re.sub(pattern, around, html, flags=re.DOTALL)
    return html
