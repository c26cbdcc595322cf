"""Decide whether it got slower, from results alone, on any machine, without torch.

Counters are exact: one more forward is a regression, whatever the clock says. Times are statistics over pairs of fresh
processes. Time alone can't be trusted below `statistics.least_pairs`, and then the verdict says so. Refused are results
that can't be held against each other: unsound, of two environments, or of one process twice.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from os import PathLike
from pathlib import Path

import numpy as np

from stagebench.core import statistics
from stagebench.core.errors import GateError, ResultsError
from stagebench.core.machine.environment import differences
from stagebench.core.results import Results, by_name, is_reference, read_results, require_sound, shared, short_name
from stagebench.core.statistics import Array
from stagebench.gate.counters import does_other_work, judge_counters
from stagebench.gate.limits import Limit, Rules, differing, limit_keys
from stagebench.gate.verdicts import Verdict


def compare(base: str | PathLike[str], head: str | PathLike[str], rules: Rules | None = None) -> list[Verdict]:
    """Judge stored results, see `read_sides`; without rules of a project by the default ones.

    >>> [(verdict.kind, verdict.verdict) for verdict in stagebench.compare("base.json", "head.json")]
    [('counter', 'regression'), ('time', 'inconclusive')]
    """
    return judge(*read_sides([Path(base)], [Path(head)]), rules or Rules())


def judge(
    base: Sequence[Results], head: Sequence[Results], rules: Rules, allowed: Collection[str] = ()
) -> list[Verdict]:
    """Judge comparable results (see `require_comparable`), of which base[i] was measured right beside head[i].

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


@dataclass(frozen=True)
class _Pairs:
    """The times of one benchmark, in n pairs of processes that were measured right beside each other."""

    name: str
    base: Array  # median seconds by process, shape (n,)
    head: Array
    ratios: Array  # log of head over base by pair, shape (n,); NaN where a time is no time
    limit: Limit

    def verdict(self, verdict: str, reason: str, interval: tuple[float, float] | None = None) -> Verdict:
        """Give a verdict that shows these times."""
        found = Verdict(self.name, "time", verdict, reason, len(self.base), interval=interval)
        if np.isfinite(self.ratios).all():
            base, head, ratio = (float(np.median(each)) for each in (self.base, self.head, self.ratios))
            found = replace(found, base=base, head=head, estimate=math.expm1(ratio))
        return replace(found, threshold=self.limit.threshold, floor=self.limit.floor)


def judge_times(
    base: Sequence[Results], head: Sequence[Results], rules: Rules, counters: Iterable[Verdict]
) -> list[Verdict]:
    """Judge the times of pairs of processes, all benchmarks at once: the error rate is the suite's.

    The times of a benchmark that does other work, by the verdicts on its counters, are not compared: the processes that
    are timed need not have counted. Where a person let the other work pass they are, and the verdict says so. Where
    base and head have different numbers of runs, the surplus is left out.
    """
    counters, n = list(counters), min(len(base), len(head))
    other_work = {v.benchmark for v in counters if does_other_work(v)}
    let_pass = {v.benchmark for v in counters if v.allowed}
    suite = [_pairs(base[:n], head[:n], name, rules) for name in shared(*base, *head)]
    found = {pairs.name: _undecidable(pairs, rules, pairs.name in other_work) for pairs in suite}
    if sound := [pairs for pairs in suite if found[pairs.name] is None]:
        evidence = statistics.weigh(np.stack([pairs.ratios for pairs in sound]), rules.confidence)
        found |= {pairs.name: _decide(pairs, evidence.at(i), rules) for i, pairs in enumerate(sound)}
    return [
        replace(v, reason=f"{v.reason}; of other content, as allowed") if v.benchmark in let_pass else v
        for v in filter(None, found.values())
    ]


def log_ratios(base: Sequence[Results], head: Sequence[Results], name: str) -> Array:
    """Take the log of head over base of a benchmark, one number a pair of processes, shape (n,).

    It is that of their medians; where both took turns round by round, the median of that of their rounds, because what
    slows the machine for a second slows two rounds that run one right after the other.
    """
    ratios = statistics.log_ratios(_seconds(base, name), _seconds(head, name))
    for i, pair in enumerate(zip(base, head, strict=True)):
        rounds = [np.array(by_name(results)[name]["stats"].get("data") or (), dtype=float) for results in pair]
        if len(rounds[0]) == len(rounds[1]) > 0 and all(results["stagebench"].get("turns") for results in pair):
            ratios[i] = np.median(statistics.log_ratios(*rounds))
    return ratios


def _pairs(base: Sequence[Results], head: Sequence[Results], name: str, rules: Rules) -> _Pairs:
    marked = [by_name(side[0])[name].get("extra_info", {}).get("gate", {}) for side in (base, head)]
    seconds = _seconds(base, name), _seconds(head, name)
    return _Pairs(name, *seconds, log_ratios(base, head, name), rules.limit_of(name, *marked))


def _seconds(runs: Sequence[Results], name: str) -> Array:
    """Take one time a process: the median of its rounds, which are no independent samples."""
    return np.array([by_name(results)[name]["stats"]["median"] or np.nan for results in runs], dtype=float)


def _undecidable(pairs: _Pairs, rules: Rules, other_work: bool) -> Verdict | None:
    """Give the verdict on times that can't decide anything, or None where they can."""
    if is_reference(pairs.name):  # it shows what the machine did meanwhile, and corrects nothing
        every = np.concatenate([pairs.base, pairs.head])
        drift = f"machine drift: the processes lie {np.ptp(every) / np.median(every):.1%} apart"
        return replace(pairs.verdict("pass", drift), kind="drift")
    if other_work:
        return pairs.verdict("incomparable", "does other work")
    n, least, why = len(pairs.base), statistics.least_pairs(rules.alpha), None
    if not np.isfinite(pairs.ratios).all():
        why = "a process has no positive, finite time"
    elif n < least:
        why = f"{n} pair{'s' * (n != 1)} of processes, {least} are needed"
    elif np.ptp(pairs.ratios) == 0:
        why = f"no spread at all in {n} pairs, so they are not independent measurements"
    return pairs.verdict("inconclusive", f"cannot decide: {why}") if why else None


def _decide(pairs: _Pairs, evidence: statistics.Evidence, rules: Rules) -> Verdict:
    """Decide on one benchmark: slower for sure by more than its limit, for sure not, or neither."""
    limit = pairs.limit.of(float(np.median(pairs.base)))
    verdict = str(statistics.decide(evidence, math.log1p(limit), rules.alpha))
    low, high = math.expm1(evidence.low), math.expm1(evidence.high)
    if math.isnan(low) or math.isnan(high):
        return pairs.verdict(verdict, "cannot decide: the bootstrap gives no interval")
    open_ = f"may be chance (p = {evidence.p_slower:.2g})" if low > limit else "limit within the interval"
    words = {"regression": "slower", "improvement": "faster", "pass": "not slower by more than its limit"}
    span = f"{100 * rules.confidence:.3g}% interval {low:+.1%} to {high:+.1%}, limit {limit:.1%}"
    return pairs.verdict(verdict, f"{words.get(verdict, open_)}: {span}", (low, high))
