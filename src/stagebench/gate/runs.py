"""Refuse results that a gate can't hold against each other: unsound, of two environments, or of one process twice."""

from collections.abc import Collection, Sequence
from itertools import combinations
from pathlib import Path

from stagebench.core.errors import GateError, ResultsError
from stagebench.core.machine.environment import differences
from stagebench.core.results import Results, Stats, by_name, read_results, require_sound


def shared(base: Sequence[Results], head: Sequence[Results]) -> list[str]:
    """List the benchmarks of all of the results, in order."""
    each = [by_name(results) for results in (*base, *head)]
    return [name for name in each[0] if all(name in names for names in each)]


def require_comparable(base: Sequence[Results], head: Sequence[Results], changed: Collection[str] = ()) -> None:
    """Refuse what can't be decided on; of the environment, the `changed` keys may differ.

    Raises:
        GateError: where a side has no results, or some were made in another environment.
        ResultsError: where something failed, or is empty.
    """
    for side, runs in (("base", base), ("head", head)):
        if not runs:
            raise GateError(f"the {side} must have a run, got none")
        for i, results in enumerate(runs, 1):
            require_sound(results, f"run {i} of the {side}")
            mine, first = ({k: v for k, v in r["machine_info"].items() if k not in changed} for r in (results, base[0]))
            if differing := differences(mine, first):
                raise GateError(f"run {i} of the {side} is not comparable with the base: {'; '.join(differing)}")


def processes_of(results: Results) -> list[Results]:
    """Take a recording apart into its processes, each with its own medians; any other run is one process already.

    Raises:
        ResultsError: where not every benchmark has a time for each process.
    """
    counts = {benchmark.get("extra_info", {}).get("processes") for benchmark in results["benchmarks"]}
    if counts <= {None}:
        return [results]
    times = {b["fullname"]: b["stats"].get("data") or [] for b in results["benchmarks"]}
    n, *others = {len(medians) for medians in times.values()}
    if others or counts != {n}:
        raise ResultsError(
            f"a recorded benchmark must have a time of each process, got {sorted([n, *others])} times "
            f"of {', '.join(map(str, counts))} processes"
        )
    return [
        results | {"benchmarks": [b | {"stats": {"median": times[b["fullname"]][i]}} for b in results["benchmarks"]]}
        for i in range(n)
    ]


def read_sides(base: Sequence[Path], head: Sequence[Path]) -> tuple[list[Results], list[Results]]:
    """Read the processes of both sides: files, and folders of files that are paired by name in order.

    Raises:
        GateError: where they can't be compared, or a process counts twice.
        StagebenchError: for a file that can't be read, or holds no sound results.
    """
    named = [
        [
            (f"process {i} of {file}" if len(processes) > 1 else str(file), process)
            for path in side
            for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])
            for processes in [processes_of(read_results(file))]
            for i, process in enumerate(processes, 1)
        ]
        for side in (base, head)
    ]
    before, after = ([process for _, process in side] for side in named)
    require_comparable(before, after)
    require_distinct(*named)
    return before, after


def require_distinct(base: Sequence[tuple[str, Results]], head: Sequence[tuple[str, Results]]) -> None:
    """Refuse a process that is there twice.

    On one side it is known by its times, which two processes never have all the same: a copy may have another name,
    layout, date, or fewer benchmarks. On the other side it is one that also did the same work.

    Args:
        base: processes, each with its name.
        head: those of the other side.

    Raises:
        GateError: naming two that are one.
    """
    every = [(side, *named) for side, processes in enumerate((base, head)) for named in processes]
    for (side, name, process), (other_side, other_name, other) in combinations(every, 2):
        if _are_one(process, other, with_work=side != other_side):
            same = f"{name} twice" if name == other_name else f"the same times in {name} and {other_name}"
            raise GateError(f"a process counts once, got {same}")


def _are_one(one: Results, other: Results, with_work: bool) -> bool:
    """Return whether all that both timed took the same, to the last digit, and with work noted the same."""
    mine, others = by_name(one), by_name(other)
    pairs = [(mine[name], others[name]) for name in mine if name in others]
    return len(pairs) > 0 and all(
        _same_times(a["stats"], b["stats"]) and (not with_work or a.get("extra_info") == b.get("extra_info"))
        for a, b in pairs
    )


def _same_times(one: Stats, other: Stats) -> bool:
    rounds = [sorted(data) for stats in (one, other) if (data := stats.get("data"))]
    return one["median"] == other["median"] and (len(rounds) < 2 or rounds[0] == rounds[1])
