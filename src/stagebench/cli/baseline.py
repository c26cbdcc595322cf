"""`stagebench baseline`: what is kept, and the only way it changes."""

from pathlib import Path

import click

from stagebench.cli.options import options
from stagebench.cli.output import refusals
from stagebench.gate import baseline
from stagebench.suite.options import BASELINES


@click.group(name="baseline")
def command() -> None:
    """Stored baselines."""


@command.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--reason", required=True, help="Why this run replaces what was there; kept in the file.")
@click.option("--partial", is_flag=True, help="Take a run of a part of the suite.")
@options(BASELINES)
def accept(run_path: Path, reason: str, partial: bool, baselines: Path) -> None:
    """Make RUN, written by `pytest benchmarks --benchmark-json`, the baseline of its environment."""
    with refusals():
        click.echo(f"stored {baseline.accept(run_path, baselines, reason, partial).resolve()}")
