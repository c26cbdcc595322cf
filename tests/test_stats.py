"""The statistics by simulation with fixed seeds: what they promise is how often they are wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test

from stagebench.core import statistics

OUTLIER = np.log(1.3)


def noise(seed, decisions, benchmarks, pairs, spread=0.025, outliers=0.05):
    """Log-ratios of nothing: each process has its own luck, outliers of 1.3x, and a common part over its benchmarks."""
    rng = np.random.default_rng(seed)
    shape = (decisions, benchmarks, pairs, 2)
    logs = rng.normal(0, spread, shape) + (rng.random(shape) < outliers) * OUTLIER
    logs += rng.normal(0, spread, (decisions, 1, pairs, 2))
    return logs[..., 1] - logs[..., 0]


def rate_interval(hits):
    return binomtest(int(hits.sum()), hits.size).proportion_ci(0.999)


def test_what_both_arms_share_cancels():
    base, head = np.array([1.0, 2.0, 4.0]), np.array([1.1, 2.2, 4.4])
    assert statistics.log_ratios(base, head) == pytest.approx(np.log(1.1))


@pytest.mark.parametrize("time", [0.0, -1.0, np.nan, np.inf])
def test_what_is_no_time_has_no_ratio(time):
    assert np.isnan(statistics.log_ratios(np.array([time, 1.0]), np.array([1.0, time]))).all()


@pytest.mark.parametrize(("alpha", "pairs"), [(0.5, 1), (0.05, 5), (0.01, 7), (0.001, 10)])
def test_fewer_pairs_than_these_can_show_nothing(alpha, pairs):
    assert statistics.least_pairs(alpha) == pairs
    assert 2.0**-pairs <= alpha < 2.0 ** (1 - pairs)


@given(st.integers(0, 10**6), st.integers(2, 9))
def test_for_one_benchmark_the_test_is_scipys(seed, pairs):
    ratios = np.random.default_rng(seed).normal(0.01, 0.02, pairs)
    scipys = permutation_test(
        (ratios,), np.sum, permutation_type="samples", alternative="greater", n_resamples=np.inf
    ).pvalue
    assert statistics.suite_p_values(ratios[None])[0] == pytest.approx(scipys)


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 8))
def test_the_smallest_p_value_is_that_of_the_largest_statistic_under_joint_flips(seed, benchmarks, pairs):
    ratios = np.random.default_rng(seed).normal(0.01, 0.02, (benchmarks, pairs))
    scaled = ratios / np.sqrt((ratios**2).sum(1, keepdims=True))
    flips = np.array(np.meshgrid(*[[1, -1]] * pairs)).reshape(pairs, -1)
    expected = np.mean((scaled @ flips).max(0) >= scaled.sum(1).max() - 1e-9)
    assert statistics.suite_p_values(ratios).min() == pytest.approx(expected)


@given(st.integers(0, 10**6))
def test_many_decisions_at_once_are_the_same_as_one_by_one(seed):
    ratios = noise(seed, decisions=3, benchmarks=4, pairs=7)
    together = statistics.weigh(ratios, 0.95)
    for i in range(3):
        alone = statistics.weigh(ratios[i], 0.95)
        for field in ("estimate", "low", "high", "p_slower", "p_faster"):
            assert getattr(together, field)[i] == pytest.approx(getattr(alone, field), nan_ok=True)


@pytest.mark.parametrize("pairs", [8, 14])  # all flips, and drawn ones
def test_the_suite_is_wrong_no_more_often_than_said(pairs):
    decisions = 2000 if pairs <= statistics.EXACT_PAIRS else 300
    batches = [noise(seed, decisions // 10, 27, pairs) for seed in range(10)]
    smallest = np.concatenate([statistics.suite_p_values(batch).min(-1) for batch in batches])
    for alpha in (0.01, 0.05, 0.2):
        assert rate_interval(smallest <= alpha).low <= alpha


def test_the_suite_is_hardly_less_sensitive_than_it_says():
    smallest = statistics.suite_p_values(noise(0, 400, 27, 8)).min(-1)
    assert rate_interval(smallest <= 0.2).high >= 0.2


def test_a_large_effect_in_one_benchmark_raises_no_alarm_in_another():
    ratios = noise(1, 400, 27, 8)
    ratios[:, 0] += np.log(1.5)
    assert rate_interval((statistics.suite_p_values(ratios)[:, 1:] <= 0.05).any(-1)).low <= 0.05


def test_a_slowdown_of_a_fifth_is_found_in_eight_quiet_pairs():
    ratios = noise(2, 200, 27, 8, outliers=0.0)
    ratios[:, 3] += np.log(1.2)
    assert (statistics.suite_p_values(ratios)[:, 3] <= 0.01).mean() > 0.95


def test_the_last_pairs_alone_can_be_tested_beside_intervals_of_all():
    ratios = noise(7, 1, 4, 14)[0]
    evidence = statistics.weigh(ratios, 0.95, fresh=8)
    assert evidence.p_slower == pytest.approx(statistics.suite_p_values(ratios[:, -8:]))
    assert evidence.p_faster == pytest.approx(statistics.suite_p_values(-ratios[:, -8:]))
    assert evidence.low == pytest.approx(statistics.intervals(ratios, 0.95)[0])


def test_power_grows_with_the_slowdown():
    found = []
    for slowdown in (0.0, 0.05, 0.1, 0.2):
        ratios = noise(3, 200, 3, 12)
        ratios[:, 0] += np.log1p(slowdown)
        found.append((statistics.suite_p_values(ratios)[:, 0] <= 0.01).mean())
    assert found == sorted(found)
    assert found[0] < 0.03 < 0.8 < found[-1]


@pytest.mark.parametrize(("pairs", "outliers"), [(8, 0.0), (8, 0.05), (12, 0.05), (16, 0.0)])
def test_the_interval_covers_nearly_as_often_as_it_says(pairs, outliers):
    """At 95 % and so few pairs a BCa interval of the median covers 92 to 94 %: it never decides alone."""
    low, high = statistics.intervals(noise(4, 1500, 1, pairs, outliers=outliers)[:, 0], 0.95)
    assert 0.9 < np.mean((low <= 0) & (high >= 0)) < 0.97


@pytest.mark.parametrize("limit", [0.0, 0.05])
def test_a_suite_in_which_nothing_changed_is_called_a_regression_no_more_often_than_said(limit):
    verdicts = statistics.decide(statistics.weigh(noise(5, 400, 27, 8), 0.95), np.log1p(limit), alpha=0.01)
    assert rate_interval((verdicts == "regression").any(-1)).low <= 0.01


def test_a_slowdown_of_just_its_limit_is_called_or_cleared_only_where_the_interval_misses_it():
    ratios = noise(6, 1500, 1, 8, outliers=0.0) + np.log1p(0.05)
    verdicts = statistics.decide(statistics.weigh(ratios, 0.95), np.log1p(0.05), alpha=0.01)
    assert np.mean(verdicts == "regression") < 0.06
    assert np.mean(verdicts == "pass") < 0.06


@pytest.mark.parametrize(
    ("low", "high", "p_slower", "p_faster", "verdict"),
    [
        (0.06, 0.2, 0.01, 1.0, "regression"),
        (0.06, 0.2, 0.02, 1.0, "inconclusive"),
        (0.05, 0.2, 0.001, 1.0, "inconclusive"),
        (-0.01, 0.06, 1.0, 1.0, "inconclusive"),
        (0.01, 0.04, 0.001, 1.0, "pass"),
        (-0.2, -0.06, 1.0, 0.01, "improvement"),
        (-0.2, -0.06, 1.0, 0.02, "pass"),
        (np.nan, 0.2, 0.001, 1.0, "inconclusive"),
        (0.06, np.nan, 0.001, 1.0, "inconclusive"),
        (np.nan, 0.0, 1.0, 1.0, "inconclusive"),
    ],
)
def test_a_verdict_takes_the_interval_and_the_test(low, high, p_slower, p_faster, verdict):
    evidence = statistics.Evidence(*map(np.array, (0.0, low, high, p_slower, p_faster)))
    assert statistics.decide(evidence, 0.05, alpha=0.01) == verdict


def test_flips_beyond_the_exact_ones_are_drawn_with_the_observed_one_among_them():
    ratios = np.full((1, 20), 0.1) + np.linspace(0, 0.01, 20)
    assert statistics.suite_p_values(ratios)[0] == pytest.approx(2.0**-statistics.EXACT_PAIRS)


def test_without_any_spread_the_bootstrap_gives_no_interval_and_no_warning():
    low, high = statistics.intervals(np.full((1, 8), 0.1), 0.99)
    assert np.isnan([low, high]).all()


def test_without_any_difference_nothing_is_shown():
    assert statistics.suite_p_values(np.zeros((2, 8))).tolist() == [1.0, 1.0]


def test_tied_pairs_count_as_tied():
    ratios = np.array([[0.1, 0.1, 0.1, -0.1]])
    assert statistics.suite_p_values(ratios)[0] == pytest.approx(5 / 16)


def test_where_ratios_have_ties_the_interval_is_from_the_least_to_the_largest():
    ratios = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.03, -0.01])
    low, high = statistics.intervals(np.stack([ratios, ratios]), 0.975)
    assert (low.tolist(), high.tolist()) == ([-0.01, -0.01], [0.03, 0.03])
    assert np.isnan(statistics.intervals(ratios[-4:] + np.array([0.0, 0.0, -0.03, 0.01]), 0.975)[0])
    assert np.isnan(statistics.intervals(np.array([[0.0, 0.0, 0.0, 0.1]]), 0.95)[0]).all()
