"""pytest-benchmark's JSON of our own suite: the median of each stage, one column a model and backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stagebench.analysis.attribution import Costs
from stagebench.analysis.importers.measured import Measured, number
from stagebench.core.errors import AnalysisError
from stagebench.core.results import require_sound, validate
from stagebench.core.stages import STAGE_NAMES

TOLERANCE = 0.1
"""Stages, e2e and generate() are timed in rounds of their own; they differ by what the machine did meanwhile."""
GENERATION = ("encode", "prefill", "decode")
EAGER = "eager"
"""The backend of a benchmark that names none."""
BACKENDLESS = ("load", "preprocess")
"""What a backend has no part in: where it isn't timed beside one, the eager path's time stands for it."""
WHOLE = {"test_e2e": "e2e", "test_generate": "generate", "test_e2e_generate": "e2e by generate"}
"""The benchmarks of no single stage."""
AXES = ("images", "batch", "context")
"""What a benchmark varies that doesn't time a stage as it stands in the path."""


def looks_like(data: Any) -> bool:
    """Whether the data are a pytest-benchmark run."""
    return isinstance(data, dict) and "benchmarks" in data


def read(data: Any, source: str) -> Measured:
    """Read a run of `pytest benchmarks`.

    Raises:
        ResultsError: where it is no run of ours, or something failed in it.
        AnalysisError: where it has no stages, or a model lacks one.
    """
    run = require_sound(validate(data, source), source)
    found: dict[tuple[str, str], dict[str, float]] = {}
    tokens: dict[str, float] = {}
    for benchmark in run["benchmarks"]:
        about: Mapping[str, Any] = benchmark.get("extra_info", {})
        if (what := measured_by(benchmark, about)) is not None and not any(axis in about for axis in AXES):
            key = str(about["model"]), str(about.get("backend", EAGER))
            column = column_of(*key)
            found.setdefault(key, {})[what] = benchmark["stats"]["median"]
            tokens[column] = number(about, "new_tokens", f"{source}: {column}")
    if not found:
        raise AnalysisError(f"{source} must be a run of our suite, got no stage of a model in it")
    medians = {
        column_of(model, backend): _only(found.get((model, EAGER), {}), BACKENDLESS) | own
        for (model, backend), own in found.items()
    }
    costs = {column: _costs(column, each, tokens[column], source) for column, each in medians.items()}
    return Measured(costs, doubts=[doubt for name in costs for doubt in _doubts(name, costs[name], medians[name])])


def measured_by(benchmark: Mapping[str, Any], about: Mapping[str, Any]) -> str | None:
    """What a benchmark times: a stage, "e2e", "generate", or None for something else; `about` is its `extra_info`."""
    if "model" not in about:
        return None
    kind = str(benchmark.get("name", "")).partition("[")[0]
    return str(about["stage"]) if "stage" in about else WHOLE.get(kind)


def column_of(model: str, backend: str) -> str:
    """What a person reads: the model, and a backend that isn't the reference."""
    return model if backend == EAGER else f"{model} {backend}"


def _only(medians: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    return {name: medians[name] for name in names if name in medians}


def _costs(model: str, medians: Mapping[str, float], tokens: float, source: str) -> Costs:
    parts = {stage: number(medians, stage, f"{source}: {model}") for stage in STAGE_NAMES}
    decode = parts.pop("decode")
    return Costs(model, parts, tokens, decode)


def _doubts(model: str, costs: Costs, medians: Mapping[str, float]) -> list[str]:
    doubts = []
    compared = {
        "e2e": ("its stages", costs.total),
        "generate": (", ".join(GENERATION), sum(medians[s] for s in GENERATION)),
    }
    for name, (what, stages) in compared.items():
        whole = medians.get(name)
        if whole is not None and abs(stages - whole) > TOLERANCE * whole:
            doubts.append(f"{model}: {what} take {stages:.4g} s, and {name}, which does the same, {whole:.4g} s")
    return doubts
