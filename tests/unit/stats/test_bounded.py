"""Means of bounded values from running sums: covered at every look whatever the distribution."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from steersman.stats.bounded import BET_MAX, BETS, bounded_interval, log_wealth_below
from steersman.stats.sequences import Interval

alphas = st.sampled_from([0.01, 0.05, 0.1])


def interval_of(values: NDArray[np.float64], *, low: float, high: float, alpha: float = 0.05) -> Interval:
    sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return bounded_interval(len(values), float(values.mean()), sd, low=low, high=high, alpha=alpha)


@pytest.mark.parametrize(("rate", "size"), [(0.02, 1.0), (0.1, 0.2), (0.5, 1.0)])
def test_a_true_mean_is_bet_against_in_vain_however_skewed_the_values_are(rate: float, size: float) -> None:
    """Looked at after each of 500 values; each side is beaten in at most alpha = 5 % of 1,000 runs."""
    values = np.random.default_rng(14).random((1_000, 500))
    values = (values < rate) * size
    n = np.arange(1, 501)
    mean = np.cumsum(values, axis=1) / n
    sd = np.sqrt(np.maximum(np.cumsum(values**2, axis=1) - n * mean**2, 0.0) / np.maximum(n - 1, 1))
    below = log_wealth_below(n, mean, sd, rate * size, low=0, high=1)
    above = log_wealth_below(n, -mean, sd, -rate * size, low=-1, high=0)
    for wealth in (below, above):
        assert (wealth >= -math.log(0.05)).any(axis=1).mean() <= 0.05


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-2, 3), min_size=1, max_size=60), st.floats(-2, 3))
def test_the_capital_of_the_real_bets_is_never_less(values: list[float], against: float) -> None:
    """The sums stand for a product over the single values, from below; so the interval contains that of real bets."""
    x = np.array(values)
    sd = float(x.std(ddof=1)) if x.size > 1 else 0.0
    rates = BETS * 2.0 / 5.0
    rates = rates[rates * (3.0 - against) <= BET_MAX]
    real = sum(math.exp(float(np.sum(np.log1p(rate * (against - x))))) for rate in rates.tolist()) / BETS.size
    by_sums = float(log_wealth_below(x.size, float(x.mean()), sd, against, low=-2, high=3))
    assert math.exp(by_sums) <= real * (1 + 1e-9) + 1e-12


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-2, 3), min_size=1, max_size=200), alphas)
def test_bounded_intervals_keep_to_their_range_and_contain_their_estimate(values: list[float], alpha: float) -> None:
    interval = interval_of(np.array(values), low=-2, high=3, alpha=alpha)
    assert -2 - 1e-9 <= interval.lower <= interval.estimate <= interval.upper <= 3 + 1e-9


def test_a_mean_is_bet_against_successfully_outside_of_its_interval_and_nowhere_inside() -> None:
    values = np.random.default_rng(15).choice([-1.0, 0.0, 1.0], p=[0.01, 0.98, 0.01], size=400)
    interval = interval_of(values, low=-1, high=1)
    sums = (400, interval.estimate, float(values.std(ddof=1)))
    for against in np.linspace(interval.estimate, 1.0, 50):
        won = log_wealth_below(*sums, against, low=-1, high=1) >= math.log(2 / 0.05)
        assert won == (against > interval.upper)


def test_values_that_hardly_differ_are_told_more_narrowly_than_by_hoeffdings_bound_for_one_look() -> None:
    values = np.random.default_rng(15).choice([-1.0, 0.0, 1.0], p=[0.01, 0.98, 0.01], size=400)
    interval = interval_of(values, low=-1, high=1)
    assert interval.upper - interval.lower < 0.5 * 2 * 2 * math.sqrt(math.log(2 / 0.05) / 800)


def test_scale_and_place_do_not_matter() -> None:
    values = np.random.default_rng(16).random(50)
    unit, moved = interval_of(values, low=0, high=1), interval_of(values * 4 - 1, low=-1, high=3)
    assert (moved.lower, moved.upper) == pytest.approx((unit.lower * 4 - 1, unit.upper * 4 - 1), abs=1e-6)


def test_sums_that_cannot_be_are_refused_and_no_value_leaves_everything_possible() -> None:
    for n, mean, sd, high in ((3, 2.0, 0.0, 1), (3, math.nan, 0.0, 1), (3, 0.5, -1.0, 1), (3, 0.5, 0.1, 0)):
        with pytest.raises(ValueError, match=r"must"):
            bounded_interval(n, mean, sd, low=0, high=high)
    with pytest.raises(ValueError, match="alpha"):
        bounded_interval(1, 0.5, 0.0, low=0, high=1, alpha=0)
    nothing = bounded_interval(0, 0.0, 0.0, low=-1, high=1)
    assert (nothing.lower, nothing.upper) == (-1.0, 1.0)
