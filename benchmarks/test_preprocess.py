"""Both ways from images to pixels, taken in turn: transformers' PIL processor, the reference, and plain torch."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest
import torch

from stagebench.benchmarks.rounds import Rounds
from stagebench.core.settings import PREPROCESSORS
from stagebench.core.stages import PREPROCESS
from stagebench.models.pixels import processor_of
from stagebench.pipeline.counters import content_of
from stagebench.pipeline.load import load
from stagebench.pipeline.preprocess import preprocess
from stagebench.pipeline.timing import Stopwatch
from stagebench.suite import plugin
from stagebench.suite.gpu_monitored import WARM_UPS


@pytest.mark.eager
@pytest.mark.parametrize("way", PREPROCESSORS)
def test_preprocess(benchmark, stage_model, way, stage_sample, stage_rounds, pytestconfig):
    benchmark.group = f"preprocess {stage_model.name}"
    settings, reference = plugin.settings(pytestconfig).model, stage_model.image_processor.reference
    mine, other = (
        replace(stage_model, image_processor=processor_of(reference, replace(settings, preprocess=name)))
        for name in sorted(PREPROCESSORS, key=lambda name: name != way)
    )
    media = load(stage_sample, stage_model.images_per_sample)
    watch, own_seconds, other_seconds = Stopwatch(stage_model.hf_model.device), [], []

    def the_other_way():
        """Before each round, so that the ratio of the two is not that of a quiet minute to a busy one."""
        watch("other", preprocess, other, media, stage_sample.question)
        other_seconds.append(watch.seconds["other"])

    def timed():
        result = watch("own", preprocess, mine, media, stage_sample.question)
        own_seconds.append(watch.seconds["own"])
        return result

    kept = Rounds(PREPROCESS.name, WARM_UPS, stage_rounds)

    def prepare() -> None:
        the_other_way()
        kept.begin()

    def finish(*_: object) -> None:
        kept.end()
        kept.judge(None)

    calls = {"setup": prepare, "teardown": finish}
    result = benchmark.pedantic(timed, rounds=stage_rounds, warmup_rounds=WARM_UPS, **calls)

    difference = (result.pixels[0] - preprocess(other, media, stage_sample.question).pixels[0]).abs().float()
    deviation = torch.tensor(reference.image_std, device=difference.device)[:, None, None]
    benchmark.extra_info |= {
        "model": stage_model.name,
        "preprocess": PREPROCESSORS[way],
        "content": content_of(result),
        "work": result.work() | kept.done,
        "unit": PREPROCESS.unit,
        "units": result.work()[PREPROCESS.unit],
        "times_faster_than_the_other": median(other_seconds[-stage_rounds:]) / median(own_seconds[-stage_rounds:]),
        "largest_difference": float(difference.max()),
        "largest_difference_in_255ths": float((difference * deviation).max() * 255),
    }
