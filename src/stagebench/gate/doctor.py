"""Check whether this machine is fit for timing; what it does not report is "unknown". Importable without torch."""

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
PAIRS = 10  # pairs of processes, for `visible`
MOST_SPREAD = 0.03  # between processes; above it, ten pairs of processes can't show 5 %
MOST_STEAL = 0.01  # share of time that the host may give to others
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
"""Fixed work without libraries: a few ms of hashing and interpreting per round, after two warm-up rounds."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its name, state, and detail. A "warning" means that times can't be trusted."""

    name: str
    state: Literal["ok", "warning", "unknown"]
    detail: str


def _found(name: str, wrong: bool | None, detail: str) -> Finding:
    """Return a finding; "unknown" where `wrong` is None."""
    if wrong is None:
        return Finding(name, "unknown", "the system does not report it")
    return Finding(name, "warning" if wrong else "ok", detail)


def governor(root: Path = Path("/")) -> Finding:
    """Check the CPU's frequency governor."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    found = sorted({_read(file) or "" for file in files} - {""})
    return _found("CPU governor", found != ["performance"] if found else None, ", ".join(found))


def load() -> Finding:
    """Check whether other processes keep the cores busy."""
    busy = environment.load_warning()
    return _found("load", busy is not None, busy or f"{os.getloadavg()[0]:.1f} in the last minute")


def ticks(root: Path = Path("/")) -> tuple[int, int] | None:
    """Return this machine's stolen and total time so far, in clock ticks; None where it is not reported."""
    found = [int(n) for n in (_read(root / "proc/stat") or "").partition("\n")[0].split()[1:9]]
    return (found[7], sum(found)) if len(found) == 8 else None


def steal(before: tuple[int, int] | None, after: tuple[int, int] | None) -> Finding:
    """Check the share of time between two readings of `ticks` that the host gave to other guests."""
    if not (before and after and after[1] > before[1]):
        return _found("steal", None, "")
    share = (after[0] - before[0]) / (after[1] - before[1])
    return _found("steal", share > MOST_STEAL, f"{share:.1%} of time went to other guests")


def gpu(reading: Reading | None) -> list[Finding]:
    """Check a GPU's state from NVML; None without a GPU or NVML."""
    if reading is None:
        return [Finding("GPU", "unknown", "no GPU, or no NVML (the extra gpu)")]
    throttled, foreign = reading.throttled, reading.foreign_processes
    texts = ("SM {:g} MHz", "memory {:g} MHz", "power {:g} W", "temperature {:g} C")
    values = zip(texts, (reading.sm_mhz, reading.memory_mhz, reading.watts, reading.celsius), strict=True)
    return [
        Finding("GPU", "ok", ", ".join(text.format(value) for text, value in values if value is not None)),
        _found("GPU throttling", None if throttled is None else bool(throttled), ", ".join(throttled or ()) or "none"),
        _found("GPU processes", None if foreign is None else foreign > 0, f"{foreign} others"),
    ]


def measure(processes: int) -> list[list[float]]:
    """Run the same work in fresh processes, one after the other; return the seconds of each round by process."""
    command = [sys.executable, "-I", "-c", WORKLOAD]
    return [json.loads(subprocess.check_output(command)) for _ in range(processes)]  # noqa: S603 # our own text


def spread(seconds: Sequence[Sequence[float]]) -> Finding:
    """Check how much two or more processes of the same work differ, and what slowdown they could show."""
    medians = np.log([statistics.median(rounds) for rounds in seconds])
    between = float(np.std(medians, ddof=1))
    within = float(np.median([np.std(np.log(rounds), ddof=1) for rounds in seconds]))
    detail = (
        f"{len(seconds)} processes of the same work differ by {between:.1%} (standard deviation of their medians; "
        f"rounds within one by {within:.1%}): {PAIRS} pairs of processes would show a slowdown of "
        f"{visible(between):.1%} or more in 9 of 10 cases"
    )
    return _found("quick A/A run", between > MOST_SPREAD, detail)


def visible(between: float) -> float:
    """Return the smallest slowdown that a one-sided test at 1 % shows in 9 of 10 cases, in the normal approximation.

    It is (z(0.99) + z(0.9)) * sqrt(2 / pairs) standard deviations between processes. The gate of a whole suite, which
    limits false alarms over all its benchmarks, needs a larger one.
    """
    normal = statistics.NormalDist()
    return float((normal.inv_cdf(0.99) + normal.inv_cdf(0.9)) * np.sqrt(2 / PAIRS) * between)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
