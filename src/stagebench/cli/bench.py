"""`stagebench bench`: results, and a run that can become a baseline, out of fresh processes."""

import sys
from pathlib import Path
from typing import Any

import click

from stagebench.cli.output import Console, require_writable, tidy_stop
from stagebench.core.errors import ResultsError
from stagebench.core.json_files import write_text
from stagebench.core.places import Place
from stagebench.core.results import Results, read_at, write_results
from stagebench.core.shown import progress, show, teller
from stagebench.core.statistics import unsteady
from stagebench.gate import baseline, decide
from stagebench.gate.limits import RULES_FILE, read_rules
from stagebench.gate.runner.recording import recorded
from stagebench.gate.verdicts import Decision, Verdict, exit_code
from stagebench.suite.options import BASELINES, ROUNDS


@click.command(name="bench", params=[ROUNDS, BASELINES])
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--processes", type=click.IntRange(min=1), default=7, show_default=True, help="Those that time.")
@click.option("--select", default="", help="Which benchmarks, as pytest's -k; all by default.")
@click.option("--gate", "judged", is_flag=True, help="Judge against the stored baseline, and set the exit code by it.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- PYTEST ARGUMENTS]")
def command(out: Path, processes: int, judged: bool, baselines: Place, **planned: Any) -> None:
    """Run the benchmarks of this checkout in fresh processes, and write OUT/results.json and OUT/results.md.

    A first process verifies that the stages do the work of generate(), and counts it; each of the others times every
    benchmark, and its median is one sample. The default is the fewest processes with which a comparison can decide on
    times. What is in OUT already is not measured again: the same command goes on where it was stopped. Arguments of
    pytest say what is run (--stage-model, --stage-new-tokens ...), not which benchmarks, nor how often. Without a
    folder benchmarks/ it runs those of stagebench if one of its options is given, else all that pytest finds.

    OUT/results.json is pytest-benchmark's JSON, for `compare`, `baseline accept` and `explain`.

    Exit code 0; 2 where a process failed. With --gate, 1 for a regression and 2 for what is missing too; a time that
    can't be decided passes.
    """
    console = Console(stderr=True)
    say = teller(console)
    with tidy_stop("all processes had run; those that had are kept"):
        require_writable(out / "results.json")
        with progress(console) as begin, recorded(out, processes, say, begin, **planned) as results:
            verdicts = _report(out, results, baselines if judged else None)
    if verdicts:
        show(Decision(verdicts).as_table(), Console())
    say(f"{processes} timing processes are recorded in {out}")
    decided = [v for v in verdicts if (v.kind, v.verdict) != ("time", "inconclusive")]  # as pytest's own `--stage-gate`
    sys.exit(exit_code(decided) if verdicts else 0)


def _report(out: Path, results: Results, baselines: Place | None) -> list[Verdict]:
    """Write what the processes say; with `baselines`, judge it."""
    for found in unsteady(results):
        click.echo(f"processes: {found}", err=True)
    verdicts, own = [], results["stagebench"]
    try:
        if baselines:
            own["complete"] = False  # nobody is to make it a baseline before it is judged
            verdicts = _judge(results, baselines)
            worse = {v.benchmark for v in verdicts if v.verdict in ("regression", "changed")}
            own |= {"complete": True, "regressed": sorted(worse)}
    finally:
        from stagebench.analysis.report import recording_tables  # takes a second, which no process waits for

        write_results(out / "results.json", results)
        write_text(out / "results.md", recording_tables.to_markdown(results))
    return verdicts


def _judge(results: Results, place: Place) -> list[Verdict]:
    """Judge them against the baseline of their environment; what differs from day to day is in the difference too."""
    here = results["machine_info"]
    if (found := baseline.find(place, here)) is None:
        closest = baseline.closest(place, here)
        raise ResultsError(f"no baseline yet for this environment, so nothing is judged; {closest}")
    base, head = (decide.processes_of(each) for each in (read_at(place, found), results))
    decide.require_comparable(base, head)
    return decide.judge(base, head, read_rules(Path(RULES_FILE)))
