"""The common form of all formats, and warnings about implausible numbers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stagebench.analysis.attribution import UNATTRIBUTED, Costs
from stagebench.core.checks import is_number
from stagebench.core.errors import AnalysisError
from stagebench.core.stages import DECODE

SHORTEST, LONGEST = 1e-9, 1e9  # seconds of a total: from a clock's resolution to thirty years
QUICKEST_TOKEN, SLOWEST_TOKEN = 1e-5, 10.0  # seconds; the first is a few kernel launches
TOLERANCE = 0.01  # share of a total: decode without tokens, and the distance of a total from its parts


@dataclass(frozen=True, slots=True)
class Timing:
    """One line of a file: a model's time for a sample, or its average where samples are unknown."""

    costs: Costs  # under the file's name of the model
    sample: str | None = None
    sequence: str | None = None  # the recording that the sample was cut from, if known
    e2e: float | None = None  # seconds that the file gives for the total, if any
    warnings: tuple[str, ...] = ()  # doubts about the file's numbers of this model, one sentence each
    tool: str | None = None  # what measured it, with its version if the file has one


@dataclass(frozen=True, slots=True)
class Measured:
    """The models' times in files."""

    costs: dict[str, Costs] = field(default_factory=dict)  # by model, the average of its samples if there are any
    samples: dict[str, dict[str, Costs]] = field(default_factory=dict)  # by model and sample
    sequences: dict[str, str] = field(default_factory=dict)  # by sample, if known
    warnings: list[str] = field(default_factory=list)
    tools: dict[str, str] = field(default_factory=dict)  # by model, if known


def at(data: Any, path: str) -> Any:
    """Return what stands in a file at keys and places joined by dots; None where it has no such place."""
    for key in path.split("."):
        if isinstance(data, list):
            data = data[int(key)] if key.isdigit() and int(key) < len(data) else None
        else:
            data = data.get(key) if isinstance(data, dict) else None
    return data


def number(data: Mapping[str, Any], key: str, where: str) -> float:
    """Return a number of an object in a file; raise AnalysisError where it is missing or not a finite number."""
    if key not in data:
        raise AnalysisError(f"{where} must have {key}, got {', '.join(data) or 'nothing'}")
    value: float = data[key]
    if not is_number(value):
        raise AnalysisError(f"{where}: {key} must be a finite number, got {value!r}")
    return value


def objects(data: Any, where: str) -> Sequence[Mapping[str, Any]]:
    """Return a list of at least one object in a file; raise AnalysisError for anything else."""
    if not isinstance(data, list) or not data or not all(isinstance(each, dict) for each in data):
        got = "an empty one" if data == [] else type(data).__name__
        raise AnalysisError(f"{where} must be a list of objects, got {got}")
    return data


def named(tool: str, version: object) -> str:
    """Return a tool's name with its version, if the file has one."""
    return f"{tool} {version}" if version and isinstance(version, str | int) else tool


def told_apart(names: Sequence[str], source: str) -> list[str]:
    """Return the names of a file's results, numbered where several are alike; raise AnalysisError if that is taken."""
    places = enumerate(names, 1)
    unique = [f"{name} (result {place})" if names.count(name) > 1 else name for place, name in places]
    if twice := [name for name, times in Counter(unique).items() if times > 1]:
        raise AnalysisError(f"{source}: two results must have two names, got {twice[0]!r} twice")
    return unique


def results(data: Any, source: str) -> list[tuple[Mapping[str, Any], str]]:
    """Return the results of a file, one object or a list of them, each with how an error names it."""
    found = objects(data if isinstance(data, list) else [data], source)
    return [(each, f"{source}, result {place}" if len(found) > 1 else source) for place, each in enumerate(found, 1)]


def warnings(timings: Sequence[Timing]) -> list[str]:
    """Return warnings about one model's implausible numbers, and those of its reader."""
    counts, n = Counter(text for timing in timings for text in _odd(timing)), len(timings)
    by_sample = timings[0].sample is not None
    found = [text.format(f" in {count} of {n} rows" if by_sample else "") for text, count in counts.items()]
    claims = [(each.costs.total, each.e2e) for each in timings if each.e2e is not None]
    if apart := [(total, e2e) for total, e2e in claims if abs(e2e - total) > TOLERANCE * total]:
        where = f" in {len(apart)} of {n} rows, first" if n > 1 else ""
        found.append("the stages do not add up to e2e{}: {:.4g} s and {:.4g} s".format(where, *apart[0]))
    return [*found, *(warning for each in timings for warning in each.warnings)]


def _odd(timing: Timing) -> Iterator[str]:
    """Yield warnings about a row, with {} in place of the number of such rows."""
    costs = timing.costs
    decode, token = DECODE.name if costs.prefilled else "generation", costs.time_per_token or 0
    stages = {name: seconds for name, seconds in costs.parts.items() if name != UNATTRIBUTED}
    for name, seconds in (stages | ({decode: costs.decode} if costs.further else {})).items():
        if seconds == 0:
            yield f"{name} takes 0 s{{}}: the stage did no work, or was not timed"
    if not costs.further and costs.decode > TOLERANCE * costs.total:
        yield f"{decode} takes time{{}} without any further token, which is impossible"
    if 0 < token < QUICKEST_TOKEN:
        yield "a token takes less than 10 us{}: are the times in seconds?"
    if token > SLOWEST_TOKEN:
        yield "a token takes more than 10 s{}: are the times in milliseconds?"
    if costs.parts.get(UNATTRIBUTED, 0) < -TOLERANCE * costs.total:
        yield "the stages take longer than the total{}, which is impossible"
    if timing.sample is not None and (costs.tokens or 0) % 1:
        yield "the tokens{} are not a whole number: are they means?"
