"""What one model spent over many samples, and what makes these numbers doubtful: as JSON, times in seconds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import repeat
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stagebench.analysis.attribution import UNATTRIBUTED
from stagebench.analysis.intervals import Interval, bootstrap
from stagebench.analysis.samples import SampleLine, sequences
from stagebench.core import statistics
from stagebench.core.stages import DECODE, IN_GENERATE, LOAD, STAGE_NAMES, time_outside

COLD_RATIO = 1.5


def summarize(lines: Sequence[SampleLine]) -> dict[str, Any]:
    """Summarize the passes of one model in one mode; a value without meaning is None."""
    of = sequences(lines)
    seconds = np.array([[line["seconds"][stage] for stage in STAGE_NAMES] for line in lines])
    e2e, tokens = (np.array([float(line[key]) for line in lines]) for key in ("e2e", "tokens"))
    columns = np.column_stack([seconds, e2e - seconds.sum(axis=1), e2e, tokens])
    clusters = [of[str(line["sample"])] for line in lines]
    medians = bootstrap(clusters, lambda chosen: np.median(columns[chosen], axis=0))
    *each, whole, written = map(_spread, columns.T, medians or repeat(None))
    stages = dict(zip((*STAGE_NAMES, UNATTRIBUTED), each, strict=True))
    peaks = [line["peak_bytes"] for line in lines if line.get("peak_bytes")]
    return {
        "model": lines[0]["model"],
        "samples": len(of),
        "passes": len(lines),
        "sequences": len(set(of.values())),
        "stages": stages,
        "shares": {name: spread["mean"] / whole["mean"] for name, spread in stages.items()},
        "e2e": whole,
        "tokens": written,
        "ttft": percentiles([line["ttft"] for line in lines]),
        "tpot": percentiles([tpot for line in lines if (tpot := line.get("tpot")) is not None]),
        "itl": percentiles([gap for line in lines for gap in line.get("itl", ())]),  # of all passes pooled
        "output_throughput": float(tokens.sum() / e2e.sum()),
        "finish_reasons": dict(Counter(line["finish_reason"] for line in lines)),
        "peak_bytes": {name: max(peak.get(name, 0) for peak in peaks) for name in STAGE_NAMES} if peaks else {},
    }


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """Return p50, p90 and p99, and of how many values: the p99 of fewer than 100 is near their maximum."""
    if not values:
        return None
    p50, p90, p99 = np.quantile(values, (0.5, 0.9, 0.99)).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "count": len(values)}


def _spread(values: NDArray[np.float64], interval: Interval | None) -> dict[str, Any]:
    mean = float(values.mean())
    return {
        "median": float(np.median(values)),  # the number to quote
        "mean": mean,  # what adds up over the stages
        "p90": float(np.quantile(values, 0.9)),
        "cv": float(values.std(ddof=1)) / abs(mean) if len(values) > 1 and mean else None,
        "interval": asdict(interval) if interval else None,
    }


def warnings(lines: Sequence[SampleLine]) -> list[dict[str, str]]:
    """Give the kind and text of all that makes the passes of one model doubtful."""
    rest = [line["e2e"] - sum(line["seconds"].values()) for line in lines]
    found = {
        "drift": [_drift(lines)],
        "outliers": [_outliers(lines, stage) for stage in STAGE_NAMES],
        "cold cache": [_cold_cache(lines)],
        "limit": [_limit(lines)],
        UNATTRIBUTED: [time_outside(rest, [line["e2e"] for line in lines])],
    }
    return [{"kind": kind, "text": text} for kind, texts in found.items() for text in texts if text]


def _drift(lines: Sequence[SampleLine]) -> str | None:
    """Say how far the passes drift in the order of the run, as on a machine that heats up.

    Of what should not depend on the sample: encode, prefill and time per token, each over its median, averaged.
    """
    stages = [_paces(lines, stage) for stage in IN_GENERATE]
    mean = np.mean([each / (np.median(each) or 1.0) for each in stages], axis=0)
    if (found := statistics.drift(mean, [line["order"] for line in lines])) is None:
        return None
    evidence = f"Kendall's tau {found.tau:.2f}, p = {found.p:.1g}"
    return f"encode, prefill and time per token change by {found.change:+.0%} over the run ({evidence})"


def _outliers(lines: Sequence[SampleLine], stage: str) -> str | None:
    """Say which passes are far from the median; those of samples that differ in length are so rightly."""
    seconds = _paces(lines, stage)
    if not (far := statistics.outliers(seconds)):
        return None
    middle = np.median(seconds)
    worst = max(far, key=lambda i: abs(seconds[i] - middle))
    return (
        f"{stage}: {len(far)} of {len(lines)} passes lie far out, the farthest, of {lines[worst]['sample']}, "
        f"at {seconds[worst] / middle:.2g} times the median"
    )


def _paces(lines: Sequence[SampleLine], stage: str) -> NDArray[np.float64]:
    """Return the seconds of each pass; those of decode by its steps, where there are any."""
    steps = [max(line["tokens"] - 1, 1) if stage == DECODE.name else 1 for line in lines]
    return np.array([line["seconds"][stage] for line in lines]) / steps


def _cold_cache(lines: Sequence[SampleLine]) -> str | None:
    """Say that first loads take at least half as long again as the later ones of the same samples, in the median."""
    loads: dict[str, list[float]] = {}
    for line in sorted(lines, key=lambda line: line["order"]):
        loads.setdefault(str(line["sample"]), []).append(line["seconds"][LOAD.name])
    ratios = [first / median(later) for first, *later in loads.values() if later]
    if not ratios or median(ratios) < COLD_RATIO:
        return None
    return f"the first load of a sample takes {median(ratios):.1f} times as long as its later ones"


def _limit(lines: Sequence[SampleLine]) -> str | None:
    """Say how many texts of natural length the limit cut off: their number of tokens is not the model's."""
    natural = [line["finish_reason"] for line in lines if line["mode"] == "natural"]
    cut = natural.count("length")
    return f"{cut} of {len(natural)} texts of natural length were cut off by the limit" if cut else None
