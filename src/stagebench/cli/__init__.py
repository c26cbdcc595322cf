"""The command line; a command is imported when it is called, because most of them need not wait for torch."""

import sys
from io import TextIOWrapper
from pkgutil import resolve_name
from typing import Any, cast

import click

from stagebench import __version__
from stagebench.cli.output import refusals

COMMANDS = {
    "run": ("run:command", "Send one sample through the models and print their stages."),
    "verify": ("run:verify_command", "Check what the times rest on: same tokens, same work."),
    "models": ("models:command", "List the registered models, and what each can do."),
    "bench": ("bench:command", "Run the benchmarks in fresh processes."),
    "baseline": ("baseline:command", "List, show, compare, accept and drop stored baselines."),
    "compare": ("stored:compare_command", "Compare runs that are already stored."),
    "summary": ("summary:command", "Print what a gate decided, from its JSON, as a comment."),
    "gate": ("gate:command", "Compare the working tree, as it is, with a revision."),
    "init": ("init:command", "Write workflows, a benchmark and limits into this repository."),
    "trend": ("stored:trend_command", "Look for changes in a folder of runs."),
    "analyze": ("analyze:command", "Send many samples through the models, and report."),
    "explain": ("explain:command", "Say why one model is faster than another."),
    "doctor": ("doctor:command", "Look at what makes times differ on this machine."),
    "convert": ("stored:convert_command", "Write an event recording as a folder of columns."),
}
"""Where each is, and its line, in the order of `stagebench --help`."""


class _Commands(click.Group):
    """Imports a command when it is called, and not for a list of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return cast(click.Command, resolve_name(f"{__name__}.{COMMANDS[name][0]}")) if name in COMMANDS else None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line; that a page of help can't be written is an error too."""
        with refusals():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command. Letters that a terminal lacks are written out; output that can't be written is no verdict."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        with refusals():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any: that takes seconds where one needs torch."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=_Commands)
@click.version_option(__version__)
def main() -> None:
    """Time every stage of a vision-language model on its own."""
