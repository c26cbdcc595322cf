"""`stagebench bench`: results of fresh processes, and a run that can become a baseline."""

import sys
from pathlib import Path
from typing import Any

import click

from stagebench.cli.commands import FOLDER
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
from stagebench.suite.options import BASELINES, POSITIVE, ROUNDS, option


@click.command(
    name="bench",
    params=[
        ROUNDS,
        BASELINES,
        option("processes", "Time in this many processes.", 7, POSITIVE),
        option("select", "Run these benchmarks, as pytest's -k. Default: all.", ""),
        option("gate", "Judge against the stored baseline, and set the exit code.", default=False, dest="judged"),
    ],
)
@click.argument("out", type=FOLDER)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- PYTEST ARGUMENTS]")
def command(out: Path, processes: int, judged: bool, baselines: Place, **planned: Any) -> None:
    """Run the benchmarks of this checkout in fresh processes, and write OUT/results.json and OUT/results.md.

    The first process verifies that the stages do the work of generate(), and counts it. Each of the others times every
    benchmark, and its median is one sample. The default is the fewest processes with which a comparison can decide on
    times. To resume a stopped recording, repeat the command: processes in OUT are not measured again. Arguments of
    pytest choose models and settings (--stage-model, --stage-new-tokens ...), but not benchmarks or rounds. Without a
    folder benchmarks/ it runs those of stagebench if one of its options is given, else all that pytest finds.

    OUT/results.json is pytest-benchmark's JSON, for `compare`, `baseline accept` and `explain`.

    The exit code is 0, or 2 if a process failed. With --gate it is 1 for a regression, and 2 also for a missing
    benchmark; an undecided time passes.
    """
    console = Console(stderr=True)
    say = teller(console)
    with tidy_stop("all processes had run; the finished ones are kept"):
        require_writable(out / "results.json")
        with progress(console) as begin, recorded(out, processes, say, begin, **planned) as results:
            verdicts = _report(out, results, baselines if judged else None)
    if verdicts:
        show(Decision(verdicts).as_table(), Console())
    say(f"{processes} timing processes are recorded in {out}; its tables are in {out / 'results.md'}")
    decided = [v for v in verdicts if (v.kind, v.verdict) != ("time", "inconclusive")]  # as pytest's own `--stage-gate`
    sys.exit(exit_code(decided) if verdicts else 0)


def _report(out: Path, results: Results, baselines: Place | None) -> list[Verdict]:
    """Write the results; with `baselines`, judge them."""
    for found in unsteady(results):
        click.echo(f"processes: {found}", err=True)
    verdicts, own = [], results["stagebench"]
    try:
        if baselines:
            own["complete"] = False  # so that nobody accepts it before it is judged
            verdicts = _judge(results, baselines)
            worse = {v.benchmark for v in verdicts if v.verdict in ("regression", "changed")}
            own |= {"complete": True, "regressed": sorted(worse)}
    finally:
        from stagebench.analysis.report import recording_tables  # takes a second to import

        write_results(out / "results.json", results)
        write_text(out / "results.md", recording_tables.to_markdown(results))
    return verdicts


def _judge(results: Results, place: Place) -> list[Verdict]:
    """Judge results against the baseline of their environment; the difference includes that between two days."""
    here = results["machine_info"]
    if (found := baseline.find(place, here)) is None:
        closest = baseline.closest(place, here)
        raise ResultsError(f"no baseline yet for this environment, so nothing is judged; {closest}")
    base, head = (decide.processes_of(each) for each in (read_at(place, found), results))
    decide.require_comparable(base, head)
    return decide.judge(base, head, read_rules(Path(RULES_FILE)))
