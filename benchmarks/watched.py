"""pytest-benchmark's rounds with an eye on the GPU: what was disturbed is repeated once, and marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from stagebench.core import telemetry

T = TypeVar("T")

Look = Callable[[], None]

WARM_UPS = 2
"""Untimed rounds before the timed ones."""


def _nothing() -> None:
    """Do nothing."""


def _after(*calls: Look | None) -> Callable[..., None]:
    """One call after the other."""

    def run(*_: Any) -> None:
        for call in filter(None, calls):
            call()

    return run


def pedantic(
    benchmark: Any,
    collected: list[Any],
    gpu: telemetry.Gpu | None,
    function: Callable[..., T],
    args: Sequence[Any] = (),
    *,
    rounds: int,
    setup: Callable[[], None] | None = None,
    around: tuple[Look, Look] = (_nothing, _nothing),
    teardown: Look = _nothing,
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
        around: called before and after each round, right beside what is timed: between the looks at the GPU.
        teardown: called last of all after each.
        warmup_rounds: untimed ones before them.

    Returns:
        What the last round returned.
    """
    if gpu is None:
        calls = {"setup": _after(setup, around[0]), "teardown": _after(around[1], teardown)}
        return cast(T, benchmark.pedantic(function, args, rounds=rounds, warmup_rounds=warmup_rounds, **calls))
    result, kept = _watched(benchmark, gpu, function, args, setup, around, teardown, rounds, warmup_rounds)
    if again := bool(kept["disturbed_rounds"]):
        collected.remove(benchmark.stats)
        benchmark._mode = None  # pytest-benchmark lets a fixture be used once
        result, kept = _watched(benchmark, gpu, function, args, setup, around, teardown, rounds, warmup_rounds)
    benchmark.extra_info["gpu"] = kept | {"repeated": again}
    return result


def _watched(
    benchmark: Any,
    gpu: telemetry.Gpu,
    function: Callable[..., T],
    args: Sequence[Any],
    setup: Callable[[], None] | None,
    around: tuple[Look, Look],
    teardown: Look,
    rounds: int,
    warmup_rounds: int,
) -> tuple[T, dict[str, Any]]:
    meter = telemetry.Meter(gpu)
    result = benchmark.pedantic(
        function,
        args,
        setup=_after(setup, meter.start, around[0]),
        teardown=_after(around[1], meter.stop, teardown),
        rounds=rounds,
        warmup_rounds=warmup_rounds,
    )
    return result, telemetry.summary(meter.rounds[-rounds:])
