"""What this machine can do at most, measured: the rates that a model's work is held against."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from stagebench.analysis.ceilings import Ceilings
from stagebench.timing import synchronize
from stagebench.types import ModelSettings

ROUNDS = 7
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Far more than any cache holds."""
MATMUL_SIDE = {"cpu": 1024, "cuda": 8192}
"""Large enough to keep all units busy."""


def measure_ceilings(settings: ModelSettings) -> Ceilings:
    """Measure them, in the models' dtype, on their device; within `conditions(settings)`, which sets the threads.

    Returns:
        The best of several rounds: of a copy within the device's memory, the bytes read and the bytes written both
        counted, and of a product of two square matrices, 2 n^3 FLOPs.
    """
    device = torch.device(settings.device)
    rate = _matmul_rate(device, getattr(torch, settings.dtype))
    return Ceilings(flops=rate, bandwidth=_copy_bandwidth(device), bandwidth_kind="copy")


def _copy_bandwidth(device: torch.device) -> float:
    size = COPY_BYTES[device.type]
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _fastest(lambda: target.copy_(source), device)


def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    side = MATMUL_SIDE[device.type]
    a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    product = torch.empty_like(a)
    return 2 * side**3 / _fastest(lambda: torch.matmul(a, b, out=product), device)


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
