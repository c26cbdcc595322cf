"""`stagebench summary`: print a gate's decision from an untrusted file."""

import sys
from pathlib import Path

import click

from stagebench.gate.stored_decision import read_decision
from stagebench.gate.verdicts import exit_code
from stagebench.suite.options import PATH


@click.command(name="summary")
@click.argument("path", metavar="VERDICTS", type=PATH)
def command(path: Path) -> None:
    """Print VERDICTS, written by --json of `gate` or `compare`, as the Markdown table of a comment.

    The file is not trusted: only numbers, and names in plain letters, are printed, but no sentences.

    The exit code is that of the verdicts. For a file of another kind it is 2, and nothing is printed.
    """
    decision = read_decision(path)
    click.echo(decision.as_markdown(), nl=False)
    sys.exit(exit_code(decision.verdicts))
