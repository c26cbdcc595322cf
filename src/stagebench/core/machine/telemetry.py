"""Reads what NVML says of a GPU around a timing: clocks, power, temperature, throttling, other processes, energy.

Importable without torch and without NVML; what a GPU or driver does not say is None, never a made-up zero.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

THROTTLE_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal slowdown by the driver",
    0x40: "thermal slowdown by the hardware",
    0x80: "power brake",
}
"""NVML's bits that mean clocks lower than asked for; an idle GPU or clocks that somebody locked are no throttling."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a GPU.

    Attributes:
        sm_mhz: clock of the multiprocessors.
        memory_mhz: clock of the memory.
        watts: power; on recent GPUs an average over about a second.
        celsius: temperature.
        throttled: reasons in words; empty where clocks are as asked for.
        foreign_processes: how many processes beside this one compute on the GPU. Counted, because in a container NVML
            may give ids of another namespace.
        joules: energy since the driver was loaded; some GPUs renew it only every 20 to 100 ms.
    """

    sm_mhz: int | None
    memory_mhz: int | None
    watts: float | None
    celsius: int | None
    throttled: tuple[str, ...] | None
    foreign_processes: int | None
    joules: float | None

    @property
    def disturbed(self) -> bool:
        """Whether a time taken now would be of a slower GPU, or of somebody else's work too."""
        return bool(self.throttled) or bool(self.foreign_processes)


class Gpu:
    """One GPU, as NVML sees it."""

    def __init__(self, nvml: Any, handle: Any, own_processes: int) -> None:
        """Look at a GPU.

        Args:
            nvml: the module `pynvml`, or one that acts like it.
            handle: NVML's, of the device.
            own_processes: 1 where this process computes on it, else 0.
        """
        self._nvml, self._handle, self._own = nvml, handle, own_processes

    def read(self) -> Reading:
        """Look now; takes about a millisecond, so never inside a timed region."""
        nvml, handle = self._nvml, self._handle
        milliwatts = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        millijoules = self._ask(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        bits = self._ask(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        processes = self._ask(lambda: len(nvml.nvmlDeviceGetComputeRunningProcesses(handle)))
        return Reading(
            sm_mhz=self._ask(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            memory_mhz=self._ask(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))),
            watts=None if milliwatts is None else milliwatts / 1e3,
            celsius=self._ask(lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            throttled=None if bits is None else tuple(text for bit, text in THROTTLE_REASONS.items() if bits & bit),
            foreign_processes=None if processes is None else max(0, processes - self._own),
            joules=None if millijoules is None else millijoules / 1e3,
        )

    def _ask(self, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except self._nvml.NVMLError:
            return None


def load_nvml() -> ModuleType | None:
    """Return NVML's Python module, of the extra "gpu"; None where it is not installed."""
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml  # type: ignore[no-any-return] # without stubs it is Any


@contextmanager
def opened(nvml: Any, uuid: str | None = None, own_processes: int = 0) -> Iterator[Gpu | None]:
    """Open NVML and find a GPU.

    Args:
        nvml: the module, or None.
        uuid: of the GPU, with or without "GPU-" before it; None for the first. An index would not do: CUDA's order is
            not NVML's.
        own_processes: 1 where this process computes on the GPU, else 0.

    Yields:
        The GPU; None where there is no NVML, no driver, or no such GPU.
    """
    with ExitStack() as stack:
        gpu = None
        if nvml is not None:
            with suppress(nvml.NVMLError):
                nvml.nvmlInit()
                stack.callback(nvml.nvmlShutdown)
                if uuid is None:
                    handle = nvml.nvmlDeviceGetHandleByIndex(0)
                else:
                    handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
                gpu = Gpu(nvml, handle, own_processes)
        yield gpu
