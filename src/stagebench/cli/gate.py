"""`stagebench gate`: measure whether the working tree is slower than a revision, side by side on this machine."""

from pathlib import Path
from typing import Any

import click

from stagebench.cli.commands import FOLDER, DecidingCommand
from stagebench.cli.output import Console
from stagebench.gate.runner.ab_runner import BLOCK, CLOCKS
from stagebench.gate.runner.gate import gate
from stagebench.gate.verdicts import Decision
from stagebench.suite.options import POSITIVE, ROUNDS, option

_PYTHON = click.Path(path_type=Path, exists=True, executable=True)


@click.command(
    name="gate",
    cls=DecidingCommand,
    params=[
        ROUNDS,
        option("base", "Compare the working tree with this revision. Default: itself, see below.", dest="revision"),
        option("blocks", f"Time at most twice this many blocks of {BLOCK} processes. Default: 8 to 24.", kind=POSITIVE),
        option("budget", "Take at most this time, such as 90s or 5m. Default: no limit."),
        option("select", "Run these benchmarks, as pytest's -k. Default: those of pyproject.toml, or all."),
        option("clock", "Time with this clock, see above.", "wall", tuple(CLOCKS)),
        option("counters-only", "Only count, in one process per side.", default=False),
        option("lockstep", "Run both processes of a pair at once, in turns round by round.", default=False),
        option("seed", "Draw all orders with this seed. Default: drawn and printed.", kind=int),
        option("base-python", "Run the base with this interpreter. Default: this one, or a new one.", kind=_PYTHON),
        option("base-with", "Give the base this package, such as transformers==5.17.*. Default: as here.", ()),
        option("head-with", "Give the working tree this package, such as torch==2.12.*. Default: as here.", ()),
        option("out", "Keep the runs in this folder. Default: a new one in .benchmarks/gate/.", kind=FOLDER),
    ],
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- PYTEST ARGUMENTS]")
def command(decision: Decision, revision: str | None, **given: Any) -> None:
    """Compare the working tree with a revision.

    One process per side verifies and counts its work. Then fresh processes of both sides take turns, and times that
    they do not clear are measured again. On shared cores, --clock cpu leaves out the time of other processes, but also
    all waiting: for a disk, a GPU, a sleep(). With --lockstep a slow second of the machine slows both sides: one
    process of a pair waits while the other runs a round. It needs memory for both; under `taskset -c 0` they share a
    core.

    With --base-with or --head-with a side runs in an environment of its own: the packages that are named, what they
    need, and all else as it is here. It is made once, and kept. Without --base both sides are then the working tree,
    so that the packages alone are judged. What differs is printed first.

    Limits, tolerances and markers are those of the base, or the stricter of both sides. Other content, or another
    number of images or tokens, fails unless --allow-changed names its stage. Less work for the same content passes.

    The exit code is 0 for pass, 1 for regression or changed, 2 for not measured, 3 for inconclusive. --json and
    --markdown are written in each case.
    """
    gate(revision, decision=decision, console=Console(stderr=True), **given)
