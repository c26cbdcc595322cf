"""Describe what a time depends on beside the code: two runs are comparable only where all of it is equal."""

import hashlib
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from stagebench.core.machine import locks
from stagebench.core.machine.telemetry import load_nvml
from stagebench.core.settings import PREPROCESSORS, GenerationSettings, LoadSettings, ModelSettings

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "pillow", "av")
UNKNOWN = "unknown"
"""Equal to nothing, itself included: see `differences`."""
ADDED = {"gc": "on"}
"""Keys that came later, with the value of the time before: what is stored without one has that value."""

_LARGE = 64 * 2**20


def identity(
    settings: ModelSettings,
    generation: GenerationSettings,
    question: str,
    media: Path | None,
    loading: LoadSettings,
    timed_gc: bool = False,
) -> dict[str, str]:
    """Describe this machine and these settings.

    Args:
        settings: how the models are built.
        generation: how they generate.
        question: what they are asked.
        media: what they look at; None for the synthetic clip.
        loading: how it is read.
        timed_gc: whether Python's garbage collector may run in what is timed.

    Returns:
        Names and values, all text; runs are comparable only where all of them agree.
    """
    return machine(settings.device) | {
        "threads": str(settings.threads),
        "profile": settings.profile,
        "weights": f"{settings.weights}, {fingerprint(Path(settings.weights))}" if settings.weights else "random",
        "seed": str(settings.seed),
        "dtype": settings.dtype,
        "attention": f"{settings.attention}, {settings.kernels} kernels"
        + ("" if settings.backend == "eager" else f", {settings.backend} backend"),
        "generation": generation.describe(),
        "question": question,
        "preprocess": PREPROCESSORS[settings.preprocess],
        "input": fingerprint(media) if media else f"scene, {loading.media}",
        "loading": loading.describe(),
        "gc": "on" if timed_gc else "off",
    }


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """Say what makes two environments incomparable, a phrase a key; empty where they are comparable."""
    here, there = ADDED | dict(here), ADDED | dict(there)
    return [
        f"{key}: {here.get(key, 'absent')!r} here, {there.get(key, 'absent')!r} there"
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key) or here.get(key) == UNKNOWN
    ]


def machine(device: str) -> dict[str, str]:
    """Describe the part of the identity that no setting changes: hardware, driver, Python and libraries.

    Args:
        device: a torch device; of a GPU the name needs torch, of a CPU nothing does.
    """
    on_gpu = device.startswith("cuda")
    return {
        "device": _gpu_name(device) if on_gpu else _cpu_name(),
        "driver": _gpu_driver() if on_gpu else platform.system(),
        "cpu": _cpu_name(),
        "cores": str(cores()),
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
    }


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_warning() -> str | None:
    """Warn in one line where other processes keep the cores busy, because then every time measures them too."""
    if other := locks.beside():
        return f"something else is measured at the same time, by {other}: times will measure it too"
    busy = os.getloadavg()[0]
    if busy < cores() * 0.7:
        return None
    return f"the machine is busy (load {busy:.1f} on {cores()} cores): times will measure its other work too"


def fingerprint(path: Path) -> str:
    """Digest a file, or all files of a folder by name; "hub" stands for what is not on this machine.

    Of a file over 64 MiB (weights) the size stands for the content: reading it would take longer than the benchmark.
    """
    if not path.exists():
        return "hub"
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(file.relative_to(path).as_posix().encode())
        size = file.stat().st_size
        digest.update(str(size).encode() if size > _LARGE else file.read_bytes())
    return digest.hexdigest()[:12]


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


def _gpu_name(device: str) -> str:
    import torch  # here, because a gate reads baselines on machines without torch

    return torch.cuda.get_device_name(torch.device(device))


def _gpu_driver() -> str:
    nvml = load_nvml()
    if nvml is None:
        return UNKNOWN
    nvml.nvmlInit()
    try:
        return str(nvml.nvmlSystemGetDriverVersion())
    finally:
        nvml.nvmlShutdown()
