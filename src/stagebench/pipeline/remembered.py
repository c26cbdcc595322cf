"""Find cached results: does a stage do its work every time, or return an earlier result?

Work is read from the meter, and inputs are varied, so that a cached result is wrong. Nothing is hooked, because code
with a cache may look for hooks. A result cached for exactly this input, by code without a meter, shows only in the
time.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from stagebench.core import meter
from stagebench.core.artifacts import Features, Inputs, Media, Prefilled, Sample, Work
from stagebench.core.errors import StageError
from stagebench.core.stages import PREFILL, STAGE_NAMES
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.tape import retaped, tensors_of
from stagebench.pipeline.decode import cache_of
from stagebench.pipeline.run_stages import Made, Options, run_stages
from stagebench.pipeline.timing import synchronize, torch_threads, without_collection

T = TypeVar("T", bound=Media | Inputs | Features)

FASTER = 2.5  # a ratio: without a cache, no stage repeats its last input so much faster than a new one, at best
CONTENT = 1.5  # a ratio: below it, one try is enough
TRIES = 3


def varied(given: T, number: int) -> T:
    """Copy a stage's input with noise in the middle of each picture, or of the features: by number, none for 0."""
    copied = copy.deepcopy(given)
    match copied:
        case Media(images=images):
            middles = [torch.from_numpy(image)[tuple(map(_middle, image.shape[:2]))] for image in images]
        case Inputs() | Features():
            tensors = copied.pixels if isinstance(copied, Inputs) else _features_of(copied)
            middles = [each[..., _middle(each.shape[-2]), _middle(each.shape[-1])] for each in tensors]
    seeded = torch.Generator().manual_seed(number)
    for middle in middles if number else ():
        noise = partial(torch.randint, 256) if middle.dtype == torch.uint8 else torch.randn
        middle += noise(middle.shape, generator=seeded).to(middle)
    if isinstance(copied, Features) and copied.tape:
        copied = replace(copied, tape=retaped(copied.tape))
    return copied


def _features_of(features: Features) -> list[Tensor]:
    taped = tensors_of([call.output for call in features.tape or ()])
    return [features.tokens, *(each for each in taped if each.is_floating_point() and each.ndim > 1)]


def _middle(side: int) -> slice:
    """Return the middle quarter of a picture's side, which no crop removes."""
    return slice(side * 3 // 8, side * 5 // 8 + 1)


def fingerprint(result: object) -> tuple[float, float] | None:
    """Return two numbers that depend on the pictures in a result; None for a result without pictures."""
    match result:
        case Inputs():
            tensors = result.pixels
        case Features():
            tensors = (result.tokens,)
        case Prefilled():
            tensors = (cache_of(result.state).layers[-1].values,)
        case _:
            return None
    sums = [float(tensor.sum(dtype=torch.float64)) for tensor in tensors]
    return sum(sums), math.hypot(*(float(torch.linalg.vector_norm(each, dtype=torch.float64)) for each in tensors))


def require_work(stage: str, done: Work) -> None:
    """Refuse a call of a stage in which a counter of the meter did not move."""
    if still := meter.undone(stage, done):
        raise StageError(f"{stage} must do its work every time, got {still}: a cached result")


def require_forgetful(model: VisionLanguageModel, sample: Sample, options: Options) -> None:
    """Refuse a model in which a stage before the first token caches results; its backend must be set up before."""

    def repeated(stage: str, step: Callable[[Made], Any], made: Made) -> Any:
        call = partial(_metered, stage, step)
        if made:
            _require_as_slow(stage, call, made, model.hf_model.device)
        else:
            call(made)
        return call(made)

    with (
        without_collection(),
        torch_threads(1),
    ):  # the first as in timed passes, because a cache may check it
        run_stages(model, sample, options, repeated, STAGE_NAMES[: STAGE_NAMES.index(PREFILL.name)])


def _metered(stage: str, step: Callable[[Made], Any], made: Made) -> Any:
    before = meter.so_far()
    result = step(made)
    require_work(stage, meter.since(before))
    return result


def _require_as_slow(stage: str, step: Callable[[Made], Any], made: Made, device: torch.device) -> None:
    """Refuse one result for two inputs, and an input that takes much less time when it is repeated.

    On a CPU this is process time, with one thread of torch. Wall time tells nothing on a busy machine, and threads that
    wait for each other use process time.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    new: list[float] = []
    again: list[float] = []
    kind, given = list(made.items())[-1]
    for number in range(1, 2 * TRIES, 2):
        results = []
        for other in (varied(given, number), varied(given, number + 1)):
            for seconds in (new, again):
                synchronize(device)
                start = clock()
                result = step({**made, kind: other})
                synchronize(device)
                seconds.append(clock() - start)
            results.append(fingerprint(result))
        if results[0] == results[1]:
            raise StageError(f"{stage} must give other results for other pixels, got equal ones: a cached result")
        if min(new) < CONTENT * min(again):
            return
    if min(new) >= FASTER * min(again):
        slow, fast = (f"{min(seconds) * 1e3:.2f} ms" for seconds in (new, again))
        raise StageError(f"{stage} must take as long for a repeated input, got {fast} after {slow}: a cached result")
