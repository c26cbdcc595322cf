"""A remembered result: does a stage do its work every time, or give back what it had made before?

What is done is read off the meter, and inputs are varied, so that a kept result is a wrong one. Nothing is hooked:
whoever remembers may look for hooks. A result that is kept for this very input, by code that has no meter, only time
can tell.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median_low
from typing import Any, TypeVar

import numpy as np
import torch

from stagebench.core import meter
from stagebench.core.artifacts import Features, Generation, Image, Inputs, Media, Prefilled, Sample, Work
from stagebench.core.errors import StageError
from stagebench.models.protocol import VisionLanguageModel
from stagebench.pipeline.decode import cache_of
from stagebench.pipeline.encode import encode
from stagebench.pipeline.load import load
from stagebench.pipeline.preprocess import preprocess
from stagebench.pipeline.timing import synchronize, without_collection

T = TypeVar("T", bound=Media | Inputs | Features)

FASTER = 2.5
"""Times: no honest stage takes its last input again so much faster than a new one, at best."""

CONTENT = 1.5
"""Times: where it is not so much faster, one try is enough."""

TRIES = 3
_SLACK = (4096, 0.02)  # bytes, or a share of them, that libraries read of their own accord


def varied(given: T, number: int) -> T:
    """Copy what a stage takes, with noise in the middle of each picture: other noise for each number, none for 0.

    Of features, in the middle of a row's tokens and of each token.
    """
    if isinstance(given, Media):
        draw = np.random.RandomState(number)
        return replace(given, images=tuple(_noisy(image, draw if number else None) for image in given.images))
    name = "pixels" if isinstance(given, Inputs) else "tokens"
    tensor: torch.Tensor = getattr(given, name).clone()
    if number:
        rows, columns = map(_middle, tensor.shape[-2:])
        middle = tensor[..., rows, columns]
        noise = torch.randn(middle.shape, generator=torch.Generator().manual_seed(number))
        middle += noise.to(middle)
    changed: Any = {name: tensor}  # of two types, of which each has one of the names
    return replace(given, **changed)


def _noisy(image: Image, draw: np.random.RandomState | None) -> Image:
    copy = image.copy(order="K")
    if draw is not None:
        middle = copy[tuple(_middle(side) for side in image.shape[:2])]
        middle[...] = draw.randint(256, size=middle.shape, dtype=np.uint8)
    return copy


def _middle(side: int) -> slice:
    """A quarter of a picture's side, which no crop takes away."""
    return slice(side * 3 // 8, side * 5 // 8 + 1)


def fingerprint(result: object) -> tuple[float, float] | None:
    """Two numbers of what came of pictures, by which other pictures show; None of what did not."""
    match result:
        case Inputs(pixels=tensor) | Features(tokens=tensor):
            pass
        case Prefilled():
            tensor = cache_of(result.state).layers[-1].values
        case _:
            return None
    return float(tensor.sum(dtype=torch.float64)), float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def require_work(stage: str, done: Work) -> None:
    """Refuse a call of a stage in which the meter, or a part of it, stood still.

    Raises:
        StageError: naming the stage and what it did not do.
    """
    if still := meter.undone(stage, done):
        raise StageError(f"{stage} must do its work every time, got {still}: a remembered result")


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
        self._before, self._system = meter.so_far(), meter.SystemMeter()
        self._began = time.perf_counter()

    def end(self) -> None:
        """Look after it."""
        system, done = self._system.read(), meter.since(self._before)
        self._seen.append((done, system))

    @property
    def done(self) -> Work:
        """What the meter counted in the last round."""
        done = self._seen[-1][0] if self._seen else {}
        return {name: done.get(name, 0) for name in meter.COUNTED.get(self.stage, ())}

    def judge(self, result: object) -> None:
        """Judge it by what it did and what came of it.

        Raises:
            StageError: it did nothing, or gave the result of the round before, whose input was another.
        """
        require_work(self.stage, self._seen[-1][0])
        if isinstance(result, Generation) and any(end < self._began for end in result.step_ends):
            raise StageError(
                f"{self.stage} must take each step in its own round, got one from before: a remembered one"
            )
        if (last := fingerprint(result)) is not None and last == self._last:
            raise StageError(f"{self.stage} must give another result for other pixels, got the last: a remembered one")
        self._last = last

    def require(self, work: Work) -> None:
        """Refuse timed rounds that did other work than the counted pass.

        Raises:
            StageError: with both numbers.
        """
        timed = self._seen[-(self._total - self._warm_ups) :]
        for name in meter.COUNTED.get(self.stage, ()):
            self._require(name, work, [done.get(name, 0) for done, _ in timed], 0)
        for name in set(meter.SYSTEM) & work.keys():
            slack = max(_SLACK[0], _SLACK[1] * work[name]) if name == "bytes_from_files" else 0
            self._require(name, work, [median_low(system[name] for _, system in timed)] if timed else [], slack)

    def _require(self, name: str, work: Work, seen: list[int], slack: float) -> None:
        for n in seen:
            if abs(n - work[name]) > slack:
                raise StageError(f"{self.stage} must do as when counted, {name} {work[name]}, got {n} when timed")


def require_forgetful(model: VisionLanguageModel, sample: Sample, inputs: Inputs) -> None:
    """Refuse a model of which load, preprocess or encode remembers.

    Args:
        model: with any backend, set up for the sample.
        sample: what it looks at.
        inputs: of the sample.

    Raises:
        StageError: naming the stage.
    """

    def metered(stage: str, function: Callable[[], T]) -> T:
        before = meter.so_far()
        result = function()
        require_work(stage, meter.since(before))
        return result

    device = model.hf_model.device
    with without_collection():  # as where it is timed, which who remembers may look for
        for _ in range(2):
            media = metered("load", lambda: load(sample, model.images_per_sample))
        _require_as_slow(
            "preprocess", lambda m: metered("preprocess", lambda: preprocess(model, m, sample.question)), media, device
        )
        _require_as_slow("encode", lambda given: encode(model, given), inputs, device)


def _require_as_slow(stage: str, function: Callable[[T], object], given: T, device: torch.device) -> None:
    """Refuse one result for two inputs, and an input that is quickly done with when it comes again.

    On a CPU by the time that this process had: beside others on a busy machine, the clock on the wall tells nothing.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    new: list[float] = []
    again: list[float] = []
    for number in range(1, 2 * TRIES, 2):
        results = []
        for other in (varied(given, number), varied(given, number + 1)):
            for seconds in (new, again):
                synchronize(device)
                start = clock()
                result = function(other)
                synchronize(device)
                seconds.append(clock() - start)
            results.append(fingerprint(result))
        if results[0] == results[1]:
            raise StageError(f"{stage} must give another result for other pixels, got one for two: a remembered result")
        if min(new) < CONTENT * min(again):
            return
    if min(new) < FASTER * min(again):
        return
    raise StageError(
        f"{stage} must take an input as long as before when it comes again, got {min(again) * 1e3:.2f} ms after "
        f"{min(new) * 1e3:.2f} ms: a remembered result"
    )
