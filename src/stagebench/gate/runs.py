"""What a gate reads of stored runs: their benchmarks, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stagebench.core.errors import GateError

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


def require_distinct(base: Sequence[tuple[str, StoredRun]], head: Sequence[tuple[str, StoredRun]]) -> None:
    """Refuse a process that is there twice.

    On one side it is known by its times, which two processes never have all the same: a copy may have another name,
    layout, date, or fewer benchmarks. On the other side it is one that also did the same work.

    Args:
        base: processes, each with its name.
        head: likewise.

    Raises:
        GateError: naming two that are one.
    """
    seen: dict[tuple[str, float], list[tuple[int, str, StoredRun]]] = {}
    for side, (name, process) in [*((0, each) for each in base), *((1, each) for each in head)]:
        for benchmark in process["benchmarks"]:
            alike = seen.setdefault((benchmark["fullname"], benchmark["stats"]["median"]), [])
            for other_side, other_name, other in alike:
                if _same_times(process, other) and (side == other_side or _same_work(process, other)):
                    same = f"{name} twice" if name == other_name else f"the same times in {other_name} and {name}"
                    raise GateError(f"a process counts once, got {same}")
            alike.append((side, name, process))


def _same_times(one: StoredRun, other: StoredRun) -> bool:
    """Whether all that both timed took the same, to the last digit."""
    mine, others = ({b["fullname"]: b["stats"] for b in run["benchmarks"]} for run in (one, other))
    return all(_are_same(mine[name], others[name]) for name in mine.keys() & others.keys())


def _are_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    rounds = [sorted(stats["data"]) for stats in (one, other) if stats.get("data")]
    return one["median"] == other["median"] and (len(rounds) < 2 or rounds[0] == rounds[1])


def _same_work(one: StoredRun, other: StoredRun) -> bool:
    """Whether all that both noted is the same."""
    mine, others = ({b["fullname"]: b.get("extra_info") for b in run["benchmarks"]} for run in (one, other))
    return all(mine[name] == others[name] for name in mine.keys() & others.keys())
