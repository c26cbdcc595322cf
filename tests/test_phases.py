"""What a gate measures next, on made-up times: its error rates as a whole, when it stops, and its budget."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from stagebench.core import statistics
from stagebench.core.errors import GateError
from stagebench.core.results import by_name
from stagebench.gate.limits import Limit, Rules
from stagebench.gate.runner import phases
from stagebench.gate.runner.ab_runner import BLOCK, PAIRS, ABPlan
from stagebench.gate.runner.phases import Phases, looks
from stagebench.gate.verdicts import Decision

NAMES = [f"test_it.py::test_it[{name}]" for name in "abcd"]


class MadeUp:
    """A runner whose processes take no time: heavy-tailed noise, a drift that both sides of a pair share."""

    changed = ()
    seconds = 10.0

    def __init__(self, seed=0, blocks=6, spread=0.02, slower=1.0, budget=None):
        self.plan = ABPlan(blocks, 10, "", "wall", 0, False, False, (), budget)
        self.rng, self.spread, self.slower = np.random.default_rng(seed), spread, slower
        self.timed, self.rounds, self.clock = [], [], 0.0

    def run(self, names, factors):
        noise = np.exp(self.spread * self.rng.standard_t(3, len(names))) * factors
        benchmarks = [{"fullname": n, "stats": {"median": 0.1 * x}} for n, x in zip(names, noise, strict=True)]
        own = {"schema": 1, "failed": 0, "exit_status": 0, "regressed": []}
        here = {"device": "d", "profile": "none", "dtype": "none"}
        return {"machine_info": here, "stagebench": own, "benchmarks": benchmarks}

    def count(self):
        return [self.run(NAMES, 1.0)], [self.run(NAMES, 1.0)]

    def time(self, phase, block, blocks, paths, rounds):
        names = list(paths) or NAMES
        self.timed.append((phase, block, blocks, names))
        self.rounds.append(rounds)
        self.clock += BLOCK * self.seconds
        head = np.where([name == NAMES[0] for name in names], self.slower, 1.0)
        drifts = 1 + self.rng.random(2)
        return [self.run(names, d) for d in drifts], [self.run(names, d * head) for d in drifts]


def decided(runner, rules=None):
    """The verdicts on times by benchmark."""
    rules = rules or Rules()
    made = Phases(runner, rules, Decision(), lambda _: None, 0.0).decide()
    return {v.benchmark: v.verdict for v in made if v.kind == "time"}


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 199)


@pytest.mark.parametrize(
    ("blocks", "when"),
    [(4, [2, 4]), (6, [2, 4, 6]), (12, [2, 4, 6, 8, 12]), (44, [2, 4, 6, 8, 10, 12, 16, 20, 30, 44])],
)
def test_the_looks_of_a_confirmation_are_fixed_beforehand_and_share_its_errors(blocks, when):
    rules = Rules(alpha=0.005)
    upto, of = zip(*looks(blocks, rules), strict=True)
    assert list(upto) == when
    assert sum(1 - look.confidence for look in of) == pytest.approx(1 - rules.confidence)
    assert sum(look.alpha for look in of[1:]) == pytest.approx(rules.alpha)


@pytest.mark.parametrize("blocks", range(4, 45))
def test_the_first_look_of_a_confirmation_can_call_nothing_slower_and_its_last_can(blocks):
    (first, too_few), *_, (last, enough) = looks(blocks, Rules(alpha=0.005))
    assert 2.0 ** (-PAIRS * first) > too_few.alpha
    assert 2.0 ** (-PAIRS * last) <= enough.alpha


def an_open_time(low, high):
    return phases.Verdict("b", "time", "inconclusive", "", 8, base=1.0, interval=(low, high), threshold=0.05, floor=0)


def test_a_confirmation_has_as_many_blocks_as_the_noise_of_the_first_look_asks_for():
    quiet, noisy, hopeless = an_open_time(0.02, 0.06), an_open_time(0.0, 0.07), an_open_time(-0.5, 0.5)
    seen = ([], [quiet], [quiet, noisy], [hopeless], [an_open_time(0.049, 0.051)])
    assert [phases.blocks_needed(times, 4, 40) for times in seen] == [40, 6, 27, 40, 4]


@pytest.mark.parametrize("blocks", [4, 6, 8])
def test_all_looks_together_raise_no_more_false_alarms_than_are_allowed(few_resamples, blocks):
    """Without a limit, so that chance alone decides, and at a rate that few suites can show."""
    rules = Rules(limit=Limit(threshold=0.0), alpha=0.1, confidence=0.8)
    suites = 120
    alarms = sum("regression" in decided(MadeUp(seed, blocks), rules).values() for seed in range(suites))
    assert binomtest(alarms, suites, rules.alpha, "greater").pvalue > 0.01


def test_what_is_slower_is_found_and_nothing_else(few_resamples):
    found = [decided(MadeUp(seed, slower=1.3)) for seed in range(20)]
    expected = dict.fromkeys(NAMES, "pass") | {NAMES[0]: "regression"}
    assert sum(each == expected for each in found) >= 19


def test_what_is_slower_by_just_its_limit_is_passed_or_called_hardly_more_often_than_said(few_resamples):
    suites = 100
    found = [decided(MadeUp(seed, slower=1.05))[NAMES[0]] for seed in range(suites)]
    for verdict in ("pass", "regression"):
        assert binomtest(found.count(verdict), suites, 0.05, "greater").pvalue > 0.01


def test_a_phase_ends_with_the_first_look_that_leaves_nothing_open():
    runner = MadeUp(spread=0.002)
    assert decided(runner) == dict.fromkeys(NAMES, "pass")
    assert [(phase, block) for phase, block, *_ in runner.timed] == [("first", block) for block in range(4)]


def test_what_is_clearly_slower_needs_no_confirmation():
    runner = MadeUp(spread=0.002, slower=1.2)
    assert decided(runner) == dict.fromkeys(NAMES, "pass") | {NAMES[0]: "regression"}
    assert [phase for phase, *_ in runner.timed] == ["first"] * 4


def test_only_what_the_first_look_leaves_open_is_confirmed(monkeypatch):
    verdicts = {NAMES[0]: "regression", NAMES[1]: "inconclusive", NAMES[2]: "pass", NAMES[3]: "improvement"}

    def judge(base, head, rules, counters, fresh=None):
        names = [name for name in by_name(base[-1]) if all(name in by_name(run) for run in base)]
        return [phases.Verdict(name, "time", verdicts[name], "", len(base)) for name in names]

    monkeypatch.setattr(phases.gate, "judge_times", judge)
    runner = MadeUp()
    decided(runner)
    timed = {(phase, block): names for phase, block, _, names in runner.timed}
    assert timed == {("first", block): NAMES for block in range(4)} | {
        ("confirmation", block): NAMES[1:2] for block in range(8)
    }


@pytest.fixture
def clock(monkeypatch):
    """Makes a runner whose processes take their time on the clock that a budget is kept by."""

    def made(**options):
        runner = MadeUp(**options)
        monkeypatch.setattr(phases, "time", SimpleNamespace(monotonic=lambda: runner.clock))
        return runner

    return made


@pytest.mark.parametrize(("seconds", "blocks"), [(1.0, 24), (3.0, 12), (60.0, 8)])
def test_quick_processes_have_more_blocks(clock, few_resamples, seconds, blocks):
    runner = clock(blocks=None, spread=0.3)
    runner.seconds = seconds
    decided(runner)
    assert len(runner.timed) == 2 * blocks


def test_a_budget_is_spent_on_blocks_and_kept(clock, few_resamples):
    runner = clock(budget=1000.0, spread=0.3, blocks=None)
    decided(runner)
    assert len(runner.timed) == 24
    assert 900 < runner.clock <= 1000


def test_with_little_time_processes_have_fewer_rounds(clock, few_resamples):
    runner = clock(budget=250.0)
    runner.time = lambda *asked, time=runner.time: runner_with_rounds(runner, time, *asked)
    runner.seconds = 8.0
    decided(runner)
    assert runner.rounds[0] == 10 > runner.rounds[-1]
    assert runner.clock <= 250


def runner_with_rounds(runner, time, *asked):
    runner.seconds = 4 + 0.4 * asked[-1]
    return time(*asked)


def test_a_budget_that_can_decide_nothing_is_refused_and_the_least_one_named(clock):
    with pytest.raises(GateError, match=r"^--budget must be at least 3 min for these benchmarks, got 90 s$"):
        decided(clock(budget=90.0))


def test_no_time_at_all_is_a_budget_too(clock):
    with pytest.raises(GateError, match=r"^--budget must be at least 3 min for these benchmarks, got 0 s$"):
        decided(clock(budget=0.0))


def test_where_time_is_up_what_is_open_stays_so(clock, few_resamples):
    runner = clock(budget=700.0, spread=0.3)

    def slow_down(*asked, time=runner.time):
        runner.seconds = 10.0 if asked[0] == "first" else 100.0
        return time(*asked)

    runner.time = slow_down
    assert decided(runner) == dict.fromkeys(NAMES, "inconclusive")
    assert [phase for phase, *_ in runner.timed] == ["first"] * 4 + ["confirmation"]
