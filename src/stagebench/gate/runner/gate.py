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
from stagebench.gate.runner.environments import Say, differing_packages, python_of_base, python_with
from stagebench.gate.runner.fresh_process import Variant
from stagebench.gate.runner.phases import Phases, least_blocks
from stagebench.gate.runner.worktrees import Worktrees, worktrees
from stagebench.gate.verdicts import Decision


def gate(
    base: str | None = None,
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
    base_with: Sequence[str] = (),
    head_with: Sequence[str] = (),
    out: str | PathLike[str] | None = None,
    arguments: Sequence[str] = (),
    repository: str | PathLike[str] = ".",
    decision: Decision | None = None,
    console: Console | None = None,
) -> Decision:
    """Compare the working tree of a repository with the revision `base`, and return the decision.

    With `base_with` or `head_with` a side has packages in the versions that these requirements name. Without a `base`
    the code of both sides is then the working tree's.

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
    if not (base or base_with or head_with):
        raise GateError("--base must name a revision, unless --base-with or --head-with names packages, got none")
    if base_python and base_with:
        raise GateError(f"--base-python must be complete, got {', '.join(base_with)} to install too")
    folder = Path(out or Path(".benchmarks", "gate", f"{datetime.now():%Y%m%d-%H%M%S}"))
    held = locked(folder, "--out must be a folder that no other gate writes to")
    with measurement(say), worktrees(Path(repository), base) as both, held:
        if any(folder.iterdir()):
            raise GateError(f"--out must be an empty folder, so that no two gates mix, got {folder}")
        rules, differ = read_both(both.base / RULES_FILE, both.head / RULES_FILE)
        plan = plan if select is not None else replace(plan, select=rules.select)
        decision.more = {"plan": asdict(plan), "base": both.commit, "head": both.head_commit, "dirty": both.dirty}
        decision.rules_differ += differ
        pythons = _pythons(both, base_python, base_with, head_with, say)
        if base_with or head_with:
            packages = decision.more["packages"] = differing_packages(pythons["base"], pythons["head"])
            say(f"what differs: {_versions(packages)}")
        say("\n".join([*_head(both, plan, folder), *decision.about_rules()]))
        with progress(console) as begin:
            runner = ABRunner(_variants(both, pythons), plan, folder, _changed(pythons), begin)
            decision.verdicts = Phases(runner, rules, decision, say, began).decide()
        write_json(folder / "decision.json", decision.as_json())
    return decision


def _pythons(
    both: Worktrees, base: Path | None, base_with: Sequence[str], head_with: Sequence[str], say: Say
) -> dict[str, Path]:
    """Return the interpreter of each side."""
    if base is not None:
        of_base = base.absolute()
    elif base_with:
        of_base = python_with(base_with, both.home, say)
    else:
        of_base = python_of_base(both.base, both.head, both.home, say)
    return {"base": of_base, "head": python_with(head_with, both.home, say)}


def _versions(packages: dict[str, dict[str, str | None]]) -> str:
    told = (f"{name} {each['base'] or 'absent'} -> {each['head'] or 'absent'}" for name, each in packages.items())
    return ", ".join(told) or "nothing, both environments hold the same packages"


def _variants(both: Worktrees, pythons: dict[str, Path]) -> dict[str, Variant]:
    roots = {"base": both.base, "head": both.head}
    return {name: Variant(name, root, pythons[name], both.imports[name], both.not_from) for name, root in roots.items()}


def _changed(pythons: dict[str, Path]) -> tuple[str, ...]:
    """Return the keys of the environment that may differ where a side has its own interpreter."""
    return () if {*pythons.values()} == {Path(sys.executable)} else ("python", *environment.LIBRARIES)


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
    base = "itself" if both.same else both.commit[:7]
    yield f"the working tree ({head}) against {base}; orders of seed {plan.seed}; runs are kept in {folder}"
    if not plan.counters_only:
        many = f"up to {2 * plan.blocks * BLOCK} to time" if plan.blocks else "as many to time as needed"
        many += f" within {duration(plan.budget)}" if plan.budget is not None else ""
        yield (
            f"a process of each side to count, then {many}, {plan.rounds} rounds each by the {plan.clock} clock"
            f"{', in lockstep' * plan.lockstep}, until all is decided, most of them for what a first look leaves open"
        )
    if both.generated:
        yield f"modules that git ignores are copied from here to both sides: {', '.join(both.generated)}"
    if both.empty:
        yield f"submodules that are empty here are empty on both sides: {', '.join(both.empty)}"
    if warning := environment.load_warning():
        yield warning
