"""Rounds of a stage's benchmark, each held to its own work."""

from __future__ import annotations

import time
from statistics import median_low
from typing import Any

from stagebench.core import meter
from stagebench.core.artifacts import Features, Generation, Inputs, Media, Work
from stagebench.core.errors import StageError
from stagebench.core.stages import STAGE
from stagebench.pipeline.remembered import fingerprint, require_work, varied

_SLACK = (4096, 0.02)  # bytes, or a share of them, that libraries read of their own accord


class Rounds:
    """Holds each round of a stage's benchmark to its own work, looking before and after it, untimed."""

    def __init__(self, stage: str, warm_ups: int, rounds: int) -> None:
        self.stage = stage
        self._warm_ups, self._total = warm_ups, warm_ups + rounds
        self._last: tuple[float, float] | None = None
        self._seen: list[tuple[Work, Work]] = []

    def fresh(self, given: Any) -> Any:
        """The input of the coming round: where it holds pictures another one each time, and the given in the last."""
        plain = not isinstance(given, Media | Inputs | Features)
        return given if plain else varied(given, (len(self._seen) + 1) % self._total)

    def begin(self) -> None:
        """Look before a round."""
        self._before, self._system = meter.so_far(), meter.system()
        self._began = time.perf_counter()

    def end(self) -> None:
        """Look after it."""
        system, done = meter.system_since(self._system), meter.since(self._before)
        self._seen.append((done, system))

    @property
    def done(self) -> Work:
        """What the meter counted in the last round."""
        done = self._seen[-1][0] if self._seen else {}
        return {name: done.get(name, 0) for name in STAGE[self.stage].metered}

    def judge(self, result: object) -> None:
        """Raise StageError where it did nothing, or gave the result of the round before, whose input was another."""
        require_work(self.stage, self._seen[-1][0])
        if isinstance(result, Generation) and any(end < self._began for end in result.step_ends):
            expected = f"{self.stage} must take each step in its own round"
            raise StageError(f"{expected}, got one from before: a remembered one")
        if (last := fingerprint(result)) is not None and last == self._last:
            raise StageError(f"{self.stage} must give another result for other pixels, got the last: a remembered one")
        self._last = last

    def require(self, work: Work) -> None:
        """Raise StageError, with both numbers, for timed rounds that did other work than the counted pass."""
        timed = self._seen[-(self._total - self._warm_ups) :]
        for name in STAGE[self.stage].metered:
            self._require(name, work, [done.get(name, 0) for done, _ in timed], 0)
        for name in set(meter.SYSTEM) & work.keys():
            slack = max(_SLACK[0], _SLACK[1] * work[name]) if name == "bytes_from_files" else 0
            self._require(name, work, [median_low(system[name] for _, system in timed)] if timed else [], slack)

    def _require(self, name: str, work: Work, seen: list[int], slack: float) -> None:
        for n in seen:
            if abs(n - work[name]) > slack:
                raise StageError(f"{self.stage} must do as when counted, {name} {work[name]}, got {n} when timed")
