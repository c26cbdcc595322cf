"""pytest-benchmark's JSON of our own suite: the median of each stage's rounds, one column a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagebench.analysis.attribution import Costs
from stagebench.analysis.imports.measured import Measured, number, objects
from stagebench.errors import AnalysisError
from stagebench.types import STAGES

TOLERANCE = 0.1
"""Stages, e2e and generate() are timed in rounds of their own; they differ by what the machine did meanwhile."""
GENERATION = ("encode", "prefill", "decode")


def looks_like(data: Any) -> bool:
    """Whether the data are a pytest-benchmark run."""
    return isinstance(data, dict) and "benchmarks" in data


def read(data: Any, source: str) -> Measured:
    """Read a run of `pytest benchmarks`.

    Raises:
        AnalysisError: where it has no stages, or a model lacks one.
    """
    medians: dict[str, dict[str, float]] = {}
    tokens: dict[str, float] = {}
    for benchmark in objects(data["benchmarks"], f"{source}: benchmarks"):
        info = benchmark.get("extra_info")
        about: Mapping[str, Any] = info if isinstance(info, dict) else {}
        if (what := _what(benchmark, about)) is not None:
            model = str(about["model"])
            medians.setdefault(model, {})[what] = number(benchmark.get("stats"), "median", f"{source}: {model} {what}")
            tokens[model] = number(about, "new_tokens", f"{source}: {model}")
    if not medians:
        raise AnalysisError(f"{source} must be a run of our suite, got no stage of a model in it")
    costs = {model: _costs(model, found, tokens[model], source) for model, found in medians.items()}
    return Measured(costs, doubts=[doubt for model in costs for doubt in _doubts(model, costs[model], medians[model])])


def _what(benchmark: Mapping[str, Any], about: Mapping[str, Any]) -> str | None:
    if "model" not in about:
        return None
    kind = str(benchmark.get("name", "")).partition("[")[0]
    return str(about["stage"]) if "stage" in about else {"test_e2e": "e2e", "test_generate": "generate"}.get(kind)


def _costs(model: str, medians: Mapping[str, float], tokens: float, source: str) -> Costs:
    parts = {stage: number(medians, stage, f"{source}: {model}") for stage in STAGES}
    decode = parts.pop("decode")
    return Costs(model, parts, tokens, decode)


def _doubts(model: str, costs: Costs, medians: Mapping[str, float]) -> list[str]:
    doubts = [f"{model}: {stage} takes 0 s" for stage in STAGES if medians[stage] == 0]
    compared = {
        "e2e": ("its stages", costs.total),
        "generate": (", ".join(GENERATION), sum(medians[s] for s in GENERATION)),
    }
    for name, (what, stages) in compared.items():
        whole = medians.get(name)
        if whole is not None and abs(stages - whole) > TOLERANCE * whole:
            doubts.append(f"{model}: {what} take {stages:.4g} s, and {name}, which does the same, {whole:.4g} s")
    return doubts
