"""Decide whether it got slower, from results alone, on any machine, without torch.

Counters are exact: one more forward is a regression, whatever the clock says. Times are statistics over pairs of fresh
processes. Time alone can't be trusted below `stats.least_pairs`, and then the verdict says so.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from stagebench.core.errors import GateError
from stagebench.core.results import Results, by_name, short_name
from stagebench.gate.counters import judge_counters
from stagebench.gate.limits import Rules, differences, limit_keys
from stagebench.gate.runs import read_sides, require_comparable, shared
from stagebench.gate.times import judge_times
from stagebench.gate.verdicts import Verdict


def judge(
    base: Sequence[Results], head: Sequence[Results], rules: Rules, allowed: Collection[str] = ()
) -> list[Verdict]:
    """Judge a change by everything that its results hold.

    Args:
        base: results without the change; base[i] was measured right beside head[i].
        head: results with it.
        rules: thresholds, floors and error rates.
        allowed: stages whose content, or number of what they work on, may be another one.

    Raises:
        ResultsError: where something failed, or there is no benchmark.
        GateError: where results are not comparable with the others.
    """
    require_comparable(base, head)
    return judge_benchmarks(base, head, rules, allowed)


def compare(base: Path, head: Path, rules: Rules | None = None) -> list[Verdict]:
    """Judge stored results, see `runs.read_sides`; without rules of a project by the default ones."""
    before, after = read_sides([base], [head])
    return judge_benchmarks(before, after, rules or Rules())


def judge_benchmarks(
    base: Sequence[Results], head: Sequence[Results], rules: Rules, allowed: Collection[str] = ()
) -> list[Verdict]:
    """Judge results that are known to be comparable."""
    counters = judge_counters(base, head, rules, allowed)
    return [*judge_presence(base, head), *counters, *judge_times(base, head, rules, counters)]


def judge_presence(base: Sequence[Results], head: Sequence[Results]) -> list[Verdict]:
    """Name the benchmarks that are not in all results of both sides. One that only the head has is new, and passes."""
    before, after = ({name: None for results in side for name in by_name(results)} for side in (base, head))
    everywhere, verdicts = set(shared(base, head)), []
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
    for name in [name for name in before if name in after]:
        old, new = (side[name].get("extra_info", {}).get("gate", {}) for side in (before, after))
        try:
            limit_keys(new, "a marker")
            line = ", ".join(differences(old, new))
        except GateError:
            line = f"makes no sense in the head: {new!r:.60}"
        if line:
            found.setdefault(line, []).append(short_name(name))
    return [f"the marker of {', '.join(names)}: {line}" for line, names in found.items()]
