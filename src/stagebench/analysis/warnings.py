"""What makes the numbers of a run doubtful: drift, outliers, a cold cache, lengths cut off, near-ties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stagebench.analysis.samples import Row
from stagebench.core.stages import STAGE_NAMES, time_outside

DRIFT_P = 0.01
DRIFT_SHARE = 0.05
OUTLIER_Z = 3.5
COLD_RATIO = 1.5


@dataclass(frozen=True, slots=True)
class Flag:
    """One doubt about a run.

    Attributes:
        kind: "drift", "outliers", "cold cache", "limit", "ties" or "unattributed".
        text: one sentence without its model.
    """

    kind: str
    text: str


def flags(rows: Sequence[Row]) -> list[Flag]:
    """Look for all of them in the rows of one model; empty where nothing is wrong."""
    found = [
        drift(rows),
        *(outliers(rows, stage) for stage in STAGE_NAMES),
        cold_cache(rows),
        limit(rows),
        ties(rows),
        outside(rows),
    ]
    return [flag for flag in found if flag is not None]


def drift(rows: Sequence[Row]) -> Flag | None:
    """A steady rise or fall in the order of the run, as of a machine that heats up or a neighbour that arrives.

    Of what should not depend on the sample: encode, prefill and time per token, each over its median, averaged. By the
    test of Mann (1945) and Kendall at p < 0.01, and only where the line of Theil and Sen changes by at least 5 %.
    """
    ordered = sorted((row for row in rows if "order" in row), key=lambda row: row["order"])
    if len(ordered) < 8:
        return None
    order = np.array([row["order"] for row in ordered], dtype=np.float64)
    pace = np.mean([_over_median(_seconds(ordered, stage)) for stage in ("encode", "prefill", "decode")], axis=0)
    if np.ptp(order) == 0 or np.ptp(pace) == 0:
        return None
    tau, p = stats.kendalltau(order, pace)
    change = float(stats.theilslopes(pace, order).slope * np.ptp(order))
    if p >= DRIFT_P or abs(change) < DRIFT_SHARE:
        return None
    what = "encode, prefill and time per token change"
    return Flag("drift", f"{what} by {change:+.0%} over the run (Kendall's tau {tau:.2f}, p = {p:.1g})")


def outliers(rows: Sequence[Row], stage: str) -> Flag | None:
    """Passes far from the median: a modified z-score above 3.5 (Iglewicz and Hoaglin 1993); of decode, by its steps.

    The score is 0.6745 |x - median| / MAD, with the median absolute deviation; where more than half of all passes are
    equal it has no meaning, and nothing is flagged. Samples that differ in length are far from the median rightly.
    """
    seconds = _seconds(rows, stage)
    middle = np.median(seconds)
    deviation = np.abs(seconds - middle)
    spread = np.median(deviation)
    far = np.flatnonzero(0.6745 * deviation > OUTLIER_Z * spread) if spread else np.array([], dtype=np.int64)
    if not len(far):
        return None
    worst = far[np.argmax(deviation[far])]
    return Flag(
        "outliers",
        f"{stage}: {len(far)} of {len(rows)} passes lie far out, the farthest, of {rows[worst]['sample']}, "
        f"at {seconds[worst] / middle:.2g} times the median",
    )


def cold_cache(rows: Sequence[Row]) -> Flag | None:
    """First loads that take at least half as long again as the later ones of the same samples, in the median."""
    loads: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        loads.setdefault(str(row["sample"]), []).append((row.get("order", 0), row["seconds"]["load"]))
    ratios = []
    for passes in loads.values():
        first, *later = [seconds for _, seconds in sorted(passes)]
        if later:
            ratios.append(first / median(later))
    if not ratios or median(ratios) < COLD_RATIO:
        return None
    return Flag("cold cache", f"the first load of a sample takes {median(ratios):.1f} times as long as its later ones")


def limit(rows: Sequence[Row]) -> Flag | None:
    """Passes of natural length that the limit cut off: their number of tokens is the limit's, not the model's."""
    natural = [row for row in rows if row.get("mode") == "natural"]
    cut = sum(row.get("finish_reason") == "length" for row in natural)
    return Flag("limit", f"{cut} of {len(natural)} texts of natural length were cut off by the limit") if cut else None


def ties(rows: Sequence[Row]) -> Flag | None:
    """Passes with steps where the two best tokens were nearly tied, where `near_ties` was recorded."""
    tied = sum(bool(row.get("near_ties")) for row in rows)
    return Flag("ties", f"{tied} of {len(rows)} passes went through a near-tie of two tokens") if tied else None


def outside(rows: Sequence[Row]) -> Flag | None:
    """Time between the stages, or after them, in the median pass."""
    text = time_outside([row["e2e"] - sum(row["seconds"].values()) for row in rows], [row["e2e"] for row in rows])
    return Flag("unattributed", text) if text else None


def _seconds(rows: Sequence[Row], stage: str) -> NDArray[np.float64]:
    """Of each pass; those of decode by its steps, where there are any."""
    steps = [max(row["tokens"] - 1, 1) if stage == "decode" else 1 for row in rows]
    return np.array([row["seconds"][stage] / n for row, n in zip(rows, steps, strict=True)], dtype=np.float64)


def _over_median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values / np.median(values)
