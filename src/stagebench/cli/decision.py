"""What `gate` and `compare` decided, written whichever way they end: a pipeline reads no traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from stagebench.cli.output import append_to, require_writable, write_json_to
from stagebench.core.errors import StagebenchError
from stagebench.core.stages import STAGE_NAMES
from stagebench.core.tables import show
from stagebench.gate import report
from stagebench.gate.verdicts import Verdict, exit_code

allow_changed_option = click.option(
    "--allow-changed",
    "allowed",
    multiple=True,
    type=click.Choice(STAGE_NAMES),
    help="Let other content, or another number of images, tokens or steps, of this stage pass; repeatable.",
)


@dataclass
class Decision:
    """A decision in the making.

    Attributes:
        json_path: where to write it, "-" for standard output, or None.
        markdown: likewise, appended to.
        verdicts: none where there is an error.
        rules_differ: how the head's rules differ from those that judge.
        more: what else its JSON holds.
    """

    json_path: Path | None
    markdown: Path | None
    verdicts: list[Verdict] = field(default_factory=list)
    rules_differ: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def as_json(self, error: str | None = None) -> dict[str, Any]:
        """All of it, for a machine."""
        return report.to_json(self.verdicts, self.rules_differ, error) | self.more

    def write(self, error: str | None = None) -> None:
        """Write it where it was asked for; each, whatever becomes of the other."""
        try:
            if self.markdown:
                append_to(self.markdown, report.to_markdown(self.verdicts, self.rules_differ, error))
        finally:
            if self.json_path:
                write_json_to(self.json_path, self.as_json(error))

    def show_and_exit(self) -> NoReturn:
        """Print the table, and end with the exit code of the gravest verdict."""
        with suppress(SystemExit):  # of rich, where whoever reads has gone, which changes no verdict
            show(report.to_table(self.verdicts, self.rules_differ), Console(stderr=str(self.json_path) == "-"))
        raise SystemExit(exit_code(self.verdicts))


@contextmanager
def decided(json_path: Path | None, markdown: Path | None) -> Iterator[Decision]:
    """Write what is decided in the block, or the error that it ends with.

    Raises:
        StagebenchError: for any error, also one of stagebench itself: exit code 1 is a verdict.
    """
    require_writable(json_path)
    if markdown and not markdown.exists():  # at one that is there, click has looked
        require_writable(markdown)
    decision = Decision(json_path, markdown)
    try:
        yield decision
    except Exception as error:
        if isinstance(error, StagebenchError | OSError):
            reason = str(error)
        else:
            traceback.print_exc()
            reason = f"an error of stagebench itself, {type(error).__name__}: {' '.join(str(error).split())}"
        decision.verdicts = []
        with suppress(StagebenchError, OSError):  # the first error is the one to tell
            decision.write(reason)
        raise StagebenchError(reason) from error
    decision.write()
