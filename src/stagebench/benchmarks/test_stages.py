"""Each stage of each model separately; `test_stage[eventgpt-encode]` is one benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pytest

from stagebench.analysis.experiments.measured_roofline import BytesMoved
from stagebench.benchmarks.rounds import Rounds
from stagebench.core.artifacts import Generation, Work
from stagebench.core.stages import DECODE, PREFILL, STAGE, STAGE_NAMES
from stagebench.gate.limits import INEXACT
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline.counters import WorkCounter, content_of
from stagebench.pipeline.run_stages import Made, StageOutputs, made_before, path
from stagebench.pipeline.timing import Stopwatch, synchronize
from stagebench.pipeline.verify import Verification, require_same_tokens
from stagebench.suite.gpu_monitored import WARM_UPS
from stagebench.suite.no_capture_guard import about


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_stage(
    benchmark, stage_benchmark, stage_model, stage, stage_sample, stage_options, stage_rounds, stage_verified
):
    benchmark.group, model, rounds, verified = stage, stage_model, stage_rounds, stage_verified
    steps = path(model, stage_sample, stage_options)
    watch = Stopwatch(model.hf_model.device)
    device_seconds: list[float] = []
    kept = Rounds(stage, *((0, 1) if benchmark.disabled else (WARM_UPS, rounds)))
    done: StageOutputs = {}
    earlier = STAGE_NAMES[: STAGE_NAMES.index(stage)]
    made: list[Made] = [{}]
    latest: list[Any] = [None]

    def fresh_state() -> None:
        """Run the stages before this one: a decode needs a KV cache that no decode has written to."""
        for name in earlier:
            if name not in done or name == earlier[-1]:
                done[name] = steps[name](made_before(name, done))

    def prepare() -> None:
        """Prepare a round with new pictures, so that a cache can't answer it."""
        fresh_state()
        done.update({name: kept.fresh(done[name]) for name in earlier[-1:]})
        made[0] = made_before(stage, done)
        synchronize(model.hf_model.device)

    def timed() -> Any:
        latest[0] = watch(stage, steps[stage], made[0])
        device_seconds.extend(watch.device_seconds.values())
        return latest[0]

    result = stage_benchmark(
        timed, setup=prepare, around=(kept.begin, kept.end), teardown=lambda: kept.judge(latest[0])
    )

    benchmark.extra_info |= about(model) | {"stage": stage, "unit": STAGE[stage].unit}
    if device_seconds:
        benchmark.extra_info["device_seconds"] = device_seconds[-rounds:]
        benchmark.extra_info["device_median"] = statistics.median(device_seconds[-rounds:])
    joules = benchmark.extra_info.get("gpu", {}).get("joules")
    if joules is not None and isinstance(result, Generation) and result.steps:
        benchmark.extra_info["gpu"]["joules_per_token"] = joules / rounds / result.steps
    if verified:
        benchmark.extra_info["content"] = content_of(result)
        if isinstance(result, Generation):
            require_same_tokens(model.tokenizer, result.token_ids, verified.generation.token_ids)
        fresh_state()
        benchmark.extra_info |= counted(model, stage, steps[stage], done, verified)  # the very function that was timed
        kept.require(benchmark.extra_info["work"])


def counted(
    model: VisionLanguageModel, stage: str, step: Callable[[Made], Any], done: StageOutputs, verified: Verification
) -> dict[str, Any]:
    """Return for `extra_info` a stage's work, which must equal the verified work, and decode's bytes."""
    counter, traffic, unit = WorkCounter(model.counted_modules, model.backend), BytesMoved(model), STAGE[stage].unit
    if stage == DECODE.name:
        traffic(PREFILL.name, lambda: done[PREFILL.name])  # for the size of the cache
    counter(stage, traffic, stage, step, made_before(stage, done))  # both in one pass, because counting is slow
    work = counter.work[stage]
    assert work[unit] > 0, f"{stage} must do work, got {unit} = 0"
    assert repeating(work) == repeating(verified.work[stage])
    moved = {"bytes": traffic.as_json()[stage]} if stage == DECODE.name and model.backend is None else {}
    return moved | {
        "work": work,
        "units": work[unit],
        "generate_work": verified.reference_work,
        "new_tokens": len(verified.generation.token_ids[0]),
        "finish_reason": verified.generation.finish_reasons[0],
        "tokens": str(verified.tokens),
    }


def repeating(work: Work) -> Work:
    """Return the counters that are equal in every pass."""
    return {name: n for name, n in work.items() if name not in INEXACT}
