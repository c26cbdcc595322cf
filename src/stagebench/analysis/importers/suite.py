"""Read pytest-benchmark's JSON of our own suite: the median of each stage, one model per model and backend."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from stagebench.analysis.attribution import Costs
from stagebench.analysis.importers.measured import Timing, number
from stagebench.core.errors import AnalysisError
from stagebench.core.results import require_sound, validate
from stagebench.core.stages import BEFORE_GENERATE, DECODE, IN_GENERATE, STAGE_NAMES

TOLERANCE = 0.1  # for stages, e2e and generate(), which are timed in separate rounds
EAGER = "eager"  # the backend of a benchmark without one
WHOLE = {"test_e2e": "e2e", "test_generate": "generate", "test_e2e_generate": "e2e by generate"}  # not single stages
AXES = ("images", "batch", "context")  # variables of benchmarks that differ from the path


class Key(NamedTuple):
    """What a benchmark times; an axis is None where it is the path's."""

    model: str
    backend: str
    stage: str  # or one of `WHOLE`
    images: int | None = None
    batch: int | None = None
    context: int | None = None


Found = Mapping[Key, Mapping[str, Any]]


def timed(benchmarks: Iterable[Mapping[str, Any]]) -> dict[Key, dict[str, Any]]:
    """Return the `extra_info` of the benchmarks of models, and their times in seconds, by what they time."""
    found = {}
    for data in benchmarks:
        info, stats = data.get("extra_info", {}), data["stats"]
        stage = info.get("stage", WHOLE.get(str(data.get("name")).partition("[")[0]))
        if stage and "model" in info:
            key = Key(info["model"], info.get("backend", EAGER), stage, *map(info.get, AXES))
            found[key] = info | {"time": stats["median"], "min to max": (stats.get("min"), stats.get("max"))}
    return found


def sides(found: Found) -> Iterable[tuple[str, str]]:
    """Return each model with each of its backends once."""
    return dict.fromkeys(key[:2] for key in found)


def in_path(found: Found, model: str, backend: str, stage: str) -> Mapping[str, Any] | None:
    """Return a benchmark of the path; eager's for a stage that a backend does not run."""
    own = found.get(Key(model, backend, stage))
    return own or (found.get(Key(model, EAGER, stage)) if stage in BEFORE_GENERATE else None)


def read(data: Any, source: str) -> list[Timing]:
    """Read a run of `pytest benchmarks`; raise ResultsError where it is not sound, AnalysisError without a stage."""
    found = timed(require_sound(validate(data, source), source)["benchmarks"])
    found = {key: each for key, each in found.items() if key == Key(*key[:3])}
    if not found:
        raise AnalysisError(f"{source} must be a run of our suite, got no stage of a model in it")
    timings = []
    for model, backend in sides(found):
        column = model if backend == EAGER else f"{model} {backend}"
        own = {name: in_path(found, model, backend, name) for name in (*STAGE_NAMES, *WHOLE.values())}
        medians = {name: each["time"] for name, each in own.items() if each}
        *parts, decode = (number(medians, stage, f"{source}: {column}") for stage in STAGE_NAMES)
        tokens = number(own[DECODE.name] or {}, "new_tokens", f"{source}: {column}")
        costs = Costs(column, dict(zip(STAGE_NAMES, parts, strict=False)), tokens, decode)
        timings.append(Timing(costs, warnings=tuple(_sums(costs, medians))))
    return timings


def _sums(costs: Costs, medians: Mapping[str, float]) -> Iterator[str]:
    """Yield a line for each total that differs from the sum of its stages."""
    of_generate = ", ".join(IN_GENERATE), sum(medians[stage] for stage in IN_GENERATE)
    for name, (what, stages) in {"e2e": ("its stages", costs.total), "generate": of_generate}.items():
        if name in medians and abs(stages - medians[name]) > TOLERANCE * medians[name]:
            yield f"{what} take {stages:.4g} s, but {name}, which does the same, takes {medians[name]:.4g} s"
