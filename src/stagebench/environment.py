"""What a time depends on beside the code: two runs are comparable only where all of it is equal."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from stagebench.types import ModelSettings

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "pillow", "av")
UNKNOWN = "unknown"


def identity(settings: ModelSettings, generation: str, sample: str) -> dict[str, str]:
    """Describe this machine and these settings.

    Args:
        settings: how the models are built.
        generation: `GenerationSettings.describe()`.
        sample: what the models look at, in a word.

    Returns:
        Names and values, all text; runs are comparable only where all of them agree.
    """
    on_gpu = settings.device.startswith("cuda")
    versions = {name: _version(name) for name in LIBRARIES}
    return {
        "device": _gpu_name(settings.device) if on_gpu else _cpu_name(),
        "driver": _gpu_driver() if on_gpu else platform.system(),
        "cpu": _cpu_name(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "threads": _threads(),
        "profile": settings.profile,
        "weights": settings.weights or f"random, seed {settings.seed}",
        "dtype": settings.dtype,
        "attention": f"{settings.attention}, {settings.kernels} kernels" if on_gpu else settings.attention,
        "generation": generation,
        "input": sample,
        "python": platform.python_version(),
        **versions,
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return UNKNOWN


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or UNKNOWN


def _threads() -> str:
    import torch  # here, because a gate reads baselines on machines without torch

    return str(torch.get_num_threads())


def _gpu_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(torch.device(device))


def _gpu_driver() -> str:
    try:
        import pynvml  # the extra "gpu"
    except ImportError:
        return UNKNOWN
    pynvml.nvmlInit()
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()
