"""Compute the gate's statistics on arrays: paired log-ratios, a sign-flip test over the suite, BCa intervals.

Axes: `m` benchmarks of one suite, `n` pairs of one base and one head process each. Leading axes, written `...`, hold
independent decisions, so that the very function that decides once also simulates its own error rates.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 1999
EXACT_PAIRS = 13
"""Up to here all 2^n sign-flips are tried; beyond, as many drawn ones as that, and the observed one."""

_SEED = 0  # of the resamples: a verdict is a function of the data
_BATCH = 16  # decisions at a time, for memory
_ROUNDING = 1e-9  # sums that are equal but for their order are equal


class Evidence(NamedTuple):
    """What n pairs say about each benchmark; arrays of shape (..., m).

    Attributes:
        estimate: the log-ratio of head over base, the median of the pairs.
        low: lower end of its interval; NaN where the pairs don't give one.
        high: upper end, or NaN.
        p_slower: of no change against slower, adjusted over the suite.
        p_faster: of no change against faster, adjusted too.
    """

    estimate: Array
    low: Array
    high: Array
    p_slower: Array
    p_faster: Array

    def at(self, index: int | tuple[int, ...]) -> Evidence:
        """Return that of one benchmark, or of one decision."""
        return Evidence(*(field[index] for field in self))


def log_ratios(base: Array, head: Array) -> Array:
    """Take the log of head over base, pair by pair: what both share (a slower hour of the machine) cancels.

    Args:
        base: seconds, any shape.
        head: seconds, of the same shape; position i was measured right beside position i of base.

    Returns:
        The log-ratios; NaN where either side is no positive, finite time.
    """
    valid = np.isfinite(base) & np.isfinite(head) & (base > 0) & (head > 0)
    return np.log(np.where(valid, head, np.nan) / np.where(valid, base, 1.0))


def least_pairs(alpha: float) -> int:
    """Count the fewest pairs that can show anything at level alpha: all n pairs agree by chance once in 2^n."""
    return math.ceil(-math.log2(alpha))


def weigh(ratios: Array, confidence: float) -> Evidence:
    """Weigh the evidence of a suite.

    Args:
        ratios: finite log-ratios, shape (..., m, n), m >= 1, n >= 2.
        confidence: of each interval, two-sided, in (0, 1).
    """
    flat = ratios.reshape(-1, *ratios.shape[-2:])
    parts = [_weigh(flat[i : i + _BATCH], confidence) for i in range(0, len(flat), _BATCH)]
    return Evidence(*(np.concatenate(field).reshape(ratios.shape[:-1]) for field in zip(*parts, strict=True)))


def _weigh(ratios: Array, confidence: float) -> tuple[Array, ...]:
    return np.median(ratios, -1), *intervals(ratios, confidence), suite_p_values(ratios), suite_p_values(-ratios)


def decide(evidence: Evidence, limit: Array | float, alpha: float) -> NDArray[np.str_]:
    """Call each benchmark by the evidence on it.

    A regression takes both: an interval above the limit, and a change that the whole suite shows by chance in no more
    than alpha of all decisions. The interval alone would call one too often, being of few pairs and one of many.

    Args:
        evidence: of arrays of shape (..., m).
        limit: the log-ratio that is too slow, broadcast to (..., m).
        alpha: the suite's rate of false alarms.

    Returns:
        "regression", "improvement", "pass" or "inconclusive", shape (..., m).
    """
    known = np.isfinite(evidence.low) & np.isfinite(evidence.high)
    slower = (evidence.low > limit) & (evidence.p_slower <= alpha)
    faster = (evidence.high < -np.asarray(limit)) & (evidence.p_faster <= alpha)
    verdicts = ["regression", "improvement", "pass"]
    return np.select([known & slower, known & faster, known & (evidence.high < limit)], verdicts, "inconclusive")


def suite_p_values(ratios: Array) -> Array:
    """Test "no change" against "slower" for every benchmark, with one error rate for the whole suite.

    Where nothing changed, base and head of a pair could as well have swapped their labels. A swap flips the sign of the
    pair's log-ratio in all benchmarks at once, as they ran in the same two processes; so the test flips them together,
    and keeps whatever dependence they have. A benchmark's p-value is how often the largest statistic of the suite
    reaches its own (Westfall and Young's step-down maxT): exact for any noise, however heavy its tails. The statistic,
    sum over root of sum of squares, is Student's t in another scale, and stays finite without any spread.

    Args:
        ratios: finite log-ratios, shape (..., m, n).

    Returns:
        Adjusted p-values, shape (..., m), at least 2^-n; 1 where all ratios of a benchmark are 0.
    """
    scale = np.sqrt(np.square(ratios).sum(-1, keepdims=True))
    flipped = (ratios / np.where(scale > 0, scale, 1.0)) @ _sign_flips(ratios.shape[-1]).T
    order = np.argsort(-flipped[..., 0], axis=-1, kind="stable")
    flipped = np.take_along_axis(flipped, order[..., None], axis=-2)
    largest = np.maximum.accumulate(flipped[..., ::-1, :], axis=-2)[..., ::-1, :]  # of it and all below it
    p = np.maximum.accumulate((largest >= flipped[..., :1] - _ROUNDING).mean(-1), axis=-1)
    adjusted: Array = np.empty(p.shape)
    np.put_along_axis(adjusted, order, p, axis=-1)
    return adjusted


def _sign_flips(n: int) -> Array:
    """Make rows of +1 and -1, shape (flips, n), the first of them all +1."""
    if n <= EXACT_PAIRS:
        return np.where((np.arange(2**n)[:, None] >> np.arange(n)) & 1, -1.0, 1.0)
    drawn = np.random.default_rng(_SEED).choice((1.0, -1.0), (2**EXACT_PAIRS, n))
    drawn[0] = 1.0
    return drawn


def intervals(ratios: Array, confidence: float) -> tuple[Array, Array]:
    """Compute BCa bootstrap intervals of the median, resampling pairs.

    Args:
        ratios: finite log-ratios, shape (..., n).
        confidence: two-sided.

    Returns:
        Lower and upper ends, shape (...); NaN where the bootstrap is degenerate, as without any spread.
    """
    from scipy.stats import bootstrap  # takes a second to import, and every timed process imports this module

    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore")  # scipy warns of what comes back as NaN, which is no verdict
        found: Any = bootstrap(
            (ratios,),
            np.median,
            axis=-1,
            vectorized=True,
            n_resamples=RESAMPLES,
            confidence_level=confidence,
            method="BCa",
            rng=np.random.default_rng(_SEED),
        )
    return np.asarray(found.confidence_interval.low), np.asarray(found.confidence_interval.high)
