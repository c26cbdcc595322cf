"""The phases of a gate: counters, times, and a confirmation of the times that the first look left open.

The first look is at the fewest processes that can decide. The confirmation has as many as the noise that it saw asks
for, and looks that are fixed before it begins; it ends at the first that leaves nothing open. All looks share the error
rates of the rules, so that they alarm no more often than a single one.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from stagebench.core import statistics
from stagebench.core.errors import GateError
from stagebench.core.machine import environment
from stagebench.core.results import Results, by_name, is_reference, short_name
from stagebench.core.shown import duration
from stagebench.gate import decide as gate
from stagebench.gate.counters import judge_counters
from stagebench.gate.limits import Limit, Rules
from stagebench.gate.runner.ab_runner import BLOCK, PAIRS, ABRunner, Sides
from stagebench.gate.runner.fresh_process import FailedError, require_models
from stagebench.gate.verdicts import Decision, Verdict, confirmed, undecided

BLOCKS, MOST_BLOCKS = 8, 24  # by default, half of a gate: as many as fit into half of `QUICK`, within these bounds
QUICK = 300
LOOKS = (2, 4, 6, 8, 10, 12, 16, 20, 30)  # blocks of a confirmation; 2 can clear a time, but call nothing slower


def looks(blocks: int, rules: Rules) -> list[tuple[int, Rules]]:
    """Return the looks of a confirmation of `blocks`: after how many blocks, and by which rules.

    They share the errors of the rules evenly: those of intervals, and the false alarms among looks that can raise any.
    """
    upto = [*(look for look in LOOKS if look <= 0.75 * blocks), blocks]
    alarms = rules.spread_over(len(upto[1:]) or 1)
    return [(look, replace(rules.spread_over(len(upto)), alpha=alarms.alpha)) for look in upto]


def least_blocks(alpha: float) -> int:
    """Return the fewest blocks that can show a change at level alpha."""
    return -(-statistics.least_pairs(alpha) // PAIRS)


def blocks_needed(times: Iterable[Verdict], least: int, most: int) -> int:
    """Return the blocks of a confirmation by the noise that the first look, at `least` blocks, saw, up to `most`.

    An interval narrows with the root of the pairs. These make the widest one, of all pairs, half as wide as its limit.
    """
    widths = []
    for v in times:
        limit = math.log1p(Limit(v.threshold or 0.0, v.floor or 0.0).of(v.base)) if v.base else 0.0
        width = math.log1p(v.interval[1]) - math.log1p(v.interval[0]) if v.interval else math.inf
        widths.append(width / limit if limit else math.inf)
    return max(least, math.ceil(min(most, least * (4 * max(widths, default=math.inf) ** 2 - 1))))


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
        """Time both sides; the runs of the first phase also show which benchmarks both have.

        The first phase has one look, with half of the false alarms. What it leaves open is confirmed by intervals of
        all processes, but by a test of fresh ones alone, because the others chose what is tested.
        """
        half = replace(self.rules, alpha=self.rules.alpha / 2)
        least = min(least_blocks(half.alpha), self.runner.plan.blocks or BLOCKS)
        first = self.runner.time("first", 0, least, [], self.runner.plan.rounds)
        blocks, rounds = self._affordable(first)
        self._measure("first", first, least, least, [], rounds)
        base += first[0]
        head += first[1]
        times = gate.judge_times(*first, half, counters)
        if not (still := undecided(times)):
            return times
        blocks = blocks_needed([v for v in times if v.benchmark in still], least, 2 * blocks - least)
        self.say(f"still open, so up to {blocks} more blocks for {', '.join(map(short_name, still))}")
        paths = [*still, *filter(is_reference, by_name(base[0]))]
        fresh: Sides = ([], [])
        found: dict[str, Verdict] = {}
        for upto, rules in looks(blocks, half):
            in_time = self._measure("confirmation", fresh, upto, blocks, paths, rounds)
            verdicts = gate.judge_times(first[0] + fresh[0], first[1] + fresh[1], rules, counters, len(fresh[0]))
            found |= {v.benchmark: v for v in verdicts if v.benchmark not in found or _is_open(found[v.benchmark])}
            if not in_time or not any(map(_is_open, found.values())):
                break
        return confirmed(times, found.values())

    def _affordable(self, first: Sides) -> tuple[int, int]:
        """Return half of the blocks of a gate, and the rounds of a process, so that they keep the budget."""
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
        self.say(f"{most} at most: up to {2 * blocks} blocks of {BLOCK} processes, {rounds} rounds each")
        return blocks, rounds

    def _left(self) -> float:
        """Return the remaining seconds of the budget."""
        budget = self.runner.plan.budget
        return float("inf") if budget is None else budget - (time.monotonic() - self.began)

    def _measure(self, phase: str, runs: Sides, upto: int, total: int, paths: Sequence[str], rounds: int) -> bool:
        """Add blocks to a phase's runs, and return whether the budget was enough for all."""
        while (block := len(runs[0]) // PAIRS) < upto:
            if block and self._left() <= BLOCK * self.runner.seconds:
                return False
            for side, more in zip(runs, self.runner.time(phase, block, total, paths, rounds), strict=True):
                side.extend(more)
        return True

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
