"""Intervals valid at every look: exactness against oracles, coverage by simulation, honesty at small n."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from steersman.stats.beta import beta_cdf, beta_quantile, student_quantile
from steersman.stats.sequences import (
    ROWS_TUNED_AT,
    Interval,
    Sides,
    asymptotic_interval,
    asymptotic_radii,
    asymptotic_radius,
    bernoulli_interval,
    clopper_pearson_interval,
    mixture_variance,
    needed_n,
    student_interval,
    student_radius,
)

alphas = st.sampled_from([0.01, 0.05, 0.1])


@given(x=st.floats(0.001, 0.999), a=st.floats(0.5, 5_000), b=st.floats(0.5, 5_000))
def test_the_incomplete_beta_function_equals_scipys(x: float, a: float, b: float) -> None:
    assert beta_cdf(x, a, b) == pytest.approx(float(scipy.stats.beta.cdf(x, a, b)), abs=1e-10)


@given(p=st.floats(0.001, 0.999), dof=st.integers(1, 500))
def test_students_quantile_equals_scipys(p: float, dof: int) -> None:
    assert student_quantile(p, dof) == pytest.approx(float(scipy.stats.t.ppf(p, dof)), rel=1e-8, abs=1e-8)


@given(n=st.integers(1, 3_000), share=st.floats(0, 1), alpha=alphas)
def test_clopper_pearson_equals_scipys(n: int, share: float, alpha: float) -> None:
    events = round(n * share)
    expected = scipy.stats.binomtest(events, n).proportion_ci(confidence_level=1 - alpha, method="exact")
    interval = clopper_pearson_interval(events, n, alpha=alpha)
    assert (interval.lower, interval.upper) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_beta_refuses_what_has_no_meaning() -> None:
    for call in (lambda: beta_cdf(0.5, 0, 1), lambda: beta_quantile(2, 1, 1), lambda: student_quantile(0.5, 0)):
        with pytest.raises(ValueError, match="must"):
            call()


@given(n=st.integers(2, 2_000), alpha=alphas, tuned_at=st.sampled_from([5, 7, 50]), t=st.floats(0.01, 30))
def test_the_student_radius_is_where_the_wealth_reaches_one_over_alpha(
    n: int, alpha: float, tuned_at: int, t: float
) -> None:
    """The wealth against zero of data with mean t·sd/√n, integrated numerically over effect sizes (no closed form)."""
    radius = student_radius(n, alpha=alpha, tuned_at=tuned_at)
    rho2 = mixture_variance(alpha, tuned_at)
    x = t * t / (n - 1)
    k = 1 / (1 + n * rho2)
    log_wealth = 0.5 * math.log(k) + n / 2 * (math.log1p(x) - math.log1p(k * x))
    assert (t / math.sqrt(n) > radius) == (log_wealth > -math.log(alpha)) or math.isclose(
        t / math.sqrt(n), radius, rel_tol=1e-6
    )


def test_the_wealth_formula_is_the_bayes_factor_of_a_normal_effect() -> None:
    """Closed form against quadrature of the noncentral t density over effect sizes d ~ N(0, rho²)."""
    n, rho, t = 9, 0.8, 2.7
    effects = np.linspace(-8, 8, 16_001) * rho
    prior = scipy.stats.norm.pdf(effects, scale=rho)
    likelihood = scipy.stats.nct.pdf(t, df=n - 1, nc=effects * math.sqrt(n))
    factor = np.trapezoid(prior * likelihood, effects) / scipy.stats.t.pdf(t, df=n - 1)
    k, x = 1 / (1 + n * rho * rho), t * t / (n - 1)
    assert factor == pytest.approx(math.sqrt(k) * ((1 + x) / (1 + k * x)) ** (n / 2), rel=1e-5)


@given(n=st.integers(5, 1_000), alpha=alphas)
def test_one_sided_bounds_are_tighter_than_two_sided_ones_of_the_same_alpha(n: int, alpha: float) -> None:
    assert student_radius(n, alpha=alpha, sides=1) <= student_radius(n, alpha=alpha, sides=2)
    assert asymptotic_radius(n, alpha=alpha, sides=1) <= asymptotic_radius(n, alpha=alpha, sides=2)


def test_with_many_blocks_the_student_sequence_becomes_the_asymptotic_one() -> None:
    student = student_radius(200_000, alpha=0.05, tuned_at=1_000)
    assert student == pytest.approx(asymptotic_radius(200_000, alpha=0.05, tuned_at=1_000), rel=1e-3)


def test_too_few_blocks_give_no_bound_rather_than_a_narrow_one() -> None:
    for n in (1, 2, 3):
        assert not student_interval(n, 0.0, 1.0).is_bounded
    assert student_interval(5, 0.0, 1.0, sides=1).is_bounded
    assert not asymptotic_interval(1, 0.0, 1.0).is_bounded


@pytest.mark.parametrize("noise", ["normal", "student t with 4 degrees of freedom"])
@pytest.mark.parametrize("sides", [1, 2])
def test_looking_every_day_for_two_months_misses_the_truth_in_at_most_five_percent(noise: str, sides: Sides) -> None:
    runs, days = 2_000, 60
    rng = np.random.default_rng(11)
    x = rng.normal(size=(runs, days)) if noise == "normal" else rng.standard_t(4, size=(runs, days))
    missed_above, missed_below = _misses(
        x, np.array([student_radius(n, alpha=0.05, sides=sides) for n in range(1, 61)])
    )
    worst = np.mean(missed_above | missed_below) if sides == 2 else max(np.mean(missed_above), np.mean(missed_below))
    assert worst <= 0.05


def test_looking_at_every_hundredth_row_misses_the_truth_in_at_most_five_percent() -> None:
    rng = np.random.default_rng(12)
    looks = np.arange(200, 5_001, 100)
    x = rng.exponential(size=(500, 5_000)) - 1.0
    total, squares = np.cumsum(x, axis=1)[:, looks - 1], np.cumsum(x * x, axis=1)[:, looks - 1]
    mean = total / looks
    sd = np.sqrt((squares - looks * mean**2) / (looks - 1))
    radius = np.array([asymptotic_radius(int(n), alpha=0.05) for n in looks])
    assert np.mean(np.any(np.abs(mean) > radius * sd, axis=1)) <= 0.05


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5])
def test_an_error_rate_looked_at_after_every_request_is_missed_in_at_most_five_percent(rate: float) -> None:
    rng = np.random.default_rng(13)
    missed = 0
    for _ in range(200):
        events = np.cumsum(rng.random(2_000) < rate)
        looks = (bernoulli_interval(int(events[n - 1]), n) for n in range(20, 2_001, 90))
        missed += any(not look.lower <= rate <= look.upper for look in looks)
    assert missed <= 10


@given(n=st.integers(1, 100_000), share=st.floats(0, 1), alpha=alphas)
def test_error_rates_seen_repeatedly_are_wider_than_seen_once(n: int, share: float, alpha: float) -> None:
    events = round(n * share)
    once, repeated = clopper_pearson_interval(events, n, alpha=alpha), bernoulli_interval(events, n, alpha=alpha)
    assert repeated.lower <= once.lower + 1e-9
    assert once.upper <= repeated.upper + 1e-9
    assert repeated.lower <= events / n <= repeated.upper


@given(distance=st.floats(0.001, 1), sd=st.floats(0.001, 1))
def test_needed_n_is_the_first_that_decides(distance: float, sd: float) -> None:
    n = needed_n(distance, sd, sides=1)
    if n is not None:
        assert student_radius(n, alpha=0.05, sides=1) * sd < distance
        assert n == 2 or student_radius(n - 1, alpha=0.05, sides=1) * sd >= distance


@given(distance=st.floats(0.01, 1), sd=st.floats(0.01, 1))
def test_needed_rows_are_the_first_that_decide(distance: float, sd: float) -> None:
    n = needed_n(distance, sd, sides=1, tuned_at=ROWS_TUNED_AT, radii=asymptotic_radii)
    if n is not None:
        assert asymptotic_radius(n, alpha=0.05, sides=1) * sd < distance
        assert n == 2 or asymptotic_radius(n - 1, alpha=0.05, sides=1) * sd >= distance


def test_an_estimate_at_the_margin_never_decides() -> None:
    assert needed_n(0.0, 0.1) is None
    assert needed_n(1e-9, 1.0) is None


def test_numbers_that_cannot_be_are_refused() -> None:
    for call in (
        lambda: student_interval(0, 0.0, 1.0),
        lambda: student_interval(5, math.nan, 1.0),
        lambda: student_interval(5, 0.0, -1.0),
        lambda: student_radius(5, alpha=0.0),
        lambda: student_radius(5, alpha=0.05, tuned_at=0),
        lambda: bernoulli_interval(3, 2),
        lambda: clopper_pearson_interval(-1, 2),
        lambda: needed_n(1.0, math.inf),
    ):
        with pytest.raises(ValueError, match=r"must|got|needs"):
            call()


def test_no_observation_leaves_everything_possible() -> None:
    assert _bounds(bernoulli_interval(0, 0)) == (0.0, 1.0)
    assert _bounds(clopper_pearson_interval(0, 0)) == (0.0, 1.0)


def _bounds(interval: Interval) -> tuple[float, float]:
    return interval.lower, interval.upper


def _misses(x: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = np.arange(1, x.shape[1] + 1)
    mean = np.cumsum(x, axis=1) / n
    sd = np.sqrt(np.maximum(np.cumsum(x * x, axis=1) - n * mean**2, 0) / np.maximum(n - 1, 1))
    reach = np.where(np.isfinite(radius), radius, 1e9) * sd + np.where(np.isfinite(radius), 0, 1e9)
    return np.any(mean - reach > 0, axis=1), np.any(mean + reach < 0, axis=1)
