"""`stagebench trend`: where a history of runs changed, and which commits that points at."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from stagebench.cli.options import json_option
from stagebench.cli.output import Console, refusals, write_json_to
from stagebench.core.results import Results, by_name, short_name, versioned
from stagebench.core.shown import cell
from stagebench.core.stability import unsteady
from stagebench.core.tables import CHANGE, COUNT, MS, PERCENT, WORDS, Table, show
from stagebench.gate.trend import MIN_SIDE, Change, Series, began, read_history, recent_slowdowns, series_of


@click.command(name="trend")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@json_option
@click.option("--recent", type=click.IntRange(min=1), help="Exit code 1 where a slowdown began in that many last runs.")
def command(folder: Path, json_path: Path | None, recent: int | None) -> None:
    """Look for changes in the runs that DIR holds, written by `pytest benchmarks --benchmark-json`.

    Runs are compared within an environment only. Exit code 0, but for --recent, which asks about that of the last run.
    """
    with refusals():
        environments, unreadable = read_history(folder)
        console = Console(stderr=str(json_path) == "-", highlight=False)
        looked = [(runs, series_of(runs)) for runs in environments]
        for runs, series in looked:
            _print_environment(console, runs, series)
        for reason in unreadable.values():
            console.print(cell(f"left out: {reason}"), style="yellow", soft_wrap=True)
        read = sum(map(len, environments))
        console.print(f"runs: {read}, environments: {len(looked)}, files left out: {len(unreadable)}")
        newest = max(looked, key=lambda each: began(each[0][-1]))[1]
        slower = recent_slowdowns(newest, recent) if recent else []
        for change in slower:
            console.print(cell(f"became slower of late: {short_name(change.benchmark)}"), style="red", soft_wrap=True)
        if json_path:
            kept = [
                {"identity": runs[0]["machine_info"], "runs": len(runs), "series": list(map(asdict, series))}
                for runs, series in looked
            ]
            data = {"environments": kept, "unreadable": unreadable, "slower": list(map(asdict, slower))}
            write_json_to(json_path, versioned("report", data))
    sys.exit(1 if slower else 0)


def _print_environment(console: Console, runs: Sequence[Results], series: Sequence[Series]) -> None:
    here = runs[0]["machine_info"]
    days = " to ".join(dict.fromkeys(run["datetime"][:10] for run in (runs[0], runs[-1])))
    counted = f"{len(runs)} run{'s' * (len(runs) > 1)}, {days}"
    console.print(cell(f"{here['device']}, {here['profile']}, {here['dtype']}: {counted}"), style="bold")
    if len(runs) < 2 * MIN_SIDE:
        console.print(f"a change is looked for in {2 * MIN_SIDE} runs or more")
    rows = []
    for each in series:
        changes = ", ".join(CHANGE.write(change.ratio - 1) for change in each.changes)
        row = len(each.seconds), each.seconds[-1], each.noise, changes, len(each.outliers)
        rows.append((short_name(each.benchmark), *row))
    numbers = ("runs", COUNT), ("last", MS), ("noise", PERCENT), ("changes", CHANGE), ("outliers", COUNT)
    show(Table("", (("benchmark", WORDS), *numbers), rows), console)
    for change in (change for each in series for change in each.changes):
        _print_change(console, change)
    for found in unsteady({name: b["stats"].get("data") or [] for name, b in by_name(runs[-1]).items()}):
        console.print(cell(f"rounds of the last run: {found}"), style="yellow", soft_wrap=True)


def _print_change(console: Console, change: Change) -> None:
    good, bad = ((commit or "no commit")[:12] for commit in (change.good, change.bad))
    step = f"{change.before * 1e3:.2f} to {change.after * 1e3:.2f} ms ({change.ratio - 1:+.1%})"
    console.print(
        cell(f"{short_name(change.benchmark)}: {step} on {change.when[:10]}, between {good} and {bad}"),
        style="red" if change.ratio > 1 else "green",
    )
    if change.dirty:
        console.print("  made of code that was not committed: the range is not the whole truth", style="yellow")
    if change.bisect:
        console.print(cell(change.bisect), soft_wrap=True)
    elif change.good == change.bad:
        console.print("  both sides are of one commit: the machine changed, or its noise is not white")
