"""Compute the gate's statistics on arrays: paired log-ratios, a sign-flip test over the suite, BCa intervals.

Axes: `m` benchmarks of one suite, `n` pairs of one base and one head process each. Leading axes, written `...`, hold
independent decisions, so that the function that decides once also simulates its own error rates.

One rule for drift and one for outliers serve all series that should be constant: rounds, processes, passes and runs.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stagebench.core.results import Results, short_name

Array = NDArray[np.float64]

RESAMPLES = 1999
EXACT_PAIRS = 13  # up to here all 2^n sign flips are tried; above, 2^13 random ones and the observed one
DRIFT_ALPHA = 1e-3  # one series in a thousand drifts by chance alone
LEAST_DRIFT = 0.01  # relative, from the first number to the last; smaller drifts are ignored
OUTLIER = 5.0  # robust standard deviations from the centre
NORMAL = 1.4826  # median absolute deviation times this is the standard deviation of normal noise
_SEED = 0  # of the resamples: a verdict is a function of the data
_BATCH = 16  # decisions computed at once, to bound memory
_ROUNDING = 1e-9  # sums that differ by their order alone count as equal


class Evidence(NamedTuple):
    """What n pairs say about each benchmark; arrays of shape (..., m)."""

    estimate: Array  # the log-ratio of head over base, the median of the pairs
    low: Array  # lower end of its interval; NaN, as `high` then, where the pairs give none
    high: Array
    p_slower: Array  # p-value of "no change" against "slower", adjusted over the suite
    p_faster: Array  # against "faster", also adjusted

    def at(self, index: int | tuple[int, ...]) -> Evidence:
        """Return the evidence of one benchmark, or of one decision."""
        return Evidence(*(field[index] for field in self))


def log_ratios(base: Array, head: Array) -> Array:
    """Return the log of head over base seconds, pair by pair; NaN where either is not a positive, finite time."""
    valid = np.isfinite(base) & np.isfinite(head) & (base > 0) & (head > 0)
    return np.log(np.where(valid, head, np.nan) / np.where(valid, base, 1.0))


def least_pairs(alpha: float) -> int:
    """Return the fewest pairs that can show a change at level alpha: n pairs agree by chance once in 2^n."""
    return math.ceil(-math.log2(alpha))


def weigh(ratios: Array, confidence: float, fresh: int | None = None) -> Evidence:
    """Return the evidence of finite log-ratios (..., m, n), m >= 1, n >= 2, at a confidence in (0, 1).

    The intervals are of all pairs, the p-values of the last `fresh` ones, by default also of all.
    """
    flat = ratios.reshape(-1, *ratios.shape[-2:])
    batches = [flat[i : i + _BATCH] for i in range(0, len(flat), _BATCH)]
    tested = slice(-(fresh or ratios.shape[-1]), None)
    parts = [
        (np.median(b, -1), *intervals(b, confidence), *(suite_p_values(s * b[..., tested]) for s in (1, -1)))
        for b in batches
    ]
    return Evidence(*(np.concatenate(field).reshape(ratios.shape[:-1]) for field in zip(*parts, strict=True)))


def decide(evidence: Evidence, limit: Array | float, alpha: float) -> NDArray[np.str_]:
    """Call each benchmark "regression", "improvement", "pass" or "inconclusive", shape (..., m).

    The limit is a log-ratio that broadcasts to (..., m). A regression needs both: an interval above the limit, and a
    p-value, adjusted over the suite, of at most alpha. The interval alone, of few pairs and one of many, would give too
    many false alarms.
    """
    known = np.isfinite(evidence.low) & np.isfinite(evidence.high)
    slower = (evidence.low > limit) & (evidence.p_slower <= alpha)
    faster = (evidence.high < -np.asarray(limit)) & (evidence.p_faster <= alpha)
    calls = [~known, slower, faster, evidence.high < limit]
    return np.select(calls, ["inconclusive", "regression", "improvement", "pass"], "inconclusive")


def suite_p_values(ratios: Array) -> Array:
    """Test "no change" against "slower" for every benchmark, with one error rate for the whole suite.

    If nothing changed, base and head of a pair are exchangeable. Exchanging them flips the sign of the pair's log-ratio
    in all benchmarks at once, because these ran in the same two processes. So the test flips them together, and keeps
    their dependence. A benchmark's p-value is the share of flips in which the largest statistic of the suite reaches
    its own (Westfall and Young's step-down maxT). It is exact for any noise, however heavy its tails. The statistic,
    sum over root of sum of squares, is a monotone function of Student's t that stays finite without spread. Finite
    log-ratios (..., m, n) give p-values (..., m) of at least 2^-n, and 1 where all ratios of a benchmark are 0.
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
    """Return rows of +1 and -1, shape (flips, n), the first row all +1."""
    if n <= EXACT_PAIRS:
        return np.where((np.arange(2**n)[:, None] >> np.arange(n)) & 1, -1.0, 1.0)
    drawn = np.random.default_rng(_SEED).choice((1.0, -1.0), (2**EXACT_PAIRS, n))
    drawn[0] = 1.0
    return drawn


def intervals(ratios: Array, confidence: float) -> tuple[Array, Array]:
    """Return two-sided BCa bootstrap intervals of the median of finite log-ratios (..., n), resampling pairs.

    Lower and upper ends have the shape (...). The bootstrap is degenerate where very short times tie. The ends are then
    the least and the largest ratio, if n is large enough: the median lies beyond all n on one side once in 2^n. They
    are NaN with fewer pairs, or without spread.
    """
    from scipy.stats import bootstrap  # takes a second to import, and every timed process imports this module

    drawn: dict[str, Any] = {"n_resamples": RESAMPLES, "rng": np.random.default_rng(_SEED), "vectorized": True}
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore")  # scipy warns where it returns NaN, which gives no verdict
        found = bootstrap((ratios,), np.median, axis=-1, confidence_level=confidence, method="BCa", **drawn)
    tied = np.isnan(found.confidence_interval.low) | np.isnan(found.confidence_interval.high)
    ends = ratios.min(-1), ratios.max(-1)
    known = (ends[0] < ends[1]) & (2.0 ** (1 - ratios.shape[-1]) <= 1 - confidence)
    low, high = (np.where(known, end, np.nan) for end in ends)
    return np.where(tied, low, found.confidence_interval.low), np.where(tied, high, found.confidence_interval.high)


class Drift(NamedTuple):
    """The drift of a series relative to its median, with Kendall's tau and p as evidence."""

    change: float
    tau: float
    p: float


def drift(values: ArrayLike, places: ArrayLike | None = None) -> Drift | None:
    """Return the drift of values over their places in time (by default their order); None where it may be chance.

    The rank correlation of Mann (1945) and Kendall tests it (exactly, where no values tie); the Theil-Sen slope
    measures it. At least seven values are needed.
    """
    from scipy.stats import kendalltau, theilslopes  # takes a second to import, and most commands don't need it

    series = np.asarray(values, dtype=float)
    order = np.arange(len(series)) if places is None else np.asarray(places, dtype=float)
    if len(series) < 2 or np.ptp(series) == 0 or np.ptp(order) == 0:
        return None
    total = float(theilslopes(series, order)[0] * np.ptp(order) / np.median(series))
    tau, p = map(float, kendalltau(order, series))
    return Drift(total, tau, p) if p < DRIFT_ALPHA and abs(total) >= LEAST_DRIFT else None


def outliers(values: ArrayLike, centre: ArrayLike | None = None, scale: float | None = None) -> list[int]:
    """Return the indices of values more than `OUTLIER` standard deviations (`scale`) away from their centre.

    The centre is one number or one per value, by default the median. The default scale comes from the median absolute
    deviation. Where that is 0, or of fewer than three values, none is an outlier.
    """
    series = np.asarray(values, dtype=float)
    if len(series) < 3:
        return []
    away = np.abs(series - (np.median(series) if centre is None else centre))
    deviation = NORMAL * float(np.median(away)) if scale is None else scale
    return [int(i) for i in np.flatnonzero(away > OUTLIER * deviation)] if deviation else []


def unsteady(results: Results) -> list[str]:
    """Return a line for each benchmark with times, in the order measured, that drifted or hold outliers."""
    lines = []
    for benchmark in results["benchmarks"]:
        seconds = benchmark["stats"].get("data") or []
        drifted, far = drift(seconds), outliers(seconds)
        said = f", drifted {drifted.change:+.1%}" if drifted else ""
        said += f", outliers at {', '.join(map(str, far))}" if far else ""
        lines += [short_name(benchmark["fullname"]) + said] if said else []
    return lines
