"""What one model spent over many samples: medians and spread of each stage, tokens, latencies, throughput."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stagebench.analysis.intervals import Interval, bootstrap
from stagebench.analysis.samples import SampleLine, sequences
from stagebench.core.errors import AnalysisError
from stagebench.core.stages import STAGE_NAMES


@dataclass(frozen=True, slots=True)
class Spread:
    """One quantity over all passes of all samples.

    Attributes:
        median: its middle; the number to quote.
        mean: what adds up over the stages.
        p90: nine in ten are at most this.
        cv: coefficient of variation, the sample's standard deviation over the mean; None for one pass or a mean of 0.
        interval: of the median, 95 %, sequences drawn together; None where there is but one sequence.
    """

    median: float
    mean: float
    p90: float
    cv: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Percentiles:
    """The 50th, 90th and 99th percentile, and of how many values: the 99th of fewer than 100 is near their maximum."""

    p50: float
    p90: float
    p99: float
    count: int


@dataclass(frozen=True, slots=True)
class Summary:
    """One model over many samples. Times in seconds.

    Attributes:
        model: its name.
        samples: different ones.
        passes: rows in all.
        sequences: that the samples are cut from.
        stages: by stage, `unattributed` after the five.
        shares: of the mean e2e, likewise; they add up to 1.
        e2e: around the whole path.
        tokens: new tokens a pass.
        ttft: time to first token, load excluded.
        tpot: time per output token after the first; None where no pass has a second token.
        itl: all raw gaps of all passes pooled; None where there is none.
        output_throughput: all new tokens over all seconds of e2e.
        finish_reasons: how many passes ended by each.
        peak_bytes: the largest of any pass by stage; empty where none was recorded.
    """

    model: str
    samples: int
    passes: int
    sequences: int
    stages: dict[str, Spread]
    shares: dict[str, float]
    e2e: Spread
    tokens: Spread
    ttft: Percentiles
    tpot: Percentiles | None
    itl: Percentiles | None
    output_throughput: float
    finish_reasons: dict[str, int]
    peak_bytes: dict[str, int]


def summarize(rows: Sequence[SampleLine]) -> Summary:
    """Summarize the rows of one model, in one mode, with one kind of load.

    Raises:
        AnalysisError: where there is no row, or they are of several models.
    """
    models = sorted({row["model"] for row in rows})
    if len(models) != 1:
        raise AnalysisError(f"a summary is of one model, got {', '.join(models) or 'no samples'}")
    of = sequences(rows)
    clusters = [of[str(row["sample"])] for row in rows]
    columns = {stage: _column([row["seconds"][stage] for row in rows]) for stage in STAGE_NAMES}
    e2e = _column([row["e2e"] for row in rows])
    columns["unattributed"] = e2e - sum(columns.values())
    tokens = _column([row["tokens"] for row in rows])
    spreads = spread(columns | {"e2e": e2e, "tokens": tokens}, clusters)
    return Summary(
        model=models[0],
        samples=len(of),
        passes=len(rows),
        sequences=len(set(clusters)),
        stages={name: spreads[name] for name in columns},
        shares={name: spreads[name].mean / spreads["e2e"].mean for name in columns},
        e2e=spreads["e2e"],
        tokens=spreads["tokens"],
        ttft=_percentiles([row["ttft"] for row in rows]),
        tpot=percentiles([tpot for row in rows if (tpot := row.get("tpot")) is not None]),
        itl=percentiles([gap for row in rows for gap in row.get("itl", ())]),
        output_throughput=float(tokens.sum() / e2e.sum()),
        finish_reasons=dict(Counter(row["finish_reason"] for row in rows)),
        peak_bytes=_peaks(rows),
    )


def spread(columns: Mapping[str, NDArray[np.float64]], clusters: Sequence[str]) -> dict[str, Spread]:
    """Median and spread of several quantities of the same passes.

    Args:
        columns: by name, shape (passes,).
        clusters: the sequence of each pass.
    """
    table = np.stack(list(columns.values()), axis=1)
    found = bootstrap(clusters, lambda chosen: np.median(table[chosen], axis=0))
    return {
        name: Spread(
            median=float(np.median(values)),
            mean=float(values.mean()),
            p90=float(np.quantile(values, 0.9)),
            cv=coefficient_of_variation(values),
            interval=found[i] if found else None,
        )
        for i, (name, values) in enumerate(columns.items())
    }


def coefficient_of_variation(values: NDArray[np.float64]) -> float | None:
    """Standard deviation (n - 1 in the denominator) over the mean; None for one value or a mean of 0."""
    mean = float(values.mean())
    return float(values.std(ddof=1)) / abs(mean) if len(values) > 1 and mean else None


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """The 50th, 90th and 99th, interpolated; None where there is no value."""
    return _percentiles(values) if values else None


def _percentiles(values: Sequence[float]) -> Percentiles:
    p50, p90, p99 = np.quantile(_column(values), (0.5, 0.9, 0.99)).tolist()
    return Percentiles(p50, p90, p99, len(values))


def _column(values: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def _peaks(rows: Sequence[SampleLine]) -> dict[str, int]:
    recorded = [row["peak_bytes"] for row in rows if row.get("peak_bytes")]
    return {stage: max(peak.get(stage, 0) for peak in recorded) for stage in STAGE_NAMES} if recorded else {}
