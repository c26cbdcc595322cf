"""Compiled layers: the tokens of the plain ones, and each kind of layer compiled once."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters
from transformers.modeling_layers import GradientCheckpointingLayer

from stagebench.backends.backend import RECIPES, Backend
from stagebench.backends.layers import compiled_layers
from stagebench.pipeline import reference_generate, staged_generate

OPTIONS = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module")
def compiled(plain, inputs):
    """How many functions were compiled on the way, and what they gave."""
    torch._dynamo.reset()
    counters.clear()
    fast = replace(plain, backend=Backend(plain, "compiled", RECIPES["compiled"], None))
    tokens = staged_generate(fast, inputs, OPTIONS).token_ids
    return counters["stats"]["unique_graphs"], [list(row) for row in tokens]


def layers_of(network):
    return [layer for layer in network.modules() if isinstance(layer, GradientCheckpointingLayer)]


def test_what_torch_compile_makes_of_the_layers_gives_the_tokens_of_generate(plain, inputs, compiled):
    assert reference_generate(plain, inputs, OPTIONS).tolist() == compiled[1]


def test_a_kind_of_layer_is_compiled_once_however_many_there_are(plain, compiled):
    kinds = 3  # of the tower; of the language model over a prompt, and over one token
    assert (len(layers_of(plain.network)), compiled[0]) == (4, kinds)


def test_the_layers_are_what_they_were_after_the_block(plain):
    before = state_of(plain.network)
    with pytest.raises(KeyError), compiled_layers(plain.network, {}):
        raise KeyError
    assert state_of(plain.network) == before


def state_of(network):
    return [(dict(vars(layer)), [vars(m).get("layer_idx") for m in layer.modules()]) for layer in layers_of(network)]
