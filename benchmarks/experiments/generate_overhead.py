"""Do the plain stages take longer than `generate()`? Both in one process, by turns of a few tokens.

    python benchmarks/experiments/generate_overhead.py ratios.json [--profile 7b --device cuda] [--passes 30]

A stopping criterion holds `generate()` up at its first token and at every eighth after it, and the stages go as far:
first encode and prefill, then eight decode steps a turn. Each turn is timed from one synchronisation to the next. What
slows the host down for a second slows both, which it does not where each way is timed from its beginning to its end.
Who has the first turn changes from pass to pass, and the stages are given a criterion of the same cost.

Three ratios come of it: that of all seconds; that of a typical turn (of each turn the median over the passes, weighted
by its share of the time), which leaves hiccups of the host out; and that of the first turn, encode and prefill. The
stages take no longer where the first two are at most 1.00, to two decimals: a slow step now and then shows in the
seconds, and what is less than the host's noise in the typical turn. `--passes` is to be chosen before anything is seen.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap
from torch import Tensor
from transformers import StoppingCriteria

from stagebench.cli.output import refusals, require_writable
from stagebench.core.artifacts import Inputs, Sample
from stagebench.core.errors import StageError
from stagebench.core.json_files import write_json
from stagebench.core.machine.environment import identity
from stagebench.core.results import versioned
from stagebench.core.settings import (
    DEFAULT_MODELS,
    DEFAULT_QUESTION,
    PROFILES,
    GenerationSettings,
    LoadSettings,
    ModelSettings,
)
from stagebench.core.stages import DECODE, ENCODE, PREFILL
from stagebench.core.statistics import RESAMPLES
from stagebench.media.synthetic_clip import SyntheticClip, write_synthetic_clip
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.registry import build_model
from stagebench.models.weights import release
from stagebench.pipeline.decode import advance, decode
from stagebench.pipeline.encode import encode
from stagebench.pipeline.prefill import prefill
from stagebench.pipeline.run_stages import Options, prepared, reference_generate, staged_generate
from stagebench.pipeline.timing import Stopwatch, pinned_runtime, synchronize

Seconds = NDArray[np.float64]
"""Of shape (..., passes, turns), or of what is said of them: (...)."""

CONFIDENCE = 0.95
TOKENS_A_TURN = 8
WARM_UPS = 1  # and the pass that compares the tokens


class EveryFewTokens(StoppingCriteria):
    """Calls `pause` at the first token and at every eighth after it, and stops nothing."""

    def __init__(self, pause: Callable[[], None]) -> None:
        self.pause, self.tokens = pause, 0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """False for each row."""
        if self.tokens % TOKENS_A_TURN == 0:
            self.pause()
        self.tokens += 1
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def staged_turns(model: VisionLanguageModel, inputs: Inputs, options: Options) -> Iterator[float]:
    """The seconds of the stages, turn by turn."""
    watch = Stopwatch(model.hf_model.device)
    criterion = EveryFewTokens(pause=lambda: None)
    features = watch(ENCODE.name, encode, model, inputs)
    prefilled = watch(PREFILL.name, prefill, model, inputs, features, {**options, "stopping_criteria": [criterion]})
    yield watch.seconds[ENCODE.name] + watch.seconds[PREFILL.name]
    for _ in range(TOKENS_A_TURN, options["max_new_tokens"], TOKENS_A_TURN):
        prefilled = watch(DECODE.name, advance, model, prefilled, TOKENS_A_TURN)
        yield watch.seconds[DECODE.name]
    watch(DECODE.name, decode, model, prefilled)
    yield watch.seconds[DECODE.name]


def generate_turns(
    model: VisionLanguageModel, inputs: Inputs, options: Options, meanwhile: Callable[[], None]
) -> list[float]:
    """The seconds of `generate()`, turn by turn; `meanwhile` is called between them, off the clock."""
    seconds: list[float] = []
    start = 0.0

    def pause() -> None:
        nonlocal start
        synchronize(model.hf_model.device)
        seconds.append(time.perf_counter() - start)
        meanwhile()
        start = time.perf_counter()

    synchronize(model.hf_model.device)
    start = time.perf_counter()
    reference_generate(model, inputs, {**options, "stopping_criteria": [EveryFewTokens(pause)]})
    return [*seconds, time.perf_counter() - start]


def one_pass(model: VisionLanguageModel, inputs: Inputs, options: Options, *, stages_first: bool) -> dict[str, Any]:
    """The seconds of both ways through the same inputs, by way and turn."""
    turns, staged = staged_turns(model, inputs, options), list[float]()

    def stages() -> None:
        staged.append(next(turns))

    if stages_first:
        stages()
    generate = generate_turns(model, inputs, options, meanwhile=stages)
    if not stages_first:
        stages()
    return {"stages_first": stages_first, "staged": staged, "generate": generate}


def of_all_seconds(staged: Seconds, generate: Seconds) -> Seconds:
    """The sum over the sum."""
    return staged.sum(axis=(-2, -1)) / generate.sum(axis=(-2, -1))


def of_a_typical_turn(staged: Seconds, generate: Seconds) -> Seconds:
    """The medians of the turns, each weighted by its share of the time."""
    share = np.median(generate, axis=-2)
    return np.exp((np.median(np.log(staged / generate), axis=-2) * share).sum(-1) / share.sum(-1))


def of_the_first_turn(staged: Seconds, generate: Seconds) -> Seconds:
    """The median."""
    return np.median(staged[..., 0] / generate[..., 0], axis=-1)


def ratios(passes: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of the stages to `generate()`, each with the BCa interval that resampled passes give."""
    staged, generate = (np.array([of[way] for of in passes]) for way in ("staged", "generate"))
    numbers, found = np.arange(len(passes)), {}
    for figure in (of_all_seconds, of_a_typical_turn, of_the_first_turn):

        def of(drawn: Any, axis: int, figure: Any = figure) -> Any:
            return figure(staged[drawn], generate[drawn])

        draw = np.random.default_rng(0)
        low, high = bootstrap(
            (numbers,), of, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, rng=draw
        ).confidence_interval
        found[figure.__name__] = {"ratio": float(of(numbers, -1)), "low": float(low), "high": float(high)}
    return found


def line(name: str, found: dict[str, dict[str, float]]) -> str:
    """The ratios in words."""
    cell = "{ratio:.3f} ({low:.3f} to {high:.3f}) {what}"
    return f"{name}: " + ", ".join(cell.format(what=what.replace("_", " "), **each) for what, each in found.items())


def row(name: str, settings: ModelSettings, synthetic: SyntheticClip, options: Options, passes: int) -> dict[str, Any]:
    """A model's ratios and its passes."""
    release()  # the model before this one
    model = build_model(name, settings)
    inputs = prepared(model, Sample(synthetic.shown("own", model.input_kind), DEFAULT_QUESTION))
    if [list(row) for row in staged_generate(model, inputs, options).token_ids] != (
        reference_generate(model, inputs, options).tolist()
    ):
        raise StageError(f"the stages must write the tokens of generate() to be timed beside it, {name} wrote others")
    turns = [one_pass(model, inputs, options, stages_first=i % 2 == 1) for i in range(WARM_UPS + passes)][WARM_UPS:]
    return {"model": name, "ratios": ratios(turns), "passes": turns}


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--profile", type=click.Choice(PROFILES[:2]), default="tiny", show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--passes", type=click.IntRange(min=10), default=30, show_default=True)
@click.option("--new-tokens", type=click.IntRange(min=2), default=64, show_default=True)
def main(path: Path, profile: str, device: str, passes: int, new_tokens: int) -> None:
    """Write the ratios of each model to PATH."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("--device cuda needs a CUDA device, got a machine without one")
    with refusals():
        require_writable(path)
        measure(path, profile, device, passes, new_tokens)


def measure(path: Path, profile: str, device: str, passes: int, new_tokens: int) -> None:
    """See `main`."""
    settings = ModelSettings(profile=profile, device=device, dtype="bfloat16" if device == "cuda" else "float32")
    generation, rows = GenerationSettings(new_tokens, fixed_length=True), list[dict[str, Any]]()
    environment = identity(settings, generation, DEFAULT_QUESTION, None, LoadSettings())
    with pinned_runtime(settings), tempfile.TemporaryDirectory() as folder:
        synthetic = write_synthetic_clip(Path(folder))
        for name in sorted(DEFAULT_MODELS):
            rows.append(row(name, settings, synthetic, generation.options(), passes))
            click.echo(line(name, rows[-1]["ratios"]))
            over_all = ratios([of for each in rows for of in each["passes"]])
            write_json(path, versioned("report", {"environment": environment, "rows": rows, "over_all": over_all}))
    click.echo(line("over all", over_all))


if __name__ == "__main__":
    main()
