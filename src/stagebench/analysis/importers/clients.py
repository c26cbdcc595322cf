"""Read AIPerf's and GuideLLM's results of requests: their names for what `vllm bench serve` writes, then its reader.

Both give means over the completed requests, so decode is the mean latency less the mean time to first token.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stagebench.analysis.importers import serving
from stagebench.analysis.importers.measured import Timing, at, named, objects, results
from stagebench.core.checks import is_number
from stagebench.core.errors import AnalysisError
from stagebench.core.json_files import table_beside

REQUIRED = ("completed", "mean_tokens", "mean_e2el_ms")
_NAMES = table_beside(__file__)


def is_aiperf(data: Any) -> bool:
    """Return whether the data are AIPerf's `profile_export_aiperf.json`."""
    return at(data, "request_latency.unit") is not None


def is_guidellm(data: Any) -> bool:
    """Return whether the data are GuideLLM's report."""
    return at(data, "metadata.guidellm_version") is not None or at(data, "benchmarks.0.metrics") is not None


def read_aiperf(data: Any, source: str) -> list[Timing]:
    """Read one run; raise AnalysisError where a number is missing, impossible or in another unit."""
    for metric, unit in _NAMES["units"].items():
        if (given := at(data, f"{metric}.unit")) not in (unit, None):
            raise AnalysisError(f"{source}: {metric} must be in {unit}, got {given!r}")
    model = at(data, "input_config.models.items.0.name") or at(data, "input_config.endpoint.model_names.0")
    version = data.get("aiperf_version")
    tool = named("AIPerf", version) if version else "AIPerf or GenAI-Perf"
    timings = serving.read(_as_served(data, _NAMES["aiperf"], source) | {"model_id": model}, source, tool)
    if data.get("is_complete") is False or data.get("was_cancelled"):
        return [replace(each, warnings=("the run was ended before its time", *each.warnings)) for each in timings]
    return timings


def read_guidellm(data: Any, source: str) -> list[Timing]:
    """Read each benchmark as a model; raise AnalysisError where a number is missing or impossible."""
    served = []
    for each, where in results(objects(data.get("benchmarks"), f"{source}: benchmarks"), source):
        result = _as_served({"request_totals": at(each, "metrics.request_totals"), **each}, _NAMES["guidellm"], where)
        strategy = [str(of) for key in ("type_", "streams", "rate") if (of := at(each, f"config.strategy.{key}"))]
        model = at(each, "config.backend.model") or at(each, "worker.backend_model") or source
        result["mean_e2el_ms"] *= 1e3
        served.append(result | {"model_id": " ".join([str(model), *strategy])})
    return serving.read(served, source, named("GuideLLM", at(data, "metadata.guidellm_version")))


def _as_served(result: Any, fields: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return a result with the names of `vllm bench serve`, without what it lacks."""
    found = {name: value for name, path in fields.items() if (value := at(result, path)) is not None}
    for name, value in found.items():
        if not is_number(value, 0):
            raise AnalysisError(f"{where}: {fields[name]} must be a finite number of at least 0, got {value!r}")
    if lacking := [fields[name] for name in REQUIRED if name not in found]:
        raise AnalysisError(f"{where} must have {', '.join(lacking)}, got none")
    if not found.get("mean_ttft_ms"):  # GuideLLM's mean over no value is 0
        found.pop("mean_ttft_ms", None)
    return found | {"total_output_tokens": found["mean_tokens"] * found["completed"]}
