"""decode: KV cache and first token -> every further token, until a stop or the limit.

n new tokens are n - 1 steps, because prefill chose the first one. The unit of work is the step.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor
from transformers import MaxLengthCriteria, StoppingCriteriaList

from stagebench.errors import StageError
from stagebench.models.protocol import VisionLanguageModel
from stagebench.next_token import append_next_token
from stagebench.types import FinishReason, Generation, Prefilled

UNIT = "steps"


@torch.no_grad()
def decode(model: VisionLanguageModel, prefilled: Prefilled) -> Generation:
    """Run the stage. It writes into the prefilled KV cache, so a `Prefilled` is good for one decode.

    Raises:
        StageError: where the cache does not end with the prompt, as after an earlier decode.
    """
    _require_fresh_cache(prefilled)
    network, state = model.network, prefilled.state
    sequences, unfinished = prefilled.sequences, prefilled.unfinished
    was_unfinished: list[Tensor] = []
    step_ends: list[float] = []
    while bool(unfinished.max()):  # the one synchronisation a token that generate() makes as well
        was_unfinished.append(unfinished)
        inputs = network.prepare_inputs_for_generation(sequences, next_sequence_length=1, **state)
        outputs = network(**inputs, return_dict=True)
        state = network._update_model_kwargs_for_generation(outputs, state)
        sequences, unfinished = append_next_token(
            outputs.logits,
            sequences,
            unfinished,
            prefilled.logits_processor,
            prefilled.stopping_criteria,
            prefilled.generation_config,
        )
        step_ends.append(time.perf_counter())
    return _generation(prefilled, sequences, was_unfinished, step_ends)


def _require_fresh_cache(prefilled: Prefilled) -> None:
    cached = int(prefilled.state["past_key_values"].get_seq_length())
    if cached != prefilled.prompt_tokens:
        raise StageError(
            f"decode starts from a cache of the prompt's {prefilled.prompt_tokens} tokens, got {cached}: "
            "a Prefilled is good for one decode"
        )


def _generation(
    prefilled: Prefilled, sequences: Tensor, was_unfinished: list[Tensor], step_ends: list[float]
) -> Generation:
    new = sequences[:, prefilled.prompt_tokens :]
    lengths = torch.ones_like(prefilled.unfinished)
    if was_unfinished:
        lengths = lengths + torch.stack(was_unfinished).sum(dim=0)
    token_ids = tuple(tuple(row[:n]) for row, n in zip(new.tolist(), lengths.tolist(), strict=True))
    # A row that reached the limit may have stopped there by itself: ask all criteria but the limit.
    stops = StoppingCriteriaList(c for c in prefilled.stopping_criteria if not isinstance(c, MaxLengthCriteria))
    stopped = stops(sequences, None).tolist()
    reasons: list[FinishReason] = [
        "stop" if here or len(row) < new.shape[1] else "length" for row, here in zip(token_ids, stopped, strict=True)
    ]
    return Generation(token_ids, tuple(reasons), len(step_ends), tuple(step_ends))
