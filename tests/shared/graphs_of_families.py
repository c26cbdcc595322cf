"""Networks of the families as models without a processor, plain and with graphs, and inputs for them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from families import FAMILIES, inputs_of, small_network
from torch import Tensor

from stagebench.backends.any_graph import AnyGraphBackend
from stagebench.core.artifacts import Inputs
from stagebench.models.huggingface import HuggingFaceModel
from stagebench.models.tape import Encoders

OPTIONS = {"max_new_tokens": 8, "do_sample": False}


def plain_model(name: str, **settings: Any) -> HuggingFaceModel:
    """Build a family in its narrow layers, with other settings of its language model."""
    inputs, others = FAMILIES[name]
    with pytest.MonkeyPatch.context() as patch:
        if settings:
            patch.setitem(FAMILIES, name, (inputs, others | {"text_config": settings}))
        hf_model = small_network(name)
    kind = type(name, (HuggingFaceModel,), {"name": name, "images_per_sample": 1})
    return kind("random", hf_model, None, None, encoders=Encoders(hf_model))


def with_graphs(plain: HuggingFaceModel) -> HuggingFaceModel:
    return replace(plain, backend=AnyGraphBackend(plain, "graph", None))


def inputs_for(plain: HuggingFaceModel, words: tuple[int, ...] = ()) -> Inputs:
    """Make a prompt about an image of noise, with more words at its end."""
    given = inputs_of(plain.hf_model, plain.name)
    shape = given["input_ids"].shape
    for name, tensor in given.items():
        if tensor.shape[:2] == shape:
            more = (
                torch.tensor([words])
                if name == "input_ids"
                else tensor[:, -1:].expand(-1, len(words), *tensor.shape[2:])
            )
            given[name] = torch.cat([tensor, more.to(tensor.dtype)], 1) if words else tensor
    ids, mask = given.pop("input_ids"), given.pop("attention_mask")
    return Inputs(ids, mask, given, images=1)


class Scores:
    """Keep the scores of each step."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(scores.clone())
        return scores


def scored(generate: Any, model: HuggingFaceModel, inputs: Inputs) -> Tensor:
    """Return the scores of each token of a text, (tokens, vocabulary), by `generate()` or by the stages."""
    scores = Scores()
    generate(model, inputs, OPTIONS | {"logits_processor": [scores]})
    return torch.cat(scores.steps)


def rows(generation: Any) -> list[list[int]]:
    return [list(row) for row in generation.token_ids]


def two_rows(plain: HuggingFaceModel) -> Inputs:
    """Make a batch of two prompts, the shorter one padded on the left."""
    short, long = inputs_for(plain), inputs_for(plain, (40, 41, 42))
    given = {key: torch.cat([left_padded(short.given[key], each), each]) for key, each in long.given.items()}
    ids = torch.cat([left_padded(short.input_ids, long.input_ids), long.input_ids])
    mask = torch.cat([left_padded(short.attention_mask, long.attention_mask), long.attention_mask])
    return Inputs(ids, mask, given, images=2)


def left_padded(short: Tensor, long: Tensor) -> Tensor:
    """Put zeros before what has a column for each token, until it is as long."""
    missing = long.shape[1] - short.shape[1] if short.ndim > 1 else 0
    return torch.cat([torch.zeros_like(long[:, :missing]), short], 1) if missing else short
