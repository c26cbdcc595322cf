"""Read the results of `vllm bench serve --save-result` and sglang's `bench_serving`: client-side times of requests.

With the details of each request (`ttfts`, `itls` in seconds, `output_lens`) each request is a sample. Without them the
means of all requests are used. Decode is then the time after the first token. It comes from the first of these in the
file: `mean_e2el_ms` or `latencies`; mean gap times gaps; the duration with one request at a time; mean tpot times mean
tokens. The last one is a mean of ratios times a mean, so a warning states its possible error. Requests have no loading.
Preprocess, encode and prefill are one time to first token; without it, a request is one generation.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

from stagebench.analysis.attribution import Costs, mean_of
from stagebench.analysis.importers.measured import Timing, named, number, results, told_apart
from stagebench.core.checks import is_number, is_whole
from stagebench.core.errors import AnalysisError

TOLERANCE = 0.02
SATURATED = 0.9  # share of the allowed requests in flight, from which on their number confirms their times
DETAILS = ("ttfts", "itls", "output_lens")
NUMBERS = ("completed", "duration", "failed", "num_prompts", "total_output_tokens")
_QUANTITY = re.compile(r"(mean|median|std|p\d+(\.\d+)?)_(ttft|tpot|itl|e2el)_ms")

Result = Mapping[str, Any]


def looks_like(data: Any) -> bool:
    """Return whether the data are one result of a serving benchmark, or a list of them."""
    results, totals = data if isinstance(data, list) else [data], {"completed", "total_output_tokens"}
    return bool(results) and all(
        isinstance(each, dict)
        and (each.keys() >= totals or each.keys() >= set(DETAILS) or any(map(_QUANTITY.fullmatch, each)))
        for each in results
    )


def read(data: Any, source: str, tool: str | None = None) -> list[Timing]:
    """Read each result of a file as a model; raise AnalysisError where a number is missing or impossible."""
    found = results(data, source)
    names = told_apart([str(each.get("model_id") or each.get("model") or source) for each, _ in found], source)
    each = zip(names, found, strict=True)
    return [timing for name, (own, where) in each for timing in _timings(name, own, where, tool or _tool(own))]


def _tool(result: Result) -> str:
    """Return which tool wrote a result; sglang's asks the server for its version, vllm's does not."""
    if "server_info" not in result and not any("_e2e_latency_" in key for key in result):
        return "vllm bench serve"
    info = result.get("server_info")
    return named("SGLang bench_serving", info.get("version") if isinstance(info, dict) else None)


def _timings(model: str, given: Result, source: str, tool: str) -> list[Timing]:
    data = _checked(given, source)
    if all(data.get(key) for key in DETAILS):
        requests = _requests(model, data, source)
        means, warnings = mean_of(list(requests.values())), _counts(data, requests)
    else:
        requests = {}
        means, warnings = _means(model, data, source)
    errors = data.get("errors")
    counted = sum(map(bool, errors)) if isinstance(errors, list) else 0
    if failed := int(data.get("failed") or counted or max(data.get("num_prompts", 0) - data["completed"], 0)):
        warnings.insert(0, f"{failed} requests failed")
    in_flight = _in_flight(data, means, len(requests) or data["completed"])
    if in_flight > 1 + TOLERANCE:
        shared = "ttft includes waiting, and time per token is shared"
        warnings.append(f"{in_flight:.1f} requests were in flight on average: {shared}")
    first, *others = [Timing(costs, name) for name, costs in requests.items()] or [Timing(means)]
    return [replace(first, warnings=tuple(warnings), tool=tool), *others]


def _checked(given: Result, source: str) -> Result:
    """Return a result with vllm's names, checked numbers, and no latencies unless all are numbers."""
    data = {key.replace("_e2e_latency_", "_e2el_"): value for key, value in given.items() if value is not None}
    for key in ("completed", "total_output_tokens", *data):
        if (key in NUMBERS or _QUANTITY.fullmatch(key)) and number(data, key, source) < 0:
            raise AnalysisError(f"{source}: {key} must be at least 0, got {data[key]}")
    if not data["completed"]:
        raise AnalysisError(f"{source}: at least one request must have completed, got {data['completed']}")
    if not isinstance(latencies := data.get("latencies"), list) or not all(map(is_number, latencies)):
        data.pop("latencies", None)
    return data


def _means(model: str, data: Result, source: str) -> tuple[Costs, list[str]]:
    """Return the costs of a mean request, and warnings about them."""
    tokens, e2e, has_gaps = data["total_output_tokens"] / data["completed"], _mean_e2e(data), "mean_itl_ms" in data
    if "mean_ttft_ms" not in data:
        if e2e is None:
            raise AnalysisError(f"{source} must have mean_ttft_ms or mean_e2el_ms, got no time of a request")
        warning = "the time to first token is missing, so a request counts as one generation"
        return Costs(model, {}, tokens, e2e, prefilled=0), [warning]
    parts = {"ttft": data["mean_ttft_ms"] / 1e3}
    if e2e is None:
        gap = number(data, "mean_itl_ms" if has_gaps else "mean_tpot_ms", source) / 1e3
        means = Costs(model, parts, tokens, gap * (tokens - 1))
        return means, (_of_gaps(data, means) if has_gaps else _of_ratios(data)) if means.further else []
    rest = e2e - parts["ttft"]
    means = Costs(model, parts, tokens, 0.0 if tokens == 1 and abs(rest) <= TOLERANCE * e2e else rest)
    ratio = data["mean_itl_ms"] / 1e3 * means.further / means.decode if has_gaps and means.decode else 1.0
    if abs(ratio - 1) <= TOLERANCE:
        return means, []
    return means, [f"the gaps make {ratio:.2f} times decode: several tokens came at once, or the count is wrong"]


def _mean_e2e(data: Result) -> float | None:
    """Return the mean seconds of a request; None where the file has no such time."""
    if "mean_e2el_ms" in data:
        return float(data["mean_e2el_ms"]) / 1e3
    came_back = [seconds for seconds in data.get("latencies", ()) if seconds > 0]  # failed requests have none
    if came_back and len(came_back) == data["completed"]:
        return fmean(came_back)
    one_at_a_time = data.get("max_concurrency") == 1 and _at_any_rate(data)
    if "mean_itl_ms" not in data and data.get("duration") and one_at_a_time:
        return float(data["duration"] / data["completed"])
    return None


def _at_any_rate(data: Result) -> bool:
    """Return whether requests were sent without a rate limit."""
    return data.get("request_rate", "inf") in ("inf", float("inf"))


def _of_gaps(data: Result, means: Costs) -> list[str]:
    limit = data.get("max_concurrency")
    reach = _in_flight(data, means, data["completed"]) / limit if is_number(limit) and limit else 0.0
    if reach > 1 + TOLERANCE:
        return [f"decode is up to {reach:.2f} times too long: its gaps imply more requests in flight than allowed"]
    if reach >= SATURATED and _at_any_rate(data):
        return []
    return ["decode is the mean gap times the further tokens, which is too long where several tokens came at once"]


def _of_ratios(data: Result) -> list[str]:
    mean, spread = data["mean_tpot_ms"], data.get("std_tpot_ms")
    if spread is not None and spread <= TOLERANCE * mean:
        return []
    how = "an unknown amount"
    if spread and mean:
        how = f"up to {spread / mean:.0%} where the lengths of answers spread as far as their mean"
    return [f"decode is mean tpot times mean tokens, a mean of ratios: off by {how}"]


def _requests(model: str, data: Result, source: str) -> dict[str, Costs]:
    """Return the costs of each completed request, by its index and the length of its prompt."""
    try:
        prompts, errors = (data.get(key) or [0] * len(data["ttfts"]) for key in ("input_lens", "errors"))
        rows = list(zip(*(data[key] for key in DETAILS), prompts, errors, strict=True))
        if not all(is_number(ttft) and all(map(is_number, gaps)) and is_whole(n, 0) for ttft, gaps, n, _, _ in rows):
            raise TypeError("something else")  # noqa: TRY301 # as where there is no list
    except (TypeError, ValueError) as error:
        raise AnalysisError(f"{source} must have one ttft, itl and output_len per request, got: {error}") from error
    requests = {
        f"{place} ({prompt})": Costs(model, {"ttft": ttft}, tokens, sum(gaps))
        for place, (ttft, gaps, tokens, prompt, error) in enumerate(rows)
        if tokens and not error
    }
    if not requests:
        raise AnalysisError(f"{source}: at least one request must have completed, got none")
    return requests


def _counts(data: Result, requests: Mapping[str, Costs]) -> list[str]:
    """Return a line for tokens and gaps of requests that contradict each other or the totals."""
    counted, total = sum(each.tokens or 0 for each in requests.values()), data["total_output_tokens"]
    wrong = sum(len(gaps) != n - 1 for gaps, n in zip(data["itls"], data["output_lens"], strict=True) if n)
    found = {
        f"the requests have {counted} new tokens, total_output_tokens says {total}": counted != total,
        f"{wrong} requests have not one gap fewer than tokens: several came at once, or the count is wrong": wrong,
    }
    return [text for text, holds in found.items() if holds]


def _in_flight(data: Result, means: Costs, completed: float) -> float:
    """Return the mean number of requests in flight, by Little's law (1961): their rate times their latency."""
    return means.total * completed / data["duration"] if data.get("duration") else 0.0
