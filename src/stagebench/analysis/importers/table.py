"""A table typed in from a report.

    {"models": [{"name": "a", "load": 6.858, "preprocess": 0.072, "generation": 2.533, "tokens": 102.4}, ...]}

Times in seconds; `tokens` of one answer, the first one included. `generation` is all after preprocess; who has it apart
writes `encode`, `prefill` and `decode` instead, and `encode` alone may stand beside `generation`. `unattributed` may be
added. A model whose samples are known has `samples` in place of the numbers: a list of objects with `id`, the same
numbers, and the `sequence` that the sample is cut from where there is one. `e2e`, if given, is checked against the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stagebench.analysis.attribution import UNATTRIBUTED, Costs, mean_of
from stagebench.analysis.importers.measured import Measured, number, objects
from stagebench.core.errors import AnalysisError
from stagebench.core.stages import STAGE_NAMES

NUMBERS = frozenset({*STAGE_NAMES, "generation", UNATTRIBUTED, "tokens", "e2e"})
WORDS = frozenset({"name", "samples", "id", "sequence"})
TOLERANCE = 0.01
"""Of a total, by which a sum may differ from it."""


def looks_like(data: Any) -> bool:
    """Whether the data are such a table."""
    return isinstance(data, dict) and "models" in data


def read(data: Any, source: str) -> Measured:
    """Read a table.

    Raises:
        AnalysisError: where a key is missing or unknown, a number is impossible, or two models have one name.
    """
    costs: dict[str, Costs] = {}
    samples: dict[str, dict[str, Costs]] = {}
    sequences: dict[str, str] = {}
    doubts: list[str] = []
    for model in objects(data["models"], f"{source}: models"):
        name = model.get("name")
        if not isinstance(name, str) or not name:
            raise AnalysisError(f"{source}: every model must have a name, got {name!r}")
        if name in costs:
            raise AnalysisError(f"{source}: two models must have two names, got {name!r} twice")
        if "samples" in model:
            if others := sorted(model.keys() - {"name", "samples"}):
                raise AnalysisError(f"{source}: {name} must have samples alone, got {', '.join(others)} beside them")
            given = objects(model["samples"], f"{source}: {name}: samples")
            samples[name] = _samples(name, given, source)
            sequences |= {
                sample: str(row.get("sequence", sample)) for sample, row in zip(samples[name], given, strict=True)
            }
            costs[name] = mean_of(list(samples[name].values()))
            doubts += _doubts(name, list(samples[name].values()), given)
            if broken := sum(each.tokens % 1 != 0 for each in samples[name].values()):
                doubts.append(f"{name}: the tokens of {broken} samples are no whole number: means of several?")
        else:
            costs[name] = _costs(name, model, f"{source}: {name}")
            doubts += _doubts(name, [costs[name]], [model])
    return Measured(costs, samples, sequences, doubts)


def _samples(name: str, given: Sequence[Mapping[str, Any]], source: str) -> dict[str, Costs]:
    samples: dict[str, Costs] = {}
    for row in given:
        sample = str(row.get("id", ""))
        if not sample or sample in samples:
            raise AnalysisError(f"{source}: {name}: every sample must have an id of its own, got {sample!r}")
        samples[sample] = _costs(name, row, f"{source}: {name}, {sample}")
    return samples


def _costs(name: str, given: Mapping[str, Any], where: str) -> Costs:
    if unknown := sorted(given.keys() - NUMBERS - WORDS):
        raise AnalysisError(f"{where}: keys must be of {', '.join(sorted(NUMBERS))}, got {', '.join(unknown)}")
    if ("generation" in given) == ("decode" in given):
        raise AnalysisError(f"{where} must have either generation or decode, got {', '.join(given)}")
    whole = "generation" in given
    if whole and "prefill" in given:
        raise AnalysisError(f"{where}: prefill stands beside decode, got it beside generation")
    needed = ("load", "preprocess") if whole else ("load", "preprocess", "encode", "prefill")
    optional = [key for key in ("encode", UNATTRIBUTED) if key in given]
    return Costs(
        name,
        {key: number(given, key, where) for key in dict.fromkeys([*needed, *optional])},
        number(given, "tokens", where),
        number(given, "generation" if whole else "decode", where),
        prefilled=0 if whole else 1,
    )


def _doubts(name: str, costs: Sequence[Costs], given: Sequence[Mapping[str, Any]]) -> list[str]:
    told = [(each.total, number(row, "e2e", name)) for each, row in zip(costs, given, strict=True) if "e2e" in row]
    apart = [(total, e2e) for total, e2e in told if abs(e2e - total) > TOLERANCE * total]
    if not apart:
        return []
    total, e2e = apart[0]
    where = f" in {len(apart)} of {len(costs)} samples, first" if len(costs) > 1 else ""
    return [f"{name}: the stages do not add up to e2e{where}: {total:.4g} s and {e2e:.4g} s"]
