"""Both ways from images to pixels, taken in turn: transformers' PIL processor, the reference, and plain torch."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest
import torch

from stagebench.benchmarks.gpu_monitored import WARM_UPS
from stagebench.benchmarks.rounds import Rounds
from stagebench.core.settings import PREPROCESSORS
from stagebench.core.stages import PREPROCESS
from stagebench.models.pixels import processor_of
from stagebench.pipeline.counters import content_of
from stagebench.pipeline.load import load
from stagebench.pipeline.preprocess import preprocess
from stagebench.pipeline.timing import Stopwatch
from stagebench.suite import plugin


@pytest.mark.eager
@pytest.mark.parametrize("way", PREPROCESSORS)
def test_preprocess(benchmark, model, way, sample, rounds, pytestconfig):
    benchmark.group = f"preprocess {model.name}"
    settings, reference = plugin.settings(pytestconfig).model, model.image_processor.reference
    mine, other = (
        replace(model, image_processor=processor_of(reference, replace(settings, preprocess=name)))
        for name in sorted(PREPROCESSORS, key=lambda name: name != way)
    )
    media = load(sample, model.images_per_sample)
    watch, own_seconds, other_seconds = Stopwatch(model.hf_model.device), [], []

    def the_other_way():
        """Before each round, so that the ratio of the two is not that of a quiet minute to a busy one."""
        watch("other", preprocess, other, media, sample.question)
        other_seconds.append(watch.seconds["other"])

    def timed():
        result = watch("own", preprocess, mine, media, sample.question)
        own_seconds.append(watch.seconds["own"])
        return result

    kept = Rounds(PREPROCESS.name, WARM_UPS, rounds)

    def prepare() -> None:
        the_other_way()
        kept.begin()

    def finish(*_: object) -> None:
        kept.end()
        kept.judge(None)

    calls = {"setup": prepare, "teardown": finish}
    result = benchmark.pedantic(timed, rounds=rounds, warmup_rounds=WARM_UPS, **calls)

    difference = (result.pixels[0] - preprocess(other, media, sample.question).pixels[0]).abs().float()
    deviation = torch.tensor(reference.image_std, device=difference.device)[:, None, None]
    benchmark.extra_info |= {
        "model": model.name,
        "preprocess": PREPROCESSORS[way],
        "content": content_of(result),
        "work": result.work() | kept.done,
        "unit": PREPROCESS.unit,
        "units": result.work()[PREPROCESS.unit],
        "times_faster_than_the_other": median(other_seconds[-rounds:]) / median(own_seconds[-rounds:]),
        "largest_difference": float(difference.max()),
        "largest_difference_in_255ths": float((difference * deviation).max() * 255),
    }
