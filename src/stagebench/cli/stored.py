"""Commands on existing files, all without torch: `stagebench compare`, `trend`, `convert`."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from stagebench.cli.commands import HTML, JSON, DecidingCommand
from stagebench.cli.output import Console, write_json_to
from stagebench.core.errors import GateError
from stagebench.core.json_files import write_text
from stagebench.core.places import Place
from stagebench.core.results import NAMING, read_at, short_name, versioned
from stagebench.core.settings import LoadSettings
from stagebench.core.shown import CHANGE, COUNT, MS, PERCENT, WORDS, Table, cell, progress, show
from stagebench.core.statistics import unsteady
from stagebench.gate import decide
from stagebench.gate.limits import RULES_FILE, read_rules
from stagebench.gate.stored_decision import read_decision
from stagebench.gate.trend import MIN_SIDE, Change, Run, Series, read_history, series_of
from stagebench.gate.trend_page import to_html
from stagebench.gate.verdicts import Decision
from stagebench.media.events.npy import require_free, write_folder
from stagebench.media.events.recordings import load_event_arrays, size_of_recording
from stagebench.suite.options import PATH, PLACE, POSITIVE, TIME_UNIT, option


@click.command(
    name="compare",
    cls=DecidingCommand,
    params=[
        option("base", "Add a run, or a folder of runs, of the base.", (), PATH, dest="bases"),
        option("head", "Add the same of the head; the first is paired with the first base.", (), PATH, dest="heads"),
        option("config", "Read the limits from this file. Default: pyproject.toml, if any.", kind=PATH),
    ],
)
@click.argument("paths", metavar="[BASE HEAD]", nargs=-1, type=PATH)
def compare_command(
    decision: Decision,
    paths: tuple[Path, ...],
    bases: tuple[Path, ...],
    heads: tuple[Path, ...],
    config: Path | None,
) -> None:
    """Compare runs that `pytest benchmarks --benchmark-json` wrote.

    BASE and HEAD are each a run, or a folder of runs: one process per file, paired in the order of their names. Results
    of `stagebench bench`, and baselines of them, hold several processes. Counters decide between two runs. Times need
    several processes per side, best interleaved as `stagebench gate` runs them.

    Each process counts once: a file that occurs twice, or is equal to another, is refused.

    The exit code is 0 for pass, 1 for regression or changed, 2 for not measured, 3 for inconclusive. --json and
    --markdown are written in each case.
    """
    if len(paths) not in (0, 2):
        raise GateError(
            f"a comparison must have a base and a head, got {len(paths)} paths; add more with --base and --head"
        )
    if config and not config.is_file():
        raise GateError(f"--config must be a file, got {config}")
    rules = read_rules(config or Path(RULES_FILE))
    base, head = decide.read_sides([*paths[:1], *bases], [*paths[1:], *heads])
    decision.verdicts = decide.judge(base, head, rules, decision.allowed)
    decision.rules_differ += decide.differing_markers(base, head)


@click.command(
    name="trend",
    params=[
        JSON,
        HTML,
        option("verdicts", "Show a gate's verdicts on the page. Default: the last in .benchmarks/gate/.", kind=PATH),
        option("recent", "Exit with 1 if a slowdown began in this many last runs. Default: never.", kind=POSITIVE),
    ],
)
@click.argument("place", metavar="DIR", type=PLACE)
def trend_command(
    place: Place, json_path: Path | None, html_path: Path | None, verdicts: Path | None, recent: int | None
) -> None:
    """Look for changes in the runs that DIR, a folder or URL, holds, written by `pytest benchmarks --benchmark-json`.

    Runs are compared within an environment only. The exit code is 0, unless --recent finds a slowdown in the
    environment of the last run. With --html the page needs no server. It shows each benchmark's line with its changes,
    and the verdicts of a gate.
    """
    decision: Decision | None = None
    if html_path:
        verdicts = verdicts or max(Path(".benchmarks", "gate").glob("*/decision.json"), default=None)
        decision = read_decision(verdicts) if verdicts else None
    with progress(Console(stderr=True)) as begin:
        environments, unreadable = read_history(place, begin)
    console = Console(stderr=str(json_path) == "-", highlight=False)
    looked = [(runs, series_of(runs)) for runs in environments]
    for runs, series in looked:
        _print_environment(console, place, runs, series)
    for reason in unreadable.values():
        console.print(cell(f"left out: {reason}"), style="yellow", soft_wrap=True)
    read = sum(map(len, environments))
    console.print(f"runs: {read}, environments: {len(looked)}, files left out: {len(unreadable)}")
    newest = max(looked, key=lambda each: each[0][-1].began)[1]
    slower = [step for each in newest for step in each.changes if step.ratio > 1 and step.age <= (recent or 0)]
    for change in slower:
        console.print(cell(f"became slower of late: {short_name(change.benchmark)}"), style="red", soft_wrap=True)
    if json_path:
        kept = [
            {"identity": runs[0].machine, "runs": len(runs), "series": [asdict(each) for each in series]}
            for runs, series in looked
        ]
        data = {"environments": kept, "unreadable": unreadable, "slower": [asdict(each) for each in slower]}
        write_json_to(json_path, versioned("report", data))
    if html_path:
        write_text(html_path, to_html(place, looked, decision))
    sys.exit(1 if slower else 0)


def _print_environment(console: Console, place: Place, runs: Sequence[Run], series: Sequence[Series]) -> None:
    here = runs[0].machine
    days = " to ".join(dict.fromkeys(run.when[:10] for run in (runs[0], runs[-1])))
    counted = f"{len(runs)} run{'s' * (len(runs) > 1)}, {days}"
    named = [*(here[key] for key in NAMING), *([f"weights {here['weights']}"] if "weights" in here else [])]
    console.print(cell(f"{', '.join(named)}: {counted}"), style="bold")
    if len(runs) < 2 * MIN_SIDE:
        console.print(f"a change is looked for in {2 * MIN_SIDE} runs or more")
    changes = [", ".join(CHANGE.write(change.ratio - 1) for change in each.changes) for each in series]
    rows = [
        (short_name(each.benchmark), len(each.seconds), each.seconds[-1], each.noise, changed, len(each.outliers))
        for each, changed in zip(series, changes, strict=True)
    ]
    numbers = ("runs", COUNT), ("last", MS), ("noise", PERCENT), ("changes", CHANGE), ("outliers", COUNT)
    show(Table("", (("benchmark", WORDS), *numbers), rows), console)
    said = [line for each in series for change in each.changes for line in _described(change)]
    rounds = unsteady(read_at(place, runs[-1].name))
    for line, style in [*said, *((f"rounds of the last run: {found}", "yellow") for found in rounds)]:
        console.print(cell(line), style=style, soft_wrap=not (style and console.is_terminal))  # keeps a command whole


def _described(change: Change) -> Iterator[tuple[str, str]]:
    """Yield lines on a change, each with its style."""
    good, bad = ((commit or "no commit")[:12] for commit in (change.good, change.bad))
    step = f"{change.before * 1e3:.2f} to {change.after * 1e3:.2f} ms ({change.ratio - 1:+.1%})"
    where = f"on {change.when[:10]}, between {good} and {bad}"
    yield f"{short_name(change.benchmark)}: {step} {where}", "red" if change.ratio > 1 else "green"
    if change.dirty:
        yield "  its code was not committed, so the range may be wrong", "yellow"
    if change.bisect:
        yield change.bisect, ""
    elif change.good == change.bad:
        yield "  both sides have one commit: the machine changed, or its noise is not white", ""


@click.command(name="convert", params=[TIME_UNIT])
@click.argument("source", metavar="IN", type=PATH)
@click.argument("target", metavar="OUT", type=PATH)
def convert_command(source: Path, target: Path, time_unit: str | None) -> None:
    """Write the recording IN as the folder OUT, named NAME.events, with one file per column, which loads fastest.

    IN is .npy, .npz, .h5 or .hdf5 of DSEC, .raw (EVT2, EVT3), .aedat4, or another .events folder.
    """
    require_free(target)
    events = load_event_arrays(source, LoadSettings(time_unit=time_unit))
    write_folder(target, events)
    click.echo(f"{target}: {len(events.t)} events, {size_of_recording(target)} bytes")
