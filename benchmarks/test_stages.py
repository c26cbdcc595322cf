"""Each stage of each model on its own; `test_stage[eventgpt-encode]` is one benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pytest
from gpu_monitored import WARM_UPS
from no_capture_guard import about

from stagebench.analysis.experiments.bytes_moved import TrafficCounter
from stagebench.core.artifacts import Generation, Work
from stagebench.core.content import content_of
from stagebench.core.stages import STAGE_NAMES
from stagebench.gate.limits import INEXACT
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline import decode, encode, load, prefill, preprocess
from stagebench.pipeline.remembered import Rounds
from stagebench.pipeline.run_stages import Done, counter_of, path
from stagebench.pipeline.timing import Stopwatch, synchronize
from stagebench.pipeline.verify import Proof

UNITS = {
    "load": load.UNIT,
    "preprocess": preprocess.UNIT,
    "encode": encode.UNIT,
    "prefill": prefill.UNIT,
    "decode": decode.UNIT,
}


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_stage(benchmark, pedantic, model, stage, sample, options, rounds, proof):
    benchmark.group = stage
    steps = path(model, sample, options)
    watch, device_seconds = Stopwatch(model.hf_model.device), []
    kept = Rounds(stage, *((0, 1) if benchmark.disabled else (WARM_UPS, rounds)))
    done: Done = {}
    latest: list[Any] = [None]

    def fresh_state() -> None:
        """Run the stages before this one: a decode, say, needs a KV cache that no decode has written to."""
        for name in STAGE_NAMES[: STAGE_NAMES.index(stage)]:
            if name not in done or name == STAGE_NAMES[STAGE_NAMES.index(stage) - 1]:
                done[name] = steps[name](done)

    def prepare() -> None:
        """The same for a round: on pictures that no round before it had, lest it be answered from memory."""
        fresh_state()
        before = STAGE_NAMES[STAGE_NAMES.index(stage) - 1]
        done[before] = kept.fresh(done.get(before))
        synchronize(model.hf_model.device)

    def timed() -> Any:
        latest[0] = watch(stage, steps[stage], done)
        device_seconds.extend(watch.device_seconds.values())
        return latest[0]

    result = pedantic(timed, setup=prepare, around=(kept.begin, kept.end), teardown=lambda: kept.judge(latest[0]))

    benchmark.extra_info |= about(model) | {"stage": stage, "unit": UNITS[stage]}
    if device_seconds:
        benchmark.extra_info["device_seconds"] = device_seconds[-rounds:]
        benchmark.extra_info["device_median"] = statistics.median(device_seconds[-rounds:])
    joules = benchmark.extra_info.get("gpu", {}).get("joules")
    if joules is not None and isinstance(result, Generation) and result.steps:
        benchmark.extra_info["gpu"]["joules_per_token"] = joules / rounds / result.steps
    if proof:
        benchmark.extra_info["content"] = content_of(result)
        if isinstance(result, Generation):
            proof.require_same_tokens(model, result)
        fresh_state()
        benchmark.extra_info |= counted(model, stage, steps[stage], done, proof)  # the very function that was timed
        kept.require(benchmark.extra_info["work"])


def counted(
    model: VisionLanguageModel, stage: str, step: Callable[[Done], Any], done: Done, proof: Proof
) -> dict[str, Any]:
    """Of `extra_info`: the work of a stage, which must be what was proven, and the bytes that a plain decode reads."""
    counter, traffic = counter_of(model), TrafficCounter(model)
    if stage == "decode":
        traffic("prefill", lambda: done["prefill"])  # for the size of the cache
    counter(stage, traffic, stage, step, done)  # both in one pass, because counting is slow
    work = counter.work[stage]
    assert work[UNITS[stage]] > 0, f"{stage} must do some work, got {UNITS[stage]} = 0"
    assert repeating(work) == repeating(proof.work[stage])
    moved = {"bytes": traffic.as_json()["decode"]} if stage == "decode" and model.backend is None else {}
    return moved | {
        "work": work,
        "units": work[UNITS[stage]],
        "generate_work": proof.reference_work,
        "new_tokens": len(proof.generation.token_ids[0]),
        "finish_reason": proof.generation.finish_reasons[0],
        "tokens": str(proof.tokens),
    }


def repeating(work: Work) -> Work:
    """The counters that are the same in every pass."""
    return {name: n for name, n in work.items() if name not in INEXACT}
