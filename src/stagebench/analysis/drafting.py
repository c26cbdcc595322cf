"""One model as the draft of another: how far their tokens agree, and what speculative decoding could make of it.

After Leviathan, Kalman and Matias 2023, "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192.
The draft writes k tokens; the target checks them in one forward and adds one of its own. The estimate is generous: each
token is accepted with the same probability, whatever came before (the paper's assumption), a check of k + 1 tokens
takes as long as one step of the target, and the bookkeeping takes nothing.
"""

from collections.abc import Sequence
from itertools import zip_longest
from statistics import fmean
from typing import Any

from stagebench.analysis.attribution import Costs

MAX_DRAFT = 32  # of tokens drafted at once; beyond it a check no longer costs one step


def agreement(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, Any]:
    """Compare token ids of draft and target, one pair a sample, at least one, token for token.

    The `match_rates` by position are of the pairs that reach it: two texts may have parted before, so they are no
    acceptance. `mean_prefix` tokens agree before two texts part, or one ends. `acceptance` of a token, all before it
    agreed, uses these prefixes only, where both models saw the same tokens: agreed / (agreed + parted), the maximum
    likelihood estimate of a geometric length that is cut off where a text ends; None where no pair has a token.
    """
    equal = [[a == b for a, b in zip(draft, target, strict=False)] for draft, target in pairs]
    agreed = sum([*each, False].index(False) for each in equal)
    parted = sum(not all(each) for each in equal)
    return {
        "samples": len(pairs),
        "match_rates": [fmean(hit for hit in hits if hit is not None) for hits in zip_longest(*equal)],
        "mean_prefix": agreed / len(pairs),
        "acceptance": agreed / (agreed + parted) if agreed + parted else None,
    }


def tokens_per_check(acceptance: float, draft_tokens: int) -> float:
    """Return the expected tokens of one check, 1 + a + ... + a^k; equation (1) of the paper."""
    return sum(acceptance**i for i in range(draft_tokens + 1))


def decode_speedup(acceptance: float, cost_ratio: float, draft_tokens: int) -> float:
    """Return the tokens of one check over its cost in steps of the target, k c + 1; theorem 3.8 of the paper."""
    return tokens_per_check(acceptance, draft_tokens) / (draft_tokens * cost_ratio + 1)


def best_draft(acceptance: float, cost_ratio: float) -> int:
    """Return how many tokens to draft at once, the fewest of the fastest; 0 unless acceptance exceeds the cost."""
    return max(range(MAX_DRAFT + 1), key=lambda k: decode_speedup(acceptance, cost_ratio, k))


def drafting(draft: Costs, target: Costs, acceptance: float | None) -> dict[str, float] | None:
    """Estimate what the target would gain if the draft wrote for it, out of the average costs of both.

    `cost_ratio` is the time of a draft's token over that of a target's; `draft_tokens` are drafted at once, 0 where it
    is fastest not to; the target's own is among the `tokens_per_check`; for the `e2e_speedup` the draft's load,
    preprocess, encode and prefill go before the target's. None where no acceptance is known, or one of them has no time
    per further token.
    """
    if acceptance is None or not (draft.time_per_token and target.time_per_token):
        return None
    cost_ratio = draft.time_per_token / target.time_per_token
    k = best_draft(acceptance, cost_ratio)
    gain = decode_speedup(acceptance, cost_ratio, k)
    before = sum(target.parts.values()) + (sum(draft.parts.values()) if k else 0.0)
    return {
        "acceptance": acceptance,
        "cost_ratio": cost_ratio,
        "draft_tokens": k,
        "tokens_per_check": tokens_per_check(acceptance, k),
        "decode_speedup": gain,
        "e2e_speedup": target.total / (before + target.decode / gain),
    }
