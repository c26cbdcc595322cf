"""`stagebench analyze`: several models over many samples, and a report of what makes one of them faster."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from stagebench.analysis.experiments.dataset import one_line, read_dataset
from stagebench.analysis.experiments.design import Wanted, make_design, synthetic_dataset
from stagebench.analysis.experiments.runner import Experiment, measure
from stagebench.analysis.report import write_report
from stagebench.analysis.samples import MODES, RUN_FILE, SampleLog, open_log, read_run
from stagebench.cli.commands import PATH, SettingsCommand, print_head
from stagebench.cli.output import Console
from stagebench.core.errors import AnalysisError
from stagebench.core.machine.locks import measurement, scratch_folder
from stagebench.core.pages import require_pages
from stagebench.core.shown import cell, plain, progress, teller
from stagebench.media.synthetic_clip import write_synthetic_clip
from stagebench.suite.measure import shuffled
from stagebench.suite.options import ORDER_SEED
from stagebench.suite.settings import Settings, split

SYNTHETIC_SAMPLES = 8


def _numbers(name: str, kind: Callable[[str], float]) -> Callable[[str], tuple[float, ...]]:
    """Return what reads numbers with commas between them, each once."""

    def numbers(text: str) -> tuple[float, ...]:
        try:
            found = tuple(map(kind, split([text])))
        except ValueError:
            found = ()
        if not found or not all(0 < number < float("inf") for number in found):
            whole = "whole " * (kind is int)
            raise AnalysisError(f"{name} must be {whole}numbers above 0 with commas, got {text!r}")
        return found

    return numbers


@click.command(name="analyze", cls=SettingsCommand, params=[ORDER_SEED], left_out=("natural_length",))
@click.option("--dataset", type=PATH, help="JSON list, or folder of media; else ours")
@click.option("--samples", type=click.IntRange(min=1), help=f"At most so many; else {SYNTHETIC_SAMPLES} of ours")
@click.option("--window", type=click.FloatRange(min=0, min_open=True), help="Cut samples into so many seconds each")
@click.option("--mode", "modes", multiple=True, type=click.Choice(MODES), default=MODES, help="Of length; else both")
@click.option(
    "--new-tokens", type=_numbers("--new-tokens", int), default="32", help="The limit, 32; or several to compare"
)
@click.option("--durations", type=_numbers("--durations", float), help="Compare samples that last so many seconds")
@click.option("--passes", type=click.IntRange(min=1), default=1, show_default=True, help="Of each sample and mode")
@click.option("--allow-failures", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Resumed where it exists")
@click.option("--report-only", is_flag=True, help="Only write the reports of what --out holds")
def command(out: Path, report_only: bool, allow_failures: int, **given: Any) -> None:
    """Send many samples through the models, and report where the time goes and why one model is faster.

    OUT gets samples.jsonl, a line a pass, written as it goes, and report.md, report.json and report.html. An
    interrupted run goes on with the same command. Exit code 2 where more samples failed than were allowed.
    """
    require_pages()  # or a long run would end without one
    complete = report_only or _run(out, **given)
    report = write_report(out)
    say = teller(Console())
    say("\n".join([*map(plain, report["summary"]), f"wrote {out / 'report.html'}"]))
    failed = len(report["failures"])
    if failed > allow_failures:
        raise AnalysisError(f"at most {allow_failures} samples may fail, got {failed}; the report names them")
    if not complete:
        raise AnalysisError(f"interrupted; the same command goes on where {out} ends")


def _run(out: Path, settings: Settings, dataset: Path | None, order_seed: int | None, **given: Any) -> bool:
    """Measure what is not there yet; False where it was interrupted."""
    samples = given.pop("samples") or (SYNTHETIC_SAMPLES if dataset is None else None)
    wanted = Wanted(settings.loading, samples, durations=given.pop("durations") or (), **given)
    longest = replace(settings, generation=wanted.generation("natural"))
    seed = _order_seed(out, order_seed)
    console = Console(stderr=True)
    with measurement(partial(console.print, markup=False, highlight=False)), scratch_folder() as folder:
        if dataset is None:
            found = synthetic_dataset(write_synthetic_clip(folder), wanted.samples or 1, settings.question)
        else:
            found = read_dataset(dataset, settings.question)
        design = make_design(found, wanted)
        order = tuple(shuffled(settings.models, seed))
        experiment = Experiment(order, settings.model, settings.loading, design.schedule(order, seed))
        here = longest.identity() | {  # what must be the same for a run to go on
            "generation": ", ".join(f"{mode} length: {wanted.generation(mode).describe()}" for mode in wanted.modes),
            "input": "scene" if dataset is None else one_line(dataset.name),
            "samples": design.digest(),
            "media": settings.loading.media,
            "models": ", ".join(sorted(settings.models)),
            "order_seed": str(seed),
        }
        print_head(console, longest, f"{len(design.blocks[0].entries)} samples; order {seed}")
        with open_log(out, here, design.as_json(settings.models)) as log:
            return _measure(experiment, log, console)


def _order_seed(out: Path, given: int | None) -> int:
    """Return the given one, or that of the run which is taken up again, or a new one."""
    if given is None and (out / RUN_FILE).exists():
        stored = read_run(out)["identity"]["order_seed"]
        if not stored.isdecimal():
            raise AnalysisError(f"the run in {out} must have an order seed, got {stored!r}")
        return int(stored)
    return secrets.randbelow(2**16) if given is None else given


def _measure(experiment: Experiment, log: SampleLog, console: Console) -> bool:
    total = sum(not log.has(task.key) for task in experiment.tasks)
    with progress(console, total) as begin:
        begin("building and proving the models")
        try:
            for line in measure(experiment, log):
                begin(f"after {line['model']}: {line['sample']}")
                if "error" in line:
                    console.print(cell(f"failed: {line['model']}: {line['sample']}: {line['error']}"))
        except KeyboardInterrupt:
            if not log.lines:
                raise AnalysisError("interrupted before the first sample was measured, so there is no report") from None
            return False
    return True
