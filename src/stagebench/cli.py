"""The command line: `stagebench run`, `audit` and `baseline accept`."""

from __future__ import annotations

import json
import random
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from stagebench import __version__, baseline, environment, report
from stagebench.audit import audit as audit_model
from stagebench.conditions import conditions
from stagebench.errors import StagebenchError
from stagebench.media.scene import Scene, render_scene
from stagebench.models.registry import BUILDERS, build_model
from stagebench.models.weights import release
from stagebench.pipeline import Proof, prove, timed_run
from stagebench.settings import resolve_models, resolve_settings
from stagebench.stages.load import load
from stagebench.types import (
    DEFAULT_QUESTION,
    DTYPES,
    KERNELS,
    PROFILES,
    GenerationSettings,
    ModelSettings,
    Run,
    Sample,
)


@click.group()
@click.version_option(__version__)
def main() -> None:
    """Time every stage of a vision-language model on its own."""


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how models are built and how they generate."""
    out = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
    options = (
        click.option("--model", "names", multiple=True, default=tuple(BUILDERS), help="Repeatable; all by default."),
        click.option("--profile", type=click.Choice(PROFILES), help="tiny on a CPU, 7b on a GPU by default."),
        click.option("--weights", help="Checkpoint folder or hub id; for one model."),
        click.option("--device", help="cpu or cuda; by default cuda where there is one."),
        click.option("--dtype", type=click.Choice(DTYPES), help="float32 on a CPU, bfloat16 on a GPU by default."),
        click.option("--kernels", type=click.Choice(KERNELS), default="efficient", show_default=True),
        click.option("--threads", type=click.IntRange(min=1), help="Of torch on the CPU; 1 for tiny by default."),
        click.option("--seed", default=0, show_default=True, help="Of random weights."),
        click.option("--new-tokens", default=32, show_default=True, help="The limit of new tokens."),
        click.option("--fixed-length", is_flag=True, help="Go on to the limit whatever the model says."),
        click.option("--json", "json_path", type=out, help="Also write the numbers there; - for standard output."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@model_options
@click.option("--question", default=DEFAULT_QUESTION, show_default=True)
@click.option("--passes", type=click.IntRange(min=1), default=3, show_default=True, help="Timed passes.")
@click.option("--order-seed", type=int, help="Shuffles the models; drawn and printed by default.")
def run(
    path: Path | None,
    names: tuple[str, ...],
    question: str,
    passes: int,
    order_seed: int | None,
    json_path: Path | None,
    new_tokens: int,
    fixed_length: bool,
    **given: Any,
) -> None:
    """Send one sample through the models and print their stages.

    PATH is a clip, an event recording (.npy) or a folder of PNGs; without it, the embedded scene. Before a model is
    timed, an untimed pass must give the tokens, and do the work, of generate().
    """
    with _refusals():
        models, settings, generation = _settings(names, new_tokens, fixed_length, **given)
        seed = secrets.randbelow(2**16) if order_seed is None else order_seed
        order = random.Random(seed).sample(models, len(models))
        console = Console(stderr=str(json_path) == "-")
        results: dict[str, tuple[list[Run], Proof]] = {}
        with _scene(path) as scene, conditions(settings):
            for name in order:
                results[name] = _measure(name, settings, path, scene, question, generation, passes, console)
                release()
        shown = {name: sorted(results[name][0], key=lambda run: run.e2e)[(passes - 1) // 2] for name in models}
        work = {name: results[name][1].work for name in models}
        _print_head(console, settings, generation, f"the median of {passes} passes by e2e; models in order {seed}")
        console.print(report.stage_table(list(shown.values()), work, {n: results[n][0] for n in models}))
        for name, median in shown.items():
            click.echo(f"{name}: {median.text}", err=console.stderr)
        if json_path:
            runs = [report.runs_as_json(results[name][0], work[name]) for name in models]
            here = environment.identity(settings, generation, question, path)
            _write(json_path, {"schema": baseline.SCHEMA, "identity": here, "order_seed": seed, "runs": runs})


@main.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@model_options
@click.option("--question", "questions", multiple=True, default=(DEFAULT_QUESTION,), help="Repeatable.")
def audit(
    path: Path | None,
    names: tuple[str, ...],
    questions: tuple[str, ...],
    json_path: Path | None,
    new_tokens: int,
    fixed_length: bool,
    **given: Any,
) -> None:
    """Check what the times rest on: same tokens and same work as generate(), stages that explain e2e.

    Exit code 1 where a claim did not hold.
    """
    with _refusals():
        models, settings, generation = _settings(names, new_tokens, fixed_length, **given)
        console = Console(stderr=str(json_path) == "-")
        _print_head(console, settings, generation, f"{len(questions)} questions")
        here = environment.identity(settings, generation, " / ".join(questions), path)
        rows: list[dict[str, Any]] = []
        with _scene(path) as scene, conditions(settings):
            for name in models:
                for row in _audit_model(name, settings, path, scene, questions, generation, console):
                    rows.append(row)
                    if json_path and str(json_path) != "-":  # as it goes: an audit at full size takes many minutes
                        _write(json_path, {"schema": baseline.SCHEMA, "identity": here, "checks": rows})
                release()
        if str(json_path) == "-":
            _write(Path("-"), {"schema": baseline.SCHEMA, "identity": here, "checks": rows})
        failed = [row for row in rows if not row["held"]]
        console.print(f"{len(rows) - len(failed)} of {len(rows)} claims held")
        sys.exit(1 if failed else 0)


def _settings(
    names: tuple[str, ...], new_tokens: int, fixed_length: bool, **given: Any
) -> tuple[tuple[str, ...], ModelSettings, GenerationSettings]:
    models = resolve_models(names)
    return models, resolve_settings(models, **given), GenerationSettings(new_tokens, fixed_length)


@contextmanager
def _scene(path: Path | None) -> Iterator[Scene | None]:
    """The embedded scene, where no path was given; a given one is read once, before any model is built for it."""
    if path is not None:
        load(Sample(path), images=1)
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        yield render_scene(Path(folder))


def _measure(
    name: str,
    settings: ModelSettings,
    path: Path | None,
    scene: Scene | None,
    question: str,
    generation: GenerationSettings,
    passes: int,
    console: Console,
) -> tuple[list[Run], Proof]:
    with console.status(f"{name}: building"):
        model = build_model(name, settings)
    sample = Sample(path or getattr(scene, model.media), question)
    options = generation.options()
    with console.status(f"{name}: warming up, counting, comparing with generate()"):
        proof = prove(model, sample, options, settings.kernels)
    with console.status(f"{name}: timing"):
        runs = [timed_run(model, sample, options) for _ in range(passes)]
    if settings.kernels == "efficient":
        for timed in runs:
            proof.require_same_tokens(timed.generation)
    return runs, proof


def _audit_model(
    name: str,
    settings: ModelSettings,
    path: Path | None,
    scene: Scene | None,
    questions: tuple[str, ...],
    generation: GenerationSettings,
    console: Console,
) -> Iterator[dict[str, Any]]:
    model = build_model(name, settings)
    for question in questions:
        sample = Sample(path or getattr(scene, model.media), question)
        for check in audit_model(model, sample, generation.options(), settings.kernels):
            line = f"{'held  ' if check.held else 'BROKEN'} {name}: {check.claim} ({check.detail})"
            click.echo(line, err=console.stderr)
            yield {"model": name, "question": question} | asdict(check)


def _print_head(console: Console, settings: ModelSettings, generation: GenerationSettings, rest: str) -> None:
    threads = f", {settings.threads} threads" if settings.device == "cpu" else ""
    console.print(
        f"{settings.profile} profile, {settings.dtype} on {settings.device}{threads}; {generation.describe()}; {rest}",
        highlight=False,
    )
    if warning := environment.load_warning():
        console.print(warning, style="yellow", highlight=False)


def _write(path: Path, data: dict[str, Any]) -> None:
    if str(path) == "-":
        click.echo(json.dumps(data, indent=1, sort_keys=True))
    else:
        baseline.write_json(path, data)


@main.group(name="baseline")
def baseline_group() -> None:
    """Stored baselines."""


@baseline_group.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--reason", required=True, help="Why this run replaces what was there; kept in the file.")
@click.option("--partial", is_flag=True, help="Let it replace a baseline that has more benchmarks.")
@click.option("--root", type=click.Path(path_type=Path), default=Path("baselines"), show_default=True)
def accept(run_path: Path, reason: str, partial: bool, root: Path) -> None:
    """Make RUN, written by `pytest benchmarks --benchmark-json`, the baseline of its environment."""
    with _refusals():
        click.echo(f"stored {baseline.accept(run_path, root, reason, partial).resolve()}")


@contextmanager
def _refusals() -> Iterator[None]:
    """What stagebench refuses is one line and exit code 2."""
    try:
        yield
    except StagebenchError as error:
        click.echo(f"stagebench: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
