"""What several commands take: the options that make settings, the head of what is printed then, and files to write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stagebench.cli.output import Console, require_writable
from stagebench.core.machine import environment
from stagebench.core.shown import cell
from stagebench.suite.options import SETTINGS

if TYPE_CHECKING:
    from stagebench.suite.settings import Settings

PATH = click.Path(path_type=Path)


def _checked(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file that can't be made, or replaced, before anything is measured for it; click looked at others."""
    if path and not (param.name == "markdown" and path.exists()):
        require_writable(path)
    return path


FILE = click.Path(path_type=Path, dir_okay=False, writable=True, allow_dash=True)
JSON = click.Option(
    ["--json", "json_path"], type=FILE, callback=_checked, help="Also write the numbers there; - for standard output."
)
MARKDOWN = click.Option(
    ["--markdown"], type=FILE, callback=_checked, help="Appended to, as a step summary is; - for standard output."
)
INPUT = click.Argument(["input"], metavar="[PATH]", required=False, type=PATH)


class SettingsCommand(click.Command):
    """A command that gets the options of `SETTINGS`, but what is left out or its own, and its PATH, as `settings`."""

    def __init__(self, *, params: Sequence[click.Parameter] = (), left_out: Sequence[str] = (), **rest: Any) -> None:
        own = {*left_out, *(param.name for param in params)}
        self._of_settings = [option for option in SETTINGS if option.name not in own]
        super().__init__(params=[*self._of_settings, *params], **rest)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; its help need not wait for torch."""
        from stagebench.suite.settings import settings_of

        names = [option.name for option in self._of_settings] + ["input"] * ("input" in ctx.params)
        ctx.params["settings"] = settings_of(**{name: ctx.params.pop(name) for name in names})
        return super().invoke(ctx)


def print_head(console: Console, settings: Settings, rest: str) -> None:
    """Say under which conditions the numbers below were made."""
    console.print(cell(f"{settings.describe()}; {rest}"))
    if warning := environment.load_warning():
        console.print(warning, style="yellow", highlight=False)
