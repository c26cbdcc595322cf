"""One pass over time: when its stages began and its tokens came, for a picture and for viewers of traces."""

from collections.abc import Mapping, Sequence
from typing import Any

from stagebench.analysis.samples import SampleLine, by_model, median_passes
from stagebench.core.stages import STAGE_NAMES


def timeline(rows: Sequence[SampleLine]) -> dict[str, Any]:
    """Return the median pass of every model on the sample that takes the first of them the middle time; in seconds."""
    passes = {model: median_passes(own) for model, own in by_model(rows).items()}
    first = next(iter(passes.values()))
    common = sorted((s for s in first if all(s in own for own in passes.values())), key=lambda s: first[s]["e2e"])
    sample = common[(len(common) - 1) // 2] if common else None
    lines = {model: own[sample] for model, own in passes.items()} if sample else {}
    if not lines or not all(line.get("starts", {}).keys() >= set(STAGE_NAMES) for line in lines.values()):
        return {}  # the models share no sample, or a pass did not note when its stages began
    found = {
        model: {
            "e2e": line["e2e"],
            "stages": {stage: [line["starts"][stage], line["seconds"][stage]] for stage in STAGE_NAMES},
            "tokens": line.get("token_times", []),
        }
        for model, line in lines.items()
    }
    return {"sample": sample, "mode": rows[0]["mode"], "passes": found}


def to_trace(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Write a timeline as events of Chrome's trace format, which Perfetto reads: a process a model, in microseconds."""
    events: list[dict[str, Any]] = []
    for process, (model, own) in enumerate(shown["passes"].items(), 1):
        name = {"name": f"{model}: {shown['sample']}, {shown['mode']} length"}
        events.append({"ph": "M", "name": "process_name", "pid": process, "args": name})
        for thread, what in enumerate(("stages", "tokens"), 1):
            at = {"pid": process, "tid": thread}
            events.append({"ph": "M", "name": "thread_name", **at, "args": {"name": what}})
        of = {"pid": process, "cat": "stage"}
        for stage, (start, seconds) in own["stages"].items():
            events.append({"ph": "X", "name": stage, "ts": start * 1e6, "dur": seconds * 1e6, "tid": 1, **of})
        for number, at_second in enumerate(own["tokens"], 2):  # prefill gives the first
            events.append({"ph": "i", "name": f"token {number}", "ts": at_second * 1e6, "s": "t", "tid": 2, **of})
    return {"displayTimeUnit": "ms", "traceEvents": events}
