"""Quantiles at every look: which counts are possible, and how often the truth is missed."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.stats.quantiles import possible_counts, quantile_interval
from steersman.stats.sequences import mixture_variance


@settings(deadline=None)
@given(n=st.integers(1, 400), quantile=st.sampled_from([0.5, 0.9, 0.99]), alpha=st.sampled_from([0.05, 0.025]))
def test_possible_counts_are_those_whose_wealth_stays_below_one_over_alpha(
    n: int, quantile: float, alpha: float
) -> None:
    strength = 1 / mixture_variance(alpha, 2_000)
    k = np.arange(n + 1)
    wealth = scipy.stats.betabinom.logpmf(k, n, strength * quantile, strength * (1 - quantile))
    wealth = wealth - scipy.stats.binom.logpmf(k, n, quantile)
    possible = k[wealth < -math.log(alpha)]
    assert possible_counts(n, quantile, alpha=alpha) == (possible.min(), possible.max())
    assert len(possible) == possible.max() - possible.min() + 1


@pytest.mark.parametrize("quantile", [0.5, 0.99])
@pytest.mark.parametrize("kind", ["continuous", "ties"])
def test_looked_at_after_every_fifty_values_the_quantile_is_missed_in_at_most_five_percent(
    quantile: float, kind: str
) -> None:
    rng = np.random.default_rng(7)
    truth = -math.log1p(-quantile)
    missed = 0
    for _ in range(200):
        values = rng.exponential(size=3_000)
        target = truth
        if kind == "ties":
            values, target = np.ceil(values), math.ceil(truth)
        looks = (quantile_interval(values[:n], quantile) for n in range(50, 3_001, 50))
        missed += any(not look.lower <= target <= look.upper for look in looks)
    assert missed <= 10


def test_a_small_sample_has_no_upper_bound_of_its_p99() -> None:
    interval = quantile_interval(np.arange(1.0, 301.0), 0.99)
    assert math.isinf(interval.upper)
    assert interval.lower < interval.estimate == 297.0
    assert not quantile_interval([], 0.99).is_bounded


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300), st.floats(0.01, 0.99))
def test_bounds_lie_on_both_sides_of_the_estimate(values: list[float], quantile: float) -> None:
    interval = quantile_interval(values, quantile)
    assert interval.lower <= interval.estimate <= interval.upper


def test_quantiles_that_cannot_be_are_refused() -> None:
    for values, quantile in (([1.0], 1.0), ([1.0], 0.0), ([math.nan], 0.5)):
        with pytest.raises(ValueError, match="must"):
            quantile_interval(values, quantile)
