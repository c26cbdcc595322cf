"""What a gate reads of stored runs: their benchmarks, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

StoredRun = Mapping[str, Any]
"""One process, as pytest-benchmark writes it with our keys."""

REFERENCE = "test_reference"
"""The benchmark that no change touches: it tells of the machine, and is never judged."""


def names_of(runs: Sequence[StoredRun]) -> dict[str, None]:
    """Benchmarks of any of the runs, in order."""
    return {benchmark["fullname"]: None for run in runs for benchmark in run["benchmarks"]}


def shared(base: Sequence[StoredRun], head: Sequence[StoredRun]) -> list[str]:
    """Benchmarks of all of the runs, in order."""
    each = [names_of([run]) for run in (*base, *head)]
    return [name for name in names_of(base) if all(name in names for names in each)]


def benchmark_of(run: StoredRun, name: str) -> Mapping[str, Any]:
    """A benchmark of a run that has it."""
    found: Mapping[str, Any] = next(b for b in run["benchmarks"] if b["fullname"] == name)
    return found


def info_of(run: StoredRun, name: str) -> Mapping[str, Any]:
    """What a benchmark noted of itself."""
    info: Mapping[str, Any] = benchmark_of(run, name).get("extra_info") or {}
    return info


def is_reference(name: str) -> bool:
    """Whether a benchmark is the workload that no change touches."""
    return name.split("::")[-1].startswith(REFERENCE)
