"""Means of values with a known range, with no other assumption, at any n and at every look.

For losses that lie between two numbers (right or wrong, Brier, a score of 1 to 5) and samples too small for a central
limit theorem. Nothing is known of the distribution, so the interval is wider than one over means of blocks.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steersman.stats.sequences import Interval

GRID = 1_000
"""Candidate means that are bet against, evenly over the range; the interval is widened to the next one outside."""

CHUNK = 1_000
"""Values taken at once: 8 MB of wealth."""

BET_MAX = 0.5
"""Largest share of the wealth that one value may lose: one half, as the authors use in their experiments."""


def bounded_interval(values: ArrayLike, *, low: float, high: float, alpha: float = 0.05) -> Interval:
    """Betting confidence sequence for the mean of values known to lie in [low, high], in their order; two-sided.

    Waudby-Smith & Ramdas, *Estimating means of bounded random variables by betting* (JRSS B 2024), theorem 3: hedged
    capital (half of it on each side) with predictable plug-in bets, and the running intersection of all looks so far.
    The estimate is the plain mean, clipped into the bounds. O(n · GRID).
    """
    if not 0.0 < alpha <= 0.5:
        raise ValueError(f"alpha must lie above 0 and up to 0.5, got {alpha}")
    if not high > low:
        raise ValueError(f"high must exceed low, got [{low}, {high}]")
    raw = np.asarray(values, dtype=np.float64).ravel()
    if raw.size and not (np.all(raw >= low) and np.all(raw <= high)):
        raise ValueError(f"values must lie in [{low}, {high}], got {float(raw.min())}..{float(raw.max())}")
    method, n, span = "betting sequence", int(raw.size), high - low
    if n == 0:
        return Interval(estimate=math.nan, lower=low, upper=high, n=0, alpha=alpha, method=method)
    x = (raw - low) / span
    lower, upper = _possible(x, _bets(x, alpha), alpha)
    estimate = min(max(float(np.mean(x)), lower), upper)
    bounds = (low + span * part for part in (estimate, lower, upper))
    estimate, lower, upper = bounds
    return Interval(estimate=estimate, lower=lower, upper=upper, n=n, alpha=alpha, method=method)


def _bets(x: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Predictable plug-in bets: each from the values before it only."""
    t = np.arange(1, x.size + 1, dtype=np.float64)
    mean = (0.5 + np.cumsum(x)) / (t + 1.0)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (t + 1.0)
    before = np.concatenate(([0.25], variance[:-1]))
    bets: NDArray[np.float64] = np.sqrt(2.0 * math.log(2.0 / alpha) / (before * t * np.log1p(t)))
    return bets


def _possible(x: NDArray[np.float64], bets: NDArray[np.float64], alpha: float) -> tuple[float, float]:
    """Lowest and highest mean against which the wealth never reached 1 / alpha, each moved out by one step of the grid."""
    means = np.linspace(0.0, 1.0, GRID + 1)
    up_max, down_max = BET_MAX / np.maximum(means, 1e-12), BET_MAX / np.maximum(1.0 - means, 1e-12)
    wealth = np.zeros((2, means.size))
    alive = np.ones(means.size, dtype=np.bool_)
    limit = math.log(2.0 / alpha)  # each side has half of the capital
    for start in range(0, x.size, CHUNK):
        gains = x[start : start + CHUNK, None] - means
        bet = bets[start : start + CHUNK, None]
        up = wealth[0] + np.cumsum(np.log1p(np.minimum(bet, up_max) * gains), axis=0)
        down = wealth[1] + np.cumsum(np.log1p(-np.minimum(bet, down_max) * gains), axis=0)
        alive &= (up.max(axis=0) < limit) & (down.max(axis=0) < limit)
        wealth = np.stack((up[-1], down[-1]))
    inside = np.flatnonzero(alive)
    if inside.size == 0:  # with probability at most alpha, or between two points of the grid
        inside = np.array([int(np.argmin(wealth.max(axis=0)))])
    return float(means[max(inside[0] - 1, 0)]), float(means[min(inside[-1] + 1, GRID)])
