"""The raw samples that `stagebench analyze` writes: of warm loads, and of natural length where there are such."""

from __future__ import annotations

from pathlib import Path

from stagebench.analysis.importers.measured import Measured, averaged
from stagebench.analysis.samples import costs_by_sample, read_rows, select, sequences
from stagebench.core.errors import AnalysisError


def read(path: Path) -> Measured:
    """Read raw samples.

    Raises:
        AnalysisError: where the file can't be read, or holds none.
    """
    # Beside the samples themselves a run may hold passes at other durations and lengths.
    main = (row for row in read_rows(path) if row.get("study", "main") == "main")
    rows = [row for row in main if row.get("load") != "cold"]
    kept = select(rows, mode="natural") or rows
    if not kept:
        raise AnalysisError(f"{path.name} must hold samples with a warm load, got none")
    models = dict.fromkeys(row["model"] for row in kept)
    return averaged({model: costs_by_sample(select(kept, model=model)) for model in models}, sequences(kept))
