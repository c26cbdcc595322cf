"""Two kinds of commands, that run models and that decide, with the options they share. Importable without torch."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stagebench.cli.output import Console, append_to, require_writable, tidy_stop, write_json_to
from stagebench.core.errors import StagebenchError
from stagebench.core.machine import environment
from stagebench.core.shown import show, teller
from stagebench.gate.verdicts import Decision, exit_code
from stagebench.suite.options import ALLOW_CHANGED, SETTINGS

if TYPE_CHECKING:
    from stagebench.suite.settings import Settings


def _checked(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file that can't be made, or replaced, before anything is measured for it; click looked at others."""
    if path and not (param.name == "markdown" and path.exists()):
        require_writable(path)
    return path


PATH = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, dir_okay=False, writable=True, allow_dash=True)
JSON = click.Option(
    ["--json", "json_path"], type=_FILE, callback=_checked, help="Also write the numbers there; - for standard output."
)
MARKDOWN = click.Option(
    ["--markdown"], type=_FILE, callback=_checked, help="Appended to, as a step summary is; - for standard output."
)
_PAGE = click.Path(path_type=Path, dir_okay=False, writable=True)
HTML = click.Option(
    ["--html", "html_path"], type=_PAGE, callback=_checked, help="Also write a page of the history to this file."
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
    teller(console)(f"{settings.describe()}; {rest}")
    if warning := environment.load_warning():
        console.print(warning, style="yellow", highlight=False)


class DecidingCommand(click.Command):
    """A command that fills the `Decision` that it gets, which is shown, written, and gives the exit code."""

    def __init__(self, *, params: Sequence[click.Parameter] = (), **rest: Any) -> None:
        super().__init__(params=[*params, ALLOW_CHANGED, JSON, MARKDOWN], **rest)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, write what it decided or the error that it ended with, and exit.

        An error of stagebench itself is one in a line too: a pipeline reads no traceback, and exit code 1 is a verdict.
        """
        json_path, markdown = ctx.params.pop("json_path"), ctx.params.pop("markdown")
        decision = ctx.params["decision"] = Decision(allowed=ctx.params.pop("allow_changed"))

        def write() -> None:
            try:
                if markdown:
                    append_to(markdown, decision.as_markdown())
            finally:
                write_json_to(json_path, decision.as_json())

        with tidy_stop("there was a decision"):
            try:
                super().invoke(ctx)
            except Exception as error:
                reason = str(error)
                if not isinstance(error, StagebenchError | OSError):
                    traceback.print_exc()
                    reason = f"an error of stagebench itself, {type(error).__name__}: {' '.join(reason.split())}"
                decision.verdicts, decision.error = (), reason
                with suppress(StagebenchError, OSError):  # the first error is the one to show
                    write()
                raise StagebenchError(reason) from error
            write()
        with suppress(BrokenPipeError):  # whoever reads has gone, which changes no verdict
            show(decision.as_table(), Console(stderr=str(json_path) == "-"))
        raise SystemExit(exit_code(decision.verdicts))
