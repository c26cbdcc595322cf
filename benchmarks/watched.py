"""pytest-benchmark's rounds with an eye on the GPU: what was disturbed is repeated once, and marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from stagebench import telemetry

T = TypeVar("T")


def pedantic(
    benchmark: Any,
    collected: list[Any],
    gpu: telemetry.Gpu | None,
    function: Callable[..., T],
    args: Sequence[Any] = (),
    *,
    rounds: int,
    setup: Callable[[], None] | None = None,
    warmup_rounds: int = 2,
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
        warmup_rounds: untimed ones before them.

    Returns:
        What the last round returned.
    """
    if gpu is None:
        return cast(T, benchmark.pedantic(function, args, setup=setup, rounds=rounds, warmup_rounds=warmup_rounds))
    result, kept = _watched(benchmark, gpu, function, args, setup, rounds, warmup_rounds)
    if again := bool(kept["disturbed_rounds"]):
        collected.remove(benchmark.stats)
        benchmark._mode = None  # pytest-benchmark lets a fixture be used once
        result, kept = _watched(benchmark, gpu, function, args, setup, rounds, warmup_rounds)
    benchmark.extra_info["gpu"] = kept | {"repeated": again}
    return result


def _watched(
    benchmark: Any,
    gpu: telemetry.Gpu,
    function: Callable[..., T],
    args: Sequence[Any],
    setup: Callable[[], None] | None,
    rounds: int,
    warmup_rounds: int,
) -> tuple[T, dict[str, Any]]:
    meter = telemetry.Meter(gpu)

    def prepare() -> None:
        if setup:
            setup()
        meter.start()

    result = benchmark.pedantic(
        function,
        args,
        setup=prepare,
        teardown=lambda *_: meter.stop(),
        rounds=rounds,
        warmup_rounds=warmup_rounds,
    )
    return result, telemetry.summary(meter.rounds[-rounds:])
