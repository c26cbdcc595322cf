"""Do the plain stages take longer than `generate()`? Both in one process, pass by pass in an order drawn afresh.

    python benchmarks/beside_generate.py ratios.json [--profile 7b --device cuda] [--passes 30]

Encode, prefill and decode are timed each from one synchronisation to the next, and added up; so is all of `generate()`.
What slows the host down for seconds slows both, which it does not where each is timed in its own minute.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from stagebench import stats
from stagebench.conditions import conditions
from stagebench.environment import identity
from stagebench.json_files import write_json
from stagebench.media.scene import Scene, render_scene
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.registry import BUILDERS, build_model
from stagebench.models.weights import release
from stagebench.pipeline import Options, prepared, reference_generate
from stagebench.stages.decode import decode
from stagebench.stages.encode import encode
from stagebench.stages.prefill import prefill
from stagebench.timing import Stopwatch
from stagebench.types import DEFAULT_QUESTION, PROFILES, GenerationSettings, Inputs, LoadSettings, ModelSettings, Sample

CONFIDENCE = 0.95
WARM_UPS = 2


def staged_seconds(model: VisionLanguageModel, inputs: Inputs, options: Options) -> float:
    """The sum of the three stages."""
    watch = Stopwatch(model.network.device)
    features = watch("encode", encode, model, inputs)
    watch("decode", decode, model, watch("prefill", prefill, model, inputs, features, options))
    return sum(watch.seconds.values())


def generate_seconds(model: VisionLanguageModel, inputs: Inputs, options: Options) -> float:
    """All of `generate()`."""
    watch = Stopwatch(model.network.device)
    watch("generate", reference_generate, model, inputs, options)
    return watch.seconds["generate"]


def by_turns(ways: dict[str, Callable[[], float]], passes: int, seed: int) -> dict[str, list[float]]:
    """Seconds by way; each has its turn in every pass, in an order drawn for it, and the first passes warm up."""
    draw, seconds = random.Random(seed), {name: [] for name in ways}
    for _ in range(WARM_UPS + passes):
        for name in draw.sample(list(ways), len(ways)):
            seconds[name].append(ways[name]())
    return {name: of[WARM_UPS:] for name, of in seconds.items()}


def row(name: str, settings: ModelSettings, scene: Scene, options: Options, passes: int) -> dict[str, Any]:
    """The median ratio of a model's passes, with its BCa interval."""
    release()  # the model before this one
    model = build_model(name, settings)
    given = model, prepared(model, Sample(scene.shown("own", model.media), DEFAULT_QUESTION)), options
    ways = {"staged": partial(staged_seconds, *given), "generate": partial(generate_seconds, *given)}
    seconds = by_turns(ways, passes, seed=0)
    logs = np.log(np.array(seconds["staged"]) / np.array(seconds["generate"]))
    low, high = (float(np.exp(bound[0])) for bound in stats.intervals(logs[None], CONFIDENCE))
    return {"model": name, "ratio": float(np.exp(np.median(logs))), "low": low, "high": high, "seconds": seconds}


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--profile", type=click.Choice(PROFILES[:2]), default="tiny", show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--passes", type=click.IntRange(min=10), default=30, show_default=True)
@click.option("--new-tokens", type=click.IntRange(min=2), default=64, show_default=True)
def main(path: Path, profile: str, device: str, passes: int, new_tokens: int) -> None:
    """Write the ratio of each model to PATH."""
    settings = ModelSettings(profile=profile, device=device, dtype="bfloat16" if device == "cuda" else "float32")
    generation, rows = GenerationSettings(new_tokens, fixed_length=True), []
    with conditions(settings), tempfile.TemporaryDirectory() as folder:
        scene = render_scene(Path(folder))
        for name in sorted(BUILDERS):
            rows.append(row(name, settings, scene, generation.options(), passes))
            click.echo("{model}: {ratio:.3f} ({low:.3f} to {high:.3f})".format(**rows[-1]))
    environment = identity(settings, generation, DEFAULT_QUESTION, None, LoadSettings())
    write_json(path, {"environment": environment, "rows": rows})


if __name__ == "__main__":
    main()
