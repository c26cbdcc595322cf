"""The samples that `stagebench analyze` writes: of warm loads, and of natural length where there are such."""

from __future__ import annotations

from pathlib import Path

from stagebench.analysis.importers.measured import Reading, Timing
from stagebench.analysis.samples import MAIN, costs_by_sample, models_of, read_samples, select, sequences
from stagebench.core.errors import AnalysisError


def read(path: Path) -> Reading:
    """Read samples, each averaged over its passes.

    Raises:
        AnalysisError: where the file can't be read, or holds none.
    """
    lines = select(read_samples(path), study=MAIN)
    kept = select(lines, mode="natural") or lines
    if not kept:
        raise AnalysisError(f"{path.name} must hold samples of the main study, got none")
    of = sequences(kept)
    by_model = (costs_by_sample(select(kept, model=model)) for model in models_of(kept))
    return Reading([Timing(costs, sample, of[sample]) for each in by_model for sample, costs in each.items()])
