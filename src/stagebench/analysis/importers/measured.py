"""What every format is read into, and warnings of numbers that a model can hardly have taken."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stagebench.analysis.attribution import UNATTRIBUTED, Costs
from stagebench.core.checks import is_number
from stagebench.core.errors import AnalysisError
from stagebench.core.stages import DECODE

SHORTEST, LONGEST = 1e-9, 1e9  # seconds of a whole: from what a clock tells to thirty years
QUICKEST_TOKEN, SLOWEST_TOKEN = 1e-5, 10.0  # seconds; the first is a few launches of a kernel
TOLERANCE = 0.01  # of a whole: what decode may take with nothing to decode, and how far its parts may be from it


@dataclass(frozen=True, slots=True)
class Timing:
    """One line of a file: what a model spent on a sample, or on average where no sample is known."""

    costs: Costs  # of the model, by the name that the file gives it
    sample: str | None = None
    sequence: str | None = None  # what the sample is cut from, where the file says so
    e2e: float | None = None  # seconds that the file claims for the whole, where it does
    warnings: tuple[str, ...] = ()  # what speaks against the file's numbers of this model; one sentence each


@dataclass(frozen=True, slots=True)
class Measured:
    """What files say about models."""

    costs: dict[str, Costs] = field(default_factory=dict)  # by model, the average of its samples where there are any
    samples: dict[str, dict[str, Costs]] = field(default_factory=dict)  # by model and sample
    sequences: dict[str, str] = field(default_factory=dict)  # what a sample is cut from, where a file says so
    warnings: list[str] = field(default_factory=list)


def number(data: Mapping[str, Any], key: str, where: str) -> float:
    """Return a number of an object in a file; raise AnalysisError where it is missing, or no finite number."""
    if key not in data:
        raise AnalysisError(f"{where} must have {key}, got {', '.join(data) or 'nothing'}")
    value: float = data[key]
    if not is_number(value):
        raise AnalysisError(f"{where}: {key} must be a finite number, got {value!r}")
    return value


def objects(data: Any, where: str) -> Sequence[Mapping[str, Any]]:
    """Return a list of objects of a file, at least one; raise AnalysisError where it is something else."""
    if not isinstance(data, list) or not data or not all(isinstance(each, dict) for each in data):
        got = "an empty one" if data == [] else type(data).__name__
        raise AnalysisError(f"{where} must be a list of objects, got {got}")
    return data


def warnings(timings: Sequence[Timing]) -> list[str]:
    """Say which numbers of one model can hardly hold, and what its reader warned of."""
    counts, n = Counter(text for timing in timings for text in _odd(timing)), len(timings)
    by_sample = timings[0].sample is not None
    found = [text.format(f" in {count} of {n} rows" if by_sample else "") for text, count in counts.items()]
    claims = [(each.costs.total, each.e2e) for each in timings if each.e2e is not None]
    if apart := [(total, e2e) for total, e2e in claims if abs(e2e - total) > TOLERANCE * total]:
        where = f" in {len(apart)} of {n} rows, first" if n > 1 else ""
        found.append("the stages do not add up to e2e{}: {:.4g} s and {:.4g} s".format(where, *apart[0]))
    return [*found, *(warning for each in timings for warning in each.warnings)]


def _odd(timing: Timing) -> Iterator[str]:
    """Say what is odd about a row, with {} for how many rows there are of the kind."""
    costs = timing.costs
    decode, token = DECODE.name if costs.prefilled else "generation", costs.time_per_token or 0
    stages = {name: seconds for name, seconds in costs.parts.items() if name != UNATTRIBUTED}
    for name, seconds in (stages | ({decode: costs.decode} if costs.further else {})).items():
        if seconds == 0:
            yield f"{name} takes 0 s{{}}: a stage that did no work, or was not timed"
    if not costs.further and costs.decode > TOLERANCE * costs.total:
        yield f"{decode} takes time{{}} though there is no further token: that can't be"
    if 0 < token < QUICKEST_TOKEN:
        yield "a token takes less than 10 us{}: are the times in seconds?"
    if token > SLOWEST_TOKEN:
        yield "a token takes more than 10 s{}: are the times in milliseconds?"
    if costs.parts.get(UNATTRIBUTED, 0) < -TOLERANCE * costs.total:
        yield "the stages take longer than the whole{}: that can't be"
    if timing.sample is not None and costs.tokens % 1:
        yield "the tokens{} are no whole number: means of several?"
