"""pytest-benchmark's rounds with an eye on the GPU: what was disturbed is repeated once, and marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from stagebench import telemetry

T = TypeVar("T")

WARM_UPS = 2
"""Untimed rounds before the timed ones."""


def pedantic(
    benchmark: Any,
    collected: list[Any],
    gpu: telemetry.Gpu | None,
    function: Callable[..., T],
    args: Sequence[Any] = (),
    *,
    rounds: int,
    setup: Callable[[], None] | None = None,
    teardown: Callable[[], None] = lambda: None,
    warmup_rounds: int = WARM_UPS,
) -> T:
    """pytest-benchmark's `benchmark.pedantic`, with a look at the GPU around each round.

    A benchmark of which a timed round was disturbed is repeated once, as a whole, so that its rounds stay one unbroken
    sequence; the second one is kept whatever it sees, and what disturbed it stays in `extra_info["gpu"]`.

    Args:
        benchmark: pytest-benchmark's fixture.
        collected: the list in which the session keeps its results.
        gpu: None where there is none to look at, and then nothing is added.
        function: what is timed.
        args: its arguments.
        rounds: timed ones.
        setup: called before each round, untimed.
        teardown: called after each, likewise; without `--benchmark-disable`, which has no rounds.
        warmup_rounds: untimed ones before them.

    Returns:
        What the last round returned.
    """
    if gpu is None:
        counts = {"rounds": rounds, "warmup_rounds": warmup_rounds}
        return cast(T, benchmark.pedantic(function, args, setup=setup, teardown=lambda *_: teardown(), **counts))
    result, kept = _watched(benchmark, gpu, function, args, setup, teardown, rounds, warmup_rounds)
    if again := bool(kept["disturbed_rounds"]):
        collected.remove(benchmark.stats)
        benchmark._mode = None  # pytest-benchmark lets a fixture be used once
        result, kept = _watched(benchmark, gpu, function, args, setup, teardown, rounds, warmup_rounds)
    benchmark.extra_info["gpu"] = kept | {"repeated": again}
    return result


def _watched(
    benchmark: Any,
    gpu: telemetry.Gpu,
    function: Callable[..., T],
    args: Sequence[Any],
    setup: Callable[[], None] | None,
    teardown: Callable[[], None],
    rounds: int,
    warmup_rounds: int,
) -> tuple[T, dict[str, Any]]:
    meter = telemetry.Meter(gpu)

    def prepare() -> None:
        if setup:
            setup()
        meter.start()

    def finish(*_: Any) -> None:
        meter.stop()
        teardown()

    result = benchmark.pedantic(
        function,
        args,
        setup=prepare,
        teardown=finish,
        rounds=rounds,
        warmup_rounds=warmup_rounds,
    )
    return result, telemetry.summary(meter.rounds[-rounds:])
