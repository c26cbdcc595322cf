"""Fits and ceilings on numbers whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebench.analysis.intervals import fit_growth, fit_line
from stagebench.analysis.samples import Ceilings


def test_a_straight_line_is_found_exactly():
    line = fit_line([1, 2, 4, 8], [3.5, 4.0, 5.0, 7.0])
    assert (line["intercept"], line["slope"], line["r2"], line["robust_slope"]) == pytest.approx((3.0, 0.5, 1.0, 0.5))
    assert line["largest_residual"] == pytest.approx(0, abs=1e-12)


def test_the_robust_slope_does_not_follow_an_outlier():
    line = fit_line([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 60])
    assert (line["slope"] > 5, line["robust_slope"]) == (True, 1.0)


def test_two_points_have_a_line_and_no_interval():
    line = fit_line([1, 2], [1, 3])
    assert (line["slope"], line["slope_interval"]) == (2.0, None)


def test_what_does_not_vary_has_a_flat_line_and_no_r2():
    line = fit_line([1, 2, 3], [5, 5, 5])
    assert (line["slope"], line["r2"]) == (0.0, None)


def test_nineteen_in_twenty_intervals_hold_the_true_slope():
    rng = np.random.default_rng(0)
    x = np.arange(20.0)
    lines = [fit_line(x, 3 + 0.5 * x + rng.normal(0, 1, 20)) for _ in range(400)]
    held = [line["slope_interval"]["low"] <= 0.5 <= line["slope_interval"]["high"] for line in lines]
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


@given(st.floats(-3, 3), st.floats(1e-6, 1e6))
def test_the_exponent_of_a_power_is_found(exponent, coefficient):
    sizes = [0.2, 1.0, 5.0, 20.0]
    growth = fit_growth(sizes, [coefficient * size**exponent for size in sizes])
    assert growth["slope"] == pytest.approx(exponent, abs=1e-9)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_units_do_not_change_the_exponent(of_size, of_cost):
    sizes, costs = [1.0, 2.0, 4.0, 8.0], [1.0, 3.0, 5.0, 20.0]
    plain = fit_growth(sizes, costs)
    scaled = fit_growth([size * of_size for size in sizes], [cost * of_cost for cost in costs])
    assert scaled["slope"] == pytest.approx(plain["slope"], rel=1e-6)
    assert scaled["slope_interval"]["low"] == pytest.approx(plain["slope_interval"]["low"], rel=1e-6)


@pytest.mark.parametrize("x", [[1, 1], []])
def test_fewer_than_two_different_x_have_no_line(x):
    assert fit_line(x, range(len(x))) is None


@pytest.mark.parametrize("costs", [[0.0, 1.0], [-1.0, 1.0]])
def test_costs_of_0_have_no_power_law(costs):
    assert fit_growth([1, 2], costs) is None


def test_a_stage_that_does_all_it_can_has_a_utilisation_of_1():
    ceilings = Ceilings(flops=2e12, bandwidth=1e11, bandwidth_kind="read")
    assert (ceilings.mfu(2e12, 1.0), ceilings.mbu(1e11, 1.0), ceilings.mbu(1e11, 4.0)) == (1.0, 1.0, 0.25)
