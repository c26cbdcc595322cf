"""`stagebench summary`: what a gate decided, out of a file that anybody may have written."""

import sys
from pathlib import Path

import click

from stagebench.cli.commands import PATH
from stagebench.gate.stored_decision import read_decision
from stagebench.gate.verdicts import exit_code


@click.command(name="summary")
@click.argument("path", metavar="VERDICTS", type=PATH)
def command(path: Path) -> None:
    """Print VERDICTS, written by --json of `gate` or `compare`, as the Markdown table of a comment.

    The file may come from anybody: only numbers, and names in plain letters, are printed, and no sentences.

    The exit code is that of the verdicts. A file of another kind is refused: exit code 2, and nothing is printed.
    """
    decision = read_decision(path)
    click.echo(decision.as_markdown(), nl=False)
    sys.exit(exit_code(decision.verdicts))
