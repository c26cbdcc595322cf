"""The decision, from JSON alone."""

import subprocess
import sys

import numpy as np
import pytest

from stagebench.core.errors import GateError, StagebenchError
from stagebench.gate import decide
from stagebench.gate.counters import judge_counters
from stagebench.gate.decide import judge_times, log_ratios
from stagebench.gate.limits import Limit, Rules
from stagebench.gate.verdicts import Verdict, confirmed, exit_code, undecided

DECODE, ENCODE = "b/test_stages.py::test_stage[m-decode]", "b/test_stages.py::test_stage[m-encode]"
REFERENCE = "b/test_reference.py::test_reference"
WORK = {"steps": 31, "flops": 1000, "host_reads": 2}
HERE = {"device": "d", "profile": "tiny", "dtype": "float32"}
RULES = Rules()


def a_run(times=None, work=WORK, info=None, **own):
    times = {DECODE: 0.1} if times is None else times
    return {
        "machine_info": HERE,
        "stagebench": {"failed": 0, "exit_status": 0} | own,
        "benchmarks": [
            {"fullname": name, "stats": {"median": t}, "extra_info": {"work": work} | (info or {})}
            for name, t in times.items()
        ],
    }


def runs(factors, seed=0, spread=0.01, **keys):
    """One run a factor-row: the processes of one arm, each with its own luck."""
    rng = np.random.default_rng(seed)
    n = 8
    return [a_run({k: 0.1 * f * np.exp(rng.normal(0, spread)) for k, f in factors.items()}, **keys) for _ in range(n)]


def kinds(verdicts):
    return {(v.benchmark, v.kind): v.verdict for v in verdicts}


def time_verdict(base, head, rules=RULES):
    return next(v for v in decide.judge(base, head, rules) if v.kind == "time")


def counter_verdict(before, after, rules=RULES):
    (verdict,) = judge_counters([a_run(work=before)], [a_run(work=after)], rules)
    return verdict


@pytest.mark.parametrize(
    ("turns", "rounds", "ratio"),
    [
        ((3, 3), (2.0, 6.0, 4.0), 2),
        ((0, 0), (2.0, 6.0, 4.0), 4 / 3),
        ((3, 0), (2.0, 6.0, 4.0), 4 / 3),
        ((3, 3), (4.0,), 4 / 3),
    ],
)
def test_rounds_are_compared_with_those_beside_them_where_both_processes_took_turns(turns, rounds, ratio):
    base, head = (a_run({DECODE: np.median(data)}, turns=n) for n, data in zip(turns, ((1, 3, 9), rounds), strict=True))
    for run, data in ((base, [1.0, 3.0, 9.0]), (head, list(rounds))):
        run["benchmarks"][0]["stats"]["data"] = data
    assert log_ratios([base], [head], DECODE) == pytest.approx([np.log(ratio)])


def test_an_unchanged_suite_passes():
    verdicts = decide.judge(runs({DECODE: 1, ENCODE: 1}), runs({DECODE: 1, ENCODE: 1}, seed=1), RULES)
    assert {v.verdict for v in verdicts} == {"pass"}
    assert exit_code(verdicts) == 0


def test_a_slower_stage_is_named_and_no_other():
    verdicts = decide.judge(runs({DECODE: 1, ENCODE: 1}), runs({DECODE: 1.2, ENCODE: 1}, seed=1), RULES)
    assert [v.benchmark for v in verdicts if v.verdict == "regression"] == [DECODE]
    assert exit_code(verdicts) == 1


def test_a_regression_says_by_how_much():
    verdict = time_verdict(runs({DECODE: 1}), runs({DECODE: 1.2}, seed=1))
    assert verdict.estimate == pytest.approx(0.2, abs=0.02)
    assert 0.05 < verdict.interval[0] < verdict.estimate < verdict.interval[1]
    assert (verdict.n, verdict.threshold, verdict.floor) == (8, 0.05, 0.0)


def test_a_faster_stage_is_an_improvement():
    assert time_verdict(runs({DECODE: 1}), runs({DECODE: 0.8}, seed=1)).verdict == "improvement"


def test_slower_by_less_than_the_threshold_passes():
    assert time_verdict(runs({DECODE: 1}), runs({DECODE: 1.03}, seed=1)).verdict == "pass"


def test_slower_by_less_than_the_floor_passes():
    rules = Rules(limit=Limit(threshold=0.05, floor=0.1))  # seconds, of a benchmark that takes 0.1
    assert time_verdict(runs({DECODE: 1}), runs({DECODE: 1.2}, seed=1), rules).verdict == "pass"


def test_a_noisy_time_is_inconclusive():
    base, head = runs({DECODE: 1}, spread=0.2), runs({DECODE: 1.05}, seed=1, spread=0.2)
    assert time_verdict(base, head).verdict == "inconclusive"
    assert exit_code(decide.judge(base, head, RULES)) == 3


def test_slower_in_most_pairs_may_still_be_chance():
    head = runs({DECODE: 1.2}, seed=1)
    head[0] = a_run({DECODE: 0.05})
    head[1] = a_run({DECODE: 0.05})
    verdict = time_verdict(runs({DECODE: 1}), head)
    assert verdict.verdict == "inconclusive"


@pytest.mark.parametrize("n", [1, 2, 6])
def test_too_few_pairs_cannot_decide_however_slow(n):
    base, head = runs({DECODE: 1})[:n], runs({DECODE: 3})[:n]
    verdict = time_verdict(base, head)
    assert verdict.verdict == "inconclusive"
    assert verdict.reason == f"cannot decide: {n} pair{'s' * (n > 1)} of processes, 7 are needed"


def test_seven_pairs_can_decide():
    assert time_verdict(runs({DECODE: 1})[:7], runs({DECODE: 2}, seed=1)[:7]).verdict == "regression"


@pytest.mark.parametrize(("fresh", "expected"), [(None, "regression"), (7, "regression"), (4, "inconclusive")])
def test_pairs_that_chose_what_is_tested_do_not_count_as_evidence(fresh, expected):
    (verdict,) = judge_times(runs({DECODE: 1}), runs({DECODE: 1.2}, seed=1), RULES, [], fresh)
    assert (verdict.verdict, verdict.n) == (expected, 8)


def test_no_spread_at_all_cannot_decide():
    verdict = time_verdict([a_run()] * 8, [a_run({DECODE: 0.2})] * 8)
    assert (verdict.verdict, "no spread at all" in verdict.reason) == ("inconclusive", True)


@pytest.mark.parametrize("time", [float("nan"), 0.0, None])
def test_a_time_that_is_none_cannot_decide_and_spoils_no_other(time):
    base, head = runs({DECODE: 1, ENCODE: 1}), runs({DECODE: 1, ENCODE: 1.3}, seed=1)
    head[3]["benchmarks"][0]["stats"]["median"] = time
    verdicts = kinds(judge_times(base, head, RULES, []))
    assert verdicts == {(DECODE, "time"): "inconclusive", (ENCODE, "time"): "regression"}


def test_the_reference_is_reported_as_drift_and_never_judged():
    verdicts = decide.judge(runs({DECODE: 1, REFERENCE: 1}), runs({DECODE: 1, REFERENCE: 2}, seed=1), RULES)
    assert kinds(verdicts)[(REFERENCE, "drift")] == "pass"
    assert exit_code(verdicts) == 0


def test_a_slow_reference_excuses_no_slow_stage():
    verdicts = decide.judge(runs({DECODE: 1, REFERENCE: 1}), runs({DECODE: 1.3, REFERENCE: 1.3}, seed=1), RULES)
    assert kinds(verdicts)[(DECODE, "time")] == "regression"


@pytest.mark.parametrize(
    ("counter", "now", "expected"),
    [
        ("host_reads", 3, "regression"),
        ("host_reads", 1, "improvement"),
        ("flops", 1001, "regression"),
        ("steps", 32, "changed"),
        ("steps", 30, "changed"),  # fewer tokens are other work, not less of it
        ("steps", 0, "regression"),
    ],
)
def test_a_counter_is_exact(counter, now, expected):
    verdict = counter_verdict(WORK, WORK | {counter: now})
    assert (verdict.verdict, verdict.counter, verdict.head) == (expected, counter, now)


def test_counters_decide_between_two_single_runs():
    verdicts = decide.judge([a_run()], [a_run(work=WORK | {"host_reads": 3})], RULES)
    assert kinds(verdicts) == {(DECODE, "counter"): "regression", (DECODE, "time"): "inconclusive"}
    assert exit_code(verdicts) == 1


def test_a_counter_that_is_no_longer_counted_is_missing():
    assert counter_verdict(WORK, {"steps": 31, "flops": 1000}).verdict == "missing"


def test_a_counter_that_is_new_passes():
    assert counter_verdict(WORK, WORK | {"new": 5}).verdict == "pass"


def test_a_counter_that_does_not_repeat_is_inconclusive():
    base = [a_run(), a_run(work=WORK | {"flops": 999})]
    (verdict,) = judge_counters(base, [a_run()] * 2, RULES)
    assert (verdict.verdict, verdict.counter) == ("inconclusive", "flops")


@pytest.mark.parametrize(("now", "expected"), [(1_019, "pass"), (1_021, "regression"), (979, "improvement")])
def test_an_inexact_counter_has_a_tolerance(now, expected):
    assert counter_verdict({"peak_bytes": 1_000}, {"peak_bytes": now}).verdict == expected


def test_a_counter_of_a_stage_within_the_whole_is_named():
    before, after = ({"decode": {"host_reads": n}, "load": {"host_reads": 0}} for n in (32, 33))
    assert counter_verdict(before, after).counter == "decode.host_reads"


def test_runs_that_count_nothing_have_times_only():
    times = runs({DECODE: 1}, work={})
    verdicts = decide.judge([a_run(), *times], [a_run(work=WORK | {"flops": 1001}), *times], RULES)
    assert kinds(verdicts)[(DECODE, "counter")] == "regression"


def test_the_time_of_other_work_is_incomparable():
    head = runs({DECODE: 0.5}, seed=1, work=WORK | {"steps": 15})
    assert time_verdict(runs({DECODE: 1}), head).verdict == "incomparable"


def test_a_vanished_benchmark_is_missing():
    verdicts = decide.judge(runs({DECODE: 1, ENCODE: 1}), runs({DECODE: 1}, seed=1), RULES)
    assert kinds(verdicts)[(ENCODE, "time")] == "missing"
    assert exit_code(verdicts) == 2


def test_a_benchmark_that_one_process_lacks_is_missing():
    head = runs({DECODE: 1, ENCODE: 1}, seed=1)
    del head[3]["benchmarks"][1]
    assert kinds(decide.judge(runs({DECODE: 1, ENCODE: 1}), head, RULES))[(ENCODE, "time")] == "missing"


def test_a_new_benchmark_passes():
    verdicts = decide.judge(runs({DECODE: 1}), runs({DECODE: 1, ENCODE: 1}, seed=1), RULES)
    assert kinds(verdicts)[(ENCODE, "time")] == "pass"
    assert exit_code(verdicts) == 0


def test_another_environment_is_refused_with_the_key():
    other = a_run() | {"machine_info": HERE | {"dtype": "bfloat16"}}
    with pytest.raises(
        GateError, match=r"run 1 of the head is not comparable.*dtype: 'bfloat16' here, 'float32' there"
    ):
        decide.require_comparable([a_run()], [other])


@pytest.mark.parametrize(
    ("base", "head", "message"),
    [
        ([], [a_run()], "the base must have a run, got none"),
        ([a_run()], [a_run({})], "run 1 of the head must hold at least one benchmark, got none"),
        ([a_run()], [a_run(), a_run(failed=1)], "run 2 of the head must be .* nothing failed, got 1 failures"),
        ([a_run(exit_status=2)], [a_run()], "run 1 of the base .* exit status 2"),
    ],
)
def test_what_cannot_be_decided_on_is_refused(base, head, message):
    with pytest.raises(StagebenchError, match=message):
        decide.require_comparable(base, head)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ([], 2),
        (["pass"], 0),
        (["improvement", "pass"], 0),
        (["pass", "inconclusive"], 3),
        (["inconclusive", "missing"], 2),
        (["incomparable", "pass"], 2),
        (["missing", "inconclusive", "regression"], 1),
    ],
)
def test_the_gravest_verdict_is_the_exit_code(given, code):
    assert exit_code(Verdict("b", "time", verdict, "", 8) for verdict in given) == code


def test_a_confirmation_is_of_what_is_open():
    verdicts = [Verdict(v, "time", v, "", 8) for v in ("pass", "regression", "inconclusive", "improvement", "missing")]
    assert undecided([*verdicts, Verdict("c", "counter", "inconclusive", "", 1)]) == ["inconclusive"]


def test_a_confirmation_decides_what_was_open_and_nothing_else():
    first = [Verdict(name, "time", "inconclusive", "", 8) for name in "abc"] + [Verdict("d", "time", "pass", "", 8)]
    second = [Verdict("a", "time", "pass", "", 16), *(Verdict(name, "time", "regression", "", 16) for name in "bd")]
    assert [v.verdict for v in confirmed(first, second)] == ["pass", "regression", "missing", "pass"]


def test_a_confirmation_leaves_counters_and_what_passed():
    first = [Verdict("a", "time", "pass", "", 8), Verdict("b", "counter", "regression", "", 1)]
    assert confirmed(first, []) == first


def test_a_rule_loosens_one_benchmark():
    rules = Rules(by_glob=(("*decode*", {"threshold": 0.5}),))
    assert time_verdict(runs({DECODE: 1}), runs({DECODE: 1.2}, seed=1), rules).verdict == "pass"


MARKED = {"info": {"gate": {"threshold": 0.5}}}


def test_a_marker_in_both_runs_overrides_the_rules():
    assert time_verdict(runs({DECODE: 1}, **MARKED), runs({DECODE: 1.2}, seed=1, **MARKED)).verdict == "pass"


@pytest.mark.parametrize(("base", "head"), [({}, MARKED), (MARKED, {})])
def test_the_stricter_of_two_markers_holds_and_that_they_differ_is_reported(base, head):
    base, head = runs({DECODE: 1}, **base), runs({DECODE: 1.2}, seed=1, **head)
    assert time_verdict(base, head).verdict == "regression"
    (line,) = decide.differing_markers(base, head)
    assert line.startswith("the marker of test_stage[m-decode]: threshold")


@pytest.mark.parametrize("marked", [{"treshold": 1}, {"threshold": "much"}, {"threshold": float("nan")}, 3, None, []])
def test_a_marker_of_the_head_that_makes_no_sense_is_reported_and_changes_no_limit(marked):
    base, head = runs({DECODE: 1}), runs({DECODE: 1.2}, seed=1, info={"gate": marked})
    assert time_verdict(base, head).verdict == "regression"
    assert "is invalid in the head" in decide.differing_markers(base, head)[0]


def test_a_gate_needs_no_torch():
    modules = "stagebench.gate.decide, stagebench.gate.verdicts, stagebench.cli.stored"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_gate_needs_neither_pytest_nor_click():
    code = "import sys, stagebench.gate.decide, stagebench.gate.verdicts; print({'pytest', 'click'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
