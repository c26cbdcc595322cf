"""What `gate` and `compare` decided, written whichever way they end: a pipeline reads no traceback."""

import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stagebench.cli.options import json_option, markdown_option, options
from stagebench.cli.output import Console, append_to, refusals, require_writable, tidy_stop, write_json_to
from stagebench.core.errors import StagebenchError
from stagebench.core.tables import show
from stagebench.gate import report
from stagebench.gate.verdicts import Verdict, exit_code
from stagebench.suite.options import ALLOW_CHANGED


@dataclass
class Decision:
    """A decision in the making.

    Attributes:
        allowed: stages whose other content, or other number of what they work on, passes.
        verdicts: none where there is an error.
        rules_differ: how the head's rules differ from those that judge.
        more: what else its JSON holds.
    """

    allowed: tuple[str, ...] = ()
    verdicts: list[Verdict] = field(default_factory=list)
    rules_differ: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def as_json(self, error: str | None = None) -> dict[str, Any]:
        """Return all of it, for a machine."""
        return report.to_json(self.verdicts, self.rules_differ, error) | self.more


def deciding(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command fill the `Decision` that it gets first, which is shown, written, and gives the exit code."""

    @functools.wraps(command)
    def decide(json_path: Path | None, markdown: Path | None, allow_changed: tuple[str, ...], **given: Any) -> None:
        decision = Decision(allow_changed)
        with refusals(), tidy_stop("there was a decision"), _written(decision, json_path, markdown):
            command(decision, **given)
        with suppress(BrokenPipeError):  # whoever reads has gone, which changes no verdict
            show(report.to_table(decision.verdicts, decision.rules_differ), Console(stderr=str(json_path) == "-"))
        raise SystemExit(exit_code(decision.verdicts))

    return json_option(markdown_option(options(ALLOW_CHANGED)(decide)))


@contextmanager
def _written(decision: Decision, json_path: Path | None, markdown: Path | None) -> Iterator[None]:
    """Write what is decided in the block, or the error that it ends with.

    Raises:
        StagebenchError: for any error, also one of stagebench itself: exit code 1 is a verdict.
    """
    require_writable(json_path)
    if markdown and not markdown.exists():  # at one that is there, click has looked
        require_writable(markdown)

    def write(error: str | None = None) -> None:
        try:
            if markdown:
                append_to(markdown, report.to_markdown(decision.verdicts, decision.rules_differ, error))
        finally:
            if json_path:
                write_json_to(json_path, decision.as_json(error))

    try:
        yield
    except Exception as error:
        if isinstance(error, StagebenchError | OSError):
            reason = str(error)
        else:
            traceback.print_exc()
            reason = f"an error of stagebench itself, {type(error).__name__}: {' '.join(str(error).split())}"
        decision.verdicts = []
        with suppress(StagebenchError, OSError):  # the first error is the one to show
            write(reason)
        raise StagebenchError(reason) from error
    write()
