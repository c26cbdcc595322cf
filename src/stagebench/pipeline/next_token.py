"""One next token out of the logits, exactly as transformers' `generate()` takes it (`GenerationMixin._sample`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList


def append_next_token(
    logits: Tensor,
    sequences: Tensor,
    unfinished: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
) -> tuple[Tensor, Tensor]:
    """Choose a token for each row and say which rows go on.

    Args:
        logits: (batch, positions, vocabulary), any float dtype; the last position counts, in float32.
        sequences: int64 (batch, tokens), the prompt included.
        unfinished: int64 (batch,), 1 where the row still goes on; finished rows get the padding id.
        logits_processor: as prepared by `generate()`.
        stopping_criteria: likewise.
        generation_config: likewise.

    Returns:
        The sequences, one token longer, and the new `unfinished`.
    """
    # A copy: a view would keep the logits of the whole prompt alive.
    scores = logits_processor(sequences, logits[:, -1].to(copy=True, dtype=torch.float32))
    if generation_config.do_sample:
        tokens = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
    else:
        tokens = torch.argmax(scores, dim=-1)
    # A sole row that has finished ends the loop: its steps in vain, if any, are cut off, and nothing is to be padded.
    if len(tokens) > 1 and any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria):
        tokens = tokens * unfinished + _padding(generation_config) * (1 - unfinished)
    sequences = torch.cat([sequences, tokens[:, None]], dim=-1)
    unfinished = unfinished & ~stopping_criteria(sequences, None)
    return sequences, unfinished


def _padding(generation_config: GenerationConfig) -> Any:
    # The tensor that generate() prepared on the right device: an int would be copied there at each step.
    return generation_config._pad_token_tensor
