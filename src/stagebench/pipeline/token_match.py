"""Do two runs give the same tokens, and where they part, was it a tie that other kernels break otherwise?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

NEAR_TIE = 8.0
"""Ulps. Either kernel rounds at every layer, so that the logits of both candidates are uncertain by a few of them."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of a comparison.

    Attributes:
        verdict: "equal", "near-tie" (they part where the reference's own logits hardly differ) or "different".
        position: of the first token that differs; None where equal.
        gap: there, the reference's logit of its own token less that of the other's, in ulps of the model's dtype.
        ids: there, the reference's token and the other's; None where a text is over.
    """

    verdict: Literal["equal", "near-tie", "different"]
    position: int | None = None
    gap: float | None = None
    ids: tuple[int | None, int | None] = field(default=(None, None), compare=False)

    def __str__(self) -> str:
        if self.position is None:
            return self.verdict
        return f"{self.verdict}: token {self.position} differs, the reference's logits are {self.gap:.2f} ulps apart"


def first_divergence(reference: Sequence[int], other: Sequence[int]) -> int | None:
    """Where two sequences first differ, one being longer included; None where they are equal."""
    for i, (a, b) in enumerate(zip(reference, other, strict=False)):
        if a != b:
            return i
    return None if len(reference) == len(other) else min(len(reference), len(other))


def another_token(tokenizer: PreTrainedTokenizerBase, reference: Sequence[int], other: Sequence[int]) -> str:
    """Say where another text parts from the reference's, with which token, and with which the reference goes on."""
    at = first_divergence(reference, other)
    assert at is not None  # of equal ones nobody asks
    return describe_ids(tokenizer, at, _ids_at(at, reference, other))


def describe_ids(tokenizer: PreTrainedTokenizerBase, at: int | None, ids: tuple[int | None, int | None]) -> str:
    """The same, of a comparison."""
    mine, theirs = ("the end" if i is None else f"{i} {tokenizer.decode([i])!r}" for i in ids)
    return f"another token {at}, {theirs} in the place of {mine}"


def _ids_at(at: int, *texts: Sequence[int]) -> tuple[int | None, int | None]:
    first, second = (text[at] if at < len(text) else None for text in texts)
    return first, second


def ulp(value: float, dtype: torch.dtype) -> float:
    """The distance from a value to the next larger one of its binade, in a floating dtype."""
    epsilon = torch.finfo(dtype).eps
    return epsilon * 2.0 ** math.floor(math.log2(abs(value))) if value else torch.finfo(dtype).tiny


def compare(
    reference: Sequence[int],
    other: Sequence[int],
    logits: Sequence[Tensor],
    limit: float = NEAR_TIE,
) -> Comparison:
    """Compare the tokens of one row, and certify their first difference.

    Only the first can be certified: after it the two runs see different texts.

    Args:
        reference: its tokens.
        other: the other's.
        logits: of the reference, (vocabulary,) a step, in the dtype of the model that computed them.
        limit: a gap of so many ulps is a near-tie.
    """
    at = first_divergence(reference, other)
    if at is None:
        return Comparison("equal")
    if at >= min(len(reference), len(other)):
        return Comparison("different", at, math.inf, _ids_at(at, reference, other))
    chosen, instead = (float(logits[at][tokens[at]]) for tokens in (reference, other))
    gap = (chosen - instead) / ulp(max(abs(chosen), abs(instead)), logits[at].dtype)
    # Not abs(): a reference that did not take its own best token is no tie but a fault.
    return Comparison("near-tie" if 0 <= gap <= limit else "different", at, gap, _ids_at(at, reference, other))
