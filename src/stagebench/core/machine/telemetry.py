"""Reads what NVML says of a GPU around a timing: clocks, power, temperature, throttling, other processes, energy.

Importable without torch and without NVML; what a GPU or driver does not say is None, never a made-up zero.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

# NVML's bits that mean clocks lower than asked for; an idle GPU or clocks that somebody locked are no throttling.
THROTTLE_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal slowdown by the driver",
    0x40: "thermal slowdown by the hardware",
    0x80: "power brake",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a GPU."""

    sm_mhz: int | None  # clock of the multiprocessors
    memory_mhz: int | None
    watts: float | None  # on recent GPUs an average over about a second
    celsius: int | None
    throttled: tuple[str, ...] | None  # reasons in words; empty where clocks are as asked for
    foreign_processes: int | None  # a number: in a container ids may be of another namespace
    joules: float | None  # since the driver was loaded; some GPUs renew it only every 20 to 100 ms

    @property
    def disturbed(self) -> bool:
        """Whether a time taken now would be of a slower GPU, or of somebody else's work too."""
        return bool(self.throttled) or bool(self.foreign_processes)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, as NVML sees it."""

    nvml: Any  # the module `pynvml`, or one that acts like it
    handle: Any
    own_processes: int  # 1 where this process computes on it, else 0

    def read(self) -> Reading:
        """Look now; takes about a millisecond, so never inside a timed region."""
        nvml, handle, ask = self.nvml, self.handle, self._ask
        bits = ask(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        return Reading(
            sm_mhz=ask(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            memory_mhz=ask(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))),
            watts=ask(lambda: float(nvml.nvmlDeviceGetPowerUsage(handle) / 1e3)),
            celsius=ask(lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            throttled=None if bits is None else tuple(text for bit, text in THROTTLE_REASONS.items() if bits & bit),
            foreign_processes=ask(
                lambda: max(0, len(nvml.nvmlDeviceGetComputeRunningProcesses(handle)) - self.own_processes)
            ),
            joules=ask(lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)),
        )

    def _ask(self, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except self.nvml.NVMLError:
            return None


@contextmanager
def opened(uuid: str | None = None, own_processes: int = 0) -> Iterator[Gpu | None]:
    """Open NVML and yield the GPU of a UUID, or the first; None without the extra "gpu", a driver, or such a GPU.

    An index would not do: CUDA's order is not NVML's.
    """
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
