"""How stages grow: encode with images, prefill and decode with batch and context. Only with `--stage-scale`."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from batch_inputs import generated, impossible, of_one_shape, require_features, require_rows, stretched

from stagebench.core.artifacts import Prefilled
from stagebench.core.stages import DECODE, ENCODE, PREFILL
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline.decode import decode
from stagebench.pipeline.encode import encode
from stagebench.pipeline.prefill import prefill
from stagebench.pipeline.run_stages import prepared
from stagebench.pipeline.timing import synchronize
from stagebench.suite.no_capture_guard import about

IMAGES = (1, 5, 8)
BATCHES = (1, 4, 8)
CONTEXTS = (640, 2112)
"""Prompt tokens: as EventGPT's and LLaVA's prompts are, and a little more than Video-LLaVA's."""


def pytest_generate_tests(metafunc):
    for axis, values in (("images", IMAGES), ("batch", BATCHES), ("context", CONTEXTS)):
        if axis in metafunc.fixturenames:
            metafunc.parametrize(axis, values, ids=[f"{axis}{value}" for value in values])


def test_images(benchmark, stage_benchmark, stage_plain_model, stage_model, images, stage_sample, pytestconfig):
    """Encode, of so many images of the model's own size."""
    benchmark.group = f"encode {images}"
    if reason := of_one_shape(stage_model):
        pytest.skip(reason)
    inputs = prepared(stage_model, stage_sample)
    pixels = {
        name: torch.randn_like(tensor[:, :1].expand(-1, images, *tensor.shape[2:]))
        for name, tensor in inputs.given.items()
    }
    some = replace(inputs, given=pixels, images=images)

    features = stage_benchmark(timed(stage_model, encode, stage_model, some))

    if not pytestconfig.option.stage_times_only:
        require_features(stage_model, features, encode(stage_plain_model, some))
    benchmark.extra_info |= about(stage_model) | {"stage": ENCODE.name, "images": images, "work": features.work()}


@pytest.mark.parametrize("stage", [PREFILL.name, DECODE.name])
def test_scale(
    benchmark, stage_benchmark, stage_model, batch, context, stage, stage_sample, stage_options, pytestconfig
):
    """Prefill and decode, of so many rows of the same prompt, stretched to so many tokens."""
    benchmark.group = f"{stage} {batch} x {context}"
    inputs = prepared(stage_model, stage_sample)
    if reason := impossible(stage_model, inputs, batch, context, stage_options):
        pytest.skip(reason)
    inputs, features = stretched(stage_model, inputs, batch, context)
    done: list[Prefilled] = []

    def fresh() -> None:
        done[:] = [prefill(stage_model, inputs, features, stage_options)]
        synchronize(stage_model.hf_model.device)

    if stage == PREFILL.name:
        result = stage_benchmark(timed(stage_model, prefill, stage_model, inputs, features, stage_options))
        benchmark.extra_info |= {"work": result.work()}
    else:
        result = stage_benchmark(timed(stage_model, lambda: decode(stage_model, done[0])), setup=fresh)
        benchmark.extra_info |= {"work": result.work(), "unit": DECODE.unit, "units": result.steps}

    if not pytestconfig.option.stage_times_only:
        generation = decode(stage_model, result) if isinstance(result, Prefilled) else result
        require_rows(stage_model, generation, generated(stage_model, inputs, features, stage_options))
    benchmark.extra_info |= about(stage_model) | {"stage": stage, "batch": batch, "context": context}
    benchmark.extra_info["new_tokens"] = stage_options["max_new_tokens"]


def timed(model: VisionLanguageModel, function: Any, *args: Any) -> Any:
    """The function, and then all that it asked of the device."""

    @functools.wraps(function)
    def run() -> Any:
        result = function(*args)
        synchronize(model.hf_model.device)
        return result

    return run
