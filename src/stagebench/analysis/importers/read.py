"""From files to what they say, whatever their format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from stagebench.analysis.importers import passes, samples, stage_rows, suite, table, vllm
from stagebench.analysis.importers.measured import Measured
from stagebench.analysis.importers.plausible import doubts, require_possible
from stagebench.core.errors import AnalysisError
from stagebench.core.json_files import parse_json, read_bytes

FORMATS: dict[str, tuple[Callable[[Any], bool], Callable[[Any, str], Measured]]] = {
    "table": (table.looks_like, table.read),
    "rows": (stage_rows.looks_like, stage_rows.read),
    "pytest-benchmark": (suite.looks_like, suite.read),
    "vllm": (vllm.looks_like, vllm.read),
    "passes": (passes.looks_like, passes.read),
}
"""Of a JSON file, in the order in which they are tried; `samples` are told by their name, `.jsonl`."""


def read_files(paths: Sequence[Path], format_name: str | None = None) -> Measured:
    """Read files of any known format together.

    A model that is in several files is named after its file in each of them.

    Args:
        paths: at least one.
        format_name: one of `FORMATS`; by default what the file looks like.

    Raises:
        AnalysisError: where a file can't be read, or is not of that format.
    """
    found = {path: _read(path, format_name) for path in paths}
    names = [model for measured in found.values() for model in measured.costs]
    whole = Measured({})
    for path, measured in found.items():
        for model, costs in measured.costs.items():
            name = f"{model} ({path.name})" if names.count(model) > 1 else model
            if name in whole.costs:
                raise AnalysisError(f"two models must have two names, got {name!r} twice")
            whole.costs[name] = replace(costs, model=name)
            whole.samples[name] = {
                sample: replace(each, model=name) for sample, each in measured.samples.get(model, {}).items()
            }
            for each in (costs, *whole.samples[name].values()):
                require_possible(each)
            alone = list(whole.samples[name].values()) or [costs]
            measured.doubts.extend(f"{model}: {doubt}" for doubt in doubts(alone, bool(whole.samples[name])))
        whole.sequences.update(measured.sequences)
        whole.doubts.extend(f"{path.name}: {doubt}" for doubt in measured.doubts)
    return whole


def _read(path: Path, format_name: str | None) -> Measured:
    data = _parsed(path)
    if path.suffix == ".jsonl" and not vllm.looks_like(data):
        return samples.read(path)
    if format_name is None:
        format_name = next((name for name, (looks_like, _) in FORMATS.items() if looks_like(data)), None)
    if format_name is None or not FORMATS[format_name][0](data):
        wanted = format_name or ", ".join(FORMATS)
        raise AnalysisError(f"{path} must be of the format {wanted}, got none of its keys")
    return FORMATS[format_name][1](data, path.name)


def _parsed(path: Path) -> Any:
    """What a file holds: JSON, or lines of it, as tools write that append to a file."""
    data = read_bytes(path, str(path), AnalysisError)
    try:
        return parse_json(data, finite=False)
    except ValueError as error:
        with suppress(ValueError):
            return [parse_json(line, finite=False) for line in data.splitlines() if line.strip()]
        if path.suffix == ".jsonl":
            return None  # its reader says which line it is
        raise AnalysisError(f"{path} must be JSON, got: {' '.join(str(error).split())}") from error
