"""pytest-benchmark's rounds with an eye on the GPU: what was disturbed is repeated once, and marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar, cast

from stagebench.core.machine import environment

T = TypeVar("T")

Look = Callable[[], None]

WARM_UPS = 2
"""Untimed rounds before the timed ones."""


class Monitor:
    """Looks at a GPU before and after each round of a benchmark, outside the timed region.

    Attributes:
        rounds: the two readings of each round, warm-up included.
    """

    def __init__(self, gpu: environment.Gpu) -> None:
        self.gpu = gpu
        self.rounds: list[tuple[environment.Reading, environment.Reading]] = []
        self._before: environment.Reading | None = None

    def start(self) -> None:
        """Look before a round."""
        self._before = self.gpu.read()

    def stop(self) -> None:
        """Look after it."""
        assert self._before is not None, "a round is started before it is stopped"
        self.rounds.append((self._before, self.gpu.read()))


def summary(rounds: Sequence[tuple[environment.Reading, environment.Reading]]) -> dict[str, Any]:
    """Return what is kept of a benchmark's timed rounds, in JSON's types.

    Returns:
        `before` the first round and `after` the last one, what each reading holds; `disturbed_rounds`, the numbers of
        the rounds that began or ended throttled or beside foreign processes; and `joules` over all rounds, what lies
        between them left out, absent where the GPU does not count.
    """
    energy = [
        after.joules - before.joules
        for before, after in rounds
        if before.joules is not None and after.joules is not None
    ]
    kept: dict[str, Any] = {
        "before": asdict(rounds[0][0]),
        "after": asdict(rounds[-1][1]),
        "disturbed_rounds": [i for i, pair in enumerate(rounds) if any(reading.disturbed for reading in pair)],
    }
    return kept | ({"joules": sum(energy)} if len(energy) == len(rounds) else {})


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
    gpu: environment.Gpu | None,
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
        gpu: None without one to look at, and then nothing is added.
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
    gpu: environment.Gpu,
    function: Callable[..., T],
    args: Sequence[Any],
    setup: Callable[[], None] | None,
    around: tuple[Look, Look],
    teardown: Look,
    rounds: int,
    warmup_rounds: int,
) -> tuple[T, dict[str, Any]]:
    monitor = Monitor(gpu)
    result = benchmark.pedantic(
        function,
        args,
        setup=_after(setup, monitor.start, around[0]),
        teardown=_after(around[1], monitor.stop, teardown),
        rounds=rounds,
        warmup_rounds=warmup_rounds,
    )
    return result, summary(monitor.rounds[-rounds:])
