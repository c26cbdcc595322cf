"""The backend `graph` of any model: encoders, and steps over a cache that stays where it is, as in `generate()`.

A CPU has no CUDA graphs: there what would be captured is called.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from families import FAMILIES, inputs_of, small_network

from stagebench.backends.any_graph import AnyGraphBackend
from stagebench.core.artifacts import Inputs
from stagebench.core.errors import ModelError
from stagebench.models.huggingface import HuggingFaceModel
from stagebench.models.tape import Encoders
from stagebench.pipeline.run_stages import reference_generate, staged_generate

pytestmark = pytest.mark.filterwarnings("ignore:`hidden_state` is deprecated:FutureWarning")
OPTIONS = {"max_new_tokens": 8, "do_sample": False}
REFUSED = {"florence2": "reads 1 values on the host"}


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


def rows(generation: Any) -> list[list[int]]:
    return [list(row) for row in generation.token_ids]


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_in_turn_have_the_tokens_of_generate_or_the_family_is_refused_in_a_line(name: str) -> None:
    plain = plain_model(name)
    several = [inputs_for(plain), inputs_for(plain, (30, 31, 32)), inputs_for(plain)]
    fast = with_graphs(plain)
    if name in REFUSED:
        with pytest.raises(ModelError, match=f"the backend graph can't take steps of a .*: it {REFUSED[name]}$"):
            staged_generate(fast, several[0], OPTIONS)
        return
    expected = [reference_generate(plain, inputs, OPTIONS).tolist() for inputs in several]
    assert [rows(staged_generate(fast, inputs, OPTIONS)) for inputs in several] == expected


def test_images_of_other_grids_in_turn_have_the_tokens_of_generate() -> None:
    plain = plain_model("qwen2_5_vl")
    wide, square = inputs_for(plain), inputs_for(plain)
    wide.given["image_grid_thw"].copy_(torch.tensor([[1, 2, 8]]))
    expected = [reference_generate(plain, inputs, OPTIONS).tolist() for inputs in (wide, square, wide)]
    fast = with_graphs(plain)
    assert [rows(staged_generate(fast, inputs, OPTIONS)) for inputs in (wide, square, wide)] == expected


LONG = OPTIONS | {"max_new_tokens": 20}
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}


@pytest.mark.parametrize(("name", "layers"), [("gemma3", {}), ("gemma3", MIXED), ("idefics2", {})])
def test_a_prompt_longer_than_a_window_has_the_tokens_of_generate(name: str, layers: dict[str, Any]) -> None:
    words = tuple(range(30, 60))
    narrow, wide = (plain_model(name, sliding_window=window, **layers) for window in (8, 400))
    inputs = inputs_for(narrow, words)
    expected = reference_generate(narrow, inputs, LONG).tolist()
    assert reference_generate(wide, inputs, LONG).tolist() != expected
    assert rows(staged_generate(with_graphs(narrow), inputs, LONG)) == expected
