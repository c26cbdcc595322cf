"""What `stagebench run --json` writes: the timed passes of each model over one sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagebench.analysis.attribution import UNATTRIBUTED, Costs
from stagebench.analysis.importers.measured import Measured, averaged, number, objects
from stagebench.core.errors import AnalysisError
from stagebench.core.stages import STAGE_NAMES


def looks_like(data: Any) -> bool:
    """Whether the data are such passes."""
    return isinstance(data, dict) and "runs" in data


def read(data: Any, source: str) -> Measured:
    """Read passes, each as a sample of its own. All are of one sequence: they say nothing of other samples.

    Raises:
        AnalysisError: where a key is missing, a number is impossible, or two models have one name.
    """
    identity = data.get("identity")
    shown = str(identity.get("input")) if isinstance(identity, dict) else source
    samples: dict[str, dict[str, Costs]] = {}
    for run in objects(data["runs"], f"{source}: runs"):
        model = run.get("model")
        if not isinstance(model, str) or not model or model in samples:
            raise AnalysisError(f"{source}: every model must have a name of its own, got {model!r}")
        tokens = run.get("token_ids")
        if not isinstance(tokens, list):
            raise AnalysisError(f"{source}: {model} must have a list of token_ids, got {type(tokens).__name__}")
        passes = objects(run.get("passes"), f"{source}: {model}: passes")
        samples[model] = {
            f"{shown}, pass {i}": _costs(model, len(tokens), each, f"{source}: {model}, pass {i}")
            for i, each in enumerate(passes, 1)
        }
    return averaged(samples, {each: shown for passes_of in samples.values() for each in passes_of})


def _costs(model: str, tokens: int, given: Mapping[str, Any], where: str) -> Costs:
    parts = {stage: number(given.get("seconds"), stage, where) for stage in STAGE_NAMES}
    decode = parts.pop("decode")
    return Costs(model, parts | {UNATTRIBUTED: number(given, UNATTRIBUTED, where)}, tokens, decode)
