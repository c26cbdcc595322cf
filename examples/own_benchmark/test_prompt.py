"""A benchmark of one's own, of each model that is named: how long its tokenizer takes for a long question.

pytest examples/own_benchmark --stage-model=llava-1.5,video-llava
"""

from collections.abc import Callable
from typing import Any

import stagebench


def test_long_question(
    benchmark: Any, stage_benchmark: Callable[..., Any], stage_model: Any, stage_sample: stagebench.Sample
) -> None:
    question = stage_sample.question * 100
    ids = stage_benchmark(lambda: stage_model.tokenizer(question)["input_ids"])

    benchmark.group = "long question"
    benchmark.extra_info |= {"model": stage_model.name, "counters": {"tokens": len(ids)}}
