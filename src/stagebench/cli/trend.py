"""`stagebench trend`: where a history of runs changed, and which commits that points at."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from stagebench.cli.output import refusals, write_json_to
from stagebench.core import stability
from stagebench.core.results import SCHEMA
from stagebench.core.shown import cell
from stagebench.gate.trend import (
    MIN_SIDE,
    Change,
    Series,
    StoredRun,
    bisect_command,
    read_history,
    recent_slowdowns,
    series_of,
)


@click.command(name="trend")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="- for standard output.",
)
@click.option("--recent", type=click.IntRange(min=1), help="Exit code 1 where a slowdown began in that many last runs.")
def command(folder: Path, json_path: Path | None, recent: int | None) -> None:
    """Look for changes in the runs that DIR holds, written by `pytest benchmarks --benchmark-json`.

    Runs are compared within an environment only. Exit code 0, but for --recent, which asks about that of the last run.
    """
    with refusals():
        history = read_history(folder)
        console = Console(stderr=str(json_path) == "-", highlight=False)
        looked = [(runs, series_of(runs), _unsteady(runs)) for runs in history.environments]
        for runs, series, unsteady in looked:
            _print_environment(console, runs, series, unsteady)
        for reason in history.unreadable.values():
            console.print(cell(f"left out: {reason}"), style="yellow")
        read = sum(map(len, history.environments))
        console.print(f"runs: {read}, environments: {len(looked)}, files left out: {len(history.unreadable)}")
        newest = max(looked, key=lambda each: each[0][-1].when)[1]
        slower = recent_slowdowns(newest, recent) if recent else []
        for each, _ in slower:
            console.print(cell(f"became slower of late: {_short(each)}"), style="red")
        if json_path:
            unreadable = {str(path): reason for path, reason in history.unreadable.items()}
            environments = [_as_json(*each) for each in looked]
            data = {"schema": SCHEMA, "environments": environments, "unreadable": unreadable}
            data["slower"] = [_change_as_json(each.benchmark, change) for each, change in slower]
            write_json_to(json_path, data)
    sys.exit(1 if slower else 0)


def _unsteady(runs: Sequence[StoredRun]) -> list[dict[str, Any]]:
    """The benchmarks of each run whose rounds drifted, or hold outliers."""
    found = []
    for run in runs:
        for name, seconds in run.rounds.items():
            drift, outliers = stability.drift(seconds), stability.outliers(seconds)
            if drift is not None or outliers:
                found.append({"run": str(run.path), "benchmark": name, "drift": drift, "outliers": outliers})
    return found


def _print_environment(
    console: Console, runs: Sequence[StoredRun], series: Sequence[Series], unsteady: Sequence[dict[str, Any]]
) -> None:
    here = runs[0].identity
    console.print(cell(f"{here['device']}, {here['profile']}, {here['dtype']}: {_span(runs)}"), style="bold")
    if len(runs) < 2 * MIN_SIDE:
        console.print(f"a change is looked for in {2 * MIN_SIDE} runs or more")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("benchmark", overflow="fold")
    for column in ("runs", "last, ms", "noise", "changes", "outliers"):
        table.add_column(column, justify="right")
    for each in series:
        noise = "-" if each.noise is None else f"{each.noise:.1%}"
        changes = ", ".join(f"{change.ratio - 1:+.1%}" for change in each.changes)
        last = f"{each.seconds[-1] * 1e3:.2f}"
        table.add_row(cell(_short(each)), str(len(each.runs)), last, noise, changes, str(len(each.outliers)))
    console.print(table)
    for each in series:
        for change in each.changes:
            _print_change(console, each.benchmark, change)
    _print_unsteady(console, runs[-1], unsteady)


def _span(runs: Sequence[StoredRun]) -> str:
    if len(runs) == 1:
        return f"1 run, {runs[0].when:%Y-%m-%d}"
    return f"{len(runs)} runs, {runs[0].when:%Y-%m-%d} to {runs[-1].when:%Y-%m-%d}"


def _short(series: Series) -> str:
    return series.benchmark.split("::")[-1]


def _print_change(console: Console, benchmark: str, change: Change) -> None:
    style = "red" if change.ratio > 1 else "green"
    name, between = benchmark.split("::")[-1], f"{_commit(change.good)} and {_commit(change.bad)}"
    console.print(
        cell(
            f"{name}: {change.before * 1e3:.2f} to {change.after * 1e3:.2f} ms ({change.ratio - 1:+.1%}) "
            f"on {change.at.when:%Y-%m-%d}, between {between}"
        ),
        style=style,
    )
    if change.good.dirty or change.bad.dirty:
        console.print("  made of code that was not committed: the range is not the whole truth", style="yellow")
    asked = bisect_command(benchmark, change)
    if asked:
        console.print(cell(asked), soft_wrap=True)
    elif change.good.commit == change.bad.commit:
        console.print("  both sides are of one commit: the machine changed, or its noise is not white")


def _commit(run: StoredRun) -> str:
    return (run.commit or "no commit")[:12]


def _print_unsteady(console: Console, last: StoredRun, unsteady: Sequence[dict[str, Any]]) -> None:
    of_last = [each for each in unsteady if each["run"] == str(last.path)]
    for each in of_last:
        drift = "" if each["drift"] is None else f", drifted {each['drift']:+.1%}"
        outliers = f", outliers in rounds {', '.join(map(str, each['outliers']))}" if each["outliers"] else ""
        console.print(cell(f"last run, {each['benchmark'].split('::')[-1]}{drift}{outliers}"), style="yellow")
    if earlier := len(unsteady) - len(of_last):
        console.print(f"{earlier} benchmarks of earlier runs drifted or hold outliers; --json names them")


def _as_json(runs: Sequence[StoredRun], series: Sequence[Series], unsteady: Sequence[dict[str, Any]]) -> dict[str, Any]:
    stored = [{"path": str(run.path), "when": run.when.isoformat(), "commit": run.commit} for run in runs]
    return {
        "identity": runs[0].identity,
        "runs": stored,
        "series": [_series_as_json(each) for each in series],
        "unsteady": list(unsteady),
    }


def _series_as_json(series: Series) -> dict[str, Any]:
    return {
        "benchmark": series.benchmark,
        "seconds": series.seconds,
        "noise": series.noise,
        "changes": [_change_as_json(series.benchmark, change) for change in series.changes],
        "outliers": [str(run.path) for run in series.outliers],
    }


def _change_as_json(benchmark: str, change: Change) -> dict[str, Any]:
    return {
        "benchmark": benchmark,
        "at": str(change.at.path),
        "when": change.at.when.isoformat(),
        "before": change.before,
        "after": change.after,
        "ratio": change.ratio,
        "good": change.good.commit,
        "bad": change.bad.commit,
        "dirty": change.good.dirty or change.bad.dirty,
        "bisect": bisect_command(benchmark, change),
    }
