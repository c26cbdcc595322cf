"""What this machine can do at most, measured: the rates that a model's work is held against."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from stagebench.analysis.roofline import Ceilings
from stagebench.core.settings import ModelSettings
from stagebench.pipeline.timing import synchronize

ROUNDS = 7
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Far more than any cache holds."""
MATMUL_SIDE = {"cpu": 1024, "cuda": 8192}
"""Large enough to keep all units busy."""


def measure_ceilings(settings: ModelSettings) -> Ceilings:
    """Measure them, in the models' dtype, on their device; within `pinned_runtime(settings)`, which sets the threads.

    Returns:
        The best of several rounds: of a copy within the device's memory, the bytes read and the bytes written both
        counted, and of a product of two square matrices, 2 n^3 FLOPs.
    """
    device = torch.device(settings.device)
    multiply, flops = matmul_workload(device, getattr(torch, settings.dtype))
    rate = flops / _fastest(multiply, device)
    copy, nbytes = copy_workload(device)
    return Ceilings(flops=rate, bandwidth=nbytes / _fastest(copy, device), bandwidth_kind="copy")


def copy_workload(device: torch.device) -> tuple[Callable[[], object], int]:
    """A copy within the device's memory, and its bytes: those read and those written."""
    size = COPY_BYTES[device.type]
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)  # zeros may move faster
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * size


def matmul_workload(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """A product of two square matrices, and its FLOPs."""
    side = MATMUL_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(a)
    return lambda: torch.matmul(a, b, out=product), 2 * side**3


def _fastest(function: Callable[[], object], device: torch.device) -> float:
    """The seconds of the fastest round; the first one, which warms up, is not looked at."""
    times = []
    for _ in range(ROUNDS + 1):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
