"""The command line: `stagebench run`, `audit` and `baseline accept`."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click
import torch
from rich.console import Console

from stagebench import __version__, baseline, environment, report
from stagebench.attention import pinned
from stagebench.audit import audit as audit_model
from stagebench.errors import StagebenchError
from stagebench.media.scene import render_scene
from stagebench.models.registry import BUILDERS, build_model
from stagebench.models.weights import release
from stagebench.pipeline import counted_run, timed_run
from stagebench.types import (
    DEFAULT_QUESTION,
    DTYPES,
    KERNELS,
    PROFILES,
    GenerationSettings,
    ModelSettings,
    Run,
    Sample,
    Work,
)


@click.group()
@click.version_option(__version__)
def main() -> None:
    """Time every stage of a vision-language model on its own."""


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how models are built and how they generate."""
    options = (
        click.option("--model", "names", multiple=True, default=tuple(BUILDERS), help="Repeatable; all by default."),
        click.option("--profile", type=click.Choice(PROFILES), help="tiny on a CPU, 7b on a GPU by default."),
        click.option("--weights", help="Checkpoint folder or hub id; one model only."),
        click.option("--device", help="cpu or cuda; by default cuda where there is one."),
        click.option("--dtype", type=click.Choice(DTYPES), help="float32 on a CPU, bfloat16 on a GPU by default."),
        click.option("--kernels", type=click.Choice(KERNELS), default="efficient", show_default=True),
        click.option("--new-tokens", default=32, show_default=True, help="The limit of new tokens."),
        click.option("--fixed-length", is_flag=True, help="Go on to the limit whatever the model says."),
        click.option("--seed", default=0, show_default=True, help="Of random weights, and of the models' order."),
        click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the numbers there."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@model_options
@click.option("--question", default=DEFAULT_QUESTION, show_default=True)
@click.option("--passes", type=click.IntRange(min=1), default=3, show_default=True, help="Timed passes.")
def run(
    path: Path | None,
    names: tuple[str, ...],
    question: str,
    passes: int,
    json_path: Path | None,
    **given: Any,
) -> None:
    """Send one sample through the models and print their stages.

    PATH is a clip, an event recording (.npy), a PNG or a folder of PNGs; without it, the embedded scene.
    """
    with _refusals():
        settings, generation = _settings(**given)
        console = Console(stderr=json_path is not None and str(json_path) == "-")
        order = random.Random(settings.seed).sample(names, len(names))
        with tempfile.TemporaryDirectory() as folder:
            samples = {name: _samples(path, (question,), Path(folder), name)[0] for name in order}
            results = {name: _measure(name, settings, samples[name], generation, passes, console) for name in order}
        runs = [results[name][0] for name in names]
        work = {name: results[name][1] for name in names}
        console.print(
            f"{settings.profile} profile, {settings.dtype} on {settings.device}; {generation.describe()}; "
            f"the median of {passes} passes by e2e, after a counted warm-up"
        )
        console.print(report.stage_table(runs, work))
        for result in runs:
            console.print(f"[bold]{result.model}[/]: ", end="")
            console.print(result.text, markup=False, highlight=False)
        if json_path:
            identity = environment.identity(settings, generation.describe(), str(path or "scene"))
            rows = [report.run_as_json(r, work[r.model]) for r in runs]
            baseline.write_json(json_path, {"schema": baseline.SCHEMA, "identity": identity, "runs": rows})


def _settings(
    profile: str | None,
    weights: str | None,
    device: str | None,
    dtype: str | None,
    kernels: str,
    new_tokens: int,
    fixed_length: bool,
    seed: int,
) -> tuple[ModelSettings, GenerationSettings]:
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.startswith("cuda")
    settings = ModelSettings(
        profile=profile or ("pretrained" if weights else "7b" if on_gpu else "tiny"),
        weights=weights,
        device=device,
        dtype=dtype or ("bfloat16" if on_gpu else "float32"),
        kernels=kernels,
        seed=seed,
    )
    return settings, GenerationSettings(max_new_tokens=new_tokens, fixed_length=fixed_length, seed=seed)


def _samples(path: Path | None, questions: tuple[str, ...], folder: Path, name: str) -> list[Sample]:
    if path is None:
        scene = render_scene(folder)
        path = scene.events if name == "eventgpt" else scene.video
    return [Sample(path, question) for question in questions]


def _measure(
    name: str,
    settings: ModelSettings,
    sample: Sample,
    generation: GenerationSettings,
    passes: int,
    console: Console,
) -> tuple[Run, dict[str, Work]]:
    model = build_model(name, settings)
    options = generation.options()
    with pinned(model.network.device, settings.kernels):
        with console.status(f"{name}: warming up and counting"):
            _, counter = counted_run(model, sample, options)
        with console.status(f"{name}: timing"):
            runs = sorted((timed_run(model, sample, options) for _ in range(passes)), key=lambda run: run.e2e)
    del model
    release()
    return runs[(passes - 1) // 2], counter.work


@main.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@model_options
@click.option("--question", "questions", multiple=True, default=(DEFAULT_QUESTION,), help="Repeatable.")
def audit(
    path: Path | None, names: tuple[str, ...], questions: tuple[str, ...], json_path: Path | None, **given: Any
) -> None:
    """Check what the times rest on: same tokens and same work as generate(), stages that explain e2e.

    Exit code 1 where a claim did not hold.
    """
    with _refusals():
        settings, generation = _settings(**given)
        rows: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                rows.extend(_audit_model(name, settings, _samples(path, questions, Path(folder), name), generation))
                release()
        if json_path:
            identity = environment.identity(settings, generation.describe(), str(path or "scene"))
            baseline.write_json(json_path, {"schema": baseline.SCHEMA, "identity": identity, "checks": rows})
        failed = [row for row in rows if not row["held"]]
        click.echo(f"{len(rows) - len(failed)} of {len(rows)} claims held")
        sys.exit(1 if failed else 0)


def _audit_model(
    name: str, settings: ModelSettings, samples: list[Sample], generation: GenerationSettings
) -> list[dict[str, Any]]:
    model = build_model(name, settings)
    rows = []
    for sample in samples:
        for check in audit_model(model, sample, generation.options(), settings.kernels):
            click.echo(f"{'held  ' if check.held else 'BROKEN'} {name}: {check.claim} ({check.detail})")
            rows.append({"model": name, "question": sample.question} | asdict(check))
    return rows


@main.group(name="baseline")
def baseline_group() -> None:
    """Stored baselines."""


@baseline_group.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--reason", required=True, help="Why this run replaces what was there; kept in the file.")
@click.option("--root", type=click.Path(path_type=Path), default=Path("baselines"), show_default=True)
def accept(run_path: Path, reason: str, root: Path) -> None:
    """Make RUN, written by `pytest benchmarks --benchmark-json`, the baseline of its environment."""
    with _refusals():
        click.echo(f"stored {baseline.accept(run_path, root, reason)}")


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except StagebenchError as error:
        _refuse(error)


def _refuse(error: StagebenchError) -> NoReturn:
    click.echo(f"stagebench: {error}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
