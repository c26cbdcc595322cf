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
from stagebench.analysis.importers.measured import Timing, number, objects
from stagebench.core.errors import AnalysisError
from stagebench.core.stages import BEFORE_GENERATE, DECODE, ENCODE, ONCE, PREFILL, STAGE_NAMES

NUMBERS = frozenset({*STAGE_NAMES, "generation", UNATTRIBUTED, "tokens", "e2e"})
WORDS = frozenset({"name", "id", "sequence"})


def read(data: Any, source: str) -> list[Timing]:
    """Read a table; raise AnalysisError where a key is missing or unknown, or a number impossible."""
    timings: dict[str, list[Timing]] = {}
    for model in objects(data["models"], f"{source}: models"):
        name = model.get("name")
        if not isinstance(name, str) or not name or name in timings:
            raise AnalysisError(f"{source}: every model must have a name of its own, got {name!r}")
        timings[name] = _timings(name, model, f"{source}: {name}")
    return [timing for own in timings.values() for timing in own]


def _timings(name: str, model: Mapping[str, Any], where: str) -> list[Timing]:
    if "samples" not in model:
        return [_timing(name, model, where)]
    if others := sorted(model.keys() - {"name", "samples"}):
        raise AnalysisError(f"{where} must have samples alone, got {', '.join(others)} beside them")
    rows = [(str(row.get("id", "")), row) for row in objects(model["samples"], f"{where}: samples")]
    return [_timing(name, row, f"{where}, {sample}", sample) for sample, row in rows]


def _timing(name: str, given: Mapping[str, Any], where: str, sample: str | None = None) -> Timing:
    if unknown := sorted(given.keys() - NUMBERS - WORDS):
        raise AnalysisError(f"{where}: keys must be of {', '.join(sorted(NUMBERS))}, got {', '.join(unknown)}")
    whole = "generation" in given
    if whole == (DECODE.name in given):
        raise AnalysisError(f"{where} must have either generation or decode, got {', '.join(given)}")
    if whole and PREFILL.name in given:
        raise AnalysisError(f"{where}: prefill stands beside decode, got it beside generation")
    names = dict.fromkeys(BEFORE_GENERATE if whole else ONCE)
    names |= {key: None for key in (ENCODE.name, UNATTRIBUTED) if key in given}
    parts = {key: number(given, key, where) for key in names}
    tokens, decode = (number(given, key, where) for key in ("tokens", "generation" if whole else DECODE.name))
    e2e = number(given, "e2e", where) if "e2e" in given else None
    sequence = None if sample is None else str(given.get("sequence", sample))
    return Timing(Costs(name, parts, tokens, decode, prefilled=0 if whole else 1), sample, sequence, e2e)
