"""How stages grow: encode with the number of images, prefill and decode with batch and context. With `--scale` only."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from stagebench.errors import StagebenchError
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline import prepared
from stagebench.stages.decode import UNIT, decode
from stagebench.stages.encode import encode
from stagebench.stages.prefill import prefill
from stagebench.timing import synchronize
from stagebench.types import Features, Inputs, Prefilled

IMAGES = (1, 5, 8)
BATCHES = (1, 4, 8)
CONTEXTS = (640, 2112)
"""Prompt tokens: as EventGPT's and LLaVA's prompts are, and a little more than Video-LLaVA's."""


def pytest_generate_tests(metafunc):
    for axis, values in (("images", IMAGES), ("batch", BATCHES), ("context", CONTEXTS)):
        if axis in metafunc.fixturenames:
            metafunc.parametrize(axis, values, ids=[f"{axis}{value}" for value in values])


def test_images(benchmark, pedantic, model, images, sample):
    """Encode, of so many images of the model's own size."""
    benchmark.group = f"encode {images}"
    inputs = prepared(model, sample)
    pixels = torch.randn_like(inputs.pixels[:, :1].expand(-1, images, -1, -1, -1))
    some = Inputs(inputs.input_ids, inputs.attention_mask, pixels)
    features = pedantic(timed(model, encode, model, some))
    benchmark.extra_info |= about(model) | {"stage": "encode", "images": images, "work": features.work()}


@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_scale(benchmark, pedantic, model, batch, context, stage, sample, options):
    """Prefill and decode, of so many rows of the same prompt, stretched to so many tokens."""
    benchmark.group = f"{stage} {batch} x {context}"
    inputs, features = stretched(model, prepared(model, sample), batch, context)
    try:
        prefilled = prefill(model, inputs, features, options)
    except StagebenchError as error:
        pytest.skip(str(error))
    if stage == "prefill":
        prefilled = pedantic(timed(model, prefill, model, inputs, features, options))
        benchmark.extra_info |= {"work": prefilled.work()}
    else:
        done: list[Prefilled] = []

        def fresh() -> None:
            done[:] = [prefill(model, inputs, features, options)]
            synchronize(model.network.device)

        generation = pedantic(timed(model, lambda: decode(model, done[0])), setup=fresh)
        benchmark.extra_info |= {"work": generation.work(), "unit": UNIT, "units": generation.steps}
    benchmark.extra_info |= about(model) | {"stage": stage, "batch": batch, "context": context}
    benchmark.extra_info["new_tokens"] = options["max_new_tokens"]


def about(model: VisionLanguageModel) -> dict[str, Any]:
    return {"model": model.name, "backend": model.backend.name if model.backend else "eager"}


def timed(model: VisionLanguageModel, function: Any, *args: Any) -> Any:
    """The function, and then all that it asked of the device."""

    @functools.wraps(function)
    def run() -> Any:
        result = function(*args)
        synchronize(model.network.device)
        return result

    return run


def stretched(model: VisionLanguageModel, inputs: Inputs, batch: int, context: int) -> tuple[Inputs, Features]:
    """Repeat the last token but one of a prompt until it is so long, and the prompt for every row."""
    ids = inputs.input_ids
    if (missing := context - ids.shape[1]) < 0:
        pytest.skip(f"the prompt of {model.name} has {ids.shape[1]} tokens, more than {context}")
    ids = torch.cat([ids[:, :-1], ids[:, -2:-1].expand(-1, missing), ids[:, -1:]], dim=1)
    tokens = encode(model, inputs).tokens
    rows = ids.repeat(batch, 1)
    pixels = inputs.pixels.expand(batch, -1, -1, -1, -1)
    return Inputs(rows, torch.ones_like(rows), pixels), Features(tokens.repeat(batch, 1, 1))
