"""Read what engines measure without a server: vllm's `bench`, sglang's `bench_one_batch`, llama.cpp's `llama-bench`.

vllm's three commands give the time of a batch or of a request, and no number of new tokens, so nothing is divided by
it. llama-bench times prompts and generations apart, the latter without the prompt in the cache. Where settings have one
of each, they are one request: the prompt's pass gives the first token, and n_gen steps give as many further ones.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any

from stagebench.analysis.attribution import UNATTRIBUTED, Costs
from stagebench.analysis.importers.measured import Timing, at, named, number, results, told_apart
from stagebench.core.checks import is_whole
from stagebench.core.errors import AnalysisError
from stagebench.core.stages import ENCODE, PREFILL, PREPROCESS

IN_PROCESSOR = {PREPROCESS.name: "preprocessor_total_ms", ENCODE.name: "encoder_forward_ms"}  # stages of a request
MEASURED = {"n_prompt", "n_gen", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts"}
"""What differs between llama-bench's tests of the same settings."""

Result = Mapping[str, Any]


def read_latency(data: Result, source: str) -> list[Timing]:
    """Read `vllm bench latency`: the mean time of a batch."""
    costs = Costs(_model(data, source), {"batch latency": number(data, "avg_latency", source)}, None, 0.0)
    return [Timing(costs, tool="vllm bench latency")]


def read_throughput(data: Result, source: str) -> list[Timing]:
    """Read `vllm bench throughput`: the time of a run over the number of its requests."""
    count = _whole(data, "num_requests", source)
    costs = Costs(_model(data, source), {"time per request": number(data, "elapsed_time", source) / count}, None, 0.0)
    together = f"{count} requests ran together, so their share of the time is no request's latency"
    return [Timing(costs, warnings=(together,) if count > 1 else (), tool="vllm bench throughput")]


def read_processor(data: Result, source: str) -> list[Timing]:
    """Read `vllm bench mm-processor`: preprocess and encode of a mean request, and the rest of its latency."""
    count, stats, where = _whole(data, "completed", source), data["mm_processor_stats"], f"{source}: mm_processor_stats"
    means = {stage: at(stats, f"{key}.mean") for stage, key in IN_PROCESSOR.items()}
    parts = {
        stage: number({"mean": mean}, "mean", f"{where}: {IN_PROCESSOR[stage]}") / 1e3
        for stage, mean in means.items()
        if mean is not None
    }
    rest = number(data, "mean_e2el_ms", source) / 1e3 - sum(parts.values())
    failed, found = _whole({"failed": 0, **data}, "failed", source, 0), []
    if failed:
        found.append(f"{failed} requests failed")
    if count > 1:
        found.append(f"{count} requests were sent at once: their latency includes waiting, and encode is a batch's")
    costs = Costs(str(at(data, "config.model") or source), parts | {UNATTRIBUTED: rest}, None, 0.0)
    return [Timing(costs, warnings=tuple(found), tool="vllm bench mm-processor")]


def read_one_batch(data: Any, source: str) -> list[Timing]:
    """Read sglang's `bench_one_batch`: a line is a batch, with the prefill and all steps of it timed apart."""
    rows, names = [], []
    for each, where in results(data, source):
        batch, tokens = (_whole(each, key, where) for key in ("batch_size", "output_len"))
        names.append(f"{each.get('run_name', source)} batch {batch}, {each.get('input_len')} + {tokens} tokens")
        prefill, total = (number(each, key, where) for key in ("prefill_latency", "total_latency"))
        rows.append(({PREFILL.name: prefill}, tokens, total - prefill if tokens > 1 else 0.0))
    told = zip(told_apart(names, source), rows, strict=True)
    return [Timing(Costs(name, *row), tool="SGLang bench_one_batch") for name, row in told]


def read_llama_bench(data: Any, source: str) -> list[Timing]:
    """Read `llama-bench -o json` or jsonl: the tests of the same settings are a model."""
    found = results(data, source)
    settings = [{key: value for key, value in each.items() if key not in MEASURED} for each, _ in found]
    varied = [key for key in settings[0] if len({json.dumps(each.get(key)) for each in settings}) > 1]
    tests: dict[str, list[tuple[Result, str]]] = {}
    for own, (each, where) in zip(settings, found, strict=True):
        name = PureWindowsPath(str(each.get("model_filename", source))).name
        of = [f"{key} {own.get(key)}" for key in varied if key != "model_filename"]
        tests.setdefault(", ".join([name, *of]), []).append((each, where))
    rows = [(own[0][0], *row) for name, own in tests.items() for row in _of_tests(name, own)]
    names = told_apart([name for _, name, *_ in rows], source)
    return [
        Timing(Costs(name, *row), tool=named("llama-bench", first.get("build_number")))
        for name, (first, _, *row) in zip(names, rows, strict=True)
    ]


def _of_tests(name: str, tests: Sequence[tuple[Result, str]]) -> Iterator[tuple[Any, ...]]:
    """Yield a name and the rest of `Costs` for the prompt and the generation together, and for each other test."""
    found = []
    for each, where in tests:
        prompt, new = (_whole(each, key, where, 0) for key in ("n_prompt", "n_gen"))
        if not prompt + new:
            raise AnalysisError(f"{where} must have a prompt or new tokens, got neither")
        found.append((prompt, new, number(each, "avg_ns", where) / 1e9))
    prompts, generations = ([each for each in found if not each[i]] for i in (1, 0))
    if len(prompts) == len(generations) == 1:
        (_, _, prefill), (_, new, decode) = prompts[0], generations[0]
        yield name, {PREFILL.name: prefill}, new + 1, decode
        found = [each for each in found if each[0] and each[1]]
    for prompt, new, seconds in found:
        test = "+".join(f"{kind}{count}" for kind, count in (("pp", prompt), ("tg", new)) if count)
        if new:
            yield f"{name} {test}", {}, new + bool(prompt), seconds, 0
        else:
            yield f"{name} {test}", {PREFILL.name: seconds}, 1, 0.0


def _model(data: Result, source: str) -> str:
    return str(data.get("model_id") or source)


def _whole(data: Result, key: str, where: str, least: int = 1) -> int:
    value: Any = data.get(key)
    if not is_whole(value, least):
        raise AnalysisError(f"{where}: {key} must be a whole number of at least {least}, got {value!r}")
    return int(value)
