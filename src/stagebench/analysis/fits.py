"""Lines through measured points: e2e over tokens, and the exponent with which a cost grows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from stagebench.analysis.intervals import CONFIDENCE, Interval
from stagebench.core.errors import AnalysisError


@dataclass(frozen=True, slots=True)
class Line:
    """Least squares y = intercept + slope x.

    Attributes:
        intercept: in units of y.
        slope: in units of y by x.
        r2: share of y's variance that the line explains; None where y does not vary.
        slope_interval: 95 %, by Student's t, as of independent points; None for two points.
        robust_slope: of Theil (1950) and Sen (1968), the median of all slopes between two points: outliers
            can't turn it.
        largest_residual: of all points, how far one lies from the line at most.
    """

    intercept: float
    slope: float
    r2: float | None
    slope_interval: Interval | None
    robust_slope: float
    largest_residual: float


@dataclass(frozen=True, slots=True)
class Growth:
    """A power law, cost = coefficient x size ** exponent, fitted to the logarithms.

    Attributes:
        exponent: 0 for a cost that stays, 1 for one in proportion, 2 for a quadratic one.
        interval: of the exponent, 95 %; None for two points.
    """

    exponent: float
    interval: Interval | None


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Fit e2e = a + b n, or any other line.

    Raises:
        AnalysisError: where there are fewer than two different x, a number is not finite, or the lengths differ.
    """
    if len(x) != len(y):
        raise AnalysisError(f"a line needs as many x as y, got {len(x)} and {len(y)}")
    across, up = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if not np.isfinite([across, up]).all():
        raise AnalysisError("a line needs finite points, got one that is not")
    if (different := len(np.unique(across))) < 2:
        raise AnalysisError(f"a line needs at least two different x, got {different}")
    fit = stats.linregress(across, up)
    margin = float(fit.stderr * stats.t.ppf((1 + CONFIDENCE) / 2, len(across) - 2)) if len(across) > 2 else None
    slope = float(fit.slope)
    return Line(
        intercept=float(fit.intercept),
        slope=slope,
        r2=float(fit.rvalue**2) if np.ptp(up) else None,
        slope_interval=None if margin is None else Interval(slope - margin, slope + margin),
        robust_slope=float(stats.theilslopes(up, across).slope),
        largest_residual=float(np.abs(up - (fit.intercept + slope * across)).max()),
    )


def fit_growth(sizes: Sequence[float], costs: Sequence[float]) -> Growth:
    """Fit how a stage's cost grows with the length of a clip, or the number of tokens.

    A fixed cost beside the growing one bends the curve and lowers the exponent: look at the points before quoting it.

    Raises:
        AnalysisError: where a size or a cost is not above 0, or `fit_line` refuses them.
    """
    if any(not each > 0 for each in [*sizes, *costs]):
        raise AnalysisError("a power law needs sizes and costs above 0, got one that is not")
    line = fit_line([math.log(size) for size in sizes], [math.log(cost) for cost in costs])
    return Growth(line.slope, line.slope_interval)
