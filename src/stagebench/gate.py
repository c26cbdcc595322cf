"""The gate: did it get slower? Decided from the JSON of runs alone, on any machine, without torch.

Counters are exact: one more forward is a regression, whatever the clock says. Times are statistics over pairs of fresh
processes. Time alone can't be trusted below `stats.least_pairs`, and then the verdict says so.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stagebench import baseline, stats
from stagebench.errors import GateError
from stagebench.gate_rules import Rules
from stagebench.gate_times import Pairs, judge_pairs
from stagebench.stats import Array
from stagebench.verdict import Verdict

StoredRun = Mapping[str, Any]
"""As `baseline.read_run` gives it: one process."""

UNITS = ("images", "images_encoded", "visual_tokens", "prompt_tokens", "new_tokens", "steps")
"""Counters of what was asked for, not of what it took: with less of them a stage does other work, not less."""

REFERENCE = "test_reference"
"""The benchmark that no change touches: it tells of the machine, and is never judged."""


def judge(base: Sequence[StoredRun], head: Sequence[StoredRun], rules: Rules) -> list[Verdict]:
    """Judge a change by everything that its runs hold.

    Args:
        base: runs without the change; base[i] was measured right beside head[i].
        head: runs with it.
        rules: thresholds, floors and error rates.

    Raises:
        GateError: where a run failed, holds no benchmark, or is not comparable with the others.
    """
    require_comparable(base, head)
    return judge_benchmarks(base, head, rules)


def judge_benchmarks(base: Sequence[StoredRun], head: Sequence[StoredRun], rules: Rules) -> list[Verdict]:
    """Likewise, of runs that are known to be comparable: only their benchmarks are read."""
    counters = judge_counters(base, head, rules)
    return [*judge_presence(base, head), *counters, *judge_times(base, head, rules, counters)]


def require_comparable(base: Sequence[StoredRun], head: Sequence[StoredRun], changed: Collection[str] = ()) -> None:
    """Refuse what can't be decided on; of the environment, the `changed` keys may differ.

    Raises:
        GateError: where a side has no run, or a run failed, is empty, or was made in another environment.
    """
    for side, runs in (("base", base), ("head", head)):
        if not runs:
            raise GateError(f"a gate needs a run of the {side}, got none")
        for i, run in enumerate(runs):
            own = run["stagebench"]
            if own["failed"] or own["exit_status"]:
                raise GateError(
                    f"a gate judges runs in which nothing failed, got {own['failed']} failures and pytest's exit "
                    f"status {own['exit_status']} in run {i + 1} of the {side}"
                )
            if not run["benchmarks"]:
                raise GateError(f"a gate needs at least one benchmark, got none in run {i + 1} of the {side}")
            mine, first = ({k: v for k, v in r["machine_info"].items() if k not in changed} for r in (run, base[0]))
            if differing := baseline.differences(mine, first):
                raise GateError(f"run {i + 1} of the {side} is not comparable with the base: {'; '.join(differing)}")


def judge_presence(base: Sequence[StoredRun], head: Sequence[StoredRun]) -> list[Verdict]:
    """Name the benchmarks that are not in all runs of both sides. One that only the head has is new, and passes."""
    before, after = _names(base), _names(head)
    verdicts = []
    for name in before | after:
        if name not in before:
            verdicts.append(Verdict(name, "time", "pass", "new: the base has no such benchmark", 0))
        elif not all(name in _benchmarks(run) for run in (*base, *head)):
            where = "the base only" if name not in after else "some of the runs only"
            verdicts.append(Verdict(name, "time", "missing", f"in {where}", 0))
    return verdicts


def judge_counters(base: Sequence[StoredRun], head: Sequence[StoredRun], rules: Rules) -> list[Verdict]:
    """Compare the counted work of each benchmark, over the runs that counted any.

    Returns:
        A verdict for each counter that is not the same on both sides, and one for each benchmark that has none such.
    """
    verdicts = []
    for name in _shared(base, head):
        before, after = _work(base, name), _work(head, name)
        if not before:
            continue
        differing = [
            verdict
            for counter in before
            if (verdict := _counter_verdict(name, counter, before[counter], after.get(counter, []), rules)) is not None
        ]
        verdicts += differing or [Verdict(name, "counter", "pass", f"all {len(before)} as before", 1)]
    return verdicts


def _counter_verdict(
    name: str, counter: str, before: Sequence[float], after: Sequence[float], rules: Rules
) -> Verdict | None:
    """The verdict on one counter, or None where it is as before."""

    def verdict(kind: str, reason: str) -> Verdict:
        return Verdict(name, "counter", kind, f"{counter}: {reason}", 1, old, new, counter=counter)

    key = _key(counter)
    old, new = statistics.median(before), statistics.median(after) if after else None
    if new is None:
        return verdict("missing", "no longer counted")
    tolerance = rules.tolerance.get(key)
    if tolerance is None and (len(set(before)) > 1 or len(set(after)) > 1):
        return verdict("inconclusive", "differs between runs of one side, so it does not count exactly")
    change = f"{old:,.12g} before, {new:,.12g} now"
    if key in UNITS and new != old:
        return verdict("regression", f"other work, {change}")
    if new > old * (1 + (tolerance or 0)):
        return verdict("regression", change)
    if new < old * (1 - (tolerance or 0)):
        return verdict("improvement", f"{change}; accept it as the new baseline")
    return None


def judge_times(
    base: Sequence[StoredRun], head: Sequence[StoredRun], rules: Rules, counters: Iterable[Verdict]
) -> list[Verdict]:
    """Judge the times of pairs of processes, all benchmarks at once: the error rate is the suite's.

    The times of a benchmark that does other work, by the verdicts on its counters, are not compared: the processes that
    are timed need not have counted. Where base and head have different numbers of runs, the surplus is left out.
    """
    n = min(len(base), len(head))
    other_work = {v.benchmark for v in counters if _key(v.counter or "") in UNITS}
    suite = {
        name: Pairs(
            _seconds(base[:n], name),
            _seconds(head[:n], name),
            log_ratios(base[:n], head[:n], name),
            rules.limit_of(name, _info(head[0], name).get("gate", {})),
        )
        for name in _shared(base, head)
    }
    judged = {name: pairs for name, pairs in suite.items() if name not in other_work and not is_reference(name)}
    return [
        *(_drift(name, pairs) for name, pairs in suite.items() if is_reference(name)),
        *(suite[name].verdict(name, "incomparable", "does other work") for name in suite if name in other_work),
        *judge_pairs(judged, rules),
    ]


def log_ratios(base: Sequence[StoredRun], head: Sequence[StoredRun], name: str) -> Array:
    """Log of head over base of a benchmark, one number a pair of processes, shape (n,).

    It is that of their medians; where both took turns round by round, the median of that of their rounds, because what
    slows the machine for a second slows two rounds that run one right after the other.
    """
    pairs = zip(base, head, strict=True)
    ratios = stats.log_ratios(_seconds(base, name), _seconds(head, name))
    for i, (one, other) in enumerate(pairs):
        rounds = [np.array(_benchmarks(run)[name]["stats"].get("data", ()), dtype=float) for run in (one, other)]
        if len(rounds[0]) == len(rounds[1]) > 0 and all(run["stagebench"].get("turns") for run in (one, other)):
            ratios[i] = np.median(stats.log_ratios(*rounds))
    return ratios


def _drift(name: str, pairs: Pairs) -> Verdict:
    """What the machine did meanwhile to a workload that nobody touched. It is told, and corrects nothing."""
    every = np.concatenate([pairs.base, pairs.head])
    spread = (every.max() - every.min()) / np.median(every)
    return replace(
        pairs.verdict(name, "pass", f"machine drift: the processes lie {spread:.1%} apart", None), kind="drift"
    )


def _names(runs: Sequence[StoredRun]) -> dict[str, None]:
    """Benchmarks of any of the runs, in order."""
    return {benchmark["fullname"]: None for run in runs for benchmark in run["benchmarks"]}


def _shared(base: Sequence[StoredRun], head: Sequence[StoredRun]) -> list[str]:
    """Benchmarks of all of the runs, in order."""
    return [name for name in _names(base) if all(name in _benchmarks(run) for run in (*base, *head))]


def _benchmarks(run: StoredRun) -> dict[str, Mapping[str, Any]]:
    return {benchmark["fullname"]: benchmark for benchmark in run["benchmarks"]}


def _info(run: StoredRun, name: str) -> Mapping[str, Any]:
    info: Mapping[str, Any] = _benchmarks(run)[name].get("extra_info", {})
    return info


def _seconds(runs: Sequence[StoredRun], name: str) -> Array:
    """One time a process: the median of its rounds, which are no independent samples."""
    return np.array([_benchmarks(run)[name]["stats"].get("median") or np.nan for run in runs], dtype=float)


def _work(runs: Sequence[StoredRun], name: str) -> dict[str, list[float]]:
    """Values by counter, over the runs that counted; those of e2e are named stage.counter."""
    values: dict[str, list[float]] = {}
    for run in runs:
        for counter, value in _flat(_info(run, name).get("work", {})):
            values.setdefault(counter, []).append(value)
    return values


def _flat(work: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in work.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _key(counter: str) -> str:
    return counter.rpartition(".")[-1]


def is_reference(name: str) -> bool:
    """Whether a benchmark is the workload that no change touches."""
    return name.split("::")[-1].startswith(REFERENCE)
