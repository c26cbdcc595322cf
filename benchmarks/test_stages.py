"""Each stage of each model on its own; `test_stage[eventgpt-encode]` is one benchmark."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline import Done, counter_of, path, setups
from stagebench.stages import decode, encode, load, prefill, preprocess
from stagebench.study.traffic import TrafficCounter
from stagebench.timing import Stopwatch, synchronize
from stagebench.types import STAGES, Generation

UNITS = {
    "load": load.UNIT,
    "preprocess": preprocess.UNIT,
    "encode": encode.UNIT,
    "prefill": prefill.UNIT,
    "decode": decode.UNIT,
}


def of_backend(model: VisionLanguageModel) -> dict[str, Any]:
    """Which backend ran a benchmark, and what it has set up so far, which no timed round holds."""
    if model.backend is None:
        return {"backend": "eager"}
    done = model.backend.setups
    cost = {"seconds": sum(s.seconds for s in done), "bytes": sum(s.nbytes for s in done), "captures": len(done)}
    return {"backend": model.backend.name, "setup": cost}


@pytest.mark.parametrize("stage", STAGES)
def test_stage(benchmark, pedantic, model, stage, sample, options, rounds, proof):
    benchmark.group = stage
    steps = path(model, sample, options)
    watch, device_seconds = Stopwatch(model.network.device), []
    set_up: list[int] = []
    done: Done = {}

    def fresh_state() -> None:
        """Run the stages before this one: a decode, say, needs a KV cache that no decode has written to."""
        for name in STAGES[: STAGES.index(stage)]:
            if name not in done or name == STAGES[STAGES.index(stage) - 1]:
                done[name] = steps[name](done)
        synchronize(model.network.device)

    def timed() -> Any:
        result = watch(stage, steps[stage], done)
        device_seconds.extend(watch.device_seconds.values())
        set_up.append(setups(model))
        return result

    result = pedantic(timed, setup=fresh_state)

    assert set_up[-rounds - 1] == set_up[-1], "nothing is captured or compiled in a timed round"
    benchmark.extra_info |= {"model": model.name, "stage": stage, "unit": UNITS[stage]} | of_backend(model)
    if device_seconds:
        benchmark.extra_info["device_seconds"] = device_seconds[-rounds:]
        benchmark.extra_info["device_median"] = statistics.median(device_seconds[-rounds:])
    joules = benchmark.extra_info.get("gpu", {}).get("joules")
    if joules is not None and isinstance(result, Generation) and result.steps:
        benchmark.extra_info["gpu"]["joules_per_token"] = joules / rounds / result.steps
    if not proof:
        return
    if isinstance(result, Generation):
        proof.require_same_tokens(result)
    fresh_state()
    counter = counter_of(model)
    counter(stage, steps[stage], done)  # the very function that was timed
    work = counter.work[stage]
    assert work[UNITS[stage]] > 0, f"{stage} must do some work, got {UNITS[stage]} = 0"
    assert {k: v for k, v in work.items() if k != "peak_bytes"} == {
        k: v for k, v in proof.work[stage].items() if k != "peak_bytes"
    }
    benchmark.extra_info |= {
        "work": work,
        "units": work[UNITS[stage]],
        "generate_work": proof.reference_work,
        "new_tokens": len(proof.generation.token_ids[0]),
        "finish_reason": proof.generation.finish_reasons[0],
        "tokens": str(proof.tokens),
    }
    if stage == "decode" and model.backend is None:
        traffic = TrafficCounter(model)
        done["prefill"] = traffic("prefill", steps["prefill"], done)
        traffic("decode", steps["decode"], done)
        benchmark.extra_info["bytes"] = traffic.as_json()["decode"]
