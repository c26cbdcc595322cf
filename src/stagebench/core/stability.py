"""Whether the rounds of one process were steady: a drift, or outliers among them. Importable without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import kendalltau, theilslopes

ALPHA = 1e-3
"""One benchmark in a thousand drifts by chance alone."""

LEAST_DRIFT = 0.01
"""Relative, from the first round to the last; less is no matter."""

OUTLIER = 5.0
"""Robust standard deviations above or below the median."""


def drift(seconds: Sequence[float]) -> float | None:
    """How far the rounds drifted, relative to their median; None where that may be chance.

    Kendall's rank correlation with the round's number (its exact test, where no rounds tie) says whether, the Theil-Sen
    slope how far. Seven rounds are the least that can show it.

    Args:
        seconds: of each round, in order.
    """
    if len(seconds) < 2 or min(seconds) == max(seconds):
        return None
    number = np.arange(len(seconds))
    total = float(theilslopes(seconds, number)[0]) * (len(seconds) - 1) / float(np.median(seconds))
    return total if kendalltau(number, seconds).pvalue < ALPHA and abs(total) >= LEAST_DRIFT else None


def outliers(seconds: Sequence[float]) -> list[int]:
    """Rounds far from the median, in robust standard deviations: 1.4826 times the median absolute deviation.

    Args:
        seconds: of each round, in order.

    Returns:
        Their numbers; none where more than half of the rounds are equal, because then there is no scale.
    """
    if len(seconds) < 3:
        return []
    away = np.abs(np.asarray(seconds) - np.median(seconds))
    scale = 1.4826 * float(np.median(away))
    return [int(i) for i in np.flatnonzero(away > OUTLIER * scale)] if scale else []
