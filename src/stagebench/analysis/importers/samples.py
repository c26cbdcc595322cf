"""Samples, as `stagebench analyze` and `run` write them: warm loads, and natural length where there are such."""

from collections.abc import Sequence
from typing import Any

from stagebench.analysis.importers.measured import Timing, objects
from stagebench.analysis.samples import MAIN, SampleLine, by_model, costs_by_sample, require_sample, select, sequences
from stagebench.core.errors import AnalysisError


def read(data: Any, source: str) -> list[Timing]:
    """Read the samples of one document; raise AnalysisError where one of them is no sample."""
    given = enumerate(objects(data["samples"], f"{source}: samples"), 1)
    return timings([require_sample(each, f"{source}: sample {number}") for number, each in given], source)


def timings(samples: Sequence[SampleLine], source: str) -> list[Timing]:
    """Average each sample of the main study over its passes; raise AnalysisError where there is none."""
    lines = select(samples, study=MAIN)
    kept = select(lines, mode="natural") or lines
    if not kept:
        raise AnalysisError(f"{source} must hold samples of the main study, got none")
    of = sequences(kept)
    found = map(costs_by_sample, by_model(kept).values())
    return [Timing(costs, sample, of[sample]) for each in found for sample, costs in each.items()]
