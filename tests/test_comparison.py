"""Intervals over samples: what they hold, and that samples of one sequence count once."""

from dataclasses import replace

import numpy as np
import pytest

from stagebench.analysis.attribution import TIME_PER_TOKEN, TOKENS, Costs, attribute, compare, mean_of
from stagebench.analysis.intervals import bootstrap
from stagebench.analysis.narrative import as_json, sentences, table, unit
from stagebench.core.errors import AnalysisError


def drawn(model, seed, load, samples=20):
    rng = np.random.default_rng(seed)
    return {
        f"s{i:02}": Costs(
            model, {"load": load + rng.exponential(0.1)}, int(rng.integers(20, 60)), rng.uniform(0.5, 1.0), prefilled=0
        )
        for i in range(samples)
    }


def holds(interval, value):
    return interval["low"] <= value <= interval["high"]


A, B = drawn("a", 1, load=1.0), drawn("b", 2, load=0.2)


def test_a_comparison_is_of_the_averages():
    assert compare(A, B)[0] == attribute(mean_of(list(A.values())), mean_of(list(B.values())))


def test_only_samples_that_both_have_are_compared():
    result, intervals = compare(A, {name: B[name] for name in list(B)[:5]})
    assert (intervals.samples, result.baseline) == (5, mean_of(list(A.values())[:5]))


def test_without_a_sample_in_common_there_is_nothing_to_compare():
    with pytest.raises(AnalysisError, match="must share samples, got none"):
        compare({"x": A["s00"]}, {"y": B["s00"]})


def test_intervals_hold_what_they_are_of():
    result, intervals = compare(A, B)
    assert holds(intervals.saved, result.saved)
    assert holds(intervals.speedup, result.speedup)
    assert all(holds(intervals.seconds[name], result.seconds[name]) for name in ("load", TOKENS, TIME_PER_TOKEN))
    assert all(holds(intervals.shares[name], result.shares[name]) for name in ("load", TOKENS, TIME_PER_TOKEN))


def test_a_difference_that_may_be_nothing_has_no_interval_of_its_shares():
    result, intervals = compare(A, drawn("b", 3, load=1.0))
    assert (holds(intervals.saved, 0.0), intervals.shares) == (True, None)
    assert all("interval" not in sentence for sentence in sentences(as_json(result, intervals))[1:])


def test_intervals_repeat():
    assert compare(A, B)[1] == compare(A, B)[1]


def test_both_models_are_drawn_with_the_same_samples():
    """Samples that differ much, and a difference that is always the same."""
    other = {
        name: Costs("c", {"load": each.parts["load"] - 0.5}, each.tokens, each.decode, 0) for name, each in A.items()
    }
    saved = compare(A, other)[1].saved
    assert saved == pytest.approx({"low": 0.5, "high": 0.5})


def test_samples_of_one_sequence_are_one_draw():
    """Twice the same samples in the same sequences say nothing new."""
    doubled = [{f"{copy}{name}": costs for name, costs in each.items() for copy in "xy"} for each in (A, B)]
    once = compare(A, B)[1]
    clustered = compare(*doubled, sequences={f"{copy}{name}": name for name in A for copy in "xy"})[1]
    apart = compare(*doubled)[1]
    assert (clustered.samples, clustered.clusters) == (40, 20)
    assert clustered.saved == pytest.approx(once.saved)
    narrow, wide = (each.saved["high"] - each.saved["low"] for each in (apart, once))
    assert narrow < 0.8 * wide


def test_one_sequence_has_no_interval():
    result, intervals = compare(A, B, sequences=dict.fromkeys(A, "all"))
    assert intervals is None
    assert sentences(as_json(result, intervals)) == sentences(as_json(result))


def test_intervals_are_in_sentences_tables_and_json():
    result, intervals = compare(A, B)
    load = intervals.shares["load"]
    shown = "{low:.1f} to {high:.1f} %".format(**{end: 100 * share for end, share in load.items()})
    assert sentences(as_json(result, intervals))[1].endswith(f"; 95 % interval {shown}).")
    (heads, _, rows), saved = table(as_json(result, intervals)).grid(), intervals.seconds["load"]
    shown = dict(zip(heads, rows[0], strict=True))["95 % interval, ms"]
    assert shown == "{low:,.3f} to {high:,.3f}".format(**{end: 1e3 * seconds for end, seconds in saved.items()})
    assert as_json(result, intervals)["intervals"]["samples"] == 20


def test_an_interval_that_crosses_zero_does_so_in_the_table_of_models_that_take_seconds():
    result, intervals = compare(A, B)
    found = as_json(result, replace(intervals, seconds=intervals.seconds | {"load": {"low": -1.4e-5, "high": 2.25e-3}}))
    assert "-0.014 to 2.250" in table(found).grid()[2][0]


@pytest.mark.parametrize(
    ("total", "widths", "text"),
    [
        (1.15, [2.3e-3, 0.1], "-0.014 to 2.250 ms"),
        (25.0, [1.0], "0.000 to 0.002 s"),
        (25.0, [2.3e-3], "0.0000 to 0.0022 s"),
        (25.0, [2.3e-4, 0.0, 1e-17], "-0.00001 to 0.00225 s"),
        (1.0, [2e-6], "-0.0140 to 2.2500 ms"),
        (1.0, [], "-0.014 to 2.250 ms"),
    ],
)
def test_times_have_two_digits_of_the_narrowest_interval(total, widths, text):
    of = unit(total, widths)
    assert f"{of.write((-1.4e-5, 2.25e-3))} {of.label}" == text


@pytest.mark.parametrize("clusters", [8, 40])
def test_nineteen_in_twenty_intervals_hold_the_true_mean(clusters):
    """Of 200 draws; a binomial's own spread is 1.6 points, and these intervals are a little narrow."""
    rng = np.random.default_rng(0)
    names = [str(i) for i in range(clusters)]
    held = 0
    for _ in range(200):
        values = rng.normal(5.0, 1.0, clusters)
        (found,) = bootstrap(names, lambda i, v=values: np.array([v[i].mean()]), resamples=400)
        held += holds(found, 5.0)
    assert held / 200 == pytest.approx(0.935, abs=0.035)
