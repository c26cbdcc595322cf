"""`stagebench run`: one sample through the models."""

from __future__ import annotations

import random
import secrets
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from stagebench.analysis.report import stage_table
from stagebench.backends.backend import load_model
from stagebench.cli.options import load_options, model_options, print_head, sample_of, settings_of, synthetic_clip_of
from stagebench.cli.output import refusals, require_writable, write_json_to
from stagebench.core import environment
from stagebench.core.artifacts import Run
from stagebench.core.results import versioned
from stagebench.core.settings import DEFAULT_QUESTION, GenerationSettings, LoadSettings, ModelSettings
from stagebench.core.shown import plain
from stagebench.core.stages import time_outside
from stagebench.core.tables import show
from stagebench.media.synthetic_clip import SyntheticClip
from stagebench.models.weights import release
from stagebench.pipeline.timed_pass import COLLECTION, check_passes, timed_pass
from stagebench.pipeline.timing import pinned_runtime
from stagebench.pipeline.verify import Verification, count_reference, repeats_itself, verify


@click.command(name="run")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@model_options
@load_options
@click.option("--question", default=DEFAULT_QUESTION, show_default=True)
@click.option("--passes", type=click.IntRange(min=1), default=3, show_default=True, help="Timed passes.")
@click.option("--order-seed", type=int, help="Shuffles the models; drawn and printed by default.")
def command(
    path: Path | None,
    names: tuple[str, ...],
    question: str,
    passes: int,
    order_seed: int | None,
    json_path: Path | None,
    new_tokens: int,
    fixed_length: bool,
    loading: LoadSettings,
    **given: Any,
) -> None:
    """Send one sample through the models and print their stages.

    PATH is a clip, an event recording (.npy, .npz, .events, .h5, .raw, .aedat4) or a folder of PNGs; without it, the
    synthetic clip. Before a model is timed, an untimed pass must give the tokens, and do the work, of generate().
    """
    with refusals():
        require_writable(json_path)
        models, settings, generation = settings_of(names, new_tokens, fixed_length, **given)
        seed = secrets.randbelow(2**16) if order_seed is None else order_seed
        order = random.Random(seed).sample(models, len(models))
        console = Console(stderr=str(json_path) == "-")
        results: dict[str, tuple[list[Run], Verification]] = {}
        with synthetic_clip_of(path, loading) as synthetic, pinned_runtime(settings):
            for name in order:
                results[name] = _measure(
                    name, settings, path, synthetic, question, generation, loading, passes, console
                )
                release()
        shown = {name: sorted(results[name][0], key=lambda run: run.e2e)[(passes - 1) // 2] for name in models}
        work = {name: results[name][1].work for name in models}
        print_head(console, settings, generation, f"the median of {passes} passes by e2e; models in order {seed}")
        show(stage_table.stage_table(list(shown.values()), work, {n: results[n][0] for n in models}), console)
        for name in models:
            passes_of = results[name][0]
            if problem := time_outside([run.unattributed for run in passes_of], [run.e2e for run in passes_of]):
                click.echo(f"warning: {name}: {problem}", err=True)
        for name, median in shown.items():
            click.echo(f"{name}: {plain(median.text)}", err=console.stderr)
        if json_path:
            runs = [stage_table.runs_as_json(results[name][0], work[name]) for name in models]
            here = environment.identity(settings, generation, question, path, loading)
            write_json_to(
                json_path,
                versioned("samples", {"identity": here, "order_seed": seed, "runs": runs}) | COLLECTION,
            )


def _measure(
    name: str,
    settings: ModelSettings,
    path: Path | None,
    synthetic: SyntheticClip | None,
    question: str,
    generation: GenerationSettings,
    loading: LoadSettings,
    passes: int,
    console: Console,
) -> tuple[list[Run], Verification]:
    with console.status(f"{name}: building"):
        model = load_model(name, settings)
    sample = sample_of(path, synthetic, model.input_kind, question, loading)
    options = generation.options()
    with console.status(f"{name}: warming up, counting, comparing with generate()"):
        verified = verify(model, count_reference(model, sample, options), settings.kernels)
    with console.status(f"{name}: timing"):
        runs = [timed_pass(model, sample, options) for _ in range(passes)]
    expected = verified.generation.token_ids if repeats_itself(model, settings.kernels) else None
    check_passes(model, runs, expected)
    return runs, verified
