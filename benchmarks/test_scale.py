"""How stages grow: encode with images, prefill and decode with batch and context. Only with `--stage-scale`."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from batch_inputs import generated, impossible, of_one_shape, require_features, require_rows, stretched

from stagebench.benchmarks.no_capture_guard import about
from stagebench.core.artifacts import Prefilled
from stagebench.core.stages import DECODE, ENCODE, PREFILL
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline.decode import decode
from stagebench.pipeline.encode import encode
from stagebench.pipeline.prefill import prefill
from stagebench.pipeline.run_stages import prepared
from stagebench.pipeline.timing import synchronize

IMAGES = (1, 5, 8)
BATCHES = (1, 4, 8)
CONTEXTS = (640, 2112)
"""Prompt tokens: as EventGPT's and LLaVA's prompts are, and a little more than Video-LLaVA's."""


def pytest_generate_tests(metafunc):
    for axis, values in (("images", IMAGES), ("batch", BATCHES), ("context", CONTEXTS)):
        if axis in metafunc.fixturenames:
            metafunc.parametrize(axis, values, ids=[f"{axis}{value}" for value in values])


def test_images(benchmark, pedantic, plain_model, model, images, sample, pytestconfig):
    """Encode, of so many images of the model's own size."""
    benchmark.group = f"encode {images}"
    if reason := of_one_shape(model):
        pytest.skip(reason)
    inputs = prepared(model, sample)
    pixels = {
        name: torch.randn_like(tensor[:, :1].expand(-1, images, *tensor.shape[2:]))
        for name, tensor in inputs.given.items()
    }
    some = replace(inputs, given=pixels, images=images)

    features = pedantic(timed(model, encode, model, some))

    if not pytestconfig.option.stage_times_only:
        require_features(model, features, encode(plain_model, some))
    benchmark.extra_info |= about(model) | {"stage": ENCODE.name, "images": images, "work": features.work()}


@pytest.mark.parametrize("stage", [PREFILL.name, DECODE.name])
def test_scale(benchmark, pedantic, model, batch, context, stage, sample, options, pytestconfig):
    """Prefill and decode, of so many rows of the same prompt, stretched to so many tokens."""
    benchmark.group = f"{stage} {batch} x {context}"
    inputs = prepared(model, sample)
    if reason := impossible(model, inputs, batch, context, options):
        pytest.skip(reason)
    inputs, features = stretched(model, inputs, batch, context)
    done: list[Prefilled] = []

    def fresh() -> None:
        done[:] = [prefill(model, inputs, features, options)]
        synchronize(model.hf_model.device)

    if stage == PREFILL.name:
        result = pedantic(timed(model, prefill, model, inputs, features, options))
        benchmark.extra_info |= {"work": result.work()}
    else:
        result = pedantic(timed(model, lambda: decode(model, done[0])), setup=fresh)
        benchmark.extra_info |= {"work": result.work(), "unit": DECODE.unit, "units": result.steps}

    if not pytestconfig.option.stage_times_only:
        generation = decode(model, result) if isinstance(result, Prefilled) else result
        require_rows(model, generation, generated(model, inputs, features, options))
    benchmark.extra_info |= about(model) | {"stage": stage, "batch": batch, "context": context}
    benchmark.extra_info["new_tokens"] = options["max_new_tokens"]


def timed(model: VisionLanguageModel, function: Any, *args: Any) -> Any:
    """The function, and then all that it asked of the device."""

    @functools.wraps(function)
    def run() -> Any:
        result = function(*args)
        synchronize(model.hf_model.device)
        return result

    return run
