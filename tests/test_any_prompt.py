"""Prompts of any network as graphs, within `generate()`: what each prompt brings anew, and what is left alone.

A CPU has no CUDA graphs: there what would be captured is called. Every family's prompts: tests/test_any_graph.py.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from families import IMAGE
from graphs_of_families import OPTIONS, inputs_for, plain_model, rows, scored, two_rows, with_graphs
from torch import Tensor

from stagebench.backends import graph
from stagebench.backends.any_prompt import PromptCall
from stagebench.core.artifacts import Inputs
from stagebench.core.errors import ModelError
from stagebench.models.huggingface import HuggingFaceModel
from stagebench.pipeline.run_stages import reference_generate, staged_generate

pytestmark = pytest.mark.filterwarnings("ignore:`hidden_state` is deprecated:FutureWarning")


def ran(fast: HuggingFaceModel, inputs: Inputs) -> str:
    """Generate a text, and say what ran its prompt."""
    staged_generate(fast, inputs, OPTIONS)
    return fast.backend.stages["prefill"]


def with_image_later(inputs: Inputs) -> Inputs:
    """Move the words behind the image before it: a prompt of the same shape."""
    at = [0, *range(inputs.input_ids.shape[1] - 3, inputs.input_ids.shape[1]), *range(1, inputs.input_ids.shape[1] - 3)]
    shape, whole = inputs.input_ids.shape, {"input_ids": inputs.input_ids, **inputs.given}
    moved = {name: tensor[:, at] if tensor.shape[:2] == shape else tensor for name, tensor in whole.items()}
    return replace(inputs, input_ids=moved.pop("input_ids"), given=moved)


# In a deepstack, features are added at the visual tokens in several layers.
@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_5_vl", "gemma3"])
def test_prompts_of_one_shape_with_the_image_at_other_places_have_the_scores_of_generate(name: str) -> None:
    plain = plain_model(name)
    fast, first = with_graphs(plain), inputs_for(plain)
    later = with_image_later(first)
    assert (later.input_ids == IMAGE).nonzero().tolist() != (first.input_ids == IMAGE).nonzero().tolist()
    for inputs in (first, later, first):
        expected = scored(reference_generate, plain, inputs)
        torch.testing.assert_close(scored(staged_generate, fast, inputs), expected, rtol=0, atol=1e-4)
    assert len(fast.backend.prompts) == 1


def test_a_prompt_of_another_length_is_set_up_once() -> None:
    fast = with_graphs(plain_model("internvl"))
    counts = []
    for words in ((), (), (30,), (), (30,)):
        staged_generate(fast, inputs_for(fast, words), OPTIONS)
        counts.append(fast.setups)
    assert counts == [counts[0], counts[0], counts[0] + 2, counts[0] + 2, counts[0] + 2]  # also its encoders' calls


def test_the_prompt_unused_for_longest_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "KEPT", 2)
    fast = with_graphs(plain_model("internvl"))
    for words in ((), (30,), (), (30, 31)):
        staged_generate(fast, inputs_for(fast, words), OPTIONS)
    freed = [captured for captured in fast.backend.setups if not captured.inputs]
    assert [captured.calls for captured in freed] == [2]  # to be looked at, and for its one prompt


def test_a_padded_prompt_runs_as_it_is_and_the_next_one_as_a_graph() -> None:
    fast = with_graphs(plain_model("qwen2_5_vl"))
    said = [ran(fast, inputs) for inputs in (two_rows(fast), inputs_for(fast), two_rows(fast))]
    assert said == ["eager: rows of the prompt are padded", "graph", "eager: rows of the prompt are padded"]


def spoilt(plain: HuggingFaceModel, monkeypatch: pytest.MonkeyPatch, before: Any) -> None:
    """Let the language model do something first with its arguments."""
    decoder = plain.hf_model.get_decoder()
    forward = decoder.forward

    def spoiling(*args: Any, **kwargs: Any) -> Any:
        before(kwargs)
        return forward(*args, **kwargs)

    monkeypatch.setattr(decoder, "forward", spoiling)


def test_a_language_model_that_reads_a_value_of_its_prompt_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, seen = plain_model("internvl"), []

    def read(kwargs: dict[str, Any]) -> None:
        if kwargs["inputs_embeds"].shape[1] > 1:
            seen.append(kwargs["inputs_embeds"].sum().item())

    spoilt(plain, monkeypatch, read)
    fast, inputs = with_graphs(plain), inputs_for(plain)
    assert ran(fast, inputs) == "eager: it reads a value on the host"
    del seen[:]
    assert ran(fast, inputs_for(plain, (30, 31))) == "eager: it reads a value on the host"
    assert len(seen) == 1  # one trial was enough


def test_a_language_model_that_is_given_what_no_graph_knows_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = with_graphs(plain_model("internvl"))
    plain = type(fast.hf_model.base_model).forward
    monkeypatch.setattr(
        fast.hf_model.base_model,
        "forward",
        lambda *args, **kwargs: plain(fast.hf_model.base_model, *args, **kwargs, seen=object()),
    )
    assert ran(fast, inputs_for(fast)) == "eager: its language model takes a object"


def test_a_prompt_that_gives_other_states_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = with_graphs(plain_model("qwen2_5_vl"))
    right = PromptCall.run
    calls = []

    def run(call: PromptCall, **tensors: Tensor) -> Any:
        calls.append(call)
        output, *rest = right(call, **tensors)
        output.last_hidden_state.mul_(1 + len(calls) % 2)
        return output, *rest

    monkeypatch.setattr(PromptCall, "run", run)
    message = "^in a graph a prompt must give the states of the plain one, got a relative distance of "
    with pytest.raises(ModelError, match=message):
        staged_generate(fast, inputs_for(fast), OPTIONS)


def test_a_language_model_is_put_back_after_a_prompt() -> None:
    fast = with_graphs(plain_model("internvl"))
    inputs = inputs_for(fast)
    expected = reference_generate(fast, inputs, OPTIONS).tolist()
    assert rows(staged_generate(fast, inputs, OPTIONS)) == expected
    assert "forward" not in vars(fast.hf_model.get_decoder())
