"""Work counters: what each stage really did. Collected in a pass of their own, never while timing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, Protocol, TypeVar

from torch import nn

from stagebench.errors import StageError
from stagebench.types import STAGES, Work

P = ParamSpec("P")


class HasWork(Protocol):
    """A stage's result: it knows its own units of work."""

    def work(self) -> Work:
        """What the stage did."""
        ...


R = TypeVar("R", bound=HasWork)


@contextmanager
def counted_forwards(parts: Mapping[str, nn.Module]) -> Iterator[Work]:
    """Count the forwards of the named modules, and the images that the tower saw, inside the block."""
    counts: Work = {f"{role}_forwards": 0 for role in parts} | {"images_encoded": 0}

    def count(role: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        counts[f"{role}_forwards"] += 1
        if role == "tower":
            pixels = args[0] if args else kwargs["pixel_values"]
            counts["images_encoded"] += pixels.shape[0]

    def hook(role: str) -> Callable[..., None]:
        return lambda module, args, kwargs: count(role, args, kwargs)

    handles = [part.register_forward_pre_hook(hook(role), with_kwargs=True) for role, part in parts.items()]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


class WorkCounter:
    """Counts the work of the stages of one pass; called like a `Stopwatch`.

    Attributes:
        work: counters by stage.
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        self.parts = parts
        self.work: dict[str, Work] = {}

    def __call__(self, stage: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function` and note what it did."""
        with counted_forwards(self.parts) as forwards:
            result = function(*args, **kwargs)
        self.work[stage] = result.work() | forwards
        return result


def total_forwards(work: Mapping[str, Work]) -> Work:
    """Sum what `counted_forwards` counts over the stages."""
    totals: Work = {}
    for counts in work.values():
        for name, n in counts.items():
            if name.endswith("_forwards") or name == "images_encoded":
                totals[name] = totals.get(name, 0) + n
    return totals


def check_work(work: Mapping[str, Work]) -> None:
    """Require that each stage did its own work and no other's.

    Raises:
        StageError: where a stage is missing, did nothing, or the tower ran outside encode.
    """
    rules: dict[str, dict[str, int | None]] = {
        "load": {"images": None, "tower_forwards": 0, "language_model_forwards": 0},
        "preprocess": {"prompt_tokens": None, "tower_forwards": 0, "language_model_forwards": 0},
        "encode": {"tower_forwards": None, "projector_forwards": None, "language_model_forwards": 0},
        "prefill": {"tower_forwards": 0, "projector_forwards": 0, "language_model_forwards": None},
        "decode": {"tower_forwards": 0, "projector_forwards": 0},
    }
    for stage in STAGES:
        if stage not in work:
            raise StageError(f"every stage must run, got no {stage}")
        for counter, allowed in rules[stage].items():
            n = work[stage][counter]
            if allowed is None and n < 1:
                raise StageError(f"{stage} must do some work, got {counter} = 0")
            if allowed is not None and n != allowed:
                raise StageError(f"{stage} must leave the others' work alone, got {counter} = {n}")
    steps, forwards = work["decode"]["steps"], work["decode"]["language_model_forwards"]
    if steps != forwards:
        raise StageError(f"decode must run the language model once a step, got {forwards} times in {steps} steps")
