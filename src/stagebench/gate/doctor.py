"""Says whether this machine is fit to time on: what the system says, and the same work in fresh processes.

Importable without torch. Whatever a machine does not say is "unknown", and no reason to call it unfit.
"""

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

from stagebench.core.machine import environment
from stagebench.core.machine.environment import Reading

ROUNDS = 20
PAIRS = 10  # of processes, for which `visible` holds
MOST_SPREAD = 0.03  # between processes; with more, ten pairs of processes can't show 5 %
MOST_STEAL = 0.01  # the share of time that the host may give to others
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
    """One answer: what was looked at, its state, and what was read. A "warning" is of times that can't be trusted."""

    name: str
    state: Literal["ok", "warning", "unknown"]
    detail: str


def _found(name: str, wrong: bool | None, detail: str) -> Finding:
    """Return a finding; with None the system does not say whether something is wrong."""
    if wrong is None:
        return Finding(name, "unknown", "the system does not say")
    return Finding(name, "warning" if wrong else "ok", detail)


def governor(root: Path = Path("/")) -> Finding:
    """Say which policy sets the clocks of the CPU."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    found = sorted({_read(file) or "" for file in files} - {""})
    return _found("CPU governor", found != ["performance"] if found else None, ", ".join(found))


def load() -> Finding:
    """Say whether other processes keep the cores busy."""
    busy = environment.load_warning()
    return _found("load", busy is not None, busy or f"{os.getloadavg()[0]:.1f} in the last minute")


def ticks(root: Path = Path("/")) -> tuple[int, int] | None:
    """Read this machine's time until now in clock ticks, what its host gave to others and all; None if it won't say."""
    found = [int(n) for n in (_read(root / "proc/stat") or "").partition("\n")[0].split()[1:9]]
    return (found[7], sum(found)) if len(found) == 8 else None


def steal(before: tuple[int, int] | None, after: tuple[int, int] | None) -> Finding:
    """Say which share of the time between two readings of `ticks` the host gave to others."""
    if not (before and after and after[1] > before[1]):
        return _found("steal", None, "")
    share = (after[0] - before[0]) / (after[1] - before[1])
    return _found("steal", share > MOST_STEAL, f"{share:.1%} of time went to other guests")


def gpu(reading: Reading | None) -> list[Finding]:
    """Say how a GPU is, by NVML; None without a GPU or NVML."""
    if reading is None:
        return [Finding("GPU", "unknown", "none, or no NVML (the extra gpu)")]
    throttled, foreign = reading.throttled, reading.foreign_processes
    texts = ("SM {:g} MHz", "memory {:g} MHz", "power {:g} W", "temperature {:g} C")
    values = zip(texts, (reading.sm_mhz, reading.memory_mhz, reading.watts, reading.celsius), strict=True)
    return [
        Finding("GPU", "ok", ", ".join(text.format(value) for text, value in values if value is not None)),
        _found("GPU throttling", None if throttled is None else bool(throttled), ", ".join(throttled or ()) or "none"),
        _found("GPU processes", None if foreign is None else foreign > 0, f"{foreign} others"),
    ]


def measure(processes: int) -> list[list[float]]:
    """Run the same work in fresh processes, one after the other; return the seconds of each round, by process."""
    command = [sys.executable, "-I", "-c", WORKLOAD]
    return [json.loads(subprocess.check_output(command)) for _ in range(processes)]  # noqa: S603 # our own text


def spread(seconds: Sequence[Sequence[float]]) -> Finding:
    """Say how far processes differ, two or more of the same work, and what slowdown could be seen beside that."""
    medians = np.log([statistics.median(rounds) for rounds in seconds])
    between = float(np.std(medians, ddof=1))
    within = float(np.median([np.std(np.log(rounds), ddof=1) for rounds in seconds]))
    detail = (
        f"{len(seconds)} processes of the same work differ by {between:.1%} (standard deviation of their medians; "
        f"rounds within one by {within:.1%}): {PAIRS} pairs of processes would show a slowdown of "
        f"{visible(between):.1%} or more, 9 times in 10"
    )
    return _found("quick A/A run", between > MOST_SPREAD, detail)


def visible(between: float) -> float:
    """Return the smallest slowdown that a one-sided test at 1 % sees in 9 of 10 cases, in the normal approximation.

    (z(0.99) + z(0.9)) * sqrt(2 / pairs) standard deviations between processes. A gate of a whole suite, which guards
    against false alarms in any of its benchmarks, needs more.
    """
    normal = statistics.NormalDist()
    return float((normal.inv_cdf(0.99) + normal.inv_cdf(0.9)) * np.sqrt(2 / PAIRS) * between)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
