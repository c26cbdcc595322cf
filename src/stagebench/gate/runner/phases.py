"""Measures for a gate: counts, then times, then times once more what the first look left open."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from stagebench.core.errors import GateError
from stagebench.core.machine import environment
from stagebench.core.results import Results, by_name, is_reference
from stagebench.gate import decide as gate
from stagebench.gate.counters import judge_counters
from stagebench.gate.limits import Rules
from stagebench.gate.runner.ab_runner import ABRunner
from stagebench.gate.runner.failures import NONE_SELECTED, FailedError
from stagebench.gate.times import judge_times
from stagebench.gate.verdicts import Verdict, confirmed, undecided


@dataclass(frozen=True, slots=True)
class Phases:
    """The phases of one gate.

    Attributes:
        runner: runs the processes.
        rules: thresholds, floors and error rates.
        changed: keys of the environment that are part of the change.
        allowed: stages whose content may be another one.
        rules_differ: gets how markers of the head differ from those of the base.
        say: gets a line on a changed environment, and on the confirmation.
    """

    runner: ABRunner
    rules: Rules
    changed: Collection[str]
    allowed: Collection[str]
    rules_differ: list[str]
    say: Callable[[str], None]

    def decide(self) -> list[Verdict]:
        """Run them.

        Raises:
            GateError: where a process failed, ran nothing, or in another environment; not where a stage of the head
                refused what it got or did, which is a verdict.
        """
        counters: list[Verdict] = []
        try:
            base, head = self.runner.count()
            counters += self._counters(base, head)
            times = [] if self.runner.plan.counters_only else self._times(base, head, counters)
            return [*gate.judge_presence(base, head), *counters, *times]
        except FailedError as failed:
            select = self.runner.plan.select
            if failed.status == NONE_SELECTED:
                raise _nothing_selected(select, failed.side) from failed
            if failed.side == "base":
                raise GateError(f"the base fails, so there is nothing to compare with: {failed}") from failed
            if not (verdicts := failed.verdicts()):
                raise
            self.say(str(failed))
            return [*counters, *verdicts]

    def _counters(self, base: Sequence[Results], head: Sequence[Results]) -> list[Verdict]:
        if all(map(is_reference, by_name(base[0]))):
            raise _nothing_selected(self.runner.plan.select, "base")
        gate.require_comparable(base, head, self.changed)
        if self.changed:
            mine, others = (
                {k: v for k, v in side[0]["machine_info"].items() if k in self.changed} for side in (head, base)
            )
            differing = "; ".join(environment.differences(mine, others))
            self.say(f"part of the change: {differing or 'nothing that is measured'}")
        self.rules_differ.extend(gate.differing_markers(base, head))
        return judge_counters(base, head, self.rules, self.allowed)

    def _times(self, base: list[Results], head: list[Results], counters: Sequence[Verdict]) -> list[Verdict]:
        """Time both sides, and add their runs to those that counted."""
        first = self.runner.time("first", ["benchmarks"])
        gate.require_comparable(*first, self.changed)
        base += first[0]
        head += first[1]
        times = judge_times(*first, self.rules, counters)
        if again := undecided(times):
            self.say(f"not cleared, so measured once more: {', '.join(name.split('::')[-1] for name in again)}")
            second = self.runner.time("confirmation", [*again, *filter(is_reference, by_name(base[0]))])
            gate.require_comparable(*second, self.changed)
            times = confirmed(times, judge_times(*second, self.rules, counters))
        return times


def _nothing_selected(select: str, side: str) -> GateError:
    return GateError(f"--select must match a benchmark of the {side}, got {select!r}, which matches none")
