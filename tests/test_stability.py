"""Drift and outliers within one process, by simulation."""

import numpy as np
import pytest

from stagebench.core import statistics


def test_steady_rounds_drift_in_about_one_process_in_a_thousand():
    rng = np.random.default_rng(0)
    assert sum(statistics.drift(rng.normal(1, 0.05, 10)) is not None for _ in range(2000)) <= 8


def test_rounds_that_slow_down_by_a_tenth_in_little_noise_drift_by_a_tenth():
    rng = np.random.default_rng(0)
    found = [statistics.drift(np.linspace(1, 1.1, 10) + rng.normal(0, 0.005, 10)) for _ in range(100)]
    assert [each for each in found if each is None] == []
    assert np.median([each.change for each in found]) == pytest.approx(0.1 / 1.05, rel=0.1)


@pytest.mark.parametrize("seconds", [[], [1.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0] * 20])
def test_too_few_or_equal_rounds_show_no_drift(seconds):
    assert statistics.drift(seconds) is None


def test_less_than_a_hundredth_is_no_drift_however_sure():
    assert statistics.drift(list(np.linspace(1, 1.009, 20))) is None


def test_an_outlier_is_named_by_its_round():
    assert statistics.outliers([1.0, 1.01, 20.0, 0.99, 1.0, 1.02]) == [2]


@pytest.mark.parametrize("seconds", [[], [1.0, 9.0], [1.0, 1.0, 1.0, 9.0], [1.0, 1.1, 0.9, 1.05]])
def test_without_a_scale_or_far_value_there_is_no_outlier(seconds):
    assert statistics.outliers(seconds) == []
