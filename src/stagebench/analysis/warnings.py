"""What makes the numbers of a run doubtful: drift, outliers, a cold cache, lengths cut off, time outside the stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from stagebench.analysis.samples import SampleLine
from stagebench.core import stability
from stagebench.core.stages import DECODE, IN_GENERATE, LOAD, STAGE_NAMES, time_outside

COLD_RATIO = 1.5


@dataclass(frozen=True, slots=True)
class RunWarning:
    """One warning about the passes of a model.

    Attributes:
        kind: "drift", "outliers", "cold cache", "limit" or "unattributed".
        text: one sentence without its model.
    """

    kind: str
    text: str


def warnings(lines: Sequence[SampleLine]) -> list[RunWarning]:
    """Look for all of them in the lines of one model; empty where nothing is wrong."""
    found = {
        "drift": [drift(lines)],
        "outliers": [outliers(lines, stage) for stage in STAGE_NAMES],
        "cold cache": [cold_cache(lines)],
        "limit": [limit(lines)],
        "unattributed": [time_outside([_rest(line) for line in lines], [line["e2e"] for line in lines])],
    }
    return [RunWarning(kind, text) for kind, texts in found.items() for text in texts if text]


def drift(lines: Sequence[SampleLine]) -> str | None:
    """Say how far the passes drift in the order of the run, as on a machine that heats up.

    Of what should not depend on the sample: encode, prefill and time per token, each over its median, averaged.
    """
    stages = [_over_median(_seconds(lines, stage)) for stage in IN_GENERATE]
    pace = [sum(each) / len(each) for each in zip(*stages, strict=True)]
    if (found := stability.drift(pace, [line["order"] for line in lines])) is None:
        return None
    evidence = f"Kendall's tau {found.tau:.2f}, p = {found.p:.1g}"
    return f"encode, prefill and time per token change by {found.change:+.0%} over the run ({evidence})"


def outliers(lines: Sequence[SampleLine], stage: str) -> str | None:
    """Say which passes are far from the median; those of samples that differ in length are so rightly."""
    seconds = _seconds(lines, stage)
    far = stability.outliers(seconds)
    if not far:
        return None
    middle = median(seconds)
    worst = max(far, key=lambda i: abs(seconds[i] - middle))
    return (
        f"{stage}: {len(far)} of {len(lines)} passes lie far out, the farthest, of {lines[worst]['sample']}, "
        f"at {seconds[worst] / middle:.2g} times the median"
    )


def cold_cache(lines: Sequence[SampleLine]) -> str | None:
    """Say that first loads take at least half as long again as the later ones of the same samples, in the median."""
    loads: dict[str, list[float]] = {}
    for line in sorted(lines, key=lambda line: line["order"]):
        loads.setdefault(str(line["sample"]), []).append(line["seconds"][LOAD.name])
    ratios = [first / median(later) for first, *later in loads.values() if later]
    if not ratios or median(ratios) < COLD_RATIO:
        return None
    return f"the first load of a sample takes {median(ratios):.1f} times as long as its later ones"


def limit(lines: Sequence[SampleLine]) -> str | None:
    """Say how many texts of natural length the limit cut off: their number of tokens is not the model's."""
    natural = [line["finish_reason"] for line in lines if line["mode"] == "natural"]
    cut = natural.count("length")
    return f"{cut} of {len(natural)} texts of natural length were cut off by the limit" if cut else None


def _rest(line: SampleLine) -> float:
    return line["e2e"] - sum(line["seconds"].values())


def _seconds(lines: Sequence[SampleLine], stage: str) -> list[float]:
    """Return the seconds of each pass; those of decode by its steps, where there are any."""
    steps = (max(line["tokens"] - 1, 1) if stage == DECODE.name else 1 for line in lines)
    return [line["seconds"][stage] / n for line, n in zip(lines, steps, strict=True)]


def _over_median(values: Sequence[float]) -> list[float]:
    middle = median(values) or 1.0
    return [value / middle for value in values]
