"""The gate: did it get slower? Decided from the JSON of runs alone, on any machine, without torch.

Counters are exact: one more forward is a regression, whatever the clock says. Times are statistics over pairs of fresh
processes. Time alone can't be trusted below `stats.least_pairs`, and then the verdict says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from stagebench.core import statistics
from stagebench.core.errors import GateError
from stagebench.core.statistics import Array
from stagebench.gate import baseline
from stagebench.gate.counters import does_other_work, judge_counters
from stagebench.gate.limits import Limit, Rules, differing_limits, makes_sense
from stagebench.gate.runs import StoredRun, benchmark_of, info_of, is_reference, names_of, shared
from stagebench.gate.times import Pairs, judge_pairs
from stagebench.gate.verdicts import Verdict


def judge(
    base: Sequence[StoredRun], head: Sequence[StoredRun], rules: Rules, allowed: Collection[str] = ()
) -> list[Verdict]:
    """Judge a change by everything that its runs hold.

    Args:
        base: runs without the change; base[i] was measured right beside head[i].
        head: runs with it.
        rules: thresholds, floors and error rates.
        allowed: stages whose content, or number of what they work on, may be another one.

    Raises:
        GateError: where a run failed, holds no benchmark, or is not comparable with the others.
    """
    require_comparable(base, head)
    return judge_benchmarks(base, head, rules, allowed)


def judge_benchmarks(
    base: Sequence[StoredRun], head: Sequence[StoredRun], rules: Rules, allowed: Collection[str] = ()
) -> list[Verdict]:
    """Judge runs that are known to be comparable: only their benchmarks are read, and the dtype where there is one."""
    counters = judge_counters(base, head, rules, allowed)
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
    before, after, everywhere = names_of(base), names_of(head), set(shared(base, head))
    verdicts = []
    for name in before | after:
        if name not in before:
            verdicts.append(Verdict(name, "time", "pass", "new: the base has no such benchmark", 0))
        elif name not in everywhere:
            where = "the base only" if name not in after else "some of the runs only"
            verdicts.append(Verdict(name, "time", "missing", f"in {where}", 0))
    return verdicts


def judge_times(
    base: Sequence[StoredRun], head: Sequence[StoredRun], rules: Rules, counters: Iterable[Verdict]
) -> list[Verdict]:
    """Judge the times of pairs of processes, all benchmarks at once: the error rate is the suite's.

    The times of a benchmark that does other work, by the verdicts on its counters, are not compared: the processes that
    are timed need not have counted. Where a person let the other work pass they are, and the verdict says so. Where
    base and head have different numbers of runs, the surplus is left out.
    """
    n, counters = min(len(base), len(head)), list(counters)
    other_work = {v.benchmark for v in counters if does_other_work(v)}
    let_pass = {v.benchmark for v in counters if v.allowed}
    suite = {
        name: Pairs(
            _seconds(base[:n], name),
            _seconds(head[:n], name),
            log_ratios(base[:n], head[:n], name),
            _limit(base, head, name, rules),
        )
        for name in shared(base, head)
    }
    judged = {name: pairs for name, pairs in suite.items() if name not in other_work and not is_reference(name)}
    return [
        *(_drift(name, pairs) for name, pairs in suite.items() if is_reference(name)),
        *(suite[name].verdict(name, "incomparable", "does other work") for name in suite if name in other_work),
        *(
            replace(v, reason=f"{v.reason}; of other content, as allowed") if v.benchmark in let_pass else v
            for v in judge_pairs(judged, rules)
        ),
    ]


def differing_markers(base: Sequence[StoredRun], head: Sequence[StoredRun]) -> list[str]:
    """Say where a benchmark's own limits are not those of the base, a line each two that differ alike."""
    found: dict[str, list[str]] = {}
    for name in shared(base[:1], head[:1]):
        old, new = (info_of(side[0], name).get("gate", {}) for side in (base, head))
        if line := differing_limits(old, new) if makes_sense(new) else f"makes no sense in the head: {new!r:.60}":
            found.setdefault(line, []).append(name.split("::")[-1])
    return [f"the marker of {', '.join(names)}: {line}" for line, names in found.items()]


def _limit(base: Sequence[StoredRun], head: Sequence[StoredRun], name: str, rules: Rules) -> Limit:
    return rules.limit_of(name, *(info_of(side[0], name).get("gate", {}) for side in (base, head)))


def log_ratios(base: Sequence[StoredRun], head: Sequence[StoredRun], name: str) -> Array:
    """Log of head over base of a benchmark, one number a pair of processes, shape (n,).

    It is that of their medians; where both took turns round by round, the median of that of their rounds, because what
    slows the machine for a second slows two rounds that run one right after the other.
    """
    pairs = zip(base, head, strict=True)
    ratios = statistics.log_ratios(_seconds(base, name), _seconds(head, name))
    for i, (one, other) in enumerate(pairs):
        rounds = [np.array(benchmark_of(run, name)["stats"].get("data", ()), dtype=float) for run in (one, other)]
        if len(rounds[0]) == len(rounds[1]) > 0 and all(run["stagebench"].get("turns") for run in (one, other)):
            ratios[i] = np.median(statistics.log_ratios(*rounds))
    return ratios


def _drift(name: str, pairs: Pairs) -> Verdict:
    """What the machine did meanwhile to a workload that nobody touched. It is told, and corrects nothing."""
    every = np.concatenate([pairs.base, pairs.head])
    spread = (every.max() - every.min()) / np.median(every)
    return replace(
        pairs.verdict(name, "pass", f"machine drift: the processes lie {spread:.1%} apart", None), kind="drift"
    )


def _seconds(runs: Sequence[StoredRun], name: str) -> Array:
    """One time a process: the median of its rounds, which are no independent samples."""
    return np.array([benchmark_of(run, name)["stats"].get("median") or np.nan for run in runs], dtype=float)
