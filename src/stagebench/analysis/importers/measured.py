"""What every format is read into, and the checks of a number that all of them share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stagebench.analysis.attribution import Costs, mean_of
from stagebench.core.errors import AnalysisError


@dataclass(frozen=True, slots=True)
class Measured:
    """What a file says about models.

    Attributes:
        costs: by model, the average of its samples where there are any.
        samples: by model and sample; empty for a model of which only averages are known.
        sequences: which sequence a sample is cut from, where the file says so.
        doubts: what in the file can't hold, or should not be relied on; one sentence each.
    """

    costs: dict[str, Costs]
    samples: dict[str, dict[str, Costs]] = field(default_factory=dict)
    sequences: dict[str, str] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


def averaged(
    samples: dict[str, dict[str, Costs]], sequences: dict[str, str] | None = None, doubts: list[str] | None = None
) -> Measured:
    """What was measured where samples are known: their averages with them."""
    costs = {model: mean_of(list(each.values())) for model, each in samples.items()}
    return Measured(costs, samples, sequences or {}, doubts or [])


def number(data: Any, key: str, where: str) -> float:
    """A number of an object in a file.

    Raises:
        AnalysisError: where it is missing, or no finite number.
    """
    if not isinstance(data, dict) or key not in data:
        found = ", ".join(data) if isinstance(data, dict) else _kind(data)
        raise AnalysisError(f"{where} must have {key}, got {found or 'nothing'}")
    value = data[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AnalysisError(f"{where}: {key} must be a finite number, got {value!r}")
    return value


def objects(data: Any, where: str) -> Sequence[Mapping[str, Any]]:
    """A list of objects of a file, at least one.

    Raises:
        AnalysisError: where it is something else.
    """
    if not isinstance(data, list) or not data or not all(isinstance(each, dict) for each in data):
        raise AnalysisError(f"{where} must be a list of objects, got {_kind(data)}")
    return data


def _kind(data: Any) -> str:
    return "an empty one" if data == [] else type(data).__name__
