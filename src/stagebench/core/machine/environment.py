"""Describe what a time depends on besides the code: two runs are comparable only where all of it is equal.

Read also a GPU's state around a timing from NVML: clocks, power, temperature, throttling, other processes, energy. A
value that a GPU or driver does not report is None, never 0. Importable without torch and without NVML.
"""

import hashlib
import importlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from stagebench.core.machine import locks
from stagebench.core.settings import PREPROCESSORS, GenerationSettings, LoadSettings, ModelSettings

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "pillow", "av")
UNKNOWN = "unknown"  # equal to nothing, not even itself: see `differences`
ADDED = {"gc": "on"}  # keys added later, with the value that results without them had

# NVML's bits for clocks lower than requested. An idle GPU and locked clocks are not throttling.
THROTTLE_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal slowdown by the driver",
    0x40: "thermal slowdown by the hardware",
    0x80: "power brake",
}

_LARGE = 64 * 2**20
T = TypeVar("T")


def identity(
    settings: ModelSettings,
    generation: GenerationSettings,
    question: str,
    media: Path | None,
    loading: LoadSettings,
    timed_gc: bool = False,
) -> dict[str, str]:
    """Return this machine and these settings as text by name; without `media` the input is the synthetic clip."""
    backend = "" if settings.backend == "eager" else f", {settings.backend} backend"
    code = ", its own code" if settings.trust_remote_code else ""
    shown = f"{settings.frames} images" if settings.as_ == "images" else f"one video of {settings.frames} frames"
    return machine(settings.device) | {
        "threads": str(settings.threads),
        "profile": settings.profile.removesuffix("-random"),  # as in stored baselines: "weights" says so
        "weights": f"{settings.weights}, {fingerprint(Path(settings.weights))}{code}" if settings.weights else "random",
        "seed": str(settings.seed),
        "dtype": settings.dtype,
        "attention": f"{settings.attention}, {settings.kernels} kernels{backend}",
        "generation": generation.describe(),
        "question": question,
        "preprocess": PREPROCESSORS.get(settings.preprocess, f"the checkpoint's own processor, {shown}"),
        "input": fingerprint(media) if media else f"scene, {loading.media}",
        "loading": loading.describe(),
        "gc": "on" if timed_gc else "off",
    }


def of_any_suite(timed_gc: bool = False) -> dict[str, str]:
    """Return the same for benchmarks that run no model of ours, without the libraries that are not installed."""
    here = {key: value for key, value in machine("cpu").items() if key not in LIBRARIES or value != UNKNOWN}
    return here | {"profile": "none", "dtype": "none", "gc": "on" if timed_gc else "off"}


def differences(here: Mapping[str, object], there: Mapping[str, object]) -> list[str]:
    """Return what makes two environments incomparable, one phrase per key; empty where they are comparable."""
    here, there = ADDED | dict(here), ADDED | dict(there)
    return [
        f"{key}: {here.get(key, 'absent')!r} here, {there.get(key, 'absent')!r} there"
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key) or here.get(key) == UNKNOWN
    ]


def machine(device: str) -> dict[str, str]:
    """Describe what no setting changes: hardware, driver, Python and libraries. Reading a GPU's name needs torch."""
    cpu, driver = _cpu_name(), platform.system()
    name = cpu
    if device != "cpu":
        import torch  # here, because a gate reads baselines on machines without torch

        named = getattr(torch.get_device_module(device), "get_device_name", lambda device: f"{device.type} of {cpu}")
        name, driver = named(torch.device(device)), platform.release()  # of the system, which brings the driver
        if torch.version.cuda is not None:
            with opened_gpu() as gpu:
                driver = str(gpu.nvml.nvmlSystemGetDriverVersion()) if gpu else UNKNOWN
    own = {"device": name, "driver": driver, "cpu": cpu, "cores": str(cores()), "python": platform.python_version()}
    return own | {library: version_of(library) for library in LIBRARIES}


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_warning() -> str | None:
    """Return a one-line warning where other processes keep the cores busy, because they would slow every timing."""
    if other := locks.beside():
        return f"another measurement is running, by {other}: it will distort the times"
    busy = os.getloadavg()[0]
    if busy < cores() * 0.7:
        return None
    return f"the machine is busy (load {busy:.1f} on {cores()} cores): its other work will distort the times"


def fingerprint(path: Path, *patterns: str) -> str:
    """Return a digest of a file, or of matching files of a folder; "hub" if absent. Over 64 MiB only sizes count."""
    if not path.exists():
        return "hub"
    digest = hashlib.sha256()
    files = {file for pattern in patterns or ("**/*",) for file in path.glob(pattern) if file.is_file()}
    for file in sorted(files) if path.is_dir() else [path]:
        digest.update(file.relative_to(path).as_posix().encode())
        size = file.stat().st_size
        digest.update(str(size).encode() if size > _LARGE else file.read_bytes())
    return digest.hexdigest()[:12]


def version_of(*distributions: str) -> str:
    """Return the version of the first one that is installed."""
    for distribution in distributions:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(distribution)
    return UNKNOWN


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or UNKNOWN


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a GPU."""

    sm_mhz: int | None  # clock of the multiprocessors
    memory_mhz: int | None
    watts: float | None  # an average over about a second on recent GPUs
    celsius: int | None
    throttled: tuple[str, ...] | None  # reasons in words; empty where clocks are as requested
    foreign_processes: int | None  # only their number: in a container their ids may be of another namespace
    joules: float | None  # since the driver was loaded; some GPUs update it only every 20 to 100 ms

    @property
    def disturbed(self) -> bool:
        """Whether throttling or another process would distort a time taken now."""
        return bool(self.throttled) or bool(self.foreign_processes)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, as NVML sees it."""

    nvml: Any  # the module `pynvml`, or one that acts like it
    handle: Any
    own_processes: int  # 1 where this process computes on it, else 0

    def read(self) -> Reading:
        """Read the GPU's state; it takes about 1 ms, so never call it inside a timed region."""
        nvml, handle, own, ask = self.nvml, self.handle, self.own_processes, self._ask
        bits = ask(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        return Reading(
            sm_mhz=ask(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            memory_mhz=ask(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))),
            watts=ask(lambda: float(nvml.nvmlDeviceGetPowerUsage(handle) / 1e3)),
            celsius=ask(lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            throttled=None if bits is None else tuple(text for bit, text in THROTTLE_REASONS.items() if bits & bit),
            foreign_processes=ask(lambda: max(0, len(nvml.nvmlDeviceGetComputeRunningProcesses(handle)) - own)),
            joules=ask(lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)),
        )

    def _ask(self, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except self.nvml.NVMLError:
            return None


@contextmanager
def opened_gpu(uuid: str | None = None, own_processes: int = 0) -> Iterator[Gpu | None]:
    """Open NVML and yield the GPU with a UUID, or the first; None without the extra "gpu", a driver, or such a GPU."""
    with ExitStack() as stack:
        gpu = None
        with suppress(ImportError):
            nvml = importlib.import_module("pynvml")
            with suppress(nvml.NVMLError):
                nvml.nvmlInit()
                stack.callback(nvml.nvmlShutdown)
                named = uuid and f"GPU-{uuid.removeprefix('GPU-')}"
                handle = nvml.nvmlDeviceGetHandleByUUID(named) if named else nvml.nvmlDeviceGetHandleByIndex(0)
                gpu = Gpu(nvml, handle, own_processes)
        yield gpu
