"""Each stage of each model on its own; `test_stage[eventgpt-encode]` is one benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline import Options
from stagebench.stages import decode, encode, load, prefill, preprocess
from stagebench.timing import Stopwatch, synchronize
from stagebench.types import STAGES, Sample

UNITS = {
    "load": load.UNIT,
    "preprocess": preprocess.UNIT,
    "encode": encode.UNIT,
    "prefill": prefill.UNIT,
    "decode": decode.UNIT,
}


def steps_of(
    model: VisionLanguageModel, sample: Sample, options: Options
) -> dict[str, Callable[[dict[str, Any]], Any]]:
    """Each stage as a function of the results before it."""
    return {
        "load": lambda done: load.load(sample, model.images_per_sample),
        "preprocess": lambda done: preprocess.preprocess(model, done["load"], sample.question),
        "encode": lambda done: encode.encode(model, done["preprocess"]),
        "prefill": lambda done: prefill.prefill(model, done["preprocess"], done["encode"], options),
        "decode": lambda done: decode.decode(model, done["prefill"]),
    }


@pytest.mark.parametrize("stage", STAGES)
def test_stage(benchmark, model, stage, sample, options, rounds, audit):
    benchmark.group = stage
    device = model.network.device
    steps = steps_of(model, sample, options)
    before = STAGES[: STAGES.index(stage)]
    done: dict[str, Any] = {}
    for name in before:
        done[name] = steps[name](done)
    watch = Stopwatch(device)
    device_seconds: list[float] = []

    def fresh_state() -> None:
        for name in before[-1:]:  # a decode writes into the cache that prefill made; the others leave theirs alone
            done[name] = steps[name](done)
        synchronize(device)

    def run_stage() -> Any:
        result = watch(stage, steps[stage], done)
        device_seconds.extend(watch.device_seconds.values())
        return result

    result = benchmark.pedantic(run_stage, setup=fresh_state, rounds=rounds, warmup_rounds=2)

    assert result.work().items() <= audit.work[stage].items()
    benchmark.extra_info |= {
        "model": model.name,
        "stage": stage,
        "work": audit.work[stage],
        "unit": UNITS[stage],
        "units": audit.work[stage][UNITS[stage]],
        "generate_work": audit.reference_work,
        "new_tokens": len(audit.generation.token_ids[0]),
        "finish_reason": audit.generation.finish_reasons[0],
    }
    if device_seconds:
        benchmark.extra_info["device_seconds"] = device_seconds[-rounds:]
