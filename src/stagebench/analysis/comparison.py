"""Two models over the same samples: the attribution of their averages, with intervals over the samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stagebench.analysis.attribution import Attribution, Costs, alike, attribute, mean_of
from stagebench.analysis.intervals import Interval, bootstrap
from stagebench.core.errors import AnalysisError


@dataclass(frozen=True, slots=True)
class Intervals:
    """How far an attribution would move with other samples; all of 95 %.

    Attributes:
        saved: seconds.
        speedup: times.
        seconds: by factor.
        shares: by factor; None where `saved` reaches 0: a share of what may be nothing has no meaning.
        samples: how many pairs.
        clusters: how many sequences they are cut from; with fewer than five the intervals are too narrow.
    """

    saved: Interval
    speedup: Interval
    seconds: dict[str, Interval]
    shares: dict[str, Interval] | None
    samples: int
    clusters: int


def compare(
    baseline: Mapping[str, Costs],
    other: Mapping[str, Costs],
    sequences: Mapping[str, str] | None = None,
    seed: int = 0,
) -> tuple[Attribution, Intervals | None]:
    """Attribute the difference of two models over the samples that both have.

    Args:
        baseline: costs by sample.
        other: costs by sample.
        sequences: which sequence a sample is cut from; samples of one sequence are drawn together.
        seed: of the bootstrap.

    Returns:
        The attribution of the averages, and its intervals; None where there are fewer than two sequences.

    Raises:
        AnalysisError: where they share no sample, or `attribute` refuses them.
    """
    shared = sorted(baseline.keys() & other.keys())
    if not shared:
        raise AnalysisError("two models must share samples, got none in common")
    pairs = [alike(baseline[sample], other[sample]) for sample in shared]
    result = attribute(mean_of([a for a, _ in pairs]), mean_of([b for _, b in pairs]))
    clusters = [(sequences or {}).get(sample, sample) for sample in shared]
    names = list(result.seconds)
    tables = [_table(side) for side in zip(*pairs, strict=True)]

    def statistic(chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        drawn = attribute(
            _averaged(result.baseline, tables[0][chosen]),
            _averaged(result.other, tables[1][chosen]),
        )
        seconds = np.array([drawn.seconds[name] for name in names])
        shares = seconds / (drawn.saved or np.inf)  # a draw that saves nothing; where many do, shares are dropped
        return np.concatenate([[drawn.saved, drawn.speedup], seconds, shares])

    found = bootstrap(clusters, statistic, seed)
    if found is None:
        return result, None
    saved, speedup, *rest = found
    seconds, shares = (dict(zip(names, half, strict=True)) for half in (rest[: len(names)], rest[len(names) :]))
    meaningful = None if 0.0 in saved else shares
    return result, Intervals(saved, speedup, seconds, meaningful, len(shared), len(set(clusters)))


def _table(costs: Sequence[Costs]) -> NDArray[np.float64]:
    """Lay out one row a sample: tokens, decode, and the parts."""
    return np.array([[each.tokens, each.decode, *each.parts.values()] for each in costs], dtype=np.float64)


def _averaged(like: Costs, table: NDArray[np.float64]) -> Costs:
    tokens, decode, *parts = table.mean(axis=0).tolist()
    return replace(like, tokens=tokens, decode=decode, parts=dict(zip(like.parts, parts, strict=True)))
