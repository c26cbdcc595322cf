"""A table typed in from a report.

    {"models": [{"name": "a", "load": 6.858, "preprocess": 0.072, "generation": 2.533, "tokens": 102.4}, ...]}

Times in seconds; `tokens` of one answer, the first one included. `generation` is all after preprocess; who has it apart
writes `encode`, `prefill` and `decode` instead, and `encode` alone may stand beside `generation`. `unattributed` may be
added. A model whose samples are known has `samples` in place of the numbers: a list of objects with `id`, the same
numbers, and the `sequence` that the sample is cut from where there is one. `e2e`, if given, is checked against the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagebench.analysis.attribution import UNATTRIBUTED, Costs
from stagebench.analysis.imports.measured import Measured, averaged, number, objects
from stagebench.errors import AnalysisError

APART = ("encode", "prefill", "decode")
NUMBERS = frozenset({"load", "preprocess", *APART, "generation", UNATTRIBUTED, "tokens", "e2e"})
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
            samples[name] = _samples(name, model["samples"], f"{source}: {name}", sequences, doubts)
            costs[name] = averaged({name: samples[name]}).costs[name]
        else:
            costs[name] = _costs(name, model, f"{source}: {name}", doubts)
    return Measured(costs, samples, sequences, doubts)


def _samples(name: str, given: Any, where: str, sequences: dict[str, str], doubts: list[str]) -> dict[str, Costs]:
    samples: dict[str, Costs] = {}
    for row in objects(given, f"{where}: samples"):
        sample = str(row.get("id", ""))
        if not sample or sample in samples:
            raise AnalysisError(f"{where}: every sample must have an id of its own, got {sample!r}")
        samples[sample] = _costs(name, row, f"{where}, {sample}", doubts)
        sequences[sample] = str(row.get("sequence", sequences.get(sample, sample)))
    return samples


def _costs(name: str, given: Mapping[str, Any], where: str, doubts: list[str]) -> Costs:
    if unknown := sorted(given.keys() - NUMBERS - WORDS):
        raise AnalysisError(f"{where}: keys must be of {', '.join(sorted(NUMBERS))}, got {', '.join(unknown)}")
    if ("generation" in given) == ("decode" in given):
        raise AnalysisError(f"{where} must have either generation or decode, got {', '.join(given)}")
    whole = "generation" in given
    if whole and "prefill" in given:
        raise AnalysisError(f"{where}: prefill stands beside decode, got it beside generation")
    optional = [key for key in ("encode", UNATTRIBUTED) if key in given]
    parts = ["load", "preprocess", *([] if whole else ["encode", "prefill"])]
    costs = Costs(
        name,
        {key: number(given, key, where) for key in dict.fromkeys([*parts, *optional])},
        number(given, "tokens", where),
        number(given, "generation" if whole else "decode", where),
        prefilled=0 if whole else 1,
    )
    if "e2e" in given and abs(number(given, "e2e", where) - costs.total) > TOLERANCE * costs.total:
        doubts.append(f"{where}: the stages add up to {costs.total:.4g} s, e2e says {given['e2e']:.4g} s")
    return costs
