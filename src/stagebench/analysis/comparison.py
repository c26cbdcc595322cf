"""Two models over the same samples: the attribution of their averages, with intervals over the samples."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stagebench.analysis.attribution import Attribution, Costs, alike, attribute, mean_of
from stagebench.analysis.intervals import Interval, bootstrap
from stagebench.core.errors import AnalysisError


@dataclass(frozen=True, slots=True)
class Intervals:
    """How far an attribution would move with other samples; all of 95 %."""

    saved: Interval
    speedup: Interval
    seconds: dict[str, Interval]  # by factor
    shares: dict[str, Interval] | None  # None where `saved` reaches 0: a share of what may be nothing has no meaning
    samples: int  # pairs
    clusters: int  # sequences they are cut from; with fewer than five the intervals are too narrow


def compare(
    baseline: Mapping[str, Costs],
    other: Mapping[str, Costs],
    sequences: Mapping[str, str] | None = None,
    seed: int = 0,
) -> tuple[Attribution, Intervals | None]:
    """Attribute the difference of two models over the samples that both have; raise AnalysisError where none are.

    Costs and sequences are by the sample's id. Samples of one sequence are drawn together, by a bootstrap of that seed;
    fewer than two sequences have no intervals.
    """
    shared = sorted(baseline.keys() & other.keys())
    if not shared:
        raise AnalysisError("two models must share samples, got none in common")
    sides = list(zip(*(alike(baseline[sample], other[sample]) for sample in shared), strict=True))
    result = attribute(*map(mean_of, sides))
    clusters = [(sequences or {}).get(sample, sample) for sample in shared]
    tables = [np.array([[c.tokens, c.decode, *c.parts.values()] for c in side], dtype=np.float64) for side in sides]

    def statistic(chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        drawn = attribute(_averaged(result.baseline, tables[0][chosen]), _averaged(result.other, tables[1][chosen]))
        seconds = np.array(list(drawn.seconds.values()))
        shares = seconds / (drawn.saved or np.inf)  # a draw that saves nothing; where many do, shares are dropped
        return np.concatenate([[drawn.saved, drawn.speedup], seconds, shares])

    found = bootstrap(clusters, statistic, seed)
    if found is None:
        return result, None
    saved, speedup, *rest = found
    n = len(result.seconds)
    seconds, shares = (dict(zip(result.seconds, half, strict=True)) for half in (rest[:n], rest[n:]))
    meaningful = None if 0.0 in saved else shares
    return result, Intervals(saved, speedup, seconds, meaningful, len(shared), len(set(clusters)))


def _averaged(like: Costs, table: NDArray[np.float64]) -> Costs:
    tokens, decode, *parts = table.mean(axis=0).tolist()
    return replace(like, tokens=tokens, decode=decode, parts=dict(zip(like.parts, parts, strict=True)))
