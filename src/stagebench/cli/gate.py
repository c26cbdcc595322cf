"""`stagebench gate`: is the working tree slower than a revision? Measured side by side, on this machine, now."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from stagebench import baseline, environment, gate, gate_report
from stagebench.checkouts import Checkouts, checkouts
from stagebench.cli.output import append_to, markdown_option, refusals, require_writable, tidy_stop, write_json_to
from stagebench.errors import GateError
from stagebench.gate_counters import judge_counters
from stagebench.gate_rules import Rules, read_rules
from stagebench.gate_runs import is_reference
from stagebench.interleave import CLOCKS, PROCESSES, Arm, Plan, Recorder
from stagebench.interpreter import interpreter_of
from stagebench.json_files import write_json
from stagebench.locks import claimed, measurement
from stagebench.verdict import Verdict, confirmed, exit_code, undecided


@click.command(name="gate")
@click.option("--base", "revision", required=True, help="Revision that the working tree is compared with.")
@click.option("--blocks", type=click.IntRange(min=1), default=6, show_default=True, help=f"Of {PROCESSES} processes.")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Of a benchmark, by process.")
@click.option("--select", default="test_stage", show_default=True, help="Which benchmarks, as pytest's -k.")
@click.option("--clock", type=click.Choice(list(CLOCKS)), default="wall", show_default=True, help="See above.")
@click.option("--cpu", type=click.IntRange(min=0), help="Keep what is timed on this core.")
@click.option("--counters-only", is_flag=True, help="One process a side, nothing timed: exact, and quick.")
@click.option("--in-turns", is_flag=True, help="Both processes of a pair at once, taking turns round by round.")
@click.option("--seed", type=int, help="Of all orders; drawn and printed by default.")
@click.option("--base-python", type=click.Path(path_type=Path, exists=True), help="Interpreter of the base.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the runs of all processes.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Also write the decision there; - for standard output.",
)
@markdown_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- PYTEST ARGUMENTS]")
def command(
    revision: str,
    cpu: int | None,
    in_turns: bool,
    seed: int | None,
    base_python: Path | None,
    out: Path | None,
    json_path: Path | None,
    markdown: Path | None,
    **given: Any,
) -> None:
    """Compare the working tree, as it is, with a revision.

    A process of each side proves that it does the work of generate(), and counts it; then fresh processes of both sides
    take turns. What they do not clear is measured once more. On cores shared with others, --clock cpu leaves out the
    time that those took away, and with it all waiting: for a disk, a GPU, a sleep(). --in-turns lets what slows the
    machine down for a second slow both sides: of a pair one waits while the other has a round. It takes the memory of
    both; with --cpu they use the same core, and one thread each.

    Exit code 0 pass, 1 regression, 2 could not be measured, 3 inconclusive.
    """
    console = Console(stderr=True)
    say = partial(console.print, markup=False, highlight=False)  # brackets are part of a benchmark's name
    with refusals(), tidy_stop("there was a decision"):
        require_writable(json_path)
        if markdown and not markdown.exists():  # at one that is there, click has looked
            require_writable(markdown)
        _keep_to(cpu, in_turns)
        plan = Plan(seed=secrets.randbelow(2**16) if seed is None else seed, in_turns=in_turns, cpu=cpu, **given)
        with (
            measurement(say),
            checkouts(Path.cwd(), revision) as both,
            _claimed(out or _dated(both)) as folder,
            Progress(console=console) as progress,
        ):
            say("\n".join(_head(both, plan, folder)))
            arms = _arms(both, base_python, say)
            recorder = Recorder(
                arms, plan, folder, lambda groups: progress.track(groups, description=groups[0][0].phase)
            )
            changed = () if arms["base"].python == arms["head"].python else ("python", *environment.LIBRARIES)
            verdicts = decide(recorder, read_rules(both.head / "pyproject.toml"), changed, say)
            commits = {"base": both.commit, "head": both.head_commit}
            decision = gate_report.to_json(verdicts) | {"plan": asdict(plan)} | commits
            write_json(folder / "decision.json", decision | {"dirty": both.dirty})
        if json_path:
            write_json_to(json_path, decision)
        if markdown:
            append_to(markdown, gate_report.to_markdown(verdicts))
    Console(stderr=str(json_path) == "-").print(gate_report.to_table(verdicts))
    sys.exit(exit_code(verdicts))


def decide(recorder: Recorder, rules: Rules, changed: Collection[str], say: Callable[[str], None]) -> list[Verdict]:
    """Count, then time, then time once more what the first look did not clear.

    Args:
        recorder: runs the processes.
        rules: thresholds, floors and error rates.
        changed: keys of the environment that are part of the change.
        say: told of such a change, and of the confirmation.

    Raises:
        GateError: where a process failed, ran nothing, or in another environment.
    """
    base, head = recorder.count()
    gate.require_comparable(base, head, changed)
    if changed:
        mine, others = ({k: run[0]["machine_info"].get(k) for k in changed} for run in (head, base))
        say(f"part of the change: {'; '.join(baseline.differences(mine, others)) or 'nothing that is measured'}")
    counters = judge_counters(base, head, rules)
    times: list[Verdict] = []
    if not recorder.plan.counters_only:
        first = recorder.time("first", ["benchmarks"])
        gate.require_comparable(*first, changed)
        base, head = [*base, *first[0]], [*head, *first[1]]
        times = gate.judge_times(*first, rules, counters)
        if again := undecided(times):
            say(f"not cleared, so measured once more: {', '.join(name.split('::')[-1] for name in again)}")
            reference = [b["fullname"] for b in base[0]["benchmarks"] if is_reference(b["fullname"])]
            second = recorder.time("confirmation", [*again, *reference])
            gate.require_comparable(*second, changed)
            times = confirmed(times, gate.judge_times(*second, rules, counters))
    return [*gate.judge_presence(base, head), *counters, *times]


def _arms(both: Checkouts, base_python: Path | None, say: Callable[[str], None]) -> dict[str, Arm]:
    python = base_python.absolute() if base_python else interpreter_of(both.base, both.head, both.home, say)
    return {"base": Arm("base", both.base, python), "head": Arm("head", both.head, Path(sys.executable))}


def _head(both: Checkouts, plan: Plan, folder: Path) -> list[str]:
    """Say what is about to be done, so that no confirmation looks like an afterthought."""
    lines = [
        f"the working tree ({both.head_commit[:7]}{', changed' if both.dirty else ''}) against {both.commit[:7]}; "
        f"orders of seed {plan.seed}; runs are kept in {folder}"
    ]
    if not plan.counters_only:
        lines.append(
            f"a process of each side to count, then {plan.blocks * PROCESSES} to time, {plan.rounds} rounds each by "
            f"the {plan.clock} clock{', in turns' * plan.in_turns}, and as many once more for what those do not clear"
        )
    return [*lines, *filter(None, [environment.load_warning()])]


def _dated(both: Checkouts) -> Path:
    return Path(".benchmarks", "gate", f"{datetime.now():%Y%m%d-%H%M%S}-{both.commit[:7]}")


@contextmanager
def _claimed(folder: Path) -> Iterator[Path]:
    """Hold an empty folder for this gate alone."""
    with claimed(folder, "--out must be a folder that no other gate writes to"):
        if any(folder.iterdir()):
            raise GateError(f"--out must be an empty folder, so that no two gates mix, got {folder}")
        yield folder


def _keep_to(cpu: int | None, in_turns: bool) -> None:
    """Keep this process and those that it starts on one core; those that take turns go there for their first turn."""
    if cpu is None:
        return
    all_cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {cpu})
    except (OSError, OverflowError) as error:
        raise GateError(f"--cpu must be a core of this machine, got {cpu}") from error
    if in_turns:
        os.sched_setaffinity(0, all_cores)
