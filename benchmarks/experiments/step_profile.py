"""What the time of a decode step is made of, from when each kernel ran: the arithmetic of `profile_step.py`."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

FLOOR = "the weights read once, the floor"
MATRIX = "matrix kernels, above the floor"
ATTENTION = "attention kernels"
OTHER = "other kernels: norms, rotary embedding, activation, copies, cache, next token"
IDLE = "no kernel: launches, and waiting for one another"

NAMES = {
    ATTENTION: ("flash", "fmha", "_attend_kernel", "_combine_kernel"),
    MATRIX: ("gemm", "gemv", "splitk", "nvjet", "xmma", "cutlass", "_qkv_kernel", "_project_kernel", "_gate_up_kernel"),
}
"""By kind what a kernel's name has in it, in lower case; the first that fits, for attention is built on cutlass too."""

REDUCTIONS, LONG = ("triton_red_", "triton_per_"), 5.0
"""torch.compile makes reductions of norms and of products with one row alike; the latter take more than so many us."""


class Kernel(NamedTuple):
    """One run of a kernel, copies included: from when to when, in microseconds."""

    name: str
    start: float
    end: float


class Named(NamedTuple):
    """All runs of one kernel: how many, and the microseconds of `apart`."""

    name: str
    kind: str
    runs: int
    time: float


def apart(kernels: Iterable[Kernel]) -> list[tuple[Kernel, float]]:
    """Tell overlapping kernels apart: a moment is that of the kernel which started first, the others wait for it.

    Returns:
        The kernels as they started, each with its microseconds. They add up to the time in which any kernel ran.
    """
    until, found = float("-inf"), []
    for kernel in sorted(kernels, key=lambda kernel: kernel.start):
        found.append((kernel, max(0.0, kernel.end - max(kernel.start, until))))
        until = max(until, kernel.end)
    return found


def kind_of(name: str, mean: float) -> str:
    """What a kernel does, by its name and its mean duration in microseconds."""
    lower = name.lower()
    for kind, parts in NAMES.items():
        if any(part in lower for part in parts):
            return kind
    return MATRIX if lower.startswith(REDUCTIONS) and mean > LONG else OTHER


def by_name(kernels: Sequence[Kernel]) -> list[Named]:
    """All kernels, the one that takes longest first."""
    times: Counter[str] = Counter()
    durations: dict[str, list[float]] = defaultdict(list)
    for kernel, time in apart(kernels):
        times[kernel.name] += time
        durations[kernel.name].append(kernel.end - kernel.start)
    return [
        Named(name, kind_of(name, statistics.fmean(durations[name])), len(durations[name]), time)
        for name, time in times.most_common()
    ]


def parts_of(found: Iterable[Named], steps: int, step: float, floor: float) -> dict[str, float]:
    """Split the time of a step; the parts add up to it.

    Args:
        found: kernels of so many steps.
        steps: see above.
        step: microseconds that one takes while nobody looks. Below 0 is what no kernel fills if the profiler slowed
            them down.
        floor: microseconds in which the weights can be read.
    """
    parts = dict.fromkeys((FLOOR, MATRIX, ATTENTION, OTHER, IDLE), 0.0)
    for each in found:
        parts[each.kind] += each.time / steps
    parts[IDLE] = step - sum(parts.values())
    parts[MATRIX] -= floor
    parts[FLOOR] = floor
    return parts


def remaining(parts: Mapping[str, float]) -> list[str]:
    """A table of the parts, in Markdown, and the largest of those above the floor."""
    step, floor = sum(parts.values()), parts[FLOOR]
    above = {name: time for name, time in parts.items() if name != FLOOR}
    largest = max(above, key=above.__getitem__)
    return [
        f"A step takes {step / 1e3:.3f} ms, {step / floor:.2f} times the floor. "
        f"The largest part of the {(step - floor) / 1e3:.3f} ms above it: {largest} ({above[largest] / 1e3:.3f} ms).",
        "",
        "| part of the step | us | of the step | to the floor |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {name} | {time:.0f} | {time / step:.1%} | {time / floor:.3f} |" for name, time in parts.items()),
    ]


def overlap(kernels: Sequence[Kernel], steps: int) -> list[str]:
    """Say by how much kernels overlap, if they do: a paragraph after another one."""
    busy = sum(time for _, time in apart(kernels)) / steps
    own = sum(kernel.end - kernel.start for kernel in kernels) / steps
    if own <= busy * 1.001:
        return []
    return [
        "",
        f"Kernels overlap: their own times add up to {own / 1e3:.3f} ms, and any of them runs in {busy / 1e3:.3f} ms. "
        "A moment counts for the kernel that started first; the others wait for it.",
    ]
