"""Says whether numbers that should be alike are: one rule for drift and one for outliers. Importable without torch.

It holds for the rounds of a process, the processes of a recording, the passes of an experiment and the runs of a trend.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

ALPHA = 1e-3
"""One series in a thousand drifts by chance alone."""

LEAST_DRIFT = 0.01
"""Relative, from the first number to the last; less does not matter."""

OUTLIER = 5.0
"""Robust standard deviations from the centre."""

NORMAL = 1.4826
"""Makes a median absolute deviation the standard deviation of normal noise."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How far numbers drifted, relative to their median, and Kendall's tau and p as the evidence."""

    change: float
    tau: float
    p: float


@dataclass(frozen=True, slots=True)
class Unsteady:
    """A benchmark whose numbers drifted or hold outliers.

    Attributes:
        benchmark: its full name.
        drift: None without one.
        outliers: places in the series, from 0.
    """

    benchmark: str
    drift: Drift | None
    outliers: list[int]

    def __str__(self) -> str:
        drift = "" if self.drift is None else f", drifted {self.drift.change:+.1%}"
        outliers = f", outliers at {', '.join(map(str, self.outliers))}" if self.outliers else ""
        return f"{self.benchmark.split('::')[-1]}{drift}{outliers}"


def drift(values: ArrayLike, places: ArrayLike | None = None) -> Drift | None:
    """Return how far the values drifted; None where that may be chance.

    The rank correlation of Mann (1945) and Kendall says whether (its exact test, where no values tie), the Theil-Sen
    slope how far. Seven values are the fewest that can show it.

    Args:
        values: in any order.
        places: of the values, in time; their order by default.
    """
    from scipy.stats import kendalltau, theilslopes  # takes a second to import, and most commands need none of it

    series = np.asarray(values, dtype=float)
    order = np.arange(len(series)) if places is None else np.asarray(places, dtype=float)
    if len(series) < 2 or np.ptp(series) == 0 or np.ptp(order) == 0:
        return None
    total = float(theilslopes(series, order)[0] * np.ptp(order) / np.median(series))
    tau, p = map(float, kendalltau(order, series))
    return Drift(total, tau, p) if p < ALPHA and abs(total) >= LEAST_DRIFT else None


def outliers(values: ArrayLike, centre: ArrayLike | None = None, scale: float | None = None) -> list[int]:
    """Return the places of the values that lie more than `OUTLIER` standard deviations from their centre.

    Args:
        values: three or more; fewer have no outlier.
        centre: one for all or one a value; the median by default.
        scale: the standard deviation; by default a robust one from the median absolute deviation. Where more than half
            of the values are equal that is 0, and none is an outlier.
    """
    series = np.asarray(values, dtype=float)
    if len(series) < 3:
        return []
    away = np.abs(series - (np.median(series) if centre is None else centre))
    deviation = NORMAL * float(np.median(away)) if scale is None else scale
    return [int(i) for i in np.flatnonzero(away > OUTLIER * deviation)] if deviation else []


def unsteady(series: Mapping[str, Sequence[float]]) -> list[Unsteady]:
    """Return the benchmarks whose numbers drifted or hold outliers.

    Args:
        series: seconds by benchmark, in the order in which they were measured.
    """
    looked = (Unsteady(name, drift(seconds), outliers(seconds)) for name, seconds in series.items())
    return [each for each in looked if each.drift is not None or each.outliers]
