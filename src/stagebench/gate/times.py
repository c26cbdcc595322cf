"""Judge times: by statistics over pairs of processes, all benchmarks of a suite at once."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stagebench.core import statistics
from stagebench.core.results import Results, by_name, is_reference, shared
from stagebench.core.statistics import Array
from stagebench.gate.counters import does_other_work
from stagebench.gate.limits import Limit, Rules
from stagebench.gate.verdicts import Verdict


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
    span = f"{rules.confidence:.0%} interval {low:+.1%} to {high:+.1%}, limit {limit:.1%}"
    return pairs.verdict(verdict, f"{words.get(verdict, open_)}: {span}", (low, high))
