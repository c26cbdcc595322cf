"""`stagebench analyze`: measure several models over many samples, and report why one is faster."""

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
from stagebench.cli.commands import FOLDER, SettingsCommand, print_head
from stagebench.cli.output import Console
from stagebench.core.errors import AnalysisError
from stagebench.core.machine.locks import measurement, scratch_folder
from stagebench.core.shown import cell, plain, progress, teller
from stagebench.suite.measure import shuffled
from stagebench.suite.options import ORDER_SEED, PATH, POSITIVE, SERVING, option
from stagebench.suite.settings import Settings, split

SYNTHETIC_SAMPLES = 8
NOT_BELOW_0 = click.IntRange(min=0)
ABOVE_0 = click.FloatRange(min=0, min_open=True)


def _numbers(name: str, kind: Callable[[str], float]) -> Callable[[str], tuple[float, ...]]:
    """Return a parser of numbers between commas, each once."""

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


_TOKENS, _DURATIONS = _numbers("--new-tokens", int), _numbers("--durations", float)


@click.command(
    name="analyze",
    cls=SettingsCommand,
    left_out=("natural_length", *(each.name for each in SERVING)),
    params=[
        ORDER_SEED,
        option("dataset", "Read samples from this JSON list or folder. Default: ours.", kind=PATH),
        option("samples", f"Measure this many samples. Default: {SYNTHETIC_SAMPLES} of ours, else all.", kind=POSITIVE),
        option("window", "Cut samples into windows of this many seconds. Default: none.", kind=ABOVE_0),
        option("mode", "Generate texts of this length. Default: both.", MODES, MODES, dest="modes"),
        option("new-tokens", "Generate this many new tokens, or several to compare.", "32", _TOKENS),
        option("durations", "Compare samples of these lengths in seconds. Default: none.", kind=_DURATIONS),
        option("passes", "Time each sample and mode in this many passes.", 1, POSITIVE),
        option("draft-tokens", "Let models of one tokenizer draft so many tokens for each other.", 4, NOT_BELOW_0),
        option("allow-failures", "Allow this many failed samples.", 0, NOT_BELOW_0),
        option("out", "Write to this folder, or resume it.", kind=FOLDER, required=True),
        option("report-only", "Only write the reports of the samples in --out.", default=False),
    ],
)
def command(out: Path, report_only: bool, allow_failures: int, **given: Any) -> None:
    """Measure many samples with the models, and report where the time goes and why one model is faster.

    OUT gets samples.jsonl, one line per pass as it is measured, and report.md, report.json and report.html. To resume
    an interrupted run, repeat the command. The exit code is 2 if more samples failed than were allowed.
    """
    complete = report_only or _run(out, **given)
    report = write_report(out)
    say = teller(Console())
    say("\n".join([*map(plain, report["summary"]), f"wrote {out / 'report.html'}"]))
    failed = len(report["failures"])
    if failed > allow_failures:
        raise AnalysisError(f"at most {allow_failures} samples may fail, got {failed}; the report names them")
    if not complete:
        raise AnalysisError(f"interrupted; repeat the command to resume {out}")


def _run(out: Path, settings: Settings, dataset: Path | None, order_seed: int | None, **given: Any) -> bool:
    """Measure the missing samples; return False where it was interrupted."""
    samples = given.pop("samples") or (SYNTHETIC_SAMPLES if dataset is None else None)
    draft_tokens = given.pop("draft_tokens")
    wanted = Wanted(settings.loading, samples, durations=given.pop("durations") or (), **given)
    longest = replace(settings.require_one_backend(), generation=wanted.generation("natural"))
    seed = _order_seed(out, order_seed)
    console = Console(stderr=True)
    with measurement(partial(console.print, markup=False, highlight=False)), scratch_folder() as folder:
        if dataset is None:
            found = synthetic_dataset(settings.write_clip(folder), wanted.samples or 1, settings.question)
        else:
            found = read_dataset(dataset, settings.question)
        design = make_design(found, wanted)
        order = tuple(shuffled(settings.models, seed))
        experiment = Experiment(order, settings.model, settings.loading, design.schedule(order, seed), draft_tokens)
        here = longest.identity() | {  # must be equal in a resumed run
            "generation": ", ".join(f"{mode} length: {wanted.generation(mode).describe()}" for mode in wanted.modes),
            "input": "scene" if dataset is None else one_line(dataset.name),
            "samples": design.digest(),
            "draft_tokens": str(draft_tokens),
            "media": settings.loading.media,
            "models": ", ".join(sorted(settings.models)),
            "order_seed": str(seed),
        }
        print_head(console, longest, f"{len(design.blocks[0].entries)} samples; order {seed}")
        with open_log(out, here, design.as_json(settings.models)) as log:
            return _measure(experiment, log, console)


def _order_seed(out: Path, given: int | None) -> int:
    """Return the given seed, that of the resumed run, or a new one."""
    if given is None and (out / RUN_FILE).exists():
        stored = read_run(out)["identity"]["order_seed"]
        if not stored.isdecimal():
            raise AnalysisError(f"the run in {out} must have an order seed, got {stored!r}")
        return int(stored)
    return secrets.randbelow(2**16) if given is None else given


def _measure(experiment: Experiment, log: SampleLog, console: Console) -> bool:
    total = sum(not log.has(task.key) for task in experiment.tasks)
    with progress(console, total) as begin:
        begin("building and verifying the models")
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
