"""decode: KV cache and first token -> every further token, until a stop or the limit: n tokens are n - 1 steps."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, MaxLengthCriteria, StoppingCriteriaList

from stagebench.core.artifacts import FinishReason, Generation, Prefilled
from stagebench.core.errors import StageError
from stagebench.models.protocol import VisionLanguageModel

Choice = tuple[LogitsProcessorList, StoppingCriteriaList, GenerationConfig]  # prepared for choosing tokens


def decode(model: VisionLanguageModel, prefilled: Prefilled) -> Generation:
    """Run the stage. It writes to the prefilled KV cache, so each `Prefilled` serves one decode only."""
    return _generation(advance(model, prefilled))


@torch.no_grad()
def advance(model: VisionLanguageModel, prefilled: Prefilled, steps: int | None = None) -> Prefilled:
    """Run at most `steps` decode steps, and return the state to continue from; refuse a cache of other tokens."""
    _require_fresh_cache(prefilled)
    if model.backend is not None:
        return model.backend.advance(prefilled, steps)
    hf_model, state = prefilled.hf_model or model.hf_model, prefilled.state
    given = {"is_encoder_decoder": hf_model.config.is_encoder_decoder}

    def step(sequences: Tensor) -> Tensor:
        nonlocal state
        inputs = hf_model.prepare_inputs_for_generation(sequences, next_sequence_length=1, **state)
        outputs = hf_model(**inputs, return_dict=True)
        state = hf_model._update_model_kwargs_for_generation(outputs, state, **given)
        logits: Tensor = outputs.logits
        return logits

    end = take_steps(step, prefilled, steps, Progress())
    return replace(end, state=state)


class Progress:
    """Records for each step whether any row is unfinished and when it ended, on a host that waits for every step."""

    def __init__(self) -> None:
        self._steps: list[tuple[bool, float]] = []

    def note(self, unfinished: Tensor) -> None:
        """Wait for a step: one synchronisation per token, as in `generate()`."""
        self._steps.append((bool(unfinished.max()), time.perf_counter()))

    def going(self, i: int) -> bool:
        """Return whether any row is unfinished after step `i`."""
        return self._steps[i][0]

    def ends(self, steps: int) -> list[float]:
        """Return the end times of the first `steps` steps, by `time.perf_counter`."""
        return [end for _, end in self._steps[:steps]]


def take_steps(
    step: Callable[[Tensor], Tensor], prefilled: Prefilled, steps: int | None, progress: Progress, lag: int = 1
) -> Prefilled:
    """Call `step` for at most `steps` tokens; stops are checked `lag` steps later, and steps after them are cut off."""
    sequences, unfinished = prefilled.sequences, prefilled.unfinished
    choice = prefilled.logits_processor, prefilled.stopping_criteria, prefilled.generation_config
    room = prefilled.generation_config.max_length - sequences.shape[1]
    limit = (room if steps is None else min(room, steps)) if bool(unfinished.max()) else 0
    was_unfinished: list[Tensor] = []
    for i in range(limit):
        if i >= lag and not progress.going(i - lag):
            break
        was_unfinished.append(unfinished)
        sequences, unfinished = append_next_token(step(sequences), sequences, unfinished, choice)
        progress.note(unfinished)
    taken = len(was_unfinished)
    needed = next((i + 1 for i in range(taken) if not progress.going(i)), taken)
    return replace(
        prefilled,
        sequences=sequences if needed == taken else sequences[:, : needed - taken],
        unfinished=unfinished,
        lengths=torch.stack([prefilled.lengths, *was_unfinished]).sum(dim=0),
        step_ends=(*prefilled.step_ends, *progress.ends(needed)),
        wasted_steps=prefilled.wasted_steps + taken - needed,
    )


def _require_fresh_cache(prefilled: Prefilled) -> None:
    cached, chosen = int(cache_of(prefilled.state).get_seq_length()), prefilled.sequences.shape[1]
    if cached != chosen - 1:
        got = f"got {cached}: a Prefilled serves one decode"
        raise StageError(f"decode must start from a cache of all {chosen} tokens but the last, {got}")


def cache_of(state: dict[str, Any]) -> Any:
    """Return the KV cache; transformers 5.24 renamed it."""
    return state["cache"] if "cache" in state else state["past_key_values"]


def _generation(end: Prefilled) -> Generation:
    new = end.sequences[:, end.prompt_tokens :]
    token_ids = tuple(tuple(row[:n]) for row, n in zip(new.tolist(), end.lengths.tolist(), strict=True))
    # A row that reached the limit may also have stopped there: check all criteria but the limit.
    stops = StoppingCriteriaList(c for c in end.stopping_criteria if not isinstance(c, MaxLengthCriteria))
    stopped = stops(end.sequences, None).tolist()
    reasons: list[FinishReason] = [
        "stop" if here or len(row) < new.shape[1] else "length" for row, here in zip(token_ids, stopped, strict=True)
    ]
    return Generation(token_ids, tuple(reasons), len(end.step_ends), end.step_ends, end.wasted_steps)


def append_next_token(logits: Tensor, sequences: Tensor, unfinished: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
    """Choose a token for each row as transformers' `generate()` does (`GenerationMixin._sample`).

    Use the last position of the logits (batch, positions, vocabulary), in float32. Return the sequences, int64 (batch,
    tokens), one token longer, with the padding id in finished rows, and the new `unfinished`, int64 (batch,).
    """
    logits_processor, stopping_criteria, generation_config = choice
    # Copied, because a view would keep the logits of the whole prompt in memory.
    scores = logits_processor(sequences, logits[:, -1].to(copy=True, dtype=torch.float32))
    if generation_config.do_sample:
        tokens = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
    else:
        tokens = torch.argmax(scores, dim=-1)
    # A single row that has finished ends the loop: its wasted steps are cut off, so nothing needs padding.
    if len(tokens) > 1 and any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria):
        padding = generation_config._pad_token_tensor  # on the device: an int would be copied there at each step
        tokens = tokens * unfinished + padding * (1 - unfinished)
    sequences = torch.cat([sequences, tokens[:, None]], dim=-1)
    unfinished = unfinished & ~stopping_criteria(sequences, None)
    return sequences, unfinished
