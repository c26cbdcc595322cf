"""Compare the tokens of two runs, and certify where they part: was it a tie that other kernels break otherwise?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stagebench.core.errors import StageError

NEAR_TIE = 8.0
"""Ulps. Either kernel rounds at every layer, so that the logits of both candidates are uncertain by a few of them."""


@dataclass(frozen=True, slots=True)
class TokenMatch:
    """How the tokens of a text compare with those of its reference.

    The gap is the reference's logit of its own token less that of the other's, in ulps of the model's dtype.
    """

    verdict: Literal["equal", "near-tie", "different"]  # near-tie: the reference's own logits hardly differ
    position: int | None = None  # of the first token that differs
    gap: float | None = None  # there, if it was looked up
    ids: tuple[int | None, int | None] = field(default=(None, None), compare=False)  # there; None where a text is over

    def __str__(self) -> str:
        if self.position is None:
            return self.verdict
        gap = "" if self.gap is None else f", the reference's logits are {self.gap:.2f} ulps apart"
        return f"{self.verdict}: token {self.position} differs{gap}"

    def describe(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Say where the text parts from its reference, with which token, and with which the reference goes on."""
        mine, theirs = ("the end" if i is None else f"{i} {tokenizer.decode([i])!r}" for i in self.ids)
        return f"another token {self.position}, {theirs} in the place of {mine}"


def ulp(value: float, dtype: torch.dtype) -> float:
    """Return the distance from a value to the next larger one of its binade, in a floating dtype."""
    epsilon = torch.finfo(dtype).eps
    return epsilon * 2.0 ** math.floor(math.log2(abs(value))) if value else torch.finfo(dtype).tiny


def match_tokens(reference: Sequence[int], other: Sequence[int], logits: Sequence[Tensor] | None = None) -> TokenMatch:
    """Compare the tokens of one row, and certify their first difference: after it the two runs see different texts.

    The logits are the reference's, (vocabulary,) a step, in the dtype of the model that computed them; without them
    every difference is one.
    """
    pairs = enumerate(zip_longest(reference, other))
    at, ids = next(((i, ids) for i, ids in pairs if ids[0] != ids[1]), (None, (None, None)))
    if at is None:
        return TokenMatch("equal")
    if logits is None or None in ids:
        return TokenMatch("different", at, math.inf if None in ids else None, ids)
    chosen, instead = (float(logits[at][token]) for token in ids)
    gap = (chosen - instead) / ulp(max(abs(chosen), abs(instead)), logits[at].dtype)
    # Not abs(): a reference that did not take its own best token is no tie but a fault.
    return TokenMatch("near-tie" if 0 <= gap <= NEAR_TIE else "different", at, gap, ids)


def require_same_tokens(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], first: Sequence[Sequence[int]]
) -> None:
    """Refuse a pass that wrote other texts than the first of its kind."""
    for mine, expected in zip(rows, first, strict=True):
        if (match := match_tokens(expected, mine)).position is not None:
            raise StageError(f"every pass must give the tokens of the first, got {match.describe(tokenizer)}")
