"""Each stage of a checkpoint in an engine, by passes that they share; collected with `--stage-engine` alone."""

from __future__ import annotations

from statistics import median_low

import pytest

from stagebench.core.stages import OF_SERVER, STAGES

UNITS = {stage.name: stage.unit for stage in (*STAGES, *OF_SERVER)}


class Clock:
    """A timer that goes on by what an engine said of its pass."""

    now = 0.0

    def __call__(self) -> float:
        """Return the seconds so far."""
        return self.now


CLOCK = Clock()


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("stage", [*UNITS, "e2e"])
def test_engine(benchmark, stage_passes, stage):
    benchmark.group, (engine, runs) = stage, stage_passes
    if stage != "e2e" and stage not in runs[0].seconds:
        pytest.skip(f"{engine} does not tell {stage}")
    seconds = [run.e2e if stage == "e2e" else run.seconds[stage] for run in runs]
    left = iter(seconds)

    def go_on() -> None:
        CLOCK.now += next(left)

    benchmark.pedantic(go_on, rounds=len(runs))

    run = runs[0]
    benchmark.extra_info |= {"model": run.model, "backend": engine.partition(" ")[0], "engine": engine}
    benchmark.extra_info |= {"new_tokens": run.new_tokens}
    if stage != "e2e":
        benchmark.extra_info |= {"stage": stage, "unit": UNITS[stage], "work": run.metered.get(stage, {})}
    else:
        shares = [each.unattributed / each.e2e for each in runs]
        benchmark.extra_info |= {"unattributed_share": median_low(shares), "text": run.text}
