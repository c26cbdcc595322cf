"""Compiled layers: the tokens of the plain ones, and each kind of layer compiled once."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from stagebench.backends.graph import RECIPES, GraphBackend
from stagebench.backends.static_cache import compiled_layers
from stagebench.core.errors import ModelError
from stagebench.pipeline.run_stages import reference_generate, staged_generate

OPTIONS = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module")
def compiled(plain, inputs):
    """How many functions were compiled on the way, and what they gave."""
    torch._dynamo.reset()
    counters.clear()
    fast = replace(plain, backend=GraphBackend(plain, "compiled", None, RECIPES["compiled"]))
    tokens = staged_generate(fast, inputs, OPTIONS).token_ids
    return counters["stats"]["unique_graphs"], [list(row) for row in tokens]


def layers_of(hf_model):
    return [layer for layer in hf_model.modules() if isinstance(layer, GradientCheckpointingLayer)]


def test_what_torch_compile_makes_of_the_layers_gives_the_tokens_of_generate(plain, inputs, compiled):
    assert reference_generate(plain, inputs, OPTIONS).tolist() == compiled[1]


def test_a_kind_of_layer_is_compiled_once_however_many_there_are(plain, compiled):
    kinds = 3  # of the tower; of the language model over a prompt, and over one token
    assert (len(layers_of(plain.hf_model)), compiled[0]) == (4, kinds)


def test_the_layers_are_what_they_were_after_the_block(plain, monkeypatch):
    first = layers_of(plain.hf_model)[0]
    monkeypatch.setattr(first, "forward", first.forward)  # somebody's own
    inner = next(first.children())
    monkeypatch.setitem(inner._forward_hooks, 0, recorder)
    before = state_of(plain.hf_model)
    inside = []
    with pytest.raises(ZeroDivisionError), compiled_layers(plain.hf_model, {}):
        inside.append(dict(inner._forward_hooks)) or 1 // 0
    assert ([{}], before) == (inside, state_of(plain.hf_model))


def recorder(*_):
    """Records outputs, as transformers' hooks do."""


recorder.__module__ = "transformers.utils.output_capturing"


def state_of(hf_model):
    """All that the block changes for a while."""
    return [
        (dict(vars(layer)), [(vars(m).get("layer_idx"), dict(m._forward_hooks)) for m in layer.modules()])
        for layer in layers_of(hf_model)
    ]


def test_transformers_marks_its_recorders_as_this_module_knows_them(plain, inputs):
    plain.hf_model(pixel_values=None, input_ids=inputs.input_ids[:, :2], output_hidden_states=True, use_cache=False)
    hooks = [hook for layer in layers_of(plain.hf_model) for hook in layer._forward_hooks.values()]
    assert {recorder.__module__} == {hook.__module__ for hook in hooks}


@pytest.mark.parametrize("kind", ["_forward_hooks", "_forward_pre_hooks"])
def test_a_hook_inside_a_layer_is_refused(plain, monkeypatch, kind):
    monkeypatch.setitem(getattr(layers_of(plain.hf_model)[0].mlp, kind), 0, print)
    with (
        pytest.raises(ModelError, match=r"can't have hooks inside, got .* on a LlamaMLP"),
        compiled_layers(plain.hf_model, {}),
    ):
        pass


def test_a_cache_under_another_name_is_refused(plain):
    layer = plain.hf_model.get_decoder().layers[0]
    with compiled_layers(plain.hf_model, {}), pytest.raises(ModelError, match=r"must get its cache as .*, got another"):
        layer.forward(torch.zeros(1, 1, 1), state=Cache(layers=[]))
