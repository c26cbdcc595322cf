"""pytest-benchmark's JSON of our own suite: the median of each stage, one column a model and backend."""

from collections.abc import Iterator, Mapping
from typing import Any

from stagebench.analysis.attribution import Costs
from stagebench.analysis.importers.measured import Timing, number
from stagebench.core.errors import AnalysisError
from stagebench.core.results import require_sound, validate
from stagebench.core.stages import BEFORE_GENERATE, IN_GENERATE, STAGE_NAMES

TOLERANCE = 0.1
"""Stages, e2e and generate() are timed in rounds of their own; they differ by what the machine did meanwhile."""
EAGER = "eager"  # the backend of a benchmark that names none
WHOLE = {"test_e2e": "e2e", "test_generate": "generate", "test_e2e_generate": "e2e by generate"}
"""The benchmarks of no single stage."""
AXES = ("images", "batch", "context")  # what a benchmark varies that doesn't time a stage as it stands in the path


def read(data: Any, source: str) -> list[Timing]:
    """Read a run of `pytest benchmarks`; raise ResultsError where it is no sound one, AnalysisError without a stage."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    tokens: dict[tuple[str, str], float] = {}
    for benchmark in require_sound(validate(data, source), source)["benchmarks"]:
        about: Mapping[str, Any] = benchmark.get("extra_info", {})
        if (what := measured_by(benchmark, about)) is not None and not any(axis in about for axis in AXES):
            key = str(about["model"]), str(about.get("backend", EAGER))
            found.setdefault(key, {})[what] = benchmark["stats"]["median"]
            tokens[key] = number(about, "new_tokens", f"{source}: {' '.join(key)}")
    if not found:
        raise AnalysisError(f"{source} must be a run of our suite, got no stage of a model in it")
    timings = []
    for (model, backend), own in found.items():
        eager, column = found.get((model, EAGER), {}), model if backend == EAGER else f"{model} {backend}"
        # What isn't timed beside a backend, because it has no part in it, takes the time of the eager path.
        medians = {stage: eager[stage] for stage in BEFORE_GENERATE if stage in eager} | own
        *parts, decode = (number(medians, stage, f"{source}: {column}") for stage in STAGE_NAMES)
        costs = Costs(column, dict(zip(STAGE_NAMES, parts, strict=False)), tokens[model, backend], decode)
        timings.append(Timing(costs, warnings=tuple(_sums(costs, medians))))
    return timings


def measured_by(benchmark: Mapping[str, Any], about: Mapping[str, Any]) -> str | None:
    """Return what a benchmark times: a stage, one of `WHOLE`, or None for something else; `about` is its extra_info."""
    if "model" not in about:
        return None
    kind = str(benchmark.get("name", "")).partition("[")[0]
    return str(about["stage"]) if "stage" in about else WHOLE.get(kind)


def _sums(costs: Costs, medians: Mapping[str, float]) -> Iterator[str]:
    """Name stages that do not make up what is timed as a whole too."""
    of_generate = ", ".join(IN_GENERATE), sum(medians[stage] for stage in IN_GENERATE)
    for name, (what, stages) in {"e2e": ("its stages", costs.total), "generate": of_generate}.items():
        if name in medians and abs(stages - medians[name]) > TOLERANCE * medians[name]:
            yield f"{what} take {stages:.4g} s, and {name}, which does the same, {medians[name]:.4g} s"
