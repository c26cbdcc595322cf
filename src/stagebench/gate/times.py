"""Verdicts on times: statistics over pairs of processes, all benchmarks of a suite at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stagebench.core import statistics
from stagebench.gate.limits import Limit, Rules
from stagebench.gate.verdicts import Verdict


@dataclass(frozen=True)
class Pairs:
    """The times of one benchmark.

    Attributes:
        base: median seconds by process, shape (n,).
        head: likewise; position i was measured right beside position i of base.
        ratios: log of head over base by pair, shape (n,); NaN where a time is no time.
        limit: how much slower is too much.
    """

    base: statistics.Array
    head: statistics.Array
    ratios: statistics.Array
    limit: Limit

    @property
    def n(self) -> int:
        """How many pairs."""
        return len(self.base)

    def verdict(self, name: str, verdict: str, reason: str, interval: tuple[float, float] | None = None) -> Verdict:
        """A verdict that shows these times."""
        shown = bool(np.isfinite(self.ratios).all())
        return Verdict(
            name,
            "time",
            verdict,
            reason,
            self.n,
            base=float(np.median(self.base)) if shown else None,
            head=float(np.median(self.head)) if shown else None,
            estimate=math.expm1(float(np.median(self.ratios))) if shown else None,
            interval=interval,
            threshold=self.limit.threshold,
            floor=self.limit.floor,
        )


def judge_pairs(suite: Mapping[str, Pairs], rules: Rules) -> list[Verdict]:
    """Judge the times of a suite.

    Args:
        suite: by benchmark; all with the same number of pairs.
        rules: error rates.

    Returns:
        A verdict for each benchmark, in order.
    """
    least = statistics.least_pairs(rules.alpha)
    doubts = {name: _doubt(pairs, least) for name, pairs in suite.items()}
    sound = [name for name in suite if doubts[name] is None]
    found: dict[str, Verdict] = {}
    if sound:
        evidence = statistics.weigh(np.stack([suite[name].ratios for name in sound]), rules.confidence)
        for i, name in enumerate(sound):
            found[name] = _decide(name, suite[name], evidence.at(i), rules)
    return [
        found[name] if doubts[name] is None else pairs.verdict(name, "inconclusive", f"cannot decide: {doubts[name]}")
        for name, pairs in suite.items()
    ]


def _doubt(pairs: Pairs, least: int) -> str | None:
    """Why these pairs can't decide anything, or None where they can."""
    ratios = pairs.ratios
    if not np.isfinite(ratios).all():
        return "a process has no positive, finite time"
    if pairs.n < least:
        return f"{pairs.n} pair{'s' * (pairs.n != 1)} of processes, {least} are needed"
    if np.ptp(ratios) == 0:
        return f"no spread at all in {pairs.n} pairs, so they are not independent measurements"
    return None


def _decide(name: str, pairs: Pairs, evidence: statistics.Evidence, rules: Rules) -> Verdict:
    """One benchmark: slower for sure by more than its limit, for sure not, or neither."""
    limit = pairs.limit.of(float(np.median(pairs.base)))
    verdict = str(statistics.decide(evidence, math.log1p(limit), rules.alpha))
    low, high = math.expm1(evidence.low), math.expm1(evidence.high)
    if math.isnan(low) or math.isnan(high):
        return pairs.verdict(name, verdict, "cannot decide: the bootstrap gives no interval")
    reason = {
        "regression": "slower",
        "improvement": "faster",
        "pass": "not slower by more than its limit",
        "inconclusive": f"may be chance (p = {evidence.p_slower:.2g})" if low > limit else "limit within the interval",
    }[verdict]
    span = f"{rules.confidence:.0%} interval {low:+.1%} to {high:+.1%}, limit {limit:.1%}"
    return pairs.verdict(name, verdict, f"{reason}: {span}", (low, high))
