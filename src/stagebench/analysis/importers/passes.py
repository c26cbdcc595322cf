"""What `stagebench run --json` writes: the timed passes of each model over one sample."""

from __future__ import annotations

from typing import Any

from stagebench.analysis.attribution import UNATTRIBUTED, Costs
from stagebench.analysis.importers.measured import Reading, Timing, names, number, objects
from stagebench.core.errors import AnalysisError
from stagebench.core.stages import STAGE_NAMES


def looks_like(data: Any) -> bool:
    """Tell whether the data are such passes."""
    return isinstance(data, dict) and "runs" in data


def read(data: Any, source: str) -> Reading:
    """Read passes, each as a sample of its own. All are of one sequence: they say nothing of other samples.

    Raises:
        AnalysisError: where a key is missing, a number is impossible, or two models have one name.
    """
    identity = data.get("identity")
    shown = str(identity.get("input")) if isinstance(identity, dict) else source
    runs = objects(data["runs"], f"{source}: runs")
    timings = []
    for model, run in zip(names(runs, "model", source), runs, strict=True):
        tokens = run.get("token_ids")
        if not isinstance(tokens, list):
            raise AnalysisError(f"{source}: {model} must have a list of token_ids, got {type(tokens).__name__}")
        for i, each in enumerate(objects(run.get("passes"), f"{source}: {model}: passes"), 1):
            where = f"{source}: {model}, pass {i}"
            *parts, decode = (number(each.get("seconds"), stage, where) for stage in STAGE_NAMES)
            given = dict(zip(STAGE_NAMES, parts, strict=False)) | {UNATTRIBUTED: number(each, UNATTRIBUTED, where)}
            timings.append(Timing(Costs(model, given, len(tokens), decode), f"{shown}, pass {i}", shown))
    return Reading(timings)
