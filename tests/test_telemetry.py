"""What is read from NVML, with a stand-in for its module; the GPU test at the end reads the real one."""

import json
import sys
import time
from contextlib import contextmanager
from unittest.mock import patch

import pytest

from stagebench.core.machine import environment
from stagebench.suite import gpu_monitored


class NVMLError(Exception):
    pass


class FakeNvml:
    """NVML's module with one GPU: what it answers is given, and what it isn't given it does not support."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, driver=True, uuid="GPU-1", **answers):
        self.driver, self.uuid, self.answers, self.open = driver, uuid, answers, 0

    def _answer(self, name):
        if name not in self.answers:
            raise NVMLError(f"{name} is not supported")
        answer = self.answers[name]
        return answer.pop(0) if isinstance(answer, list) else answer

    def nvmlInit(self):  # noqa: N802 # NVML's own names, here and below
        if not self.driver:
            raise NVMLError("no driver")
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return "GPU-1"

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid != self.uuid:
            raise NVMLError("no such GPU")
        return uuid

    def nvmlDeviceGetClockInfo(self, handle, clock):  # noqa: N802
        return self._answer({1: "sm", 2: "memory"}[clock])

    def nvmlDeviceGetTemperature(self, handle, sensor):  # noqa: N802
        return self._answer("celsius")

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        return self._answer("milliwatts")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        return self._answer("millijoules")

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):  # noqa: N802
        return self._answer("reasons")

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        return [object()] * self._answer("processes")


@contextmanager
def opened(nvml, *arguments, **named):
    """The GPU where NVML's module is this one; None where it is not installed."""
    with patch.dict(sys.modules, pynvml=nvml), environment.opened_gpu(*arguments, **named) as gpu:
        yield gpu


def reading(own_processes=1, **answers):
    with opened(FakeNvml(**answers), own_processes=own_processes) as gpu:
        return gpu.read()


def test_what_nvml_says_is_turned_into_plain_units():
    found = reading(sm=1980, memory=2619, milliwatts=350500, celsius=41, reasons=0, processes=1, millijoules=2500)
    assert found == environment.Reading(1980, 2619, 350.5, 41, (), 0, 2.5)


def test_what_nvml_does_not_say_is_none_and_disturbs_nothing():
    found = reading()
    assert found == environment.Reading(None, None, None, None, None, None, None)
    assert not found.disturbed


@pytest.mark.parametrize(("bits", "reasons"), [(0x1, ()), (0x2, ()), (0x4, ("power cap",)), (0x101, ())])
def test_an_idle_gpu_and_locked_clocks_are_no_throttling(bits, reasons):
    assert reading(reasons=bits).throttled == reasons


def test_several_reasons_are_all_named():
    assert reading(reasons=0x4 | 0x40).throttled == ("power cap", "thermal slowdown by the hardware")


def test_the_bits_are_those_of_nvml():
    pynvml = pytest.importorskip("pynvml", reason="needs the extra gpu")
    names = ("SwPowerCap", "HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
    assert list(environment.THROTTLE_REASONS) == [getattr(pynvml, f"nvmlClocksEventReason{name}") for name in names]


@pytest.mark.parametrize(("processes", "own", "foreign"), [(0, 0, 0), (1, 0, 1), (1, 1, 0), (3, 1, 2), (0, 1, 0)])
def test_this_process_is_not_foreign(processes, own, foreign):
    found = reading(own_processes=own, processes=processes)
    assert (found.foreign_processes, found.disturbed) == (foreign, foreign > 0)


@pytest.mark.parametrize("nvml", [None, FakeNvml(driver=False)])
def test_without_nvml_or_its_driver_there_is_no_gpu(nvml):
    with opened(nvml) as gpu:
        assert gpu is None


@pytest.mark.parametrize(("uuid", "found"), [("1", True), ("GPU-1", True), ("2", False)])
def test_a_gpu_is_found_by_its_uuid_and_nvml_is_closed_again(uuid, found):
    nvml = FakeNvml()
    with opened(nvml, uuid) as gpu:
        assert (gpu is not None, nvml.open) == (found, 1)
    assert nvml.open == 0


def rounds_of(**answers):
    nvml = FakeNvml(**answers)
    with opened(nvml) as gpu:
        return gpu_monitored.summary([gpu.read() for _ in range(4)])


def test_energy_is_that_of_the_rounds_without_what_lies_between_them():
    assert rounds_of(millijoules=[0, 2000, 9000, 12000])["joules"] == 5.0


def test_energy_is_absent_where_the_gpu_does_not_count_it():
    assert "joules" not in rounds_of(sm=1980)


def test_disturbed_rounds_are_named():
    assert rounds_of(reasons=[0, 0, 0, 0x4])["disturbed_rounds"] == [1]


def test_clocks_before_the_first_and_after_the_last_round_are_kept():
    kept = rounds_of(sm=[1, 2, 3, 4])
    assert (kept["before"]["sm_mhz"], kept["after"]["sm_mhz"]) == (1, 4)


@pytest.fixture
def timing(benchmark):
    """A benchmark that times, in a worker of xdist's too: what is checked of it are no times."""
    benchmark.disabled = False
    return benchmark


@pytest.mark.parametrize(
    ("reasons", "calls", "repeated", "disturbed"),
    [
        ([0] * 10, 5, False, []),
        ([0x4] * 4 + [0] * 6, 5, False, []),  # the two warm-up rounds are not timed
        ([0] * 6 + [0x4] * 4 + [0] * 10, 10, True, []),
        ([0] * 6 + [0x4] * 4 + [0] * 9 + [0x4], 10, True, [2]),
    ],
)
def test_a_disturbed_benchmark_is_repeated_once_and_counted_once(
    timing, pytestconfig, reasons, calls, repeated, disturbed
):
    collected = pytestconfig._benchmarksession.benchmarks
    before, called, prepared = len(collected), [], []
    nvml = FakeNvml(reasons=reasons)
    with opened(nvml) as gpu:
        result = gpu_monitored.pedantic(
            timing, collected, gpu, lambda: called.append(1) or 7, setup=lambda: prepared.append(1), rounds=3
        )
    kept = timing.extra_info["gpu"]
    assert (result, len(called), len(prepared)) == (7, calls, calls)
    assert (kept["repeated"], kept["disturbed_rounds"]) == (repeated, disturbed)
    assert (len(collected), timing.stats.stats.rounds) == (before + 1, 3)


def test_without_a_gpu_a_benchmark_is_what_it_was(timing, pytestconfig):
    collected = pytestconfig._benchmarksession.benchmarks
    assert gpu_monitored.pedantic(timing, collected, None, lambda: 7, rounds=2) == 7
    assert (timing.stats.stats.rounds, timing.extra_info) == (2, {})


@pytest.mark.gpu
def test_a_busy_gpu_is_seen_to_be_busy(gpu):
    torch = pytest.importorskip("torch")
    matrix = torch.ones(8192, 8192, dtype=torch.bfloat16, device=gpu)
    with environment.opened_gpu(str(torch.cuda.get_device_properties(gpu).uuid), own_processes=1) as found:
        assert found, "the GPU machine must have the extra gpu"
        before = found.read()
        until = time.monotonic() + 2
        while time.monotonic() < until:
            matrix @ matrix
            torch.cuda.synchronize()
        after = found.read()
    assert after.sm_mhz > 0
    assert after.watts > 0
    assert after.foreign_processes == 0
    assert after.joules - before.joules > 2 * 50  # two seconds of multiplying take more than 50 W


@pytest.mark.gpu
def test_the_suite_keeps_clocks_power_and_energy_of_a_decode(suite_command, tmp_path):
    out = tmp_path / "out.json"
    on_gpu = ("--stage-device=cuda", "--stage-profile=tiny", "--stage-dtype=float32", "--stage-new-tokens=32")
    done = suite_command("-k", "test_stage and llava-1.5-decode", *on_gpu, f"--benchmark-json={out}")
    assert done.returncode == 0, done.stdout + done.stderr
    [benchmark] = json.loads(out.read_text())["benchmarks"]
    info = benchmark["extra_info"]
    assert info["gpu"]["before"]["sm_mhz"] > 0
    assert info["gpu"]["after"]["watts"] > 0
    assert info["gpu"]["joules_per_token"] >= 0  # a tiny decode may end before the counter is renewed
    assert 0 < info["device_median"] <= benchmark["stats"]["max"]
    assert info["work"]["peak_bytes"] > 0
