"""What the commands that run models share: their options, settings out of them, the sample, the head of a table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from stagebench.cli.output import refusals
from stagebench.core import environment
from stagebench.core.artifacts import Sample
from stagebench.core.locks import scratch_folder
from stagebench.core.settings import (
    BACKENDS,
    DTYPES,
    KERNELS,
    MEDIA,
    PREPROCESSORS,
    PROFILES,
    SLICES,
    TIME_UNITS,
    GenerationSettings,
    LoadSettings,
    ModelSettings,
)
from stagebench.core.shown import cell
from stagebench.media.synthetic_clip import SyntheticClip, write_synthetic_clip
from stagebench.models.registry import MODELS
from stagebench.suite.settings import check_input, parse_size, resolve_models, resolve_settings


def building_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which models there are, and how they are built."""
    several = "Repeatable, or several with commas; all by default."
    options = (
        click.option("--model", "--models", "names", multiple=True, default=tuple(MODELS), help=several),
        click.option("--profile", type=click.Choice(PROFILES), help="tiny on a CPU, 7b on a GPU by default."),
        click.option("--weights", help="Checkpoint folder or hub id; for one model."),
        click.option(
            "--pickled-weights", is_flag=True, help="Read them from .bin, a pickle; else from safetensors only."
        ),
        click.option("--device", help="cpu or cuda; by default cuda where there is one."),
        click.option("--dtype", type=click.Choice(DTYPES), help="float32 on a CPU, bfloat16 on a GPU by default."),
        click.option("--kernels", type=click.Choice(KERNELS), default="efficient", show_default=True),
        click.option("--threads", type=click.IntRange(min=1), help="Of torch on the CPU; 1 for tiny by default."),
        click.option("--seed", default=0, show_default=True, help="Of random weights."),
        click.option(
            "--preprocess", type=click.Choice(PREPROCESSORS), default="pil", show_default=True, help="Images to pixels."
        ),
        click.option(
            "--backend", type=click.Choice(BACKENDS), default="eager", show_default=True, help="How stages run."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how models are built and how they generate."""
    out = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
    options = (
        building_options,
        click.option("--new-tokens", default=32, show_default=True, help="The limit of new tokens."),
        click.option("--fixed-length", is_flag=True, help="Go on to the limit whatever the model says."),
        click.option("--json", "json_path", type=out, help="Also write the numbers there; - for standard output."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def load_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how media are read; the command gets them as `loading`."""

    @functools.wraps(command)
    def with_loading(*args: Any, image_size: str | None, **given: Any) -> None:
        names = ("slices", "start", "duration", "cache", "media", "time_unit")
        with refusals():
            loading = LoadSettings(image_size=parse_size(image_size), **{name: given.pop(name) for name in names})
        command(*args, loading=loading, **given)

    options = (
        click.option("--slices", type=click.Choice(SLICES), default="count", show_default=True, help="Of events."),
        click.option("--time-unit", type=click.Choice(TIME_UNITS), help="Of recordings; us by default, if it can be."),
        click.option("--image-size", metavar="WxH", help="Of event images; by default what their events reach."),
        click.option("--start", default=0.0, show_default=True, help="Seconds into the clip or recording."),
        click.option("--duration", type=float, help="Seconds to read; all by default."),
        click.option("--cache", type=click.Path(path_type=Path, file_okay=False), help="Keep decoded frames there."),
        click.option(
            "--media",
            type=click.Choice(MEDIA),
            default="own",
            show_default=True,
            help="What all models get.",
        ),
    )
    for option in reversed(options):
        with_loading = option(with_loading)
    return with_loading


def settings_of(
    names: tuple[str, ...], new_tokens: int, fixed_length: bool, **given: Any
) -> tuple[tuple[str, ...], ModelSettings, GenerationSettings]:
    """Models, how they are built and how they generate, out of the options."""
    models = resolve_models(name for several in names for name in several.split(","))
    return models, resolve_settings(models, **given), GenerationSettings(new_tokens, fixed_length)


@contextmanager
def synthetic_clip_of(path: Path | None, loading: LoadSettings) -> Iterator[SyntheticClip | None]:
    """The synthetic clip, where no path was given; a given one is read once, before any model is built for it."""
    if path is not None:
        check_input(path, loading)
        yield None
        return
    with scratch_folder() as folder:
        yield write_synthetic_clip(folder)


def sample_of(
    path: Path | None, synthetic: SyntheticClip | None, own: str, question: str, loading: LoadSettings
) -> Sample:
    """The given path, or what a model whose own kind of media is `own` gets of the synthetic clip."""
    if path is None:
        assert synthetic is not None  # `scene_of` gives one where no path was given
        path = synthetic.shown(loading.media, own)
    return Sample(path, question, loading)


def print_head(console: Console, settings: ModelSettings, generation: GenerationSettings, rest: str) -> None:
    """Say under which conditions the numbers below were made."""
    threads = f", {settings.threads} threads" if settings.device == "cpu" else ""
    backend = "" if settings.backend == "eager" else f", {settings.backend} backend"
    built = f"{settings.profile} profile, {settings.dtype} on {settings.device}{threads}{backend}"
    console.print(cell(f"{built}; {settings.preprocess} preprocessing; {generation.describe()}; {rest}"))
    if warning := environment.load_warning():
        console.print(warning, style="yellow", highlight=False)
