"""Rounds of a load, each held to have done its work, and what that and its images were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stagebench.benchmarks.rounds import Rounds
from stagebench.core.artifacts import Media
from stagebench.core.stages import LOAD
from stagebench.pipeline.counters import content_of

WARM_UPS = 1


def metered(benchmark: Any, function: Callable[..., Media], args: tuple[Any, ...], rounds: int) -> Media:
    """`benchmark.pedantic`, with the work of the last round and the content of its media in `extra_info`."""
    kept = Rounds(LOAD.name, WARM_UPS, rounds)

    def finish(*_: Any) -> None:
        kept.end()
        kept.judge(None)

    calls = {"setup": kept.begin, "teardown": finish}
    media: Media = benchmark.pedantic(function, args, rounds=rounds, warmup_rounds=WARM_UPS, **calls)
    benchmark.extra_info |= {"work": media.work() | kept.done, "content": content_of(media)}
    return media
