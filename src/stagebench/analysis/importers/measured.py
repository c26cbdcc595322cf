"""What every format is read into, and the checks of a number that all of them share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stagebench.analysis.attribution import Costs
from stagebench.core.errors import AnalysisError


@dataclass(frozen=True, slots=True)
class Timing:
    """One line of a file: what a model spent on a sample, or on average where no sample is known.

    Attributes:
        costs: of the model, by the name that the file gives it.
        sample: its id; None for an average.
        sequence: what the sample is cut from, where the file says so.
        e2e: seconds that the file claims for the whole, where it does.
        warnings: what speaks against the file's numbers of this model; one sentence each.
    """

    costs: Costs
    sample: str | None = None
    sequence: str | None = None
    e2e: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """What files say about models.

    Attributes:
        costs: by model, the average of its samples where there are any.
        samples: by model and sample; empty for a model of which only averages are known.
        sequences: which sequence a sample is cut from, where a file says so.
        warnings: what in the files can't hold, or should not be relied on; one sentence each.
    """

    costs: dict[str, Costs] = field(default_factory=dict)
    samples: dict[str, dict[str, Costs]] = field(default_factory=dict)
    sequences: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def number(data: Any, key: str, where: str) -> float:
    """Return a number of an object in a file.

    Raises:
        AnalysisError: where it is missing, or no finite number.
    """
    if not isinstance(data, dict) or key not in data:
        found = ", ".join(data) if isinstance(data, dict) else type(data).__name__
        raise AnalysisError(f"{where} must have {key}, got {found or 'nothing'}")
    value = data[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AnalysisError(f"{where}: {key} must be a finite number, got {value!r}")
    return value


def objects(data: Any, where: str) -> Sequence[Mapping[str, Any]]:
    """Return a list of objects of a file, at least one.

    Raises:
        AnalysisError: where it is something else.
    """
    if not isinstance(data, list) or not data or not all(isinstance(each, dict) for each in data):
        raise AnalysisError(
            f"{where} must be a list of objects, got {'an empty one' if data == [] else type(data).__name__}"
        )
    return data


def names(models: Sequence[Mapping[str, Any]], key: str, source: str) -> list[str]:
    """Return the names of the models in a file.

    Raises:
        AnalysisError: where one has no name, or two have the same.
    """
    found: list[str] = []
    for model in models:
        name = model.get(key)
        if not isinstance(name, str) or not name or name in found:
            raise AnalysisError(f"{source}: every model must have a name of its own, got {name!r}")
        found.append(name)
    return found
