"""What `gate` and `compare` decided, written whichever way they end: a pipeline reads no traceback."""

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from stagebench.cli.options import JSON, MARKDOWN
from stagebench.cli.output import Console, append_to, refusals, tidy_stop, write_json_to
from stagebench.core.errors import StagebenchError
from stagebench.core.shown import show
from stagebench.gate.verdicts import Decision, exit_code
from stagebench.suite.options import ALLOW_CHANGED


class DecidingCommand(click.Command):
    """A command that fills the `Decision` that it gets, which is shown, written, and gives the exit code."""

    def __init__(self, *, params: Iterable[click.Parameter] = (), **rest: Any) -> None:
        super().__init__(params=[*params, ALLOW_CHANGED, JSON, MARKDOWN], **rest)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and exit."""
        json_path, markdown = ctx.params.pop("json_path"), ctx.params.pop("markdown")
        decision = ctx.params["decision"] = Decision(allowed=ctx.params.pop("allow_changed"))
        with refusals(), tidy_stop("there was a decision"), _written(decision, json_path, markdown):
            super().invoke(ctx)
        with suppress(BrokenPipeError):  # whoever reads has gone, which changes no verdict
            show(decision.as_table(), Console(stderr=str(json_path) == "-"))
        raise SystemExit(exit_code(decision.verdicts))


@contextmanager
def _written(decision: Decision, json_path: Path | None, markdown: Path | None) -> Iterator[None]:
    """Write what is decided in the block, or the error that it ends with, which is always a StagebenchError then.

    That holds for an error of stagebench itself too: exit code 1 is a verdict.
    """

    def write() -> None:
        try:
            if markdown:
                append_to(markdown, decision.as_markdown())
        finally:
            if json_path:
                write_json_to(json_path, decision.as_json())

    try:
        yield
    except Exception as error:
        if isinstance(error, StagebenchError | OSError):
            reason = str(error)
        else:
            traceback.print_exc()
            reason = f"an error of stagebench itself, {type(error).__name__}: {' '.join(str(error).split())}"
        decision.verdicts, decision.error = (), reason
        with suppress(StagebenchError, OSError):  # the first error is the one to show
            write()
        raise StagebenchError(reason) from error
    write()
