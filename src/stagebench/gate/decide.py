"""Decide whether it got slower, from results alone, on any machine, without torch.

Counters are exact: one more forward is a regression, whatever the clock says. Times are statistics over pairs of fresh
processes. Time alone can't be trusted below `statistics.least_pairs`, and then the verdict says so. Refused are results
that can't be held against each other: unsound, of two environments, or of one process twice.
"""

from collections.abc import Collection, Sequence
from itertools import combinations
from pathlib import Path

from stagebench.core.errors import GateError, ResultsError
from stagebench.core.machine.environment import differences
from stagebench.core.results import Results, by_name, read_results, require_sound, shared, short_name
from stagebench.gate.counters import judge_counters
from stagebench.gate.limits import Rules, differing, limit_keys
from stagebench.gate.times import judge_times
from stagebench.gate.verdicts import Verdict


def judge(
    base: Sequence[Results], head: Sequence[Results], rules: Rules, allowed: Collection[str] = ()
) -> list[Verdict]:
    """Judge a change by everything that its results hold; see `judge_benchmarks` and `require_comparable`."""
    require_comparable(base, head)
    return judge_benchmarks(base, head, rules, allowed)


def compare(base: Path, head: Path, rules: Rules | None = None) -> list[Verdict]:
    """Judge stored results, see `read_sides`; without rules of a project by the default ones."""
    return judge_benchmarks(*read_sides([base], [head]), rules or Rules())


def judge_benchmarks(
    base: Sequence[Results], head: Sequence[Results], rules: Rules, allowed: Collection[str] = ()
) -> list[Verdict]:
    """Judge comparable results, of which base[i] was measured right beside head[i].

    Of the `allowed` stages the content, or the number of what they work on, may be another one.
    """
    counters = judge_counters(base, head, rules, allowed)
    return [*judge_presence(base, head), *counters, *judge_times(base, head, rules, counters)]


def judge_presence(base: Sequence[Results], head: Sequence[Results]) -> list[Verdict]:
    """Name the benchmarks that are not in all results of both sides. One that only the head has is new, and passes."""
    before, after = ({name: None for results in side for name in by_name(results)} for side in (base, head))
    everywhere, verdicts = set(shared(*base, *head)), []
    for name in before | after:
        if name not in before:
            verdicts.append(Verdict(name, "time", "pass", "new: the base has no such benchmark", 0))
        elif name not in everywhere:
            where = "the base only" if name not in after else "some of the runs only"
            verdicts.append(Verdict(name, "time", "missing", f"in {where}", 0))
    return verdicts


def differing_markers(base: Sequence[Results], head: Sequence[Results]) -> list[str]:
    """Say where a benchmark's own limits are not those of the base, a line each two that differ alike."""
    found: dict[str, list[str]] = {}
    before, after = by_name(base[0]), by_name(head[0])
    for name in shared(base[0], head[0]):
        old, new = (side[name].get("extra_info", {}).get("gate", {}) for side in (before, after))
        try:
            limit_keys(new, "a marker")
            line = ", ".join(differing(old, new))
        except GateError:
            line = f"makes no sense in the head: {new!r:.60}"
        if line:
            found.setdefault(line, []).append(short_name(name))
    return [f"the marker of {', '.join(names)}: {line}" for line, names in found.items()]


def require_comparable(base: Sequence[Results], head: Sequence[Results], changed: Collection[str] = ()) -> None:
    """Raise GateError or ResultsError for a side without results, or one that is unsound or of another environment.

    Of the environment, the `changed` keys may differ.
    """
    for side, runs in (("base", base), ("head", head)):
        if not runs:
            raise GateError(f"the {side} must have a run, got none")
        for i, results in enumerate(runs, 1):
            require_sound(results, f"run {i} of the {side}")
            mine, first = ({k: v for k, v in r["machine_info"].items() if k not in changed} for r in (results, base[0]))
            if apart := differences(mine, first):
                raise GateError(f"run {i} of the {side} is not comparable with the base: {'; '.join(apart)}")


def processes_of(results: Results) -> list[Results]:
    """Take a recording apart into its processes, each with its own medians; any other run is one process already.

    Raise ResultsError where not every benchmark has a time for each process.
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

    Raise StagebenchError for what is unreadable or can't be compared, and for a process that is there twice. On one
    side it is known by its times, which two processes never have all the same: a copy may have another name, layout,
    date, or fewer benchmarks. On the other side it is one that also did the same work.
    """
    named = [
        (side, f"process {i} of {file}" if len(processes) > 1 else str(file), process)
        for side, paths in enumerate((base, head))
        for path in paths
        for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])
        for processes in [processes_of(read_results(file))]
        for i, process in enumerate(processes, 1)
    ]
    before, after = ([process for side, _, process in named if side == this] for this in (0, 1))
    require_comparable(before, after)
    for (side, name, process), (other_side, other_name, other) in combinations(named, 2):
        if _are_one(process, other, with_work=side != other_side):
            same = f"{name} twice" if name == other_name else f"the same times in {name} and {other_name}"
            raise GateError(f"a process counts once, got {same}")
    return before, after


def _are_one(one: Results, other: Results, with_work: bool) -> bool:
    """Return whether all that both timed took the same, to the last digit, and with work noted the same."""
    mine, others = by_name(one), by_name(other)
    same = []
    for a, b in [(mine[name], others[name]) for name in shared(one, other)]:
        rounds = [sorted(data) for each in (a, b) if (data := each["stats"].get("data"))]
        equal = a["stats"]["median"] == b["stats"]["median"] and (len(rounds) < 2 or rounds[0] == rounds[1])
        same.append(equal and (not with_work or a.get("extra_info") == b.get("extra_info")))
    return bool(same) and all(same)
