"""Monitor the GPU during pytest-benchmark's rounds; repeat a disturbed benchmark once, and mark it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar, cast

from stagebench.core.machine import environment

T = TypeVar("T")

Look = Callable[[], None]

WARM_UPS = 2  # untimed rounds before the timed ones


def summary(looks: Sequence[environment.Reading]) -> dict[str, Any]:
    """Return a summary, in JSON's types, of the readings before and after each timed round of a benchmark.

    It holds the first and the last reading. The rounds in "disturbed_rounds" began or ended throttled or beside foreign
    processes. The energy "joules" is that of all rounds without the time between them, absent if it is not counted.
    """
    rounds = list(zip(looks[::2], looks[1::2], strict=True))
    joules = [look.joules for look in looks if look.joules is not None]
    kept: dict[str, Any] = {
        "before": asdict(looks[0]),
        "after": asdict(looks[-1]),
        "disturbed_rounds": [i for i, pair in enumerate(rounds) if any(reading.disturbed for reading in pair)],
    }
    return kept | ({"joules": sum(joules[1::2]) - sum(joules[::2])} if len(joules) == len(looks) else {})


def _after(*calls: Look | None) -> Callable[..., None]:
    """Return a function that makes the given calls in order."""

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
    setup: Look | None = None,
    around: tuple[Look | None, Look | None] = (None, None),
    teardown: Look | None = None,
    rounds: int,
    warmup_rounds: int = WARM_UPS,
) -> T:
    """Call `benchmark.pedantic`, reading the GPU, if any, around each round; return the last result.

    Before each round run `setup`, the reading and the first of `around`; after it the second, the reading and
    `teardown`. If a timed round was disturbed, the whole benchmark is removed from `collected` and repeated once, so
    that its rounds stay one unbroken sequence. The repetition is kept in any case, and `extra_info["gpu"]` tells what
    disturbed it.
    """

    def timed(look: Look | None) -> T:
        calls = {"setup": _after(setup, look, around[0]), "teardown": _after(around[1], look, teardown)}
        return cast(T, benchmark.pedantic(function, args, rounds=rounds, warmup_rounds=warmup_rounds, **calls))

    def watched(gpu: environment.Gpu) -> tuple[T, dict[str, Any]]:
        looks: list[environment.Reading] = []
        result = timed(lambda: looks.append(gpu.read()))
        return result, summary(looks[-2 * rounds :])

    if gpu is None:
        return timed(None)
    result, kept = watched(gpu)
    if again := bool(kept["disturbed_rounds"]):
        collected.remove(benchmark.stats)
        benchmark._mode = None  # else pytest-benchmark allows one use of a fixture
        result, kept = watched(gpu)
    benchmark.extra_info["gpu"] = kept | {"repeated": again}
    return result
