"""What `vllm bench serve --save-result` writes: one model a file, times of requests as a client saw them.

With `--save-detailed` each request is a sample: `ttfts`, `itls` (seconds) and `output_lens`. Without, the means of all
stand for it: `mean_ttft_ms`, `mean_tpot_ms` or `mean_e2el_ms`, and `total_output_tokens` over `completed`.
Loading is no part of a request, and preprocess, encode and prefill are one time to first token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagebench.analysis.attribution import Costs
from stagebench.analysis.imports.measured import Measured, averaged, number
from stagebench.errors import AnalysisError

TOLERANCE = 0.02
NAMES = ("ttft", "tpot", "itl", "e2el")
NUMBERS = frozenset(f"{kind}_{name}_ms" for kind in ("mean", "median", "p99") for name in NAMES) | {
    "completed",
    "duration",
    "output_throughput",
    "total_output_tokens",
}
DETAILS = ("ttfts", "itls", "output_lens")


def looks_like(data: Any) -> bool:
    """Whether the data are of `vllm bench`, of any of its commands."""
    return isinstance(data, dict) and bool({"mean_ttft_ms", "avg_latency", "requests_per_second"} & data.keys())


def read(data: Any, source: str) -> Measured:
    """Read a result.

    Raises:
        AnalysisError: where it is of `vllm bench latency` or `throughput`, which know of no first token, or a number is
            missing or impossible.
    """
    if "mean_ttft_ms" not in data:
        raise AnalysisError(f"{source} must be of `vllm bench serve`, got totals that know of no first token")
    for key in sorted(NUMBERS & data.keys()):
        number(data, key, source)
    model = str(data.get("model_id") or source)
    means = _means(model, data, source)
    requests = _requests(model, data, source) if all(data.get(key) for key in DETAILS) else {}
    doubts = [f"{model}: {doubt}" for doubt in _doubts(data, means, requests)]
    return averaged({model: requests}, doubts=doubts) if requests else Measured({model: means}, doubts=doubts)


def _means(model: str, data: Mapping[str, Any], source: str) -> Costs:
    completed = number(data, "completed", source)
    if completed <= 0:
        raise AnalysisError(f"{source}: a request must have completed, got {completed}")
    ttft, tokens = data["mean_ttft_ms"] / 1e3, number(data, "total_output_tokens", source) / completed
    if "mean_e2el_ms" in data:
        decode = data["mean_e2el_ms"] / 1e3 - ttft
    else:
        decode = number(data, "mean_tpot_ms", source) / 1e3 * (tokens - 1)
    return Costs(model, {"ttft": ttft}, tokens, decode)


def _requests(model: str, data: Mapping[str, Any], source: str) -> dict[str, Costs]:
    """One a request that came back, named by place and length of its prompt: only like requests are compared."""
    prompts = data.get("input_lens") or [0] * len(data["ttfts"])
    try:
        rows = zip(data["ttfts"], data["itls"], data["output_lens"], prompts, strict=True)
        return {
            f"{place} ({prompt})": Costs(model, {"ttft": ttft}, tokens, sum(gaps))
            for place, (ttft, gaps, tokens, prompt) in enumerate(rows)
            if tokens
        }
    except (TypeError, ValueError) as error:
        raise AnalysisError(f"{source} must have one ttft, itl and output_len a request, got: {error}") from error


def _doubts(data: Mapping[str, Any], means: Costs, requests: Mapping[str, Costs]) -> list[str]:
    checks = (
        _failures(data),
        _total(data, requests),
        _rate(data),
        _product(data, means),
        _gaps(data, requests),
        *_order(data),
        _overlap(data, means),
    )
    return [doubt for doubt in checks if doubt]


def _failures(data: Mapping[str, Any]) -> str | None:
    errors = data.get("errors")
    failed = data.get("failed") or (sum(map(bool, errors)) if isinstance(errors, list) else 0)
    return f"{failed} requests failed" if failed else None


def _total(data: Mapping[str, Any], requests: Mapping[str, Costs]) -> str | None:
    counted, total = sum(request.tokens for request in requests.values()), data["total_output_tokens"]
    if not requests or counted == total:
        return None
    return f"the requests have {counted} new tokens, total_output_tokens says {total}"


def _rate(data: Mapping[str, Any]) -> str | None:
    total = data["total_output_tokens"]
    if not {"output_throughput", "duration"} <= data.keys():
        return None
    rate, duration = data["output_throughput"], data["duration"]
    if abs(rate * duration - total) <= TOLERANCE * total:
        return None
    return f"{rate:.4g} tokens/s for {duration:.4g} s are not {total} tokens"


def _product(data: Mapping[str, Any], means: Costs) -> str | None:
    """Mean tpot is a mean of ratios: a short answer counts as much as a long one."""
    if not {"mean_tpot_ms", "mean_e2el_ms"} <= data.keys():
        return None
    ratio = (means.parts["ttft"] + data["mean_tpot_ms"] / 1e3 * means.further) / means.total
    if abs(ratio - 1) <= TOLERANCE:
        return None
    return f"ttft and tokens x tpot make {ratio:.2f} times e2el: a mean of ratios, or a wrong count of tokens"


def _gaps(data: Mapping[str, Any], requests: Mapping[str, Costs]) -> str | None:
    if not requests:
        return None
    rows = zip(data["itls"], data["output_lens"], strict=True)
    wrong = sum(len(gaps) != tokens - 1 for gaps, tokens in rows if tokens)
    if not wrong:
        return None
    return f"{wrong} requests have not one gap fewer than tokens: several came at once, or the count is wrong"


def _order(data: Mapping[str, Any]) -> list[str]:
    return [
        f"the median of {name} is above its 99th percentile: that can't be"
        for name in NAMES
        if data.get(f"median_{name}_ms", 0) > data.get(f"p99_{name}_ms", float("inf"))
    ]


def _overlap(data: Mapping[str, Any], means: Costs) -> str | None:
    """By Little's law (1961), requests in flight are their rate times their latency."""
    in_flight = means.total * data["completed"] / data["duration"] if data.get("duration") else 0.0
    if in_flight <= 1 + TOLERANCE:
        return None
    return f"{in_flight:.1f} requests were in flight on average: ttft has waiting in it, and a token's time is shared"
