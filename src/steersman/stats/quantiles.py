"""Bounds of a quantile (the p99 of latency, say) that stay valid however often one looks.

Nothing is assumed of the distribution, only that values are independent and alike: how many of them lie at or below the
true quantile is a count of coin flips with a *known* probability, and a bet against that probability tells which counts
are possible at this look. The bounds are the order statistics at those counts.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from steersman.stats.sequences import Interval, mixture_variance

TUNED_AT = 2_000
"""Values at which the sequence is narrowest: a p99 with its twenty values beyond."""


def quantile_interval(values: ArrayLike, quantile: float, *, alpha: float = 0.05, tuned_at: int = TUNED_AT) -> Interval:
    """Confidence sequence of the `quantile` of values, two-sided; infinite where the sample cannot tell yet.

    Howard & Ramdas, *Sequential estimation of quantiles with applications to A/B testing and best-arm identification*
    (Bernoulli 2022), with the beta-binomial boundary. Ties do no harm: broken at random, they leave the counts exact
    and the order statistics as they are. NaN values are refused. O(n log n).
    """
    if not 0.0 < quantile < 1.0:
        raise ValueError(f"quantile must lie strictly within 0..1, got {quantile}")
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    n = int(ordered.size)
    if n and math.isnan(ordered[-1]):
        raise ValueError("values must be numbers, got NaN")
    method = "quantile sequence"
    if n == 0:
        return Interval(estimate=math.nan, lower=-math.inf, upper=math.inf, n=0, alpha=alpha, method=method)
    fewest, most = possible_counts(n, quantile, alpha=alpha, tuned_at=tuned_at)
    return Interval(
        estimate=float(ordered[max(math.ceil(n * quantile) - 1, 0)]),
        lower=float(ordered[fewest - 1]) if fewest > 0 else -math.inf,
        upper=float(ordered[most]) if most < n else math.inf,
        n=n,
        alpha=alpha,
        method=method,
    )


def possible_counts(n: int, quantile: float, *, alpha: float, tuned_at: int = TUNED_AT) -> tuple[int, int]:
    """Fewest and most of n values that may lie at or below the true quantile, at every n at once with 1 − alpha.

    The wealth of count k is the beta-binomial mixture B(a + k, b + n − k) / B(a, b) over p^k (1 − p)^(n − k), its prior
    centred at p; log-convex in k, so each end is found by bisection from the middle.
    """
    strength = 1.0 / mixture_variance(alpha, tuned_at)
    a, b = strength * quantile, strength * (1.0 - quantile)
    log_prior = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    def possible(k: int) -> bool:
        mixture = math.lgamma(a + k) + math.lgamma(b + n - k) - math.lgamma(a + b + n) - log_prior
        return mixture - k * math.log(quantile) - (n - k) * math.log1p(-quantile) < -math.log(alpha)

    middle = min(round(n * quantile), n)
    fewest = _end(possible, middle, 0)
    return fewest, _end(possible, middle, n)


def _end(possible: Callable[[int], bool], inside: int, end: int) -> int:
    """The last count from `inside` towards `end` that is possible."""
    if possible(end):
        return end
    good, bad = inside, end
    while abs(good - bad) > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if possible(middle) else (good, middle)
    return good
