"""The command line. Each command is imported when it is called, because most don't need torch."""

import sys
from io import TextIOWrapper
from pkgutil import resolve_name
from typing import Any, cast

import click

from stagebench import __version__
from stagebench.cli.output import refusals

COMMANDS = {
    "run": ("run:command", "Send one sample through the models and print their stages."),
    "verify": ("run:verify_command", "Check the tokens and the work of the stages."),
    "models": ("models:command", "List the registered models, their sizes and their backends."),
    "bench": ("bench:command", "Run the benchmarks in fresh processes."),
    "baseline": ("baseline:command", "List, show, compare, accept and drop stored baselines."),
    "compare": ("stored:compare_command", "Compare stored runs."),
    "summary": ("summary:command", "Print a gate's decision from its JSON, as a comment in Markdown."),
    "gate": ("gate:command", "Compare the working tree with a revision."),
    "bisect": ("bisect:command", "Find the release of a package that made the working tree slower."),
    "matrix": ("matrix:command", "Compare models, versions, engines and backends by one plan."),
    "init": ("init:command", "Write workflows, a benchmark and limits into this repository."),
    "trend": ("stored:trend_command", "Look for changes in a folder of runs."),
    "analyze": ("analyze:command", "Measure many samples, and write a report."),
    "explain": ("explain:command", "Explain why one model is faster than another."),
    "doctor": ("doctor:command", "Check whether this machine is fit for timing."),
    "convert": ("stored:convert_command", "Write an event recording as a folder of columns."),
}
"""The place and the line of each command, in the order of `stagebench --help`."""


class _Commands(click.Group):
    """Imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return cast(click.Command, resolve_name(f"{__name__}.{COMMANDS[name][0]}")) if name in COMMANDS else None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line; failing to print a page of help is an error too."""
        with refusals():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command. Escape characters that a terminal lacks; output that can't be written is not a verdict."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        with refusals():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them, which takes seconds where one needs torch."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=_Commands)
@click.version_option(__version__)
def main() -> None:
    """Time every stage of a vision-language model separately."""
