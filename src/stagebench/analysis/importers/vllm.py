"""What `vllm bench serve --save-result` writes, and sglang's `bench_serving`: times of requests as a client saw them.

With the details of each request (`ttfts`, `itls` in seconds, `output_lens`) it is a sample. Without, the means of all
stand for it, and decode is what a request took after its first token, by the first of these that a file has:
`mean_e2el_ms` or `latencies`; the mean gap times the gaps; the whole duration, of one request at a time; and mean tpot
times mean tokens. That last one is a mean of ratios times a mean, so the doubts say how far off it may be.
Loading is no part of a request, and preprocess, encode and prefill are one time to first token; where nothing tells
that one, a request is one generation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from stagebench.analysis.attribution import Costs, mean_of
from stagebench.analysis.importers.measured import Measured, number, objects
from stagebench.core.errors import AnalysisError

TOLERANCE = 0.02
SATURATED = 0.9
"""Of the requests that may be in flight, so many were: then their number checks their times."""
DETAILS = ("ttfts", "itls", "output_lens")
NUMBERS = ("completed", "duration", "failed", "num_prompts", "output_throughput", "total_output_tokens")
_QUANTITY = re.compile(r"(mean|median|std|p(?P<percent>\d+(?:\.\d+)?))_(?P<name>ttft|tpot|itl|e2el)_ms")
_TOTALS = frozenset({"completed", "total_output_tokens"})

Result = Mapping[str, Any]


def looks_like(data: Any) -> bool:
    """Whether the data are of `vllm bench`, of any of its commands: one result, or a list of them."""
    if isinstance(data, list):
        return bool(data) and all(isinstance(each, dict) and _is_served(each) for each in data)
    return isinstance(data, dict) and (_is_served(data) or bool({"avg_latency", "requests_per_second"} & data.keys()))


def _is_served(data: Result) -> bool:
    return data.keys() >= _TOTALS or data.keys() >= set(DETAILS) or any(map(_QUANTITY.fullmatch, data))


def read(data: Any, source: str) -> Measured:
    """Read one result, or several of one file, each as a model.

    Raises:
        AnalysisError: where it is of `vllm bench latency` or `throughput`, which know of no first token, or a number is
            missing or impossible.
    """
    results = objects(data if isinstance(data, list) else [data], source)
    names = [str(each.get("model_id") or each.get("model") or source) for each in results]
    whole = Measured({})
    for place, (name, result) in enumerate(zip(names, results, strict=True), 1):
        model = f"{name} (result {place})" if names.count(name) > 1 else name
        if model in whole.costs:
            raise AnalysisError(f"{source}: two results must have two names, got {model!r} twice")
        _read(model, result, f"{source}, result {place}" if len(results) > 1 else source, whole)
    return whole


def _read(model: str, given: Result, source: str, whole: Measured) -> None:
    if not _is_served(given):
        raise AnalysisError(f"{source} must be of `vllm bench serve`, got totals that know of no first token")
    data = {key.replace("_e2e_latency_", "_e2el_"): value for key, value in given.items()}
    data = {key: value for key, value in data.items() if value is not None}
    for key in data:
        if (key in NUMBERS or _QUANTITY.fullmatch(key)) and number(data, key, source) < 0:
            raise AnalysisError(f"{source}: {key} must be at least 0, got {data[key]}")
    if number(data, "completed", source) <= 0:
        raise AnalysisError(f"{source}: a request must have completed, got {data['completed']}")
    number(data, "total_output_tokens", source)
    requests = _requests(model, data, source) if all(data.get(key) for key in DETAILS) else {}
    whole.costs[model] = means = mean_of(list(requests.values())) if requests else _means(model, data, source)
    whole.samples.update({model: requests} if requests else {})
    whole.doubts.extend(f"{model}: {doubt}" for doubt in _doubts(data, means, requests))


def _means(model: str, data: Result, source: str) -> Costs:
    tokens, e2e = data["total_output_tokens"] / data["completed"], _mean_e2e(data)
    if "mean_ttft_ms" not in data:
        if e2e is None:
            raise AnalysisError(f"{source} must have mean_ttft_ms or mean_e2el_ms, got no time of a request")
        return Costs(model, {}, tokens, e2e, prefilled=0)
    ttft = data["mean_ttft_ms"] / 1e3
    if e2e is None:
        return Costs(model, {"ttft": ttft}, tokens, _decode_by_gaps(data, tokens, source))
    decode = 0.0 if tokens == 1 and abs(e2e - ttft) <= TOLERANCE * e2e else e2e - ttft
    return Costs(model, {"ttft": ttft}, tokens, decode)


def _mean_e2e(data: Result) -> float | None:
    """Seconds of a request; None where the file does not tell."""
    if "mean_e2el_ms" in data:
        return float(data["mean_e2el_ms"]) / 1e3
    latencies = data.get("latencies")
    if isinstance(latencies, list) and all(map(_is_time, latencies)):
        came_back = [seconds for seconds in latencies if seconds > 0]  # one that failed has none
        if came_back and len(came_back) == data.get("completed"):
            return fmean(came_back)
    if "mean_itl_ms" not in data and data.get("duration") and _alone(data):
        return float(data["duration"] / data["completed"])
    return None


def _alone(data: Result) -> bool:
    """Whether one request followed right after the other."""
    return data.get("max_concurrency") == 1 and data.get("request_rate", "inf") in ("inf", float("inf"))


def _decode_by_gaps(data: Result, tokens: float, source: str) -> float:
    gap = "mean_itl_ms" if "mean_itl_ms" in data else "mean_tpot_ms"
    return number(data, gap, source) / 1e3 * (tokens - 1)


def _requests(model: str, data: Result, source: str) -> dict[str, Costs]:
    """One a request that came back, named by place and length of its prompt: only like requests are compared."""
    try:
        prompts, errors = (data.get(key) or [0] * len(data["ttfts"]) for key in ("input_lens", "errors"))
        gaps = _gaps_by_request(data["itls"], data["output_lens"])
        rows = zip(data["ttfts"], gaps, data["output_lens"], prompts, errors, strict=True)
        requests = {
            f"{place} ({prompt})": Costs(model, {"ttft": _time(ttft)}, _count(tokens), sum(map(_time, own)))
            for place, (ttft, own, tokens, prompt, error) in enumerate(rows)
            if tokens and not error
        }
    except (TypeError, ValueError) as error:
        raise AnalysisError(f"{source} must have one ttft, itl and output_len a request, got: {error}") from error
    if not requests:
        raise AnalysisError(f"{source}: a request must have completed, got none")
    return requests


def _gaps_by_request(gaps: Any, lengths: Sequence[int]) -> Sequence[Sequence[float]]:
    """Gaps as they are, or cut out of one list of all of them, where each token but the first of a request has one."""
    if not isinstance(gaps, list) or any(isinstance(each, list) for each in gaps):
        return list(gaps)
    counts = [max(_count(length) - 1, 0) for length in lengths]
    if sum(counts) != len(gaps):
        raise ValueError(f"{len(gaps)} gaps in one list, where {sum(counts)} are between the tokens")
    following = iter(gaps)
    return [[next(following) for _ in range(count)] for count in counts]


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _time(value: Any) -> float:
    if not _is_time(value):
        raise TypeError(f"{value!r} for a time")
    return float(value)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} for a number of tokens")
    return value


def _doubts(data: Result, means: Costs, requests: Mapping[str, Costs]) -> list[str]:
    checks = (
        _failures(data),
        _total(data, requests),
        _rate(data),
        _gaps(data, requests) if requests else _estimate(data, means),
        *_claims(data, list(requests.values())),
        *_order(data),
        _overlap(data, means, len(requests)),
    )
    return [doubt for doubt in checks if doubt]


def _failures(data: Result) -> str | None:
    errors = data.get("errors")
    counted = sum(map(bool, errors)) if isinstance(errors, list) else 0
    lost = data.get("num_prompts", 0) - data["completed"]
    failed = data.get("failed") or counted or max(lost, 0)
    return f"{failed} requests failed" if failed else None


def _total(data: Result, requests: Mapping[str, Costs]) -> str | None:
    counted, total = sum(request.tokens for request in requests.values()), data["total_output_tokens"]
    if not requests or counted == total:
        return None
    return f"the requests have {counted} new tokens, total_output_tokens says {total}"


def _rate(data: Result) -> str | None:
    if not {"output_throughput", "duration"} <= data.keys():
        return None
    rate, duration, total = data["output_throughput"], data["duration"], data["total_output_tokens"]
    if abs(rate * duration - total) <= TOLERANCE * total:
        return None
    return f"{rate:.4g} tokens/s for {duration:.4g} s are not {total} tokens"


def _estimate(data: Result, means: Costs) -> str | None:
    """What the time of decode rests on, where it is no sum of what each request took, and what speaks against it."""
    if not means.prefilled:
        return "nothing tells the time to first token, so a request is taken as one generation"
    exact, further = _mean_e2e(data) is not None, means.further
    gap = "mean_itl_ms" if "mean_itl_ms" in data else "mean_tpot_ms"
    if exact and gap in data and means.decode:
        ratio = data[gap] / 1e3 * further / means.decode
        if gap == "mean_itl_ms" and abs(ratio - 1) > TOLERANCE:
            return f"the gaps make {ratio:.2f} times decode: several tokens came at once, or the count is wrong"
        whole = (means.parts["ttft"] + data[gap] / 1e3 * further) / means.total
        if gap == "mean_tpot_ms" and "mean_e2el_ms" in data and abs(whole - 1) > TOLERANCE:
            return f"ttft and tokens x tpot make {whole:.2f} times e2el: a mean of ratios, or a wrong count of tokens"
    if exact or not further:
        return None
    return _of_gaps(data, means) if gap == "mean_itl_ms" else _of_ratios(data)


def _of_gaps(data: Result, means: Costs) -> str | None:
    limit = data.get("max_concurrency")
    reach = _in_flight(data, means, data["completed"]) / limit if _is_time(limit) and limit else 0.0
    if reach > 1 + TOLERANCE:
        return f"decode is up to {reach:.2f} times too long: by its gaps more requests were in flight than could be"
    if reach >= SATURATED and data.get("request_rate", "inf") in ("inf", float("inf")):
        return None
    return "decode is the mean gap times the further tokens: too long where several tokens came at once"


def _of_ratios(data: Result) -> str | None:
    mean, spread = data["mean_tpot_ms"], data.get("std_tpot_ms")
    if spread is None:
        return "decode is mean tpot times mean tokens, a mean of ratios: off by what nothing in the file tells"
    if spread <= TOLERANCE * mean:
        return None
    return (
        f"decode is mean tpot times mean tokens, a mean of ratios: off by up to {spread / mean:.0%} where the lengths "
        "of answers spread as far as their mean"
    )


def _gaps(data: Result, requests: Mapping[str, Costs]) -> str | None:
    gaps, lengths = _gaps_by_request(data["itls"], data["output_lens"]), data["output_lens"]
    wrong = sum(len(own) != tokens - 1 for own, tokens in zip(gaps, lengths, strict=True) if tokens)
    if wrong:
        return f"{wrong} requests have not one gap fewer than tokens: several came at once, or the count is wrong"
    latencies = data.get("latencies")
    if not isinstance(latencies, list) or len(latencies) != len(lengths) or not all(map(_is_time, latencies)):
        return None
    pairs = [(each.total, latencies[int(place.split(" ")[0])]) for place, each in requests.items()]
    apart = sum(abs(total - latency) > TOLERANCE * total for total, latency in pairs)
    return f"ttft and gaps do not make the latency of {apart} requests" if apart else None


def _claims(data: Result, requests: Sequence[Costs]) -> list[str]:
    """Means in the file that are not those of its requests."""
    made = {
        "ttft": [each.parts["ttft"] for each in requests],
        "tpot": [seconds for each in requests if (seconds := each.time_per_token) is not None],
        "e2el": [each.total for each in requests],
    }
    means = {f"mean_{name}_ms": fmean(values) * 1e3 for name, values in made.items() if values}
    return [
        f"{key} says {data[key]:.4g}, its requests make {mean:.4g}"
        for key, mean in means.items()
        if key in data and abs(data[key] - mean) > TOLERANCE * mean
    ]


def _order(data: Result) -> list[str]:
    """Percentiles that fall where they must rise; the median is the 50th."""
    known: dict[str, list[tuple[float, str]]] = {}
    for key in data:
        if found := _QUANTITY.fullmatch(key):
            percent = 50.0 if key.startswith("median") else float(found["percent"] or -1)
            known.setdefault(found["name"], []).append((percent, key))
    return [
        f"{_called(lower, name)} is above its {upper[0]:g}th percentile: that can't be"
        for name, keys in known.items()
        for lower, upper in pairwise(sorted(each for each in keys if each[0] >= 0))
        if data[lower[1]] > data[upper[1]]
    ]


def _called(rank: tuple[float, str], name: str) -> str:
    return f"the median of {name}" if rank[1].startswith("median") else f"the {rank[0]:g}th percentile of {name}"


def _in_flight(data: Result, means: Costs, completed: float) -> float:
    """By Little's law (1961), requests in flight are their rate times their latency."""
    return means.total * completed / data["duration"] if data.get("duration") else 0.0


def _overlap(data: Result, means: Costs, requests: int) -> str | None:
    in_flight = _in_flight(data, means, requests or data["completed"])
    if in_flight <= 1 + TOLERANCE:
        return None
    return f"{in_flight:.1f} requests were in flight on average: ttft has waiting in it, and a token's time is shared"
