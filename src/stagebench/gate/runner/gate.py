"""A whole gate, for programs and for the command: copy, count, time in turns, and judge both sides."""

import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from os import PathLike
from pathlib import Path

from rich.console import Console

from stagebench.core import statistics
from stagebench.core.errors import GateError
from stagebench.core.json_files import write_json
from stagebench.core.machine import environment
from stagebench.core.machine.locks import locked, measurement
from stagebench.core.shown import duration, progress, teller
from stagebench.core.stages import STAGE_NAMES
from stagebench.gate.limits import RULES_FILE, Rules, read_both, seconds_of
from stagebench.gate.runner.ab_runner import BLOCK, CLOCKS, PAIRS, ABPlan, ABRunner
from stagebench.gate.runner.fresh_process import Variant
from stagebench.gate.runner.phases import Phases, least_blocks
from stagebench.gate.runner.worktrees import Worktrees, python_of_base, worktrees
from stagebench.gate.verdicts import Decision


def gate(
    base: str,
    *,
    select: str | None = None,
    blocks: int | None = None,
    rounds: int = 10,
    clock: str = "wall",
    budget: str | None = None,
    counters_only: bool = False,
    lockstep: bool = False,
    seed: int | None = None,
    allow_changed: Sequence[str] = (),
    base_python: Path | None = None,
    out: str | PathLike[str] | None = None,
    arguments: Sequence[str] = (),
    repository: str | PathLike[str] = ".",
    decision: Decision | None = None,
    console: Console | None = None,
) -> Decision:
    """Compare the working tree of a repository with the revision `base`, and return the decision.

    Options have the names of `stagebench gate`; `arguments` are further ones of pytest. Progress goes to `console`, by
    default nowhere. A given `decision` is filled, so that it holds what was known before an error. Raise
    StagebenchError where a process failed, ran nothing, or ran in another environment.

    >>> stagebench.gate("HEAD", counters_only=True).headline()
    'stagebench gate: pass (2 pass)'
    """
    began = time.monotonic()
    console, decision = console or Console(quiet=True), decision or Decision(allowed=tuple(allow_changed))
    say, number = teller(console), secrets.randbelow(2**16) if seed is None else seed
    limit = None if budget is None else seconds_of(budget, "--budget")
    plan = ABPlan(blocks, rounds, select or "", clock, number, counters_only, lockstep, tuple(arguments), limit)
    _require_possible(plan, decision)
    folder = Path(out or Path(".benchmarks", "gate", f"{datetime.now():%Y%m%d-%H%M%S}"))
    held = locked(folder, "--out must be a folder that no other gate writes to")
    with measurement(say), worktrees(Path(repository), base) as both, held:
        if any(folder.iterdir()):
            raise GateError(f"--out must be an empty folder, so that no two gates mix, got {folder}")
        rules, differ = read_both(both.base / RULES_FILE, both.head / RULES_FILE)
        plan = plan if select is not None else replace(plan, select=rules.select)
        decision.more = {"plan": asdict(plan), "base": both.commit, "head": both.head_commit, "dirty": both.dirty}
        decision.rules_differ += differ
        say("\n".join([*_head(both, plan, folder), *decision.about_rules()]))
        python = base_python.absolute() if base_python else python_of_base(both.base, both.head, both.home, say)
        with progress(console) as begin:
            runner = ABRunner(_variants(both, python), plan, folder, _changed(python), begin)
            decision.verdicts = Phases(runner, rules, decision, say, began).decide()
        write_json(folder / "decision.json", decision.as_json())
    return decision


def _variants(both: Worktrees, python_of_base: Path) -> dict[str, Variant]:
    sides = {"base": (both.base, python_of_base), "head": (both.head, Path(sys.executable))}
    return {name: Variant(name, *side, both.imports[name], both.not_from) for name, side in sides.items()}


def _changed(python_of_base: Path) -> tuple[str, ...]:
    """Return the keys of the environment that may differ where each side has its own interpreter."""
    return () if python_of_base == Path(sys.executable) else ("python", *environment.LIBRARIES)


def _require_possible(plan: ABPlan, decision: Decision) -> None:
    """Refuse unknown stages and clocks, and a plan that could not decide on any time, before anything runs."""
    if unknown := [each for each in decision.allowed if each not in STAGE_NAMES]:
        raise GateError(f"allow_changed must be of {', '.join(STAGE_NAMES)}, got {', '.join(unknown)}")
    if plan.clock not in CLOCKS:
        raise GateError(f"the clock must be one of {', '.join(CLOCKS)}, got {plan.clock!r}")
    least = least_blocks(Rules().alpha)
    if not plan.counters_only and plan.blocks and plan.blocks < least:
        raise GateError(
            f"--blocks must be at least {least}, because a time needs {statistics.least_pairs(Rules().alpha)} pairs of "
            f"processes and a block has {PAIRS}, got {plan.blocks}; --counters-only needs none"
        )


def _head(both: Worktrees, plan: ABPlan, folder: Path) -> Iterator[str]:
    """Yield the plan in lines, the confirmation included, before anything runs."""
    head = f"{both.head_commit[:7]}{', changed' * both.dirty}"
    yield f"the working tree ({head}) against {both.commit[:7]}; orders of seed {plan.seed}; runs are kept in {folder}"
    if not plan.counters_only:
        many = f"up to {plan.blocks * BLOCK} to time" if plan.blocks else "as many to time as needed"
        many += f" within {duration(plan.budget)}" if plan.budget is not None else ""
        yield (
            f"a process of each side to count, then {many}, {plan.rounds} rounds each by the {plan.clock} clock"
            f"{', in lockstep' * plan.lockstep}, and as many again for what those do not clear, until all is decided"
        )
    if both.generated:
        yield f"modules that git ignores are copied from here to both sides: {', '.join(both.generated)}"
    if both.empty:
        yield f"submodules that are empty here are empty on both sides: {', '.join(both.empty)}"
    if warning := environment.load_warning():
        yield warning
