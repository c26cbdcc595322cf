"""`stagebench analyze`: several models over many samples, and a report of what makes one of them faster."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stagebench.analysis.experiments.dataset import Dataset, one_line, read_dataset
from stagebench.analysis.experiments.design import Design, Wanted, make_design, synthetic_dataset
from stagebench.analysis.experiments.runner import Experiment, measure
from stagebench.analysis.experiments.sample_log import SampleLog, open_log
from stagebench.analysis.report.write import require_report_extra, write_report
from stagebench.analysis.samples import MODES, RUN_FILE, read_run
from stagebench.cli.options import options, print_head, settings_options
from stagebench.cli.output import refusals
from stagebench.core.errors import AnalysisError
from stagebench.core.locks import measurement, scratch_folder
from stagebench.core.settings import LoadSettings
from stagebench.core.shown import cell, plain
from stagebench.media.synthetic_clip import write_synthetic_clip
from stagebench.suite.measure import shuffled
from stagebench.suite.options import ORDER_SEED
from stagebench.suite.settings import Settings, split

SYNTHETIC_SAMPLES = 8
ABOVE_0 = click.FloatRange(min=0, min_open=True)


@click.command(name="analyze")
@settings_options("new-tokens", "natural-length")
@options(ORDER_SEED)
@click.option(
    "--dataset", type=click.Path(path_type=Path), help="JSON list, or folder of media; else the synthetic clip"
)
@click.option("--samples", type=click.IntRange(min=1), help=f"At most so many; else {SYNTHETIC_SAMPLES} of ours")
@click.option("--window", type=ABOVE_0, help="Cut clips into windows of so many seconds")
@click.option("--recording-window", type=ABOVE_0, help="The same of recordings")
@click.option("--modes", default=",".join(MODES), show_default=True, help="Of generation")
@click.option("--new-tokens", default="32", show_default=True, help="The limit; several, with commas, are compared")
@click.option("--durations", default="", metavar="SECONDS,...", help="Compare samples that last so long")
@click.option("--passes", type=click.IntRange(min=1), default=1, show_default=True, help="Of each sample and mode")
@click.option("--allow-failures", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Resumed where it exists")
@click.option("--report-only", is_flag=True, help="Only write the reports of what --out holds")
def command(out: Path, report_only: bool, allow_failures: int, **given: Any) -> None:
    """Send many samples through the models, and report where the time goes and why one model is faster.

    OUT gets samples.jsonl, a line a pass, written as it goes, and report.md, report.json and report.html. An
    interrupted run goes on with the same command. Exit code 2 where more samples failed than were allowed.
    """
    with refusals():
        require_report_extra()  # or a long run would end without one
        complete = report_only or _run(out, **given)
        report = write_report(out)
        for line in report["summary"]:
            click.echo(plain(line))
        click.echo(f"wrote {out / 'report.html'}")
        failed = len(report["failures"])
        if failed > allow_failures:
            raise AnalysisError(f"at most {allow_failures} samples may fail, got {failed}; the report names them")
        if not complete:
            raise AnalysisError(f"interrupted; the same command goes on where {out} ends")


def _run(out: Path, settings: Settings, dataset: Path | None, order_seed: int | None, **given: Any) -> bool:
    """Measure what is not there yet; False where it was interrupted."""
    wanted = _wanted(given, settings.loading, dataset is None)
    longest = replace(settings, generation=wanted.generation("natural"))
    seed = _order_seed(out, order_seed)
    console = Console(stderr=True)
    say = partial(console.print, markup=False, highlight=False)
    with measurement(say), _dataset(dataset, wanted, settings.question) as found:
        design = make_design(found, wanted)
        order = tuple(shuffled(settings.models, seed))
        experiment = Experiment(order, settings.model, settings.loading, design.schedule(order, seed))
        here = _identity(longest, wanted, design, dataset, seed)
        print_head(console, longest, f"{len(design.blocks[0].entries)} samples; order {seed}")
        with open_log(out, here, design.as_json(settings.models)) as log:
            return _measure(experiment, log, console)


def _wanted(given: Mapping[str, Any], loading: LoadSettings, is_synthetic: bool) -> Wanted:
    """Read what says what is measured, and the lists in it."""
    modes = tuple(split([given["modes"]]))
    if not set(modes) <= set(MODES):
        raise AnalysisError(f"modes must be of {', '.join(MODES)}, got {', '.join(modes)}")
    lengths = _numbers("--new-tokens", given["new_tokens"])
    if not lengths or any(number % 1 for number in lengths):
        raise AnalysisError(f"--new-tokens must be whole numbers with commas, got {given['new_tokens']!r}")
    return Wanted(
        samples=SYNTHETIC_SAMPLES if given["samples"] is None and is_synthetic else given["samples"],
        clip_window=given["window"],
        recording_window=given["recording_window"],
        media=loading.media,
        time_unit=loading.time_unit,
        modes=modes,
        new_tokens=tuple(map(int, lengths)),
        passes=given["passes"],
        durations=tuple(_numbers("--durations", given["durations"])),
    )


def _numbers(name: str, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in split([text])]
    except ValueError:
        raise AnalysisError(f"{name} must be numbers with commas, got {text!r}") from None
    if any(not 0 < number < float("inf") for number in numbers):
        raise AnalysisError(f"{name} must be above 0, got {text!r}")
    return list(dict.fromkeys(numbers))


def _order_seed(out: Path, given: int | None) -> int:
    """The given one, or that of the run which is taken up again, or a new one."""
    if given is None and (out / RUN_FILE).exists():
        stored = read_run(out)["identity"]["order_seed"]
        try:
            return int(stored)
        except ValueError:
            raise AnalysisError(f"the run in {out} must have an order seed, got {stored!r}") from None
    return secrets.randbelow(2**16) if given is None else given


@contextmanager
def _dataset(path: Path | None, wanted: Wanted, question: str) -> Iterator[Dataset]:
    if path is not None:
        yield read_dataset(path, question)
        return
    with scratch_folder() as folder:
        yield synthetic_dataset(write_synthetic_clip(folder), wanted.samples or 1, question)


def _identity(settings: Settings, wanted: Wanted, design: Design, dataset: Path | None, seed: int) -> dict[str, str]:
    """What must be the same for a run to go on."""
    generations = {mode: wanted.generation(mode) for mode in wanted.modes}
    return settings.identity() | {
        "generation": ", ".join(f"{mode} length: {each.describe()}" for mode, each in generations.items()),
        "input": "scene" if dataset is None else one_line(dataset.name),
        "samples": design.digest(),
        "media": settings.loading.media,
        "models": ", ".join(sorted(settings.models)),
        "order_seed": str(seed),
    }


def _measure(experiment: Experiment, log: SampleLog, console: Console) -> bool:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as progress:
        done = sum(log.has(task.key) for task in experiment.tasks)
        bar = progress.add_task("building and proving the models", total=len(experiment.tasks), completed=done)
        try:
            for line in measure(experiment, log):
                progress.update(bar, advance=1, description=escape(plain(f"{line['model']}: {line['sample']}", 60)))
                if "error" in line:
                    console.print(cell(f"failed: {line['model']}: {line['sample']}: {line['error']}"))
        except KeyboardInterrupt:
            if not log.lines:
                raise AnalysisError("interrupted before the first sample was measured, so there is no report") from None
            return False
    return True
