"""Means of bounded values: covered at every look whatever the distribution, and narrow for small samples."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.stats.bounded import bounded_interval

alphas = st.sampled_from([0.01, 0.05, 0.1])


@pytest.mark.parametrize("rate", [0.03, 0.5])
def test_a_bounded_mean_is_covered_without_assumptions_on_its_distribution(rate: float) -> None:
    """The interval is the intersection of all looks, so the last one misses if any did."""
    rng = np.random.default_rng(14)
    found = [bounded_interval(rng.random(120) < rate, low=0, high=1) for _ in range(100)]
    assert sum(not interval.lower <= rate <= interval.upper for interval in found) <= 5


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-2, 3), max_size=200),
    alphas,
)
def test_bounded_intervals_keep_to_their_range_and_contain_their_estimate(values: list[float], alpha: float) -> None:
    interval = bounded_interval(values, low=-2, high=3, alpha=alpha)
    assert -2 - 1e-9 <= interval.lower <= interval.upper <= 3 + 1e-9
    assert not values or interval.lower - 1e-9 <= interval.estimate <= interval.upper + 1e-9


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_more_values_never_widen_it(values: list[float]) -> None:
    """Up to a step of the grid, and unless the looks contradict each other."""
    shorter, longer = (bounded_interval(part, low=0, high=1) for part in (values[:-1], values))
    assert longer.lower >= shorter.lower - 0.0021
    assert longer.upper <= shorter.upper + 0.0021


def test_a_hundred_values_are_told_more_narrowly_than_by_hoeffdings_bound_for_one_look() -> None:
    values = np.random.default_rng(15).beta(2, 5, 100)
    interval = bounded_interval(values, low=0, high=1)
    assert interval.upper - interval.lower < 2 * math.sqrt(math.log(2 / 0.05) / 200)


def test_scale_and_place_do_not_matter() -> None:
    values = np.random.default_rng(16).random(50)
    unit, moved = bounded_interval(values, low=0, high=1), bounded_interval(values * 4 - 1, low=-1, high=3)
    assert (moved.lower, moved.upper) == pytest.approx((unit.lower * 4 - 1, unit.upper * 4 - 1))


def test_values_outside_their_range_are_refused_and_no_value_leaves_everything_possible() -> None:
    for values, high in (([2.0], 1), ([math.nan], 1), ([], 0)):
        with pytest.raises(ValueError, match=r"must"):
            bounded_interval(values, low=0, high=high)
    with pytest.raises(ValueError, match="alpha"):
        bounded_interval([0.5], low=0, high=1, alpha=0)
    nothing = bounded_interval([], low=-1, high=1)
    assert (nothing.lower, nothing.upper) == (-1.0, 1.0)
