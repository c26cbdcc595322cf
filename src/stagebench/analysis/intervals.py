"""Bootstrap intervals over samples. What was cut from one sequence is drawn together, because it is not independent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a number would lie if other samples like these had been drawn.

    Attributes:
        low: its lower end.
        high: its upper end.
    """

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def bootstrap(
    clusters: Sequence[str],
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Interval] | None:
    """Return intervals of 95 % of several numbers at once, by drawing whole clusters with replacement (Efron 1979).

    Plain percentiles are too narrow where there are few clusters. They are taken further out, as Student's t is wider
    than a normal distribution (the expanded percentile interval; Hesterberg 2015, "What Teachers Should Know About the
    Bootstrap"). Of a mean over ten clusters 93 % then hold it, over five 91 %, and over two 54 %.

    Args:
        clusters: one name a sample; samples of one name are drawn together.
        statistic: from the positions of the drawn samples to the numbers, shape (numbers,).
        seed: of the draws.
        resamples: how many.

    Returns:
        One interval a number; None where there are fewer than two clusters.
    """
    names, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        return None
    members = np.split(np.argsort(cluster, kind="stable"), np.cumsum(np.bincount(cluster))[:-1])
    drawn = stats.bootstrap(
        (np.arange(len(names)),),
        lambda chosen: statistic(np.concatenate([members[i] for i in chosen])),
        vectorized=False,
        method="percentile",
        n_resamples=resamples,
        confidence_level=_expanded(len(names)),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return [Interval(float(low), float(high)) for low, high in zip(drawn.low, drawn.high, strict=True)]


def _expanded(clusters: int) -> float:
    """Return the level of plain percentiles at which they hold about 95 %."""
    reach = np.sqrt(clusters / (clusters - 1)) * stats.t.ppf((1 + CONFIDENCE) / 2, clusters - 1)
    return float(1 - 2 * stats.norm.sf(reach))
