"""What one model spent over many samples: medians and spread of each stage, tokens, latencies, throughput."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stagebench.analysis.intervals import Interval, bootstrap
from stagebench.analysis.samples import SampleLine, by_model, sequences
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
        passes: lines in all.
        sequences: that the samples are cut from.
        stages: by stage, `unattributed` after the five.
        shares: of the mean e2e, by stage too; they add up to 1.
        e2e: around the whole path.
        tokens: new tokens a pass.
        ttft: time to first token, load excluded.
        tpot: time per output token after the first; None where no pass has a second token.
        itl: all raw gaps of all passes pooled; None without any.
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
    ttft: Percentiles | None
    tpot: Percentiles | None
    itl: Percentiles | None
    output_throughput: float
    finish_reasons: dict[str, int]
    peak_bytes: dict[str, int]


def summarize(lines: Sequence[SampleLine]) -> Summary:
    """Summarize the lines of one model, in one mode.

    Raises:
        AnalysisError: where there is no line, or they are of several models.
    """
    models = list(by_model(lines))
    if len(models) != 1:
        raise AnalysisError(f"a summary is of one model, got {', '.join(models) or 'no samples'}")
    of = sequences(lines)
    clusters = [of[str(line["sample"])] for line in lines]
    columns = {stage: np.array([line["seconds"][stage] for line in lines], dtype=np.float64) for stage in STAGE_NAMES}
    e2e = np.array([line["e2e"] for line in lines], dtype=np.float64)
    tokens = np.array([line["tokens"] for line in lines], dtype=np.float64)
    columns["unattributed"] = e2e - sum(columns.values())
    *stages, whole, written = _spreads([*columns.values(), e2e, tokens], clusters)
    by_stage = dict(zip(columns, stages, strict=True))
    peaks = [line["peak_bytes"] for line in lines if line.get("peak_bytes")]
    return Summary(
        model=models[0],
        samples=len(of),
        passes=len(lines),
        sequences=len(set(clusters)),
        stages=by_stage,
        shares={name: each.mean / whole.mean for name, each in by_stage.items()},
        e2e=whole,
        tokens=written,
        ttft=percentiles([line["ttft"] for line in lines]),
        tpot=percentiles([tpot for line in lines if (tpot := line.get("tpot")) is not None]),
        itl=percentiles([gap for line in lines for gap in line.get("itl", ())]),
        output_throughput=float(tokens.sum() / e2e.sum()),
        finish_reasons=dict(Counter(line["finish_reason"] for line in lines)),
        peak_bytes={name: max(peak.get(name, 0) for peak in peaks) for name in STAGE_NAMES} if peaks else {},
    )


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """Return the 50th, 90th and 99th, interpolated; None without values."""
    if not values:
        return None
    p50, p90, p99 = np.quantile(np.asarray(values, dtype=np.float64), (0.5, 0.9, 0.99)).tolist()
    return Percentiles(p50, p90, p99, len(values))


def _spreads(columns: Sequence[NDArray[np.float64]], clusters: Sequence[str]) -> list[Spread]:
    """Return median and spread of several quantities of the same passes, each of shape (passes,)."""
    table = np.stack(columns, axis=1)
    found = bootstrap(clusters, lambda chosen: np.median(table[chosen], axis=0))
    return [_spread(values, found[i] if found else None) for i, values in enumerate(columns)]


def _spread(values: NDArray[np.float64], interval: Interval | None) -> Spread:
    mean = float(values.mean())
    cv = float(values.std(ddof=1)) / abs(mean) if len(values) > 1 and mean else None
    return Spread(float(np.median(values)), mean, float(np.quantile(values, 0.9)), cv, interval)
