"""Rounds of a stage's benchmark, with checks that each did its own work."""

from __future__ import annotations

import time
from statistics import median_low
from typing import Any

from stagebench.core import meter
from stagebench.core.artifacts import Features, Generation, Inputs, Media, Work
from stagebench.core.errors import StageError
from stagebench.core.stages import STAGE
from stagebench.pipeline.remembered import fingerprint, require_work, varied

_SLACK = (4096, 0.02)  # bytes, or a share, that libraries may read on their own


class Rounds:
    """Checks the work of each round of a stage's benchmark, outside the timed region."""

    def __init__(self, stage: str, warm_ups: int, rounds: int) -> None:
        self.stage = stage
        self._warm_ups, self._total = warm_ups, warm_ups + rounds
        self._last: tuple[float, float] | None = None
        self._seen: list[tuple[Work, Work]] = []

    def fresh(self, given: Any) -> Any:
        """Return the input of the next round: pictures are varied in each round, and unchanged in the last."""
        plain = not isinstance(given, Media | Inputs | Features)
        return given if plain else varied(given, (len(self._seen) + 1) % self._total)

    def begin(self) -> None:
        """Read the counters before a round."""
        self._before, self._system = meter.so_far(), meter.system()
        self._began = time.perf_counter()

    def end(self) -> None:
        """Read the counters after a round."""
        system, done = meter.system_since(self._system), meter.since(self._before)
        self._seen.append((done, system))

    @property
    def done(self) -> Work:
        """Return what the meter counted in the last round."""
        done = self._seen[-1][0] if self._seen else {}
        return {name: done.get(name, 0) for name in STAGE[self.stage].metered}

    def judge(self, result: object) -> None:
        """Raise StageError where a round did no work, or returned the previous round's result for another input."""
        require_work(self.stage, self._seen[-1][0])
        if isinstance(result, Generation) and any(end < self._began for end in result.step_ends):
            expected = f"{self.stage} must take each step in its own round"
            raise StageError(f"{expected}, got an earlier one: a cached result")
        if (last := fingerprint(result)) is not None and last == self._last:
            raise StageError(f"{self.stage} must give another result for other pixels, got the last: a cached result")
        self._last = last

    def require(self, work: Work) -> None:
        """Raise StageError, with both numbers, for timed rounds with other work than the counted pass."""
        timed = self._seen[-(self._total - self._warm_ups) :]
        for name in STAGE[self.stage].metered:
            self._require(name, work, [done.get(name, 0) for done, _ in timed], 0)
        for name in set(meter.SYSTEM) & work.keys():
            slack = max(_SLACK[0], _SLACK[1] * work[name]) if name == "bytes_from_files" else 0
            self._require(name, work, [median_low(system[name] for _, system in timed)] if timed else [], slack)

    def _require(self, name: str, work: Work, seen: list[int], slack: float) -> None:
        for n in seen:
            if abs(n - work[name]) > slack:
                raise StageError(f"{self.stage} must do the same work when timed, {name} {work[name]}, got {n}")
