"""`stagebench gate`: is the working tree slower than a revision? Measured side by side, on this machine, now."""

from pathlib import Path
from typing import Any

import click

from stagebench.cli.commands import DecidingCommand
from stagebench.cli.output import Console
from stagebench.gate.runner.ab_runner import BLOCK, CLOCKS
from stagebench.gate.runner.gate import gate
from stagebench.gate.verdicts import Decision
from stagebench.suite.options import ROUNDS


@click.command(name="gate", cls=DecidingCommand, params=[ROUNDS])
@click.option("--base", "revision", required=True, help="Revision that the working tree is compared with.")
@click.option(
    "--blocks", type=click.IntRange(min=1), help=f"At most, of {BLOCK} processes; default: 6 to 24, by their time."
)
@click.option("--budget", help="Time that all may take, as 90s or 5m; then as many blocks as fit.")
@click.option("--select", help="Which benchmarks, as pytest's -k; default: what pyproject.toml says, or all.")
@click.option("--clock", type=click.Choice(list(CLOCKS)), default="wall", show_default=True, help="See above.")
@click.option("--counters-only", is_flag=True, help="One process a side, nothing timed: exact, and quick.")
@click.option("--lockstep", is_flag=True, help="Both processes of a pair at once, taking turns round by round.")
@click.option("--seed", type=int, help="Of all orders; drawn and printed by default.")
@click.option("--base-python", type=click.Path(path_type=Path, exists=True, executable=True), help="Runs the base.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the runs of all processes.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- PYTEST ARGUMENTS]")
def command(decision: Decision, revision: str, **given: Any) -> None:
    """Compare the working tree, as it is, with a revision.

    A process a side verifies that it does the work of generate(), and counts it; then fresh processes of both sides
    take turns. What they do not clear is measured once more. On cores shared with others, --clock cpu leaves out the
    time that those took away, and with it all waiting: for a disk, a GPU, a sleep(). --lockstep lets what slows the
    machine down for a second slow both sides: of a pair one waits while the other has a round. It takes the memory of
    both; under `taskset -c 0` they use the same core.

    Limits, tolerances and markers are those of the base, or the stricter of both sides. Other content, or another
    number of images or tokens, fails until --allow-changed lets it pass; less work for the same content passes.

    Exit code 0 pass, 1 regression or changed, 2 could not be measured, 3 inconclusive. --json and --markdown are
    written in each case.
    """
    gate(revision, decision=decision, console=Console(stderr=True), **given)
