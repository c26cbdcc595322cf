"""Read files of any known format; samples, and tables of stage times, are read here.

A table is typed in from a report, or made from other rows:

    {"models": [{"name": "a", "load": 6.858, "preprocess": 0.072, "generation": 2.533, "tokens": 102.4}, ...]}

Times are in seconds; `tokens` are those of one answer, the first one included. `generation` is everything after
preprocess. If its parts are known, use `encode`, `prefill` and `decode` instead; `encode` alone may stand beside
`generation`. `unattributed` may be added. A model with known samples has `samples` in place of the numbers: a list of
objects with `id`, the same numbers, and optionally the `sequence` of the sample. A given `e2e` is checked against the
sum.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from stagebench.analysis import samples
from stagebench.analysis.attribution import UNATTRIBUTED, Costs, mean_of
from stagebench.analysis.importers import clients, offline, serving, suite
from stagebench.analysis.importers.measured import LONGEST, SHORTEST, Measured, Timing, number, objects, warnings
from stagebench.core import json_files
from stagebench.core.errors import AnalysisError
from stagebench.core.json_files import parse_json, read_bytes
from stagebench.core.stages import BEFORE_GENERATE, DECODE, ENCODE, ONCE, PREFILL, STAGE_NAMES

NUMBERS = frozenset({*STAGE_NAMES, "generation", UNATTRIBUTED, "tokens", "e2e"})
WORDS = frozenset({"name", "id", "sequence"})


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda data: isinstance(data, dict) and data.keys() >= set(keys)


def _each_has(*keys: str) -> Callable[[Any], bool]:
    """Return whether the data are an object with the keys, or a list of such ones."""
    has = _has(*keys)
    return lambda data: has(data) or (isinstance(data, list) and bool(data) and all(map(has, data)))


def _samples(data: Any, source: str) -> list[Timing]:
    given = enumerate(objects(data["samples"], f"{source}: samples"), 1)
    return _of_lines([samples.require_sample(each, f"{source}: sample {number}") for number, each in given], source)


def _of_lines(lines: Sequence[samples.SampleLine], source: str) -> list[Timing]:
    """Average each sample of the main study over its passes, those of natural length if there are any."""
    main = samples.select(lines, study=samples.MAIN)
    kept = samples.select(main, mode="natural") or main
    if not kept:
        raise AnalysisError(f"{source} must hold samples of the main study, got none")
    of, models = samples.sequences(kept), map(samples.costs_by_sample, samples.by_model(kept).values())
    return [Timing(costs, sample, of[sample]) for each in models for sample, costs in each.items()]


def _table(data: Any, source: str) -> list[Timing]:
    timings: dict[str, list[Timing]] = {}
    for model in objects(data["models"], f"{source}: models"):
        name = model.get("name")
        if not isinstance(name, str) or not name or name in timings:
            raise AnalysisError(f"{source}: every model must have a unique name, got {name!r}")
        timings[name] = _of_model(name, model, f"{source}: {name}")
    return [timing for own in timings.values() for timing in own]


def _of_model(name: str, model: Mapping[str, Any], where: str) -> list[Timing]:
    if "samples" not in model:
        return [_row(name, model, where)]
    if others := sorted(model.keys() - {"name", "samples"}):
        raise AnalysisError(f"{where} must have only samples, got also {', '.join(others)}")
    rows = [(str(row.get("id", "")), row) for row in objects(model["samples"], f"{where}: samples")]
    return [_row(name, row, f"{where}, {sample}", sample) for sample, row in rows]


def _row(name: str, given: Mapping[str, Any], where: str, sample: str | None = None) -> Timing:
    if unknown := sorted(given.keys() - NUMBERS - WORDS):
        raise AnalysisError(f"{where}: keys must be among {', '.join(sorted(NUMBERS))}, got {', '.join(unknown)}")
    whole = "generation" in given
    if whole == (DECODE.name in given):
        raise AnalysisError(f"{where} must have either generation or decode, got {', '.join(given)}")
    if whole and PREFILL.name in given:
        raise AnalysisError(f"{where}: prefill must be beside decode, got it beside generation")
    names = dict.fromkeys(BEFORE_GENERATE if whole else ONCE)
    names |= {key: None for key in (ENCODE.name, UNATTRIBUTED) if key in given}
    parts = {key: number(given, key, where) for key in names}
    tokens, decode = (number(given, key, where) for key in ("tokens", "generation" if whole else DECODE.name))
    e2e = number(given, "e2e", where) if "e2e" in given else None
    sequence = None if sample is None else str(given.get("sequence", sample))
    return Timing(Costs(name, parts, tokens, decode, prefilled=0 if whole else 1), sample, sequence, e2e)


FORMATS: dict[str, tuple[Callable[[Any], bool], Callable[[Any, str], list[Timing]]]] = {
    "table": (_has("models"), _table),
    "guidellm": (clients.is_guidellm, clients.read_guidellm),
    "pytest-benchmark": (_has("benchmarks"), suite.read),
    "vllm-mm-processor": (_has("mm_processor_stats", "mean_e2el_ms"), offline.read_processor),
    "serving": (serving.looks_like, serving.read),
    "vllm-latency": (_has("avg_latency", "latencies"), offline.read_latency),
    "vllm-throughput": (_has("elapsed_time", "num_requests"), offline.read_throughput),
    "sglang-one-batch": (
        _each_has("batch_size", "output_len", "prefill_latency", "total_latency"),
        offline.read_one_batch,
    ),
    "llama-bench": (_each_has("n_prompt", "n_gen", "avg_ns"), offline.read_llama_bench),
    "aiperf": (clients.is_aiperf, clients.read_aiperf),
    "samples": (_has("samples"), _samples),
}
"""Formats of JSON or of JSON lines, in the order of trying; our own lines of samples have the suffix `.jsonl`."""


def read_files(paths: Sequence[Path], format_name: str | None = None) -> Measured:
    """Read files together, of the named or any known format; raise AnalysisError for an unreadable or unknown one."""
    by_file = {path: groupby(_read(path, format_name), attrgetter("costs.model")) for path in paths}
    found = [(path, model, list(timings)) for path, models in by_file.items() for model, timings in models]
    files, whole = Counter(model for _, model, _ in found), Measured()
    for path, model, timings in found:
        name = f"{model} ({path.name})" if files[model] > 1 else model
        if name in whole.costs:
            raise AnalysisError(f"two models must have two names, got {name!r} twice")
        _add(whole, name, timings, path.name)
        if timings[0].tool:
            whole.tools[name] = timings[0].tool
        whole.warnings.extend(f"{path.name}: {model}: {each}" for each in warnings(timings))
    return whole


def _add(whole: Measured, name: str, timings: Sequence[Timing], source: str) -> None:
    """Add one model, with one average timing or one per sample."""
    own: dict[str, Costs] = {}
    for timing in timings:
        costs = replace(timing.costs, model=name)
        if not SHORTEST <= costs.total <= LONGEST:
            raise AnalysisError(f"{name}: the total must be from {SHORTEST:g} to {LONGEST:g} s, got {costs.total:.6g}")
        if timing.sample is None:
            whole.costs[name] = costs
        elif not timing.sample or own.setdefault(timing.sample, costs) is not costs:
            raise AnalysisError(f"{source}: {name}: every sample must have a unique id, got {timing.sample!r}")
        elif timing.sequence:
            whole.sequences[timing.sample] = timing.sequence
    whole.samples[name] = own
    if own:
        whole.costs[name] = mean_of(list(own.values()))


def _read(path: Path, format_name: str | None) -> list[Timing]:
    content = read_bytes(path, str(path), AnalysisError)
    if path.suffix == ".jsonl" and b'"study"' in content.partition(b"\n")[0]:
        return _of_lines(samples.read_samples(path), path.name)
    data = _parsed(content, path)
    fits = [name for name, (looks_like, _) in FORMATS.items() if name == (format_name or name) and looks_like(data)]
    if not fits:
        known = format_name or ", ".join(FORMATS)
        raise AnalysisError(f"{path} must be of the format {known}, got other keys, or a mixture of formats")
    return FORMATS[fits[0]][1](data, path.name)


def _parsed(content: bytes, path: Path) -> Any:
    """Return the content of a JSON file, or of JSON lines."""
    try:
        return parse_json(content, finite=False)
    except ValueError as error:
        with suppress(ValueError):
            if len(content) <= json_files.LARGEST:
                return [parse_json(line, finite=False) for line in content.splitlines() if line.strip()]
        raise AnalysisError(f"{path} must be JSON, got: {' '.join(str(error).split())}") from error
