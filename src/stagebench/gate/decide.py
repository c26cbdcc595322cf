"""Decide from results alone whether code got slower, on any machine, without torch.

Counters are exact: one more forward is a regression, whatever the times. Times are statistics over pairs of fresh
processes. With fewer pairs than `statistics.least_pairs` times can't decide, and the verdict says so. Results that are
not comparable are refused: unsound ones, two environments, or one process twice.
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
    """Judge stored results (see `read_sides`), by default with the default rules.

    >>> [(verdict.kind, verdict.verdict) for verdict in stagebench.compare("base.json", "head.json")]
    [('counter', 'regression'), ('time', 'inconclusive')]
    """
    return judge(*read_sides([Path(base)], [Path(head)]), rules or Rules())


def judge(
    base: Sequence[Results], head: Sequence[Results], rules: Rules, allowed: Collection[str] = ()
) -> list[Verdict]:
    """Judge comparable results, base[i] paired with head[i]; content and requested work of `allowed` may change."""
    counters = judge_counters(base, head, rules, allowed)
    return [*judge_presence(base, head), *counters, *judge_times(base, head, rules, counters)]


def judge_presence(base: Sequence[Results], head: Sequence[Results]) -> list[Verdict]:
    """Return verdicts on benchmarks that are not in all results. One that only the head has is new, and passes."""
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
    """Return a line for each difference between the limits in the benchmarks' markers of base and head."""
    found: dict[str, list[str]] = {}
    before, after = by_name(base[0]), by_name(head[0])
    for name in shared(base[0], head[0]):
        old, new = (side[name].get("extra_info", {}).get("gate", {}) for side in (before, after))
        try:
            limit_keys(new, "a marker")
            line = ", ".join(differing(old, new))
        except GateError:
            line = f"is invalid in the head: {new!r:.60}"
        if line:
            found.setdefault(line, []).append(short_name(name))
    return [f"the marker of {', '.join(names)}: {line}" for line, names in found.items()]


def require_comparable(base: Sequence[Results], head: Sequence[Results], changed: Collection[str] = ()) -> None:
    """Raise GateError or ResultsError for missing, unsound or incomparable results; the `changed` keys may differ."""
    for side, runs in (("base", base), ("head", head)):
        if not runs:
            raise GateError(f"the {side} must have a run, got none")
        for i, results in enumerate(runs, 1):
            require_sound(results, f"run {i} of the {side}")
            mine, first = ({k: v for k, v in r["machine_info"].items() if k not in changed} for r in (results, base[0]))
            if apart := differences(mine, first):
                raise GateError(f"run {i} of the {side} is not comparable with the base: {'; '.join(apart)}")


def processes_of(results: Results) -> list[Results]:
    """Return a run's processes, each with its own medians; raise ResultsError where one lacks a time."""
    counts = {benchmark.get("extra_info", {}).get("processes") for benchmark in results["benchmarks"]}
    if counts <= {None}:
        return [results]
    times = {b["fullname"]: b["stats"].get("data") or [] for b in results["benchmarks"]}
    n, *others = {len(medians) for medians in times.values()}
    if others or counts != {n}:
        raise ResultsError(
            f"a recorded benchmark must have a time for each process, got {sorted([n, *others])} times "
            f"of {', '.join(map(str, counts))} processes"
        )
    return [
        results | {"benchmarks": [b | {"stats": {"median": times[b["fullname"]][i]}} for b in results["benchmarks"]]}
        for i in range(n)
    ]


def read_sides(base: Sequence[Path], head: Sequence[Path]) -> tuple[list[Results], list[Results]]:
    """Read the processes of both sides, from files, and from folders of files that are paired in order of name.

    Raise StagebenchError for unreadable or incomparable results, and for a process that occurs twice. Two processes
    never have all times equal, so equal times identify a copy, whatever its name, layout, date, or benchmarks. Between
    the two sides a copy must also have done the same work.
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
    """Return whether all shared benchmarks have exactly equal times, and `with_work` equal records too."""
    mine, others = by_name(one), by_name(other)
    same = []
    for a, b in [(mine[name], others[name]) for name in shared(one, other)]:
        rounds = [sorted(data) for each in (a, b) if (data := each["stats"].get("data"))]
        equal = a["stats"]["median"] == b["stats"]["median"] and (len(rounds) < 2 or rounds[0] == rounds[1])
        same.append(equal and (not with_work or a.get("extra_info") == b.get("extra_info")))
    return bool(same) and all(same)


@dataclass(frozen=True)
class _Pairs:
    """The times of one benchmark in n pairs of processes that were measured one after the other."""

    name: str
    base: Array  # median seconds by process, shape (n,)
    head: Array
    ratios: Array  # log of head over base by pair, shape (n,); NaN for an invalid time
    limit: Limit

    def verdict(self, verdict: str, reason: str, interval: tuple[float, float] | None = None) -> Verdict:
        """Return a verdict with these times."""
        found = Verdict(self.name, "time", verdict, reason, len(self.base), interval=interval)
        if np.isfinite(self.ratios).all():
            base, head, ratio = (float(np.median(each)) for each in (self.base, self.head, self.ratios))
            found = replace(found, base=base, head=head, estimate=math.expm1(ratio))
        return replace(found, threshold=self.limit.threshold, floor=self.limit.floor)


def judge_times(
    base: Sequence[Results],
    head: Sequence[Results],
    rules: Rules,
    counters: Iterable[Verdict],
    fresh: int | None = None,
) -> list[Verdict]:
    """Judge the times of pairs of processes, all benchmarks at once, with one error rate for the suite.

    Where earlier pairs chose the benchmarks, only the last `fresh` ones test whether anything changed. Times are not
    compared where the verdicts on counters say that a benchmark does other work, unless a person allowed it; the
    verdict then says so. Where base and head have different numbers of runs, the surplus is left out.
    """
    counters, n = list(counters), min(len(base), len(head))
    other_work = {v.benchmark for v in counters if does_other_work(v)}
    let_pass = {v.benchmark for v in counters if v.allowed}
    suite = [_pairs(base[:n], head[:n], name, rules) for name in shared(*base, *head)]
    found = {pairs.name: _undecidable(pairs, rules, pairs.name in other_work) for pairs in suite}
    if sound := [pairs for pairs in suite if found[pairs.name] is None]:
        evidence = statistics.weigh(np.stack([pairs.ratios for pairs in sound]), rules.confidence, fresh)
        found |= {pairs.name: _decide(pairs, evidence.at(i), rules) for i, pairs in enumerate(sound)}
    return [
        replace(v, reason=f"{v.reason}; of other content, as allowed") if v.benchmark in let_pass else v
        for v in filter(None, found.values())
    ]


def log_ratios(base: Sequence[Results], head: Sequence[Results], name: str) -> Array:
    """Return a benchmark's log of head over base for each pair of processes, shape (n,).

    It is that of their medians. Where both took turns round by round, it is the median over their rounds, because a
    disturbance of a second slows both rounds of a pair.
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
    """Return one time per process: the median of its rounds, which are not independent samples."""
    return np.array([by_name(results)[name]["stats"]["median"] or np.nan for results in runs], dtype=float)


def _undecidable(pairs: _Pairs, rules: Rules, other_work: bool) -> Verdict | None:
    """Return the verdict on times that can't decide; None where they can."""
    if is_reference(pairs.name):  # it shows the machine's drift, and corrects nothing
        every = np.concatenate([pairs.base, pairs.head])
        drift = f"machine drift: the processes differ by up to {np.ptp(every) / np.median(every):.1%}"
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
    """Decide on one benchmark: surely slower by more than its limit, surely not, or neither."""
    limit = pairs.limit.of(float(np.median(pairs.base)))
    verdict = str(statistics.decide(evidence, math.log1p(limit), rules.alpha))
    low, high = math.expm1(evidence.low), math.expm1(evidence.high)
    if math.isnan(low) or math.isnan(high):
        return pairs.verdict(verdict, "cannot decide: the bootstrap gives no interval")
    open_ = f"may be chance (p = {evidence.p_slower:.2g})" if low > limit else "limit within the interval"
    words = {"regression": "slower", "improvement": "faster", "pass": "not slower by more than its limit"}
    span = f"{100 * rules.confidence:.3g}% interval {low:+.1%} to {high:+.1%}, limit {limit:.1%}"
    return pairs.verdict(verdict, f"{words.get(verdict, open_)}: {span}", (low, high))
