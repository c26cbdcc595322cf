"""One model as the draft of another: how far their tokens agree, and the speedup of speculative decoding.

After Leviathan, Kalman and Matias 2023, "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192.
The draft writes k tokens; the target checks them in one forward and adds one. Which tokens of the target's text the
draft would have written, each after all those before it, gives the number of checks without further assumptions. For
the expected speedup, a check of k + 1 tokens takes as long as one step of the target, and bookkeeping takes no time.
"""

from collections.abc import Sequence
from itertools import zip_longest
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stagebench.analysis.attribution import Costs
from stagebench.analysis.intervals import bootstrap
from stagebench.analysis.samples import DraftLine

MAX_DRAFT = 32  # tokens drafted at once; with more a check no longer takes one step


def agreement(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, Any]:
    """Compare token ids of draft and target, for at least one pair, one per sample.

    `match_rates` by position are over the pairs that reach it. They are not acceptance, because the texts may have
    diverged before. `mean_prefix` is the mean number of equal tokens before the texts diverge or one ends. From these
    prefixes, where both models saw the same tokens, comes `prefix_acceptance`: agreed / (agreed + diverged). It is the
    maximum likelihood estimate for a geometric length censored at the end of a text; None where no pair has a token.
    """
    equal = [[a == b for a, b in zip(draft, target, strict=False)] for draft, target in pairs]
    agreed = sum([*each, False].index(False) for each in equal)
    parted = sum(not all(each) for each in equal)
    return {
        "samples": len(pairs),
        "match_rates": [fmean(hit for hit in hits if hit is not None) for hits in zip_longest(*equal)],
        "mean_prefix": agreed / len(pairs),
        "prefix_acceptance": agreed / (agreed + parted) if agreed + parted else None,
    }


def checks(right: Sequence[bool], draft_tokens: int) -> int:
    """Return how many checks a text takes, by which of its tokens after the first the draft would have written."""
    at = taken = 0
    while at < len(right):
        at += [*right[at : at + draft_tokens], False].index(False) + 1
        taken += 1
    return taken


def tokens_per_check(texts: Sequence[Sequence[bool]], draft_tokens: int) -> float:
    """Return the mean number of tokens that a check gives, the target's own one included, over at least one token."""
    return sum(map(len, texts)) / sum(checks(text, draft_tokens) for text in texts)


def speculation(lines: Sequence[DraftLine], draft: Costs, target: Costs) -> dict[str, Any] | None:
    """Put the speedup that a draft's right tokens lead one to expect beside the measured one, of the same samples.

    Both are of decode; `e2e_speedup` adds to the expected one the draft's load, preprocess, encode and prefill.
    `best_draft_tokens` would have the best one, 0 where drafting does not pay. Intervals are over samples. None where
    no text has a second token, or a model no time per token.
    """
    kept = [line for line in lines if line.get("right")]
    if not (kept and draft.time_per_token and target.time_per_token):
        return None
    texts, k, cost_ratio = [x["right"] for x in kept], kept[0]["tokens"], draft.time_per_token / target.time_per_token
    sums = np.array([[sum(x["right"]), len(x["right"]), x["plain"], x["drafted"]] for x in kept])

    def ratios(chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        right, tokens, plain, drafted = sums[chosen].sum(axis=0)
        return np.array([right / tokens, plain / drafted])

    speedups = {n: tokens_per_check(texts, n) / (n * cost_ratio + 1) for n in (*range(MAX_DRAFT + 1), k)}
    best = max(speedups, key=lambda n: speedups[n])
    acceptance, measured = ratios(np.arange(len(kept))).tolist()
    of_acceptance, of_measured = bootstrap([str(x["sequence"]) for x in kept], ratios) or (None, None)
    before = sum(target.parts.values()) + sum(draft.parts.values())
    return {
        "samples": len(kept),
        "acceptance": acceptance,
        "acceptance_interval": of_acceptance,
        "draft_tokens": k,
        "tokens_per_check": tokens_per_check(texts, k),
        "cost_ratio": cost_ratio,
        "expected_speedup": speedups[k],
        "measured_speedup": measured,
        "measured_interval": of_measured,
        "e2e_speedup": target.total / (before + target.decode / speedups[k]),
        "best_draft_tokens": best,
        "best_speedup": speedups[best],
    }
