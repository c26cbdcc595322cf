"""Says whether numbers that should be alike are: one rule for drift and one for outliers. Importable without torch.

It holds for the rounds of a process, the processes of a recording, the passes of an experiment and the runs of a trend.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

ALPHA = 1e-3  # one series in a thousand drifts by chance alone
LEAST_DRIFT = 0.01  # relative, from the first number to the last; less does not matter
OUTLIER = 5.0  # robust standard deviations from the centre
NORMAL = 1.4826  # makes a median absolute deviation the standard deviation of normal noise


class Drift(NamedTuple):
    """How far numbers drifted, relative to their median, and Kendall's tau and p as the evidence."""

    change: float
    tau: float
    p: float


def drift(values: ArrayLike, places: ArrayLike | None = None) -> Drift | None:
    """Return how far values, at their places in time (by default their order), drifted; None where that may be chance.

    The rank correlation of Mann (1945) and Kendall says whether (its exact test, where no values tie), the Theil-Sen
    slope how far. Seven values are the fewest that can show it.
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
    """Return the places of values more than `OUTLIER` standard deviations (`scale`) away from their centre.

    The centre is one for all or one a value, by default the median; the scale by default a robust one, from the median
    absolute deviation. Where more than half of the values are equal that is 0, and none is an outlier, nor one of two.
    """
    series = np.asarray(values, dtype=float)
    if len(series) < 3:
        return []
    away = np.abs(series - (np.median(series) if centre is None else centre))
    deviation = NORMAL * float(np.median(away)) if scale is None else scale
    return [int(i) for i in np.flatnonzero(away > OUTLIER * deviation)] if deviation else []


def unsteady(series: Mapping[str, Sequence[float]]) -> list[str]:
    """Say of which benchmarks the seconds, in the order in which they were measured, drifted or hold outliers."""
    lines = []
    for name, seconds in series.items():
        drifted, far = drift(seconds), outliers(seconds)
        said = f", drifted {drifted.change:+.1%}" if drifted else ""
        said += f", outliers at {', '.join(map(str, far))}" if far else ""
        lines += [name.split("::")[-1] + said] if said else []
    return lines
