"""The sample-ratio test: a fair bet under the meant shares, and a quick one under others."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from steersman.stats.shares import log_wealth_against


def test_under_the_meant_shares_the_expected_wealth_is_one() -> None:
    """All ways of dealing twelve units to three arms, exactly."""
    shares = [0.1, 0.3, 0.6]
    counts = [c for c in itertools.product(range(13), repeat=3) if sum(c) == 12]
    expected = sum(
        float(scipy.stats.multinomial.pmf(c, 12, shares)) * math.exp(log_wealth_against(c, shares, concentration=5))
        for c in counts
    )
    assert expected == pytest.approx(1.0, abs=1e-9)


@given(st.lists(st.integers(0, 400), min_size=2, max_size=4), st.sampled_from([1.0, 50.0, 10_000.0]))
def test_the_wealth_is_the_dirichlet_multinomials_likelihood_ratio(counts: list[int], concentration: float) -> None:
    shares = [1 / len(counts)] * len(counts)
    if not sum(counts):
        return
    alpha = [concentration * share for share in shares]
    ratio = scipy.stats.dirichlet_multinomial.logpmf(counts, alpha, sum(counts)) - scipy.stats.multinomial.logpmf(
        counts, sum(counts), shares
    )
    assert log_wealth_against(counts, shares, concentration=concentration) == pytest.approx(float(ratio), abs=1e-6)


def test_looked_at_after_every_hundred_units_a_fair_split_is_rarely_rejected() -> None:
    rng = np.random.default_rng(6)
    rejected = 0
    for _ in range(300):
        arms = np.cumsum(rng.random(10_000) < 0.1)[99::100]
        rejected += any(
            log_wealth_against([int(k), n - int(k)], [0.1, 0.9]) >= -math.log(0.05)
            for n, k in zip(range(100, 10_001, 100), arms, strict=True)
        )
    assert rejected <= 15


def test_an_arm_that_loses_a_fifth_of_its_units_is_found() -> None:
    assert log_wealth_against([1_600, 18_000], [0.1, 0.9]) > math.log(1_000)


def test_shares_that_are_none_are_refused() -> None:
    for counts, shares in (([1, 2], [0.5]), ([-1, 2], [0.5, 0.5]), ([1, 2], [0.0, 1.0]), ([1, 2], [0.4, 0.5])):
        with pytest.raises(ValueError, match="must"):
            log_wealth_against(counts, shares)
