"""What this machine can do at most, measured: the rates that a model's work is held against."""

from collections.abc import Callable

import torch

from stagebench.analysis.roofline import Ceilings
from stagebench.core.settings import ModelSettings
from stagebench.pipeline.timing import Stopwatch

ROUNDS = 7
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}  # far more than any cache holds
MATMUL_SIDE = {"cpu": 1024, "cuda": 8192}  # large enough to keep all units busy


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
    """Return a copy within the device's memory, and its bytes: those read and those written."""
    size = COPY_BYTES[device.type]
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)  # zeros may move faster
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * size


def matmul_workload(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """Return a product of two square matrices, and its FLOPs."""
    side = MATMUL_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(a)
    return lambda: torch.matmul(a, b, out=product), 2 * side**3


def _fastest(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest round; the first one, which warms up, is not looked at."""
    watch, times = Stopwatch(device), []
    for _ in range(ROUNDS + 1):
        watch("round", function)
        times.append(watch.seconds["round"])
    return min(times[1:])
