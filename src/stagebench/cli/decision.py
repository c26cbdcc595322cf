"""What `gate` and `compare` decided, written whichever way they end: a pipeline reads no traceback."""

import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stagebench.cli.options import json_option, markdown_option, options
from stagebench.cli.output import Console, append_to, refusals, require_writable, tidy_stop, write_json_to
from stagebench.core.errors import StagebenchError
from stagebench.core.tables import show
from stagebench.gate.verdicts import Decision, exit_code
from stagebench.suite.options import ALLOW_CHANGED


def deciding(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command fill the `Decision` that it gets first, which is shown, written, and gives the exit code."""

    @functools.wraps(command)
    def decide(json_path: Path | None, markdown: Path | None, allow_changed: tuple[str, ...], **given: Any) -> None:
        decision = Decision(allowed=allow_changed)
        with refusals(), tidy_stop("there was a decision"), _written(decision, json_path, markdown):
            command(decision, **given)
        with suppress(BrokenPipeError):  # whoever reads has gone, which changes no verdict
            show(decision.as_table(), Console(stderr=str(json_path) == "-"))
        raise SystemExit(exit_code(decision.verdicts))

    return json_option(markdown_option(options(ALLOW_CHANGED)(decide)))


@contextmanager
def _written(decision: Decision, json_path: Path | None, markdown: Path | None) -> Iterator[None]:
    """Write what is decided in the block, or the error that it ends with, which is always a StagebenchError then.

    That holds for an error of stagebench itself too: exit code 1 is a verdict.
    """
    require_writable(json_path)
    if markdown and not markdown.exists():  # at one that is there, click has looked
        require_writable(markdown)

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
