"""One model as the draft of another: how far their tokens agree, and what speculative decoding could make of it.

After Leviathan, Kalman and Matias 2023, "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192.
The draft writes k tokens; the target checks them in one forward and adds one of its own. The estimate is generous: each
token is accepted with the same probability, whatever came before (the paper's assumption), a check of k + 1 tokens
takes as long as one step of the target, and the bookkeeping takes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stagebench.analysis.attribution import Costs
from stagebench.core.errors import AnalysisError

MAX_DRAFT = 32
"""Of tokens drafted at once; beyond it a check no longer costs one step."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the texts of two models agree, token for token, over the samples that both have.

    Attributes:
        samples: pairs compared.
        match_rates: by position from 0, the share of pairs with equal tokens there, among those that reach it.
        pairs_at: by position, how many reach it.
        prefixes: how many pairs agree in exactly so many tokens before they part, or one of them ends.
        acceptance: of a token, given that all before it agreed; None where no pair has a token.
    """

    samples: int
    match_rates: tuple[float, ...]
    pairs_at: tuple[int, ...]
    prefixes: dict[int, int]
    acceptance: float | None

    @property
    def mean_prefix(self) -> float:
        """Tokens that agree before two texts part."""
        return sum(length * count for length, count in self.prefixes.items()) / self.samples


@dataclass(frozen=True, slots=True)
class Drafting:
    """What speculative decoding could reach at measured times and rates, against the target alone.

    Attributes:
        acceptance: of one drafted token.
        cost_ratio: time of a draft's token over that of a target's.
        draft_tokens: drafted at once, where it is fastest; 0 where it is fastest not to draft.
        tokens_per_check: expected, the target's own among them.
        decode_speedup: of the decode stage alone.
        e2e_speedup: of the whole path, the draft's load, preprocess, encode and prefill before the target's.
        e2e_speedup_hidden: likewise, those of the draft run beside the target's and cost only what is longer.
    """

    acceptance: float
    cost_ratio: float
    draft_tokens: int
    tokens_per_check: float
    decode_speedup: float
    e2e_speedup: float
    e2e_speedup_hidden: float


def agreement(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], bos: int | None = None) -> Agreement:
    """Compare token ids of draft and target, one pair a sample.

    Rates by position compare texts that may have parted long before: they are no acceptance rate. `acceptance` uses the
    common prefixes only, where both models saw the same tokens: agreed / (agreed + parted), the maximum likelihood
    estimate of a geometric length that is cut off where a text ends.

    Args:
        pairs: ids of the new tokens.
        bos: the id of a beginning-of-sequence token to leave out at the head: it always agrees and says nothing.

    Raises:
        AnalysisError: where there is no pair.
    """
    if not pairs:
        raise AnalysisError("an agreement needs at least one pair of texts, got none")
    bare = [(_without_bos(draft, bos), _without_bos(target, bos)) for draft, target in pairs]
    longest = max(min(len(draft), len(target)) for draft, target in bare)
    matched, reached = [0] * longest, [0] * longest
    prefixes: Counter[int] = Counter()
    parted = 0
    for draft, target in bare:
        equal = [a == b for a, b in zip(draft, target, strict=False)]
        for position, each in enumerate(equal):
            matched[position] += each
            reached[position] += 1
        parted += not all(equal)
        prefixes[equal.index(False) if not all(equal) else len(equal)] += 1
    agreed = sum(length * count for length, count in prefixes.items())
    return Agreement(
        samples=len(bare),
        match_rates=tuple(hits / of for hits, of in zip(matched, reached, strict=True)),
        pairs_at=tuple(reached),
        prefixes=dict(sorted(prefixes.items())),
        acceptance=agreed / (agreed + parted) if agreed + parted else None,
    )


def tokens_per_check(acceptance: float, draft_tokens: int) -> float:
    """Expected tokens of one check, (1 - a^(k + 1)) / (1 - a); equation (1) of the paper. Between 1 and k + 1.

    Summed up as 1 + a + ... + a^k, which is the same, and right at a = 1 too.

    Raises:
        AnalysisError: where the acceptance is not from 0 to 1, or the number drafted is negative.
    """
    if not 0 <= acceptance <= 1:
        raise AnalysisError(f"an acceptance is from 0 to 1, got {acceptance}")
    if draft_tokens < 0:
        raise AnalysisError(f"a draft must be of at least 0 tokens, got {draft_tokens}")
    return sum(acceptance**i for i in range(draft_tokens + 1))


def decode_speedup(acceptance: float, cost_ratio: float, draft_tokens: int) -> float:
    """Tokens of one check over its cost in steps of the target, k c + 1; theorem 3.8 of the paper.

    Raises:
        AnalysisError: where the cost ratio is negative, or `tokens_per_check` refuses the rest.
    """
    if not 0 <= cost_ratio < float("inf"):
        raise AnalysisError(f"a cost ratio must be at least 0 and finite, got {cost_ratio}")
    return tokens_per_check(acceptance, draft_tokens) / (draft_tokens * cost_ratio + 1)


def best_draft(acceptance: float, cost_ratio: float, most: int = MAX_DRAFT) -> int:
    """How many tokens to draft at once, the fewest of the fastest: 0 unless acceptance exceeds the cost ratio."""
    return max(range(most + 1), key=lambda k: decode_speedup(acceptance, cost_ratio, k))


def drafting(draft: Costs, target: Costs, acceptance: float, most: int = MAX_DRAFT) -> Drafting:
    """What the target would gain if the draft wrote for it.

    Args:
        draft: average costs, with prefill apart.
        target: likewise.
        acceptance: of one drafted token.
        most: tokens drafted at once.

    Raises:
        AnalysisError: where one of them has no time per further token.
    """
    for costs in (draft, target):
        if not costs.time_per_token:
            raise AnalysisError(f"drafting needs a time per further token, got none of {costs.model}")
    cost_ratio = (draft.time_per_token or 0.0) / (target.time_per_token or 1.0)
    k = best_draft(acceptance, cost_ratio, most)
    gain = decode_speedup(acceptance, cost_ratio, k)
    fixed = (sum(draft.parts.values()) if k else 0.0, sum(target.parts.values()))
    decode = target.decode / gain
    return Drafting(
        acceptance=acceptance,
        cost_ratio=cost_ratio,
        draft_tokens=k,
        tokens_per_check=tokens_per_check(acceptance, k),
        decode_speedup=gain,
        e2e_speedup=target.total / (sum(fixed) + decode),
        e2e_speedup_hidden=target.total / (max(fixed) + decode),
    )


def _without_bos(ids: Sequence[int], bos: int | None) -> Sequence[int]:
    return ids[1:] if ids and ids[0] == bos else ids
