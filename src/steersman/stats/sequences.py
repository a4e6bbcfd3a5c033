"""Intervals that stay valid however often one looks.

A release is looked at every hour until it is decided, and a usual 95 % interval that is looked at every hour is wrong
far more often than one time in twenty (a z-test at each look rolled back 16 % of identical candidates in our
simulation). A *confidence sequence* covers the truth at all times at once with probability 1 − alpha, so a decision may
be taken at whichever look one likes. All constructions here come from one idea, Ville's inequality: a bet against the
true value that pays nothing on average grows past 1 / alpha with probability at most alpha; the interval is the set of
values against which the bet has not grown that far.

Which one for what:

- `student_interval`: means of few blocks (days) with unknown spread. Exact for normal blocks from n = 2 on.
- `asymptotic_interval`: means of many independent rows, whatever their distribution; 500 at least.
- `bounded.bounded_interval`: means of few rows with a known range; no assumption on the distribution at any n; wide.
- `quantiles.quantile_interval`: quantiles of rows; no assumption on the distribution either.
- `bernoulli_interval`: error rates, looked at repeatedly. `clopper_pearson_interval`: error rates, looked at once.

None of them forgives dependence: requests of one day share their weather, so they must first be averaged into blocks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steersman.stats.beta import beta_quantile

Sides = Literal[1, 2]
"""2: both bounds hold together with 1 − alpha. 1: each bound by itself holds with 1 − alpha (together 1 − 2 alpha)."""

BLOCKS_TUNED_AT = 7
"""Blocks at which block sequences are narrowest: a week. Tuned later, five blocks could never decide anything."""

ROWS_TUNED_AT = 2_000
"""Rows at which row sequences are narrowest: paired shadows of independent rows decided at 1,300–3,700 of them."""

NEEDED_MAX = 1_000_000
"""Largest n that `needed_n` looks for; beyond it the honest answer is "unknown"."""

NEEDED_STEP = 1_000
"""It is looked for in two rounds of a thousand counts each."""

SPREAD_FLOOR = 0.25
"""Smallest believed standard deviation between blocks, as a share of the margin. A handful of equal differences (two
identical versions, or a metric that rarely moves) would otherwise give an interval of width zero."""


class Radii(Protocol):
    """Half-width of a sequence at each n, in units of the standard deviation; never grows with n."""

    def __call__(self, n: ArrayLike, *, alpha: float, sides: Sides, tuned_at: int) -> NDArray[np.float64]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Bounds of a mean or rate after n observations; infinite where nothing can be said yet."""

    estimate: float
    lower: float
    upper: float
    n: int
    alpha: float
    method: str

    @property
    def is_bounded(self) -> bool:
        """Whether both bounds are finite, so that the interval says anything."""
        return math.isfinite(self.lower) and math.isfinite(self.upper)


def mixture_variance(alpha: float, tuned_at: int) -> float:
    """Variance of the normal mixture that makes the sequence narrowest near n = `tuned_at`.

    Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, *Time-uniform central limit theory and asymptotic confidence
    sequences* (Annals of Statistics 2024), section on choosing rho: (−2 log alpha + log(−2 log alpha + 1)) / n.
    """
    _check(alpha, tuned_at)
    spent = -2.0 * math.log(alpha)
    return (spent + math.log(spent + 1.0)) / tuned_at


def _log_threshold(alpha: float, sides: Sides, shrinkage: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the wealth at which the two-sided mixture rejects.

    Two-sided: 1 / alpha. One-sided: betting on one side only (half-normal mixture) gives wealth 2 B − B', where B is
    the two-sided wealth and B' the wealth of the wrong side, at most sqrt(shrinkage) once the data point the right
    way; so B ≥ (1 / alpha + sqrt(shrinkage)) / 2 suffices.
    """
    if sides == 2:
        return np.full_like(shrinkage, -math.log(alpha))
    return np.log((1.0 / alpha + np.sqrt(shrinkage)) / 2.0)


def student_radius(n: int, *, alpha: float, sides: Sides = 2, tuned_at: int = BLOCKS_TUNED_AT) -> float:
    """Half-width of `student_interval` in units of the sample standard deviation; infinite for very few blocks.

    Time-uniform t-test by a normal mixture over the effect size with the right Haar prior on the scale: Lai (1976);
    Wang & Ramdas, *Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance* (Sequential
    Analysis 2025), Gaussian mixture. With x = n (mean − m)² / sum of squares and k = 1 / (1 + n rho²) the wealth
    against m is sqrt(k) ((1 + x) / (1 + k x))^(n/2); solving wealth = 1 / alpha for m gives the radius.
    """
    return float(student_radii(n, alpha=alpha, sides=sides, tuned_at=tuned_at))


def student_radii(
    n: ArrayLike, *, alpha: float, sides: Sides = 2, tuned_at: int = BLOCKS_TUNED_AT
) -> NDArray[np.float64]:
    """`student_radius` of many n at once, of the shape of `n`."""
    rho2 = mixture_variance(alpha, tuned_at)
    counts = np.asarray(n, dtype=np.float64)
    known = np.maximum(counts, 2.0)
    k = 1.0 / (1.0 + known * rho2)
    growth = np.exp(2.0 / known * (_log_threshold(alpha, sides, k) - 0.5 * np.log(k)))
    possible = (counts >= 2) & (growth * k < 1.0)  # else even an infinite t statistic could not be rejected yet
    x = (growth - 1.0) / np.where(possible, 1.0 - growth * k, 1.0)
    return np.where(possible, np.sqrt(x * (known - 1) / known), np.inf)


def student_interval(
    n: int, mean: float, sd: float, *, alpha: float = 0.05, sides: Sides = 2, tuned_at: int = BLOCKS_TUNED_AT
) -> Interval:
    """Confidence sequence for the mean of blocks from running sums; `sd` is the sample one (n − 1)."""
    _check_moments(n, mean, sd)
    factor = student_radius(n, alpha=alpha, sides=sides, tuned_at=tuned_at)
    radius = math.inf if math.isinf(factor) else factor * sd
    return Interval(
        estimate=mean, lower=mean - radius, upper=mean + radius, n=n, alpha=alpha, method="student mixture sequence"
    )


def asymptotic_radius(n: int, *, alpha: float, sides: Sides = 2, tuned_at: int = ROWS_TUNED_AT) -> float:
    """Half-width of `asymptotic_interval` in units of the standard deviation.

    Waudby-Smith et al. (as above), theorem 2.2, Robbins' normal mixture:
    sqrt(2 (n rho² + 1) / (n² rho²) · log(sqrt(n rho² + 1) / alpha)).
    """
    return float(asymptotic_radii(n, alpha=alpha, sides=sides, tuned_at=tuned_at))


def asymptotic_radii(
    n: ArrayLike, *, alpha: float, sides: Sides = 2, tuned_at: int = ROWS_TUNED_AT
) -> NDArray[np.float64]:
    """`asymptotic_radius` of many n at once, of the shape of `n`."""
    rho2 = mixture_variance(alpha, tuned_at)
    counts = np.asarray(n, dtype=np.float64)
    known = np.maximum(counts, 2.0)
    spread = known * rho2 + 1.0
    log_wealth = _log_threshold(alpha, sides, 1.0 / spread) + 0.5 * np.log(spread)
    return np.where(counts >= 2, np.sqrt(2.0 * spread / (known * known * rho2) * log_wealth), np.inf)


def asymptotic_interval(
    n: int, mean: float, sd: float, *, alpha: float = 0.05, sides: Sides = 2, tuned_at: int = ROWS_TUNED_AT
) -> Interval:
    """Confidence sequence for the mean of many independent rows from running sums.

    Its guarantee starts where the central limit theorem does: use it from some hundred rows on, and
    `student_interval` for blocks.
    """
    _check_moments(n, mean, sd)
    factor = asymptotic_radius(n, alpha=alpha, sides=sides, tuned_at=tuned_at)
    radius = math.inf if math.isinf(factor) else factor * sd
    return Interval(
        estimate=mean, lower=mean - radius, upper=mean + radius, n=n, alpha=alpha, method="asymptotic mixture sequence"
    )


def bernoulli_interval(events: int, n: int, *, alpha: float = 0.05) -> Interval:
    """Confidence sequence for a rate from two counts, valid at every look.

    Beta-binomial mixture (Robbins 1970; Howard, Ramdas, McAuliffe & Sekhon 2021) with the uniform prior: the wealth
    against a rate p is B(1 + events, 1 + n − events) / (p^events (1 − p)^(n − events)).
    """
    _check(alpha, 1)
    _check_counts(events, n)
    method = "beta-binomial sequence"
    if n == 0:
        return Interval(estimate=math.nan, lower=0.0, upper=1.0, n=0, alpha=alpha, method=method)
    misses = n - events
    log_beta = math.lgamma(1 + events) + math.lgamma(1 + misses) - math.lgamma(2 + n)
    limit = log_beta + math.log(alpha)  # inside while events log p + misses log(1 − p) > limit
    rate = events / n

    def inside(p: float) -> bool:
        if p <= 0.0:
            return events == 0 and limit < 0.0
        if p >= 1.0:
            return misses == 0 and limit < 0.0
        return events * math.log(p) + misses * math.log1p(-p) > limit

    return Interval(
        estimate=rate,
        lower=_edge(inside, rate, 0.0),
        upper=_edge(inside, rate, 1.0),
        n=n,
        alpha=alpha,
        method=method,
    )


def clopper_pearson_interval(events: int, n: int, *, alpha: float = 0.05) -> Interval:
    """Exact two-sided interval of a rate for one single look (Clopper & Pearson 1934). Not for repeated looks."""
    _check(alpha, 1)
    _check_counts(events, n)
    method = "Clopper-Pearson"
    if n == 0:
        return Interval(estimate=math.nan, lower=0.0, upper=1.0, n=0, alpha=alpha, method=method)
    lower = 0.0 if events == 0 else beta_quantile(alpha / 2.0, events, n - events + 1)
    upper = 1.0 if events == n else beta_quantile(1.0 - alpha / 2.0, events + 1, n - events)
    return Interval(estimate=events / n, lower=lower, upper=upper, n=n, alpha=alpha, method=method)


def needed_n(
    distance: float,
    sd: float,
    *,
    alpha: float = 0.05,
    sides: Sides = 2,
    tuned_at: int = BLOCKS_TUNED_AT,
    radii: Radii = student_radii,
) -> int | None:
    """Observations in all until a sequence of spread `sd` is narrower than `distance` on each side.

    `distance` is how far the estimate lies from the margin; `radii` says which sequence, blocks' or
    (`asymptotic_radii`) rows'. None when it would take more than `NEEDED_MAX` (an estimate exactly at the margin never
    decides).
    """
    if sd < 0 or not math.isfinite(sd):
        raise ValueError(f"sd must be finite and not negative, got {sd}")
    if distance <= 0:
        return None

    def first_decided(counts: NDArray[np.int64]) -> int | None:
        # Without a spread the product with an infinite radius is no number, which decides nothing.
        with np.errstate(invalid="ignore"):
            decided = radii(counts, alpha=alpha, sides=sides, tuned_at=tuned_at) * sd < distance
        return int(counts[np.argmax(decided)]) if decided.any() else None

    end = first_decided(np.arange(NEEDED_STEP, NEEDED_MAX + 1, NEEDED_STEP))
    return None if end is None else first_decided(np.arange(end - NEEDED_STEP + 1, end + 1))


def _edge(inside: Callable[[float], bool], start: float, end: float) -> float:
    """The point between `start` (inside) and `end` where `inside` stops, to 1e-15 of the span."""
    if inside(end):
        return end
    good, bad = start, end
    for _ in range(200):
        middle = (good + bad) / 2.0
        if middle in (good, bad):
            break
        good, bad = (middle, bad) if inside(middle) else (good, middle)
    return good


def _check(alpha: float, tuned_at: int) -> None:
    if not 0.0 < alpha <= 0.5:
        raise ValueError(f"alpha must lie above 0 and up to 0.5, got {alpha}")
    if tuned_at < 1:
        raise ValueError(f"tuned_at must be at least 1, got {tuned_at}")


def _check_moments(n: int, mean: float, sd: float) -> None:
    if n < 1:
        raise ValueError(f"a mean needs at least one observation, got n={n}")
    if not math.isfinite(mean):
        raise ValueError(f"the mean must be finite, got {mean}")
    if sd < 0 or not math.isfinite(sd):
        raise ValueError(f"sd must be finite and not negative, got {sd}")


def _check_counts(events: int, n: int) -> None:
    if not 0 <= events <= n:
        raise ValueError(f"events must lie in 0..n, got {events} of {n}")
