"""A table of stage times: typed in from a report, or made from somebody's rows.

    {"models": [{"name": "a", "load": 6.858, "preprocess": 0.072, "generation": 2.533, "tokens": 102.4}, ...]}

Times in seconds; `tokens` of one answer, the first one included. `generation` is all after preprocess; who has it apart
writes `encode`, `prefill` and `decode` instead, and `encode` alone may stand beside `generation`. `unattributed` may be
added. A model whose samples are known has `samples` in place of the numbers: a list of objects with `id`, the same
numbers, and the `sequence` that the sample is cut from where there is one. `e2e`, if given, is checked against the sum.
"""

from collections.abc import Mapping
from typing import Any

from stagebench.analysis.attribution import UNATTRIBUTED, Costs
from stagebench.analysis.importers.measured import Timing, names, number, objects
from stagebench.core.errors import AnalysisError
from stagebench.core.stages import BEFORE_GENERATE, DECODE, ENCODE, ONCE, PREFILL, STAGE_NAMES

NUMBERS = frozenset({*STAGE_NAMES, "generation", UNATTRIBUTED, "tokens", "e2e"})
WORDS = frozenset({"name", "id", "sequence"})


def looks_like(data: Any) -> bool:
    """Return whether the data are such a table."""
    return isinstance(data, dict) and "models" in data


def read(data: Any, source: str) -> list[Timing]:
    """Read a table.

    Raises:
        AnalysisError: where a key is missing or unknown, a number is impossible, or two models have one name.
    """
    models = objects(data["models"], f"{source}: models")
    timings = []
    for name, model in zip(names(models, "name", source), models, strict=True):
        if "samples" not in model:
            timings.append(_timing(name, model, f"{source}: {name}"))
            continue
        if others := sorted(model.keys() - {"name", "samples"}):
            raise AnalysisError(f"{source}: {name} must have samples alone, got {', '.join(others)} beside them")
        for row in objects(model["samples"], f"{source}: {name}: samples"):
            sample = str(row.get("id", ""))
            timings.append(_timing(name, row, f"{source}: {name}, {sample}", sample))
    return timings


def _timing(name: str, given: Mapping[str, Any], where: str, sample: str | None = None) -> Timing:
    if unknown := sorted(given.keys() - NUMBERS - WORDS):
        raise AnalysisError(f"{where}: keys must be of {', '.join(sorted(NUMBERS))}, got {', '.join(unknown)}")
    whole = "generation" in given
    if whole == (DECODE.name in given):
        raise AnalysisError(f"{where} must have either generation or decode, got {', '.join(given)}")
    if whole and PREFILL.name in given:
        raise AnalysisError(f"{where}: prefill stands beside decode, got it beside generation")
    needed = BEFORE_GENERATE if whole else ONCE
    parts = dict.fromkeys([*needed, *(key for key in (ENCODE.name, UNATTRIBUTED) if key in given)])
    costs = Costs(
        name,
        {key: number(given, key, where) for key in parts},
        number(given, "tokens", where),
        number(given, "generation" if whole else DECODE.name, where),
        prefilled=0 if whole else 1,
    )
    e2e = number(given, "e2e", where) if "e2e" in given else None
    return Timing(costs, sample, None if sample is None else str(given.get("sequence", sample)), e2e)
