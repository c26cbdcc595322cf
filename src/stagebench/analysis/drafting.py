"""One model as the draft of another: how far their tokens agree, and the speedup of speculative decoding.

After Leviathan, Kalman and Matias 2023, "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192.
The draft writes k tokens; the target checks them in one forward and adds one. The estimate is optimistic. Tokens are
accepted independently with one probability, as in the paper. A check of k + 1 tokens takes as long as one step of the
target, and bookkeeping takes no time.
"""

from collections.abc import Sequence
from itertools import zip_longest
from statistics import fmean
from typing import Any

from stagebench.analysis.attribution import Costs

MAX_DRAFT = 32  # tokens drafted at once; with more a check no longer takes one step


def agreement(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, Any]:
    """Compare token ids of draft and target, for at least one pair, one per sample.

    `match_rates` by position are over the pairs that reach it. They are not acceptance, because the texts may have
    diverged before. `mean_prefix` is the mean number of equal tokens before the texts diverge or one ends. `acceptance`
    uses these prefixes only, where both models saw the same tokens: agreed / (agreed + diverged). It is the maximum
    likelihood estimate for a geometric length censored at the end of a text; None where no pair has a token.
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
    """Return the expected tokens per check, 1 + a + ... + a^k; equation (1) of the paper."""
    return sum(acceptance**i for i in range(draft_tokens + 1))


def decode_speedup(acceptance: float, cost_ratio: float, draft_tokens: int) -> float:
    """Return the tokens per check over its cost in steps of the target, k c + 1; theorem 3.8 of the paper."""
    return tokens_per_check(acceptance, draft_tokens) / (draft_tokens * cost_ratio + 1)


def best_draft(acceptance: float, cost_ratio: float) -> int:
    """Return the smallest number of tokens per draft with the best speedup; 0 unless acceptance exceeds the cost."""
    return max(range(MAX_DRAFT + 1), key=lambda k: decode_speedup(acceptance, cost_ratio, k))


def drafting(draft: Costs, target: Costs, acceptance: float | None) -> dict[str, float] | None:
    """Estimate the target's speedup with a draft, from the average costs of both.

    `cost_ratio` is the draft's time per token over the target's. `draft_tokens` are drafted at once, 0 where drafting
    does not pay. `tokens_per_check` includes the target's own token. `e2e_speedup` adds the draft's load, preprocess,
    encode and prefill. None where the acceptance is unknown, or one of them has no time per further token.
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
