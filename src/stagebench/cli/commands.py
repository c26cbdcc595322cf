"""Base classes of commands that run models and of commands that decide, with shared options. Needs no torch."""

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
from stagebench.suite.options import ALLOW_CHANGED, PATH, SETTINGS, option

if TYPE_CHECKING:
    from stagebench.suite.settings import Settings


def _checked(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file that can't be written or drawn, before anything is measured; click has checked the rest."""
    if path and param.name == "svg_path" and path.suffix != ".svg":
        raise StagebenchError(f"--svg must be a file whose name ends in .svg, got {path}")
    if path and not (param.name == "markdown" and path.exists()):
        require_writable(path)
    return path


FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE, _PAGE = (click.Path(path_type=Path, dir_okay=False, writable=True, allow_dash=dash) for dash in (True, False))
_TO_FILE = {"kind": _FILE, "callback": _checked}
JSON = option("json", "Also write the numbers to this file, - for standard output.", dest="json_path", **_TO_FILE)
MARKDOWN = option("markdown", "Append the decision to this file, - for standard output.", **_TO_FILE)
HTML = option("html", "Also write a page of the history to this file.", kind=_PAGE, callback=_checked, dest="html_path")
SVG = option("svg", "Also draw the result to this .svg file.", kind=_PAGE, callback=_checked, dest="svg_path")
INPUT = click.Argument(["input"], metavar="[PATH]", required=False, type=PATH)


class SettingsCommand(click.Command):
    """A command with the options of `SETTINGS`, except `left_out` and its own; it gets them and PATH as `settings`."""

    def __init__(self, *, params: Sequence[click.Parameter] = (), left_out: Sequence[str] = (), **rest: Any) -> None:
        own = {*left_out, *(param.name for param in params)}
        self._of_settings = [option for option in SETTINGS if option.name not in own]
        super().__init__(params=[*self._of_settings, *params], **rest)

    def invoke(self, ctx: click.Context) -> Any:
        """Make the settings, and run the command; only here torch is imported."""
        from stagebench.suite.settings import settings_of

        names = [option.name for option in self._of_settings] + ["input"] * ("input" in ctx.params)
        ctx.params["settings"] = settings_of(**{name: ctx.params.pop(name) for name in names})
        return super().invoke(ctx)


def print_head(console: Console, settings: Settings, rest: str) -> None:
    """Print the settings of the numbers below."""
    teller(console)(f"{settings.describe()}; {rest}")
    if warning := environment.load_warning():
        console.print(warning, style="yellow", highlight=False)


class DecidingCommand(click.Command):
    """A command that fills a `Decision`, which is then printed, written, and sets the exit code."""

    def __init__(self, *, params: Sequence[click.Parameter] = (), **rest: Any) -> None:
        super().__init__(params=[*params, ALLOW_CHANGED, JSON, MARKDOWN], **rest)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, write its decision or its error, and exit.

        An error inside stagebench is also one line, because pipelines don't read tracebacks. Exit code 1 is a verdict.
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
                with suppress(StagebenchError, OSError):  # show the first error
                    write()
                raise StagebenchError(reason) from error
            write()
        with suppress(BrokenPipeError):  # a closed pipe changes no verdict
            show(decision.as_table(), Console(stderr=str(json_path) == "-"))
        raise SystemExit(exit_code(decision.verdicts))
