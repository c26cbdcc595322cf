"""The whole path: a sample goes in, text comes out, and each stage hands one small object to the next."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch

from stagebench.core import meter
from stagebench.core.artifacts import Generation, Inputs, Run, Sample, Work
from stagebench.core.errors import StageError
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline.counters import WorkCounter, check_work, count_operators, counted_forwards
from stagebench.pipeline.decode import decode
from stagebench.pipeline.encode import encode
from stagebench.pipeline.load import load
from stagebench.pipeline.prefill import prefill
from stagebench.pipeline.preprocess import preprocess
from stagebench.pipeline.timing import Stopwatch, synchronize

Options = Mapping[str, Any]
Done = dict[str, Any]


def path(model: VisionLanguageModel, sample: Sample, options: Options) -> dict[str, Callable[[Done], Any]]:
    """The stages in order, each as a function of the results of those before it: the only place that says so."""
    return {
        "load": lambda done: load(sample, model.images_per_sample),
        "preprocess": lambda done: preprocess(model, done["load"], sample.question),
        "encode": lambda done: encode(model, done["preprocess"]),
        "prefill": lambda done: prefill(model, done["preprocess"], done["encode"], options),
        "decode": lambda done: decode(model, done["prefill"]),
    }


def walk(model: VisionLanguageModel, sample: Sample, options: Options, through: Callable[..., Any]) -> Generation:
    """Walk the path once.

    Args:
        model: any of them.
        sample: a path and a question.
        options: keyword arguments of `generate()`.
        through: called as `through(stage, function, *args)` for each stage: a `Stopwatch` times it, a `WorkCounter`
            counts its work.
    """
    done: Done = {}
    for stage, step in path(model, sample, options).items():
        done[stage] = through(stage, step, done)
    generation: Generation = done["decode"]
    return generation


def timed_run(model: VisionLanguageModel, sample: Sample, options: Options) -> Run:
    """Walk the path with a stopwatch in hand; once more where a backend had to set something up on the way."""
    for _ in range(2):
        before, run = setups(model), _timed_walk(model, sample, options)
        if setups(model) == before:
            return run
    raise StageError(f"the second pass of an input must find all set up, got {setups(model) - before} set up in it")


def _timed_walk(model: VisionLanguageModel, sample: Sample, options: Options) -> Run:
    watch = Stopwatch(model.hf_model.device)
    spans: dict[str, tuple[float, float]] = {}
    counts: dict[str, Work] = {}

    def through(stage: str, *call: Any) -> Any:
        before, began = meter.so_far(), time.perf_counter_ns()
        result = watch(stage, *call)
        spans[stage] = began / 1e9, time.perf_counter_ns() / 1e9
        counts[stage] = meter.since(before)
        return result

    start = time.perf_counter()
    generation = walk(model, sample, options, through=through)
    text = detokenize(model, generation)
    e2e = time.perf_counter() - start
    return Run(model.name, watch.seconds, watch.device_seconds, e2e, generation, text, spans, counts)


def setups(model: VisionLanguageModel) -> int:
    """How many shapes the model's backend has set up: where they become more, times measure that too."""
    return 0 if model.backend is None else len(model.backend.setups)


def counted_run(model: VisionLanguageModel, sample: Sample, options: Options) -> tuple[Generation, WorkCounter]:
    """Walk the path and count the work of each stage; it serves as a warm-up too.

    Raises:
        StageError: where a stage did nothing, or another stage's work.
    """
    counter = counter_of(model)
    generation = walk(model, sample, options, through=counter)
    check_work(counter.work)
    return generation, counter


def counter_of(model: VisionLanguageModel) -> WorkCounter:
    """A counter of a model's work, of what its backend replays too."""
    return WorkCounter(model.counted_modules, *([] if model.backend is None else [model.backend.replayed]))


def prepared(model: VisionLanguageModel, sample: Sample) -> Inputs:
    """Walk the path up to the inputs."""
    return preprocess(model, load(sample, model.images_per_sample), sample.question)


def staged_generate(model: VisionLanguageModel, inputs: Inputs, options: Options) -> Generation:
    """Walk the rest of it: encode, prefill, decode."""
    return decode(model, prefill(model, inputs, encode(model, inputs), options))


def reference_generate(model: VisionLanguageModel, inputs: Inputs, options: Options) -> torch.Tensor:
    """Let plain `generate()` encode, prefill and decode.

    Returns:
        int64 (batch, new tokens), rows that stopped early padded.
    """
    sequences: torch.Tensor = model.hf_model.generate(**model.reference_inputs(inputs), **options)
    synchronize(model.hf_model.device)
    return sequences[:, inputs.input_ids.shape[1] :]


def scored_generate(
    model: VisionLanguageModel, inputs: Inputs, options: Options
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """`generate()` again, with what `equality.compare` needs to certify a divergence.

    Returns:
        Its new tokens, as `reference_generate`, and the raw logits of each step, (vocabulary,), in the model's dtype.
    """
    scored = dict(options) | {"return_dict_in_generate": True, "output_logits": True}
    output = model.hf_model.generate(**model.reference_inputs(inputs), **scored)
    logits = [step[0].to(model.hf_model.dtype) for step in output.logits]
    return output.sequences[:, inputs.input_ids.shape[1] :], logits


def counted_reference(
    model: VisionLanguageModel, inputs: Inputs, options: Options
) -> tuple[torch.Tensor, Work, Counter[str]]:
    """Count the work of plain `generate()`: its tokens, the counters, and the ATen operators by name."""
    with counted_forwards(model.counted_modules) as forwards:
        tokens, operators, by_name = count_operators(lambda: reference_generate(model, inputs, options))
    return tokens, forwards | operators, by_name


def detokenize(model: VisionLanguageModel, generation: Generation) -> str:
    """The first row's new tokens as text."""
    text: str = model.tokenizer.decode(generation.token_ids[0], skip_special_tokens=True)
    return text.strip()
