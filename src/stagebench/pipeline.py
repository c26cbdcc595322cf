"""The whole path: a sample goes in, text comes out, and each stage hands one small object to the next."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch

from stagebench.counters import WorkCounter, check_work, count_operators, counted_forwards
from stagebench.models.protocol import VisionLanguageModel
from stagebench.stages.decode import decode
from stagebench.stages.encode import encode
from stagebench.stages.load import load
from stagebench.stages.prefill import prefill
from stagebench.stages.preprocess import preprocess
from stagebench.timing import Stopwatch, synchronize
from stagebench.types import Generation, Inputs, Run, Sample, Work

Options = Mapping[str, Any]


def walk(model: VisionLanguageModel, sample: Sample, options: Options, through: Callable[..., Any]) -> Generation:
    """Walk the path once.

    Args:
        model: any of them.
        sample: a path and a question.
        options: keyword arguments of `generate()`.
        through: called as `through(stage, function, *args)` for each stage: a `Stopwatch` times it, a `WorkCounter`
            counts its work.
    """
    media = through("load", load, sample, model.images_per_sample)
    inputs = through("preprocess", preprocess, model, media, sample.question)
    features = through("encode", encode, model, inputs)
    prefilled = through("prefill", prefill, model, inputs, features, options)
    generation: Generation = through("decode", decode, model, prefilled)
    return generation


def timed_run(model: VisionLanguageModel, sample: Sample, options: Options) -> Run:
    """Walk the path with a stopwatch in hand."""
    watch = Stopwatch(model.network.device)
    start = time.perf_counter()
    generation = walk(model, sample, options, through=watch)
    text = detokenize(model, generation)
    e2e = time.perf_counter() - start
    return Run(model.name, watch.seconds, watch.device_seconds, e2e, generation, text)


def counted_run(model: VisionLanguageModel, sample: Sample, options: Options) -> tuple[Generation, WorkCounter]:
    """Walk the path and count the work of each stage; it serves as a warm-up too.

    Raises:
        StageError: where a stage did nothing, or another stage's work.
    """
    counter = WorkCounter(model.parts)
    generation = walk(model, sample, options, through=counter)
    check_work(counter.work)
    return generation, counter


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
    sequences: torch.Tensor = model.network.generate(**model.reference_inputs(inputs), **options)
    synchronize(model.network.device)
    return sequences[:, inputs.input_ids.shape[1] :]


def counted_reference(
    model: VisionLanguageModel, inputs: Inputs, options: Options
) -> tuple[torch.Tensor, Work, Counter[str]]:
    """Count the work of plain `generate()`: its tokens, the counters, and the ATen operators by name."""
    with counted_forwards(model.parts) as forwards:
        tokens, operators, by_name = count_operators(lambda: reference_generate(model, inputs, options))
    return tokens, forwards | operators, by_name


def detokenize(model: VisionLanguageModel, generation: Generation) -> str:
    """The first row's new tokens as text."""
    text: str = model.tokenizer.decode(generation.token_ids[0], skip_special_tokens=True)
    return text.strip()
