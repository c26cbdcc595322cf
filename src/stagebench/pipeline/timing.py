"""Time stages from one device synchronisation to the next, and hold the runtime's settings fixed meanwhile."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar
from unittest.mock import patch

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.integrations import sdpa_attention

from stagebench.core.settings import ModelSettings

P = ParamSpec("P")
T = TypeVar("T")


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all its work; return at once on a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def pinned_runtime(settings: ModelSettings) -> Iterator[None]:
    """Run the block with the settings' threads and attention kernel; restore the threads afterwards.

    On a GPU "efficient" means torch's memory-efficient attention: with torch's own choice even `generate()` is not
    repeatable. The mathematical kernel is allowed for what the efficient one can't do. Keys that several queries share
    are repeated for the efficient kernel: passed as a group they would need the mathematical one in steps without a
    mask. On a CPU all kernels are repeatable.
    """
    with ExitStack() as pinned:
        pinned.enter_context(torch_threads(settings.threads))
        if settings.device.startswith("cuda") and settings.kernels == "efficient":
            pinned.enter_context(sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]))
            pinned.enter_context(patch.object(sdpa_attention, "use_gqa_in_sdpa", lambda *_: False))
        yield


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Run the block with `number` CPU threads of torch; restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def repeats_itself(device: torch.device) -> bool:
    """Return whether `generate()` is repeatable in this runtime: not with torch's own choice of GPU kernels."""
    return device.type == "cpu" or not torch.backends.cuda.flash_sdp_enabled()


@contextmanager
def without_collection() -> Iterator[None]:
    """Collect garbage before the block, and not in it."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Stopwatch:
    """Times the stages of one pass: `seconds` between synchronisations, and on CUDA also between two events."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.device_seconds: dict[str, float] = {}

    def __call__(self, stage: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function`, and record its time."""
        on_gpu = self.device.type == "cuda"
        synchronize(self.device)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if on_gpu else []
        for event in events[:1]:
            event.record()
        start = time.perf_counter()
        result = function(*args, **kwargs)
        for event in events[1:]:
            event.record()
        synchronize(self.device)
        self.seconds[stage] = time.perf_counter() - start
        if events:
            self.device_seconds[stage] = events[0].elapsed_time(events[1]) / 1e3
        return result
