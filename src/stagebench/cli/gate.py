"""`stagebench gate`: is the working tree slower than a revision? Measured side by side, on this machine, now."""

import secrets
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from stagebench.cli.commands import DecidingCommand
from stagebench.cli.output import Console
from stagebench.core import statistics
from stagebench.core.errors import GateError
from stagebench.core.json_files import write_json
from stagebench.core.machine import environment
from stagebench.core.machine.locks import locked, measurement
from stagebench.core.shown import teller
from stagebench.gate.limits import RULES_FILE, Rules, read_both
from stagebench.gate.runner.ab_runner import BLOCK, CLOCKS, ABPlan, ABRunner, Phases
from stagebench.gate.runner.fresh_process import Variant
from stagebench.gate.runner.worktrees import Worktrees, python_of_base, worktrees
from stagebench.gate.verdicts import Decision
from stagebench.suite.options import ROUNDS

_PAIRS = BLOCK // 2  # in a block


@click.command(name="gate", cls=DecidingCommand, params=[ROUNDS])
@click.option("--base", "revision", required=True, help="Revision that the working tree is compared with.")
@click.option("--blocks", type=click.IntRange(min=1), default=6, show_default=True, help=f"Of {BLOCK} processes.")
@click.option("--select", default="test_stage", show_default=True, help="Which benchmarks, as pytest's -k.")
@click.option("--clock", type=click.Choice(list(CLOCKS)), default="wall", show_default=True, help="See above.")
@click.option("--counters-only", is_flag=True, help="One process a side, nothing timed: exact, and quick.")
@click.option("--lockstep", is_flag=True, help="Both processes of a pair at once, taking turns round by round.")
@click.option("--seed", type=int, help="Of all orders; drawn and printed by default.")
@click.option("--base-python", type=click.Path(path_type=Path, exists=True, executable=True), help="Runs the base.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the runs of all processes.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- PYTEST ARGUMENTS]")
def command(
    decision: Decision, revision: str, seed: int | None, base_python: Path | None, out: Path | None, **given: Any
) -> None:
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
    console = Console(stderr=True)
    say = teller(console)
    plan = ABPlan(seed=secrets.randbelow(2**16) if seed is None else seed, **given)
    _require_enough_pairs(plan)
    folder = out or Path(".benchmarks", "gate", f"{datetime.now():%Y%m%d-%H%M%S}")
    held = locked(folder, "--out must be a folder that no other gate writes to")
    with measurement(say), worktrees(Path.cwd(), revision) as both, held:
        if any(folder.iterdir()):
            raise GateError(f"--out must be an empty folder, so that no two gates mix, got {folder}")
        decision.more = {"plan": asdict(plan), "base": both.commit, "head": both.head_commit, "dirty": both.dirty}
        rules, differ = read_both(both.base / RULES_FILE, both.head / RULES_FILE)
        decision.rules_differ += differ
        say("\n".join([*_head(both, plan, folder), *decision.about_rules()]))
        own = Path(sys.executable)
        python = base_python.absolute() if base_python else python_of_base(both.base, both.head, both.home, say)
        variants = {"base": Variant("base", both.base, python), "head": Variant("head", both.head, own)}
        changed = () if python == own else ("python", *environment.LIBRARIES)
        runner = ABRunner(variants, plan, folder, changed, console)
        decision.verdicts = Phases(runner, rules, decision, say).decide()
        write_json(folder / "decision.json", decision.as_json())


def _require_enough_pairs(plan: ABPlan) -> None:
    """Refuse, before anything runs, a plan that could not decide on any time."""
    least = statistics.least_pairs(Rules().alpha)
    if not plan.counters_only and plan.blocks * _PAIRS < least:
        raise GateError(
            f"--blocks must be at least {-(-least // _PAIRS)}, because a time takes {least} pairs of processes and "
            f"a block has {_PAIRS}, got {plan.blocks}; --counters-only needs none"
        )


def _head(both: Worktrees, plan: ABPlan, folder: Path) -> Iterator[str]:
    """Say what is about to be done, so that no confirmation looks like an afterthought."""
    head = f"{both.head_commit[:7]}{', changed' * both.dirty}"
    yield f"the working tree ({head}) against {both.commit[:7]}; orders of seed {plan.seed}; runs are kept in {folder}"
    if not plan.counters_only:
        yield (
            f"a process of each side to count, then {plan.blocks * BLOCK} to time, {plan.rounds} rounds each by "
            f"the {plan.clock} clock{', in lockstep' * plan.lockstep}, and as many again for what those do not clear"
        )
    if both.empty:
        yield f"submodules that are empty on both sides, as they are here: {', '.join(both.empty)}"
    if warning := environment.load_warning():
        yield warning
