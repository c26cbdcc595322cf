"""From files to what they say, whatever their format."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from stagebench.analysis import samples
from stagebench.analysis.attribution import Costs, mean_of
from stagebench.analysis.importers import suite, table, vllm
from stagebench.analysis.importers.measured import LONGEST, SHORTEST, Measured, Timing, objects, warnings
from stagebench.core.errors import AnalysisError
from stagebench.core.json_files import parse_json, read_bytes


def _has(key: str) -> Callable[[Any], bool]:
    return lambda data: isinstance(data, dict) and key in data


def _samples(data: Any, source: str) -> list[Timing]:
    given = enumerate(objects(data["samples"], f"{source}: samples"), 1)
    return _of_lines([samples.require_sample(each, f"{source}: sample {number}") for number, each in given], source)


def _of_lines(lines: Sequence[samples.SampleLine], source: str) -> list[Timing]:
    """Average each sample of the main study over its passes, those of natural length where there are such."""
    main = samples.select(lines, study=samples.MAIN)
    kept = samples.select(main, mode="natural") or main
    if not kept:
        raise AnalysisError(f"{source} must hold samples of the main study, got none")
    of, models = samples.sequences(kept), map(samples.costs_by_sample, samples.by_model(kept).values())
    return [Timing(costs, sample, of[sample]) for each in models for sample, costs in each.items()]


FORMATS: dict[str, tuple[Callable[[Any], bool], Callable[[Any, str], list[Timing]]]] = {
    "table": (_has("models"), table.read),
    "pytest-benchmark": (_has("benchmarks"), suite.read),
    "vllm": (vllm.looks_like, vllm.read),
    "samples": (_has("samples"), _samples),
}
"""Of a JSON file, in the order in which they are tried; lines of samples are known by their name, `.jsonl`."""


def read_files(paths: Sequence[Path], format_name: str | None = None) -> Measured:
    """Read files of any known format together, or of one of `FORMATS`; a model in several is named after its file too.

    Raise AnalysisError where a file can't be read, or is not of that format.
    """
    by_file = {path: _by_model(_read(path, format_name)) for path in paths}
    files = Counter(model for models in by_file.values() for model in models)
    whole = Measured()
    for path, models in by_file.items():
        for model, timings in models.items():
            name = f"{model} ({path.name})" if files[model] > 1 else model
            if name in whole.costs:
                raise AnalysisError(f"two models must have two names, got {name!r} twice")
            _add(whole, name, timings, path.name)
            whole.warnings.extend(f"{path.name}: {model}: {each}" for each in warnings(timings))
    return whole


def _by_model(timings: Sequence[Timing]) -> dict[str, list[Timing]]:
    models: dict[str, list[Timing]] = {}
    for timing in timings:
        models.setdefault(timing.costs.model, []).append(timing)
    return models


def _add(whole: Measured, name: str, timings: Sequence[Timing], source: str) -> None:
    """Add one model, whose timings are either one average or one a sample."""
    own: dict[str, Costs] = {}
    for timing in timings:
        costs = replace(timing.costs, model=name)
        if not SHORTEST <= costs.total <= LONGEST:
            raise AnalysisError(f"{name}: the total must be from {SHORTEST:g} to {LONGEST:g} s, got {costs.total:.6g}")
        if timing.sample is None:
            whole.costs[name] = costs
        elif not timing.sample or own.setdefault(timing.sample, costs) is not costs:
            raise AnalysisError(f"{source}: {name}: every sample must have an id of its own, got {timing.sample!r}")
        elif timing.sequence:
            whole.sequences[timing.sample] = timing.sequence
    whole.samples[name] = own
    if own:
        whole.costs[name] = mean_of(list(own.values()))


def _read(path: Path, format_name: str | None) -> list[Timing]:
    data = _parsed(path)
    if path.suffix == ".jsonl" and not vllm.looks_like(data):
        return _of_lines(samples.read_samples(path), path.name)
    fits = [name for name, (looks_like, _) in FORMATS.items() if name == (format_name or name) and looks_like(data)]
    if not fits:
        raise AnalysisError(f"{path} must be of the format {format_name or ', '.join(FORMATS)}, got none of its keys")
    return FORMATS[fits[0]][1](data, path.name)


def _parsed(path: Path) -> Any:
    """Return what a file holds: JSON, or lines of it, as tools write that append to a file."""
    data = read_bytes(path, str(path), AnalysisError)
    try:
        return parse_json(data, finite=False)
    except ValueError as error:
        with suppress(ValueError):
            return [parse_json(line, finite=False) for line in data.splitlines() if line.strip()]
        if path.suffix == ".jsonl":
            return None  # its reader says which line it is
        raise AnalysisError(f"{path} must be JSON, got: {' '.join(str(error).split())}") from error
