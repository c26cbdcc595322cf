"""Encode once, prefill from the tape: the tokens and scores of `generate()`, for every family."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import FAMILIES, inputs_of, small_network
from torch.utils.flop_counter import FlopCounterMode

from stagebench.models.tape import call_directly, record, replayed
from stagebench.pipeline.decode import advance
from stagebench.pipeline.prefill import _first_step

OPTIONS = {"max_new_tokens": 4, "do_sample": False}


class Scores:
    """Keep the scores of each step."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append(scores.clone())
        return scores


def reference(hf_model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    scores = Scores()
    tokens = hf_model.generate(**inputs, logits_processor=[scores], **OPTIONS)
    return tokens, torch.stack(scores.steps)


def staged(hf_model: Any, inputs: dict[str, Any], tape: Any) -> tuple[torch.Tensor, torch.Tensor]:
    scores = Scores()
    with replayed(hf_model, tape):
        prefilled = hf_model.generate(**inputs, custom_generate=_first_step, logits_processor=[scores], **OPTIONS)
    model = SimpleNamespace(hf_model=hf_model, backend=None)
    return advance(model, prefilled).sequences, torch.stack(scores.steps)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> SimpleNamespace:
    hf_model = small_network(request.param)
    inputs = inputs_of(hf_model, request.param)
    tape, direct = record(hf_model, inputs)
    return SimpleNamespace(hf_model=hf_model, inputs=inputs, tape=tape, direct=direct)


def test_a_replayed_tape_gives_the_tokens_and_scores_of_generate(family: SimpleNamespace) -> None:
    expected = reference(family.hf_model, family.inputs)
    got = staged(family.hf_model, family.inputs, family.tape)
    assert all(torch.equal(*pair) for pair in zip(expected, got, strict=True))


def test_encoders_called_directly_give_the_same_tape(family: SimpleNamespace) -> None:
    again = call_directly(family.hf_model, family.direct, family.inputs)
    expected = reference(family.hf_model, family.inputs)
    assert all(torch.equal(*pair) for pair in zip(expected, staged(family.hf_model, family.inputs, again), strict=True))


def test_encode_and_prefill_cost_the_flops_of_generate(family: SimpleNamespace) -> None:
    with FlopCounterMode(display=False) as expected:
        reference(family.hf_model, family.inputs)
    with FlopCounterMode(display=False) as got:
        staged(family.hf_model, family.inputs, call_directly(family.hf_model, family.direct, family.inputs))
    assert got.get_total_flops() == expected.get_total_flops()


def test_other_pixels_give_other_scores(family: SimpleNamespace) -> None:
    other = family.inputs | {"pixel_values": torch.randn_like(family.inputs["pixel_values"])}
    tape = call_directly(family.hf_model, family.direct, other)
    assert not torch.equal(
        staged(family.hf_model, other, tape)[1], staged(family.hf_model, family.inputs, family.tape)[1]
    )
