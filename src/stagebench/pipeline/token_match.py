"""Compare the tokens of two runs, and certify where they part: was it a tie that other kernels break otherwise?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
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

    Attributes:
        verdict: "equal", "near-tie" (they part where the reference's own logits hardly differ) or "different".
        position: of the first token that differs; None where equal.
        gap: there, the reference's logit of its own token less that of the other's, in ulps of the model's dtype; None
            where that was not looked up.
        ids: there, the reference's token and the other's; None where a text is over.
    """

    verdict: Literal["equal", "near-tie", "different"]
    position: int | None = None
    gap: float | None = None
    ids: tuple[int | None, int | None] = field(default=(None, None), compare=False)

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


def match_tokens(
    reference: Sequence[int], other: Sequence[int], logits: Sequence[Tensor] | None = None, limit: float = NEAR_TIE
) -> TokenMatch:
    """Compare the tokens of one row, and certify their first difference.

    Only the first can be certified: after it the two runs see different texts.

    Args:
        reference: its tokens.
        other: the other's.
        logits: of the reference, (vocabulary,) a step, in the dtype of the model that computed them; without them every
            difference is one.
        limit: a gap of so many ulps is a near-tie.
    """
    shorter, longer = sorted(map(len, (reference, other)))
    at = next((i for i in range(shorter) if reference[i] != other[i]), None if shorter == longer else shorter)
    if at is None:
        return TokenMatch("equal")
    if at == shorter:
        mine, theirs = (text[at] if at < len(text) else None for text in (reference, other))
        return TokenMatch("different", at, math.inf, (mine, theirs))
    ids = reference[at], other[at]
    if logits is None:
        return TokenMatch("different", at, None, ids)
    chosen, instead = (float(logits[at][token]) for token in ids)
    gap = (chosen - instead) / ulp(max(abs(chosen), abs(instead)), logits[at].dtype)
    # Not abs(): a reference that did not take its own best token is no tie but a fault.
    return TokenMatch("near-tie" if 0 <= gap <= limit else "different", at, gap, ids)


def require_same_tokens(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], first: Sequence[Sequence[int]]
) -> None:
    """Refuse a pass that wrote other texts than the first of its kind.

    Raises:
        StageError: naming the first other token.
    """
    for mine, expected in zip(rows, first, strict=True):
        if (match := match_tokens(expected, mine)).position is not None:
            raise StageError(f"every pass must give the tokens of the first, got {match.describe(tokenizer)}")
