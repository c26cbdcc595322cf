"""The phases of a gate: counters, times, and a confirmation of the times that the first phase did not clear.

Each timing phase has interim looks that are fixed in advance, and ends at the first look that leaves nothing open. The
looks share the error rates of the rules equally.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from stagebench.core import statistics
from stagebench.core.errors import GateError
from stagebench.core.machine import environment
from stagebench.core.results import Results, by_name, is_reference, short_name
from stagebench.core.shown import duration
from stagebench.gate import decide as gate
from stagebench.gate.counters import judge_counters
from stagebench.gate.limits import Rules
from stagebench.gate.runner.ab_runner import BLOCK, PAIRS, ABRunner, Sides
from stagebench.gate.runner.fresh_process import FailedError, require_models
from stagebench.gate.verdicts import Decision, Verdict, confirmed, undecided

BLOCKS, MOST_BLOCKS = 6, 24  # by default, in a phase: as many as fit into `QUICK` seconds, within these bounds
QUICK = 300


def looks(blocks: int, alpha: float) -> list[int]:
    """Return the numbers of blocks at which a phase of `blocks` is judged, from the fewest that can decide."""
    count = min(3, 1 + blocks // 6)
    first = least_blocks(alpha / count)
    return [round(each) for each in np.geomspace(first, blocks, count)] if first < blocks and count > 1 else [blocks]


def least_blocks(alpha: float) -> int:
    """Return the fewest blocks that can show a change at level alpha."""
    return -(-statistics.least_pairs(alpha) // PAIRS)


@dataclass(frozen=True, slots=True)
class Phases:
    """The phases of one gate."""

    runner: ABRunner
    rules: Rules
    decision: Decision  # names allowed stages; receives the differences of markers
    say: Callable[[str], None]  # receives lines on the environment and the confirmation
    began: float  # start of the budget, by the monotonic clock

    def decide(self) -> list[Verdict]:
        """Run all phases; raise GateError where nothing was measured. A refusal by a stage of the head is a verdict."""
        counters: list[Verdict] = []
        try:
            base, head = self.runner.count()
            counters += self._counters(base, head)
            times = [] if self.runner.plan.counters_only else self._times(base, head, counters)
            return [*gate.judge_presence(base, head), *counters, *times]
        except FailedError as failed:
            if failed.none_selected:
                return self._all_new(failed)
            if failed.side == "base":
                raise GateError(f"the base fails, so there is nothing to compare with: {failed}") from failed
            if not (verdicts := failed.verdicts()):
                raise
            self.say(str(failed))
            return [*counters, *verdicts]

    def _counters(self, base: Sequence[Results], head: Sequence[Results]) -> list[Verdict]:
        if all(map(is_reference, by_name(base[0]))):
            raise self._nothing_selected("base")
        require_models(self.runner.plan.arguments, head[0])
        if changed := self.runner.changed:
            infos = (side[0]["machine_info"] for side in (head, base))
            mine, others = ({key: info[key] for key in changed if key in info} for info in infos)
            differing = "; ".join(environment.differences(mine, others))
            self.say(f"part of the change: {differing or 'nothing that affects times'}")
        self.decision.rules_differ.extend(gate.differing_markers(base, head))
        return judge_counters(base, head, self.rules, self.decision.allowed)

    def _times(self, base: list[Results], head: list[Results], counters: Sequence[Verdict]) -> list[Verdict]:
        """Time both sides; the runs of the first block also show which benchmarks both have."""
        first = self.runner.time("first", 0, self.runner.plan.blocks or BLOCKS, [], self.runner.plan.rounds)
        base += first[0]
        head += first[1]
        blocks, rounds = self._affordable(first)
        times = self._phase("first", first, [], blocks, rounds, counters)
        if again := undecided(times):
            self.say(f"not cleared, so measured again: {', '.join(map(short_name, again))}")
            paths = [*again, *filter(is_reference, by_name(base[0]))]
            times = confirmed(times, self._phase("confirmation", ([], []), paths, blocks, rounds, counters))
        return times

    def _affordable(self, first: Sides) -> tuple[int, int]:
        """Return the blocks of a phase and the rounds of a process, so that two phases keep the budget."""
        plan, rounds, seconds = self.runner.plan, self.runner.plan.rounds, self.runner.seconds
        if plan.budget is not None:
            share, least = self._left() / 2 / BLOCK, least_blocks(self.rules.alpha)
            a_round = sum(benchmark["stats"]["median"] for benchmark in first[0][0]["benchmarks"])
            fixed = max(seconds - rounds * a_round, 0.0)
            rounds = max(1, min(rounds, int((share / least - fixed) / a_round)))
            seconds -= (plan.rounds - rounds) * a_round
            if (blocks := min(plan.blocks or MOST_BLOCKS, int(share / seconds))) < least:
                needed = duration(plan.budget - self._left() + 2 * BLOCK * least * seconds)
                raise GateError(f"--budget must be at least {needed} for these benchmarks, got {duration(plan.budget)}")
        else:
            blocks = plan.blocks or max(BLOCKS, min(MOST_BLOCKS, int(QUICK / 2 / BLOCK / seconds)))
        most = duration(2 * BLOCK * blocks * seconds)
        self.say(f"{most} at most: up to {blocks} blocks of {BLOCK} processes, {rounds} rounds each, twice")
        return blocks, rounds

    def _left(self) -> float:
        """Return the remaining seconds of the budget."""
        budget = self.runner.plan.budget
        return float("inf") if budget is None else budget - (time.monotonic() - self.began)

    def _phase(
        self, phase: str, runs: Sides, paths: Sequence[str], blocks: int, rounds: int, counters: Iterable[Verdict]
    ) -> list[Verdict]:
        """Time a phase, after `runs` so far, until a look leaves nothing open or the budget is spent.

        In the first phase, which calls nothing slower, decided benchmarks are timed no further. A confirmation times
        all its benchmarks until all are decided, because it tests them together.
        """
        found: dict[str, Verdict] = {}
        when = looks(blocks, self.rules.alpha)
        rules = self.rules.spread_over(len(when))
        for upto in when:
            while (block := len(runs[0]) // PAIRS) < upto and (not block or self._left() > BLOCK * self.runner.seconds):
                for side, more in zip(runs, self.runner.time(phase, block, blocks, paths, rounds), strict=True):
                    side.extend(more)
            verdicts = gate.judge_times(*runs, rules, counters)
            found |= {v.benchmark: v for v in verdicts if v.benchmark not in found or _is_open(found[v.benchmark])}
            still = [name for name, verdict in found.items() if _is_open(verdict)]
            if not still or block < upto:
                break
            if phase == "first":
                paths = [*still, *filter(is_reference, found)]
        return list(found.values())

    def _all_new(self, failed: FailedError) -> list[Verdict]:
        """Pass benchmarks that only the head has, once they run; raise GateError where the head has none."""
        if failed.side == "base":
            try:
                return gate.judge_presence([], self.runner.count(["head"])[1])
            except FailedError as of_head:
                if not of_head.none_selected:
                    raise
        raise self._nothing_selected(failed.side) from failed

    def _nothing_selected(self, side: str) -> GateError:
        more = "name its files after --, or a model with --stage-model=NAME for those of stagebench"
        named = f"--select {select!r} matches" if (select := self.runner.plan.select) else f"pytest finds; {more}"
        return GateError(f"the {side} must have a benchmark, got none that {named}")


def _is_open(verdict: Verdict) -> bool:
    return verdict.kind == "time" and verdict.verdict == "inconclusive"
