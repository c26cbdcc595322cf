"""Is this machine fit to time on? What the system tells, and a quick run of the same work in fresh processes.

Importable without torch. Whatever a machine does not tell is "unknown", and no reason to call it unfit.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from stagebench.core import environment
from stagebench.core.telemetry import Reading

State = Literal["ok", "warning", "unknown"]

ROUNDS = 20
PAIRS = 10
"""Of processes, for which `visible` is told."""

MOST_SPREAD = 0.03
"""Between processes; with more, ten pairs of processes can't show 5 %."""

MOST_STEAL = 0.01
"""The share of time that the host may give to others."""

WORKLOAD = f"""
import hashlib, json, time
data, seconds = bytes(2**20), []
for _ in range({ROUNDS} + 2):
    start = time.perf_counter()
    hashlib.sha256(data).digest()
    sum(i * i for i in range(50_000))
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds[2:]))
"""
"""A few ms of hashing and of interpreting a round, two rounds of warm-up: fixed work that needs no library."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer.

    Attributes:
        name: of what was looked at.
        state: "warning" where times taken now could not be trusted.
        detail: what was read.
    """

    name: str
    state: State
    detail: str


@dataclass(frozen=True, slots=True)
class Pressure:
    """Counts since the machine or container started; their growth over a run is what disturbed it. None: not told.

    Attributes:
        steal: the share of this machine's time that its host gave to others, as (stolen, all) in clock ticks.
        throttled: periods in which a quota stopped this container.
        swapped: pages moved to or from swap.
    """

    steal: tuple[int, int] | None
    throttled: int | None
    swapped: int | None


def governor(root: Path = Path("/")) -> Finding:
    """Which policy sets the clocks of the CPU."""
    files = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    found = sorted({text for file in files if (text := _read(file))})
    if not found:
        return Finding("CPU governor", "unknown", "the system does not tell")
    return Finding("CPU governor", "ok" if found == ["performance"] else "warning", ", ".join(found))


def turbo(root: Path = Path("/")) -> Finding:
    """Whether the CPU's clock depends on heat and on what the other cores do; how much, the quick run shows."""
    intel, others = (
        _read(root / "sys/devices/system/cpu" / name) for name in ("intel_pstate/no_turbo", "cpufreq/boost")
    )
    if intel is None and others is None:
        return Finding("turbo", "unknown", "the system does not tell")
    on = intel == "0" if intel is not None else others == "1"
    return Finding("turbo", "ok", "on: the clock depends on heat and on the other cores" if on else "off")


def load() -> Finding:
    """Whether other processes keep the cores busy."""
    warning = environment.load_warning()
    return Finding("load", "warning" if warning else "ok", warning or f"{os.getloadavg()[0]:.1f} in the last minute")


def cores(usable: int, present: int, limit: float | None) -> Finding:
    """How many cores this process may use.

    Args:
        usable: of its affinity.
        present: of the machine.
        limit: cores' worth of time that the container may use, see `quota`; None for no limit.
    """
    detail = f"{usable} of {present}"
    if limit is None:
        return Finding("cores", "ok", detail)
    stops = limit < usable
    detail += f", with time for {limit:g} of them" + (": more threads than that are stopped in each period" * stops)
    return Finding("cores", "warning" if stops else "ok", detail)


def quota(root: Path = Path("/")) -> float | None:
    """The container's limit in cores' worth of time; None where there is none, or none is told."""
    if limit := _read(_cgroup(root) / "cpu.max"):  # version 2: "max 100000" or "150000 100000"
        granted, period = limit.split()
        return None if granted == "max" else int(granted) / int(period)
    old = root / "sys/fs/cgroup/cpu"
    granted_old, period_old = _read(old / "cpu.cfs_quota_us"), _read(old / "cpu.cfs_period_us")
    if granted_old is None or period_old is None or int(granted_old) < 0:
        return None
    return int(granted_old) / int(period_old)


def pressure(root: Path = Path("/")) -> Pressure:
    """Read the counts of now."""
    ticks = [int(n) for n in (_read(root / "proc/stat") or "").partition("\n")[0].split()[1:9]]
    paging = _pairs(root / "proc/vmstat")
    throttled = _pairs(_cgroup(root) / "cpu.stat") or _pairs(root / "sys/fs/cgroup/cpu/cpu.stat")
    return Pressure(
        steal=(ticks[7], sum(ticks)) if len(ticks) == 8 else None,
        throttled=throttled.get("nr_throttled"),
        swapped=paging["pswpin"] + paging["pswpout"] if {"pswpin", "pswpout"} <= paging.keys() else None,
    )


def disturbances(before: Pressure, after: Pressure) -> list[Finding]:
    """What happened to this machine between two readings."""
    unknown = "the system does not tell"
    share = None
    if before.steal and after.steal and after.steal[1] > before.steal[1]:
        share = (after.steal[0] - before.steal[0]) / (after.steal[1] - before.steal[1])
    return [
        Finding("steal", "unknown", unknown)
        if share is None
        else Finding(
            "steal", "warning" if share > MOST_STEAL else "ok", f"{share:.1%} of the time went to other guests"
        ),
        _growth("CPU quota", before.throttled, after.throttled, "periods in which the container was stopped"),
        _growth("swapping", before.swapped, after.swapped, "pages moved to or from swap"),
    ]


def _growth(name: str, before: int | None, after: int | None, what: str) -> Finding:
    if before is None or after is None:
        return Finding(name, "unknown", "the system does not tell")
    return Finding(name, "warning" if after > before else "ok", f"{after - before} {what}")


def gpu(reading: Reading | None) -> list[Finding]:
    """What NVML says of the GPU; None where there is no GPU or no NVML."""
    if reading is None:
        return [Finding("GPU", "unknown", "none, or no NVML (the extra gpu)")]
    throttled, foreign = reading.throttled, reading.foreign_processes
    return [
        Finding("GPU", "ok", _clocks(reading)),
        Finding("GPU throttling", "unknown", "the GPU does not tell")
        if throttled is None
        else Finding("GPU throttling", "warning" if throttled else "ok", ", ".join(throttled) or "none"),
        Finding("GPU processes", "unknown", "the GPU does not tell")
        if foreign is None
        else Finding("GPU processes", "warning" if foreign else "ok", f"{foreign} others"),
    ]


def _clocks(reading: Reading) -> str:
    values = [
        ("SM", reading.sm_mhz, "MHz"),
        ("memory", reading.memory_mhz, "MHz"),
        ("power", reading.watts, "W"),
        ("temperature", reading.celsius, "C"),
    ]
    return ", ".join(f"{name} {value:g} {unit}" for name, value, unit in values if value is not None)


def measure(processes: int) -> list[list[float]]:
    """Run the same work in fresh processes, one after the other.

    Returns:
        Seconds of each round, by process.
    """
    command = [sys.executable, "-I", "-c", WORKLOAD]
    return [
        json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)  # noqa: S603 # our own text
        for _ in range(processes)
    ]


def spread(seconds: Sequence[Sequence[float]]) -> Finding:
    """Say how far processes that do the same differ, and what slowdown could be seen beside that.

    Args:
        seconds: of each round, by process; two processes or more.
    """
    medians = np.log([statistics.median(rounds) for rounds in seconds])
    between = float(np.std(medians, ddof=1))
    within = float(np.median([np.std(np.log(rounds), ddof=1) for rounds in seconds]))
    detail = (
        f"{len(seconds)} processes of the same work differ by {between:.1%} (standard deviation of their medians; "
        f"rounds within one by {within:.1%}): {PAIRS} pairs of processes would show a slowdown of "
        f"{visible(between):.1%} or more, 9 times in 10"
    )
    return Finding("quick A/A run", "warning" if between > MOST_SPREAD else "ok", detail)


def visible(between: float, pairs: int = PAIRS) -> float:
    """The smallest slowdown that a one-sided test at 1 % sees in 9 of 10 cases, in the normal approximation.

    (z(0.99) + z(0.9)) * sqrt(2 / pairs) standard deviations between processes. A gate of a whole suite, which guards
    against false alarms in any of its benchmarks, needs more.
    """
    normal = statistics.NormalDist()
    return float((normal.inv_cdf(0.99) + normal.inv_cdf(0.9)) * np.sqrt(2 / pairs) * between)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _pairs(path: Path) -> dict[str, int]:
    """A file of lines with a name and a whole number; empty where there is no such file."""
    lines = [line.split() for line in (_read(path) or "").splitlines()]
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}


def _cgroup(root: Path) -> Path:
    """The folder of this process's control group, version 2; the top one where its own is not visible."""
    top = root / "sys/fs/cgroup"
    lines = (_read(root / "proc/self/cgroup") or "").splitlines()
    own = next((top / line[3:].lstrip("/") for line in lines if line.startswith("0::")), top)
    return own if own.is_dir() else top
