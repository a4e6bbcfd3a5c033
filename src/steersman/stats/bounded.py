"""Means of values with a known range, with no other assumption, at any n and at every look.

For losses that lie between two numbers (right or wrong, Brier) and samples too small for a central limit theorem. Nothing
is known of the distribution, so the interval is wider than one over many rows. It needs running sums only, like the
others, and so can judge what was kept by the block.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steersman.stats.sequences import Interval, Sides

BETS = np.geomspace(0.2, 0.9, 4)
"""Bets among which the capital is divided, as shares of it that one value may take at the middle of the range. Small ones win
where the distance to the truth is small and the spread wide, large ones where values hardly differ."""

BET_MAX = 0.95
"""Largest share of a bet's capital that one value may take; bets that would risk more at a mean are not made there."""

GRID = 200
"""Means between the estimate and the end of the range that are tried; the outermost possible one is then found exactly."""

STEPS = 40
"""Halvings of one step of the grid: to 1e-14 of the range."""


def bounded_interval(
    n: int, mean: float, sd: float, *, low: float, high: float, alpha: float = 0.05, sides: Sides = 2
) -> Interval:
    """Confidence sequence for the mean of values known to lie in [low, high], from running sums; `sd` is the sample one.

    A bet against mean m multiplies its capital by 1 + λ (m − x) at each value x, which gains nothing on average if the mean
    is m or more. Its logarithm is at least λ Σ (m − x) − ψ Σ (m − x)², with ψ = −(log(1 − L) + L) λ² / L² and
    L = λ (high − m), the most one value may take: Fan, Grama & Liu, *Exponential inequalities for martingales with
    applications* (Electronic Journal of Probability 2015), the inequality behind the empirical-Bernstein sequences of Howard,
    Ramdas, McAuliffe & Sekhon (Annals of Statistics 2021, theorem 4) and Waudby-Smith & Ramdas (JRSS B 2024, theorem 2).
    The sums are around m itself, so no running mean is needed, and the capital is divided evenly among `BETS`.
    """
    if not 0.0 < alpha <= 0.5:
        raise ValueError(f"alpha must lie above 0 and up to 0.5, got {alpha}")
    if not high > low:
        raise ValueError(f"high must exceed low, got [{low}, {high}]")
    method = "empirical-Bernstein sequence"
    if n == 0:
        return Interval(estimate=math.nan, lower=low, upper=high, n=0, alpha=alpha, method=method)
    slack = 1e-9 * (high - low)
    if n < 0 or not (low - slack <= mean <= high + slack and sd >= 0):
        raise ValueError(f"a mean must lie in [{low}, {high}] and its sd not below 0, got {mean} and {sd} of n={n}")
    mean = min(max(mean, low), high)
    limit = math.log(sides / alpha)
    upper = _edge(n, mean, sd, low=low, high=high, limit=limit)
    lower = -_edge(n, -mean, sd, low=-high, high=-low, limit=limit)
    return Interval(estimate=mean, lower=lower, upper=upper, n=n, alpha=alpha, method=method)


def log_wealth_below(
    n: ArrayLike, mean: ArrayLike, sd: ArrayLike, against: ArrayLike, *, low: float, high: float
) -> NDArray[np.float64]:
    """Log of the capital of bets that the true mean lies below `against`, or less, at one look or (arrays) at many.

    It reaches −log alpha, at whichever look, with probability at most alpha if the true mean is `against` or more.
    """
    counts, means, sds, tried = (
        part[..., None]
        for part in np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (n, mean, sd, against)))
    )
    rate = BETS * 2.0 / (high - low)
    taken = rate * (high - tried)
    made = taken <= BET_MAX
    taken = np.where(made, taken, 0.5)
    # Near 0 the quotient is 1/2 + L/3: there it would be 0 / 0.
    psi = np.where(taken > 1e-4, -(np.log1p(-taken) + taken) / np.maximum(taken, 1e-4) ** 2, 0.5 + taken / 3.0)
    squares = np.maximum(counts - 1.0, 0.0) * sds**2 + counts * (tried - means) ** 2
    gains = rate * counts * (tried - means) - psi * rate**2 * squares
    gains = np.where(made, gains, -np.inf)
    most = np.maximum(np.max(gains, axis=-1), -1e300)
    wealth: NDArray[np.float64] = most + np.log(np.sum(np.exp(gains - most[..., None]), axis=-1) + 1e-300)
    return wealth - math.log(BETS.size)


def _edge(n: int, mean: float, sd: float, *, low: float, high: float, limit: float) -> float:
    """The largest mean against which the bets have not won."""

    def possible(means: NDArray[np.float64]) -> NDArray[np.bool_]:
        return log_wealth_below(n, mean, sd, means, low=low, high=high) < limit

    means = np.linspace(mean, high, GRID + 1)
    last = int(np.flatnonzero(possible(means))[-1])  # the estimate itself is always possible
    if last == GRID:
        return high
    good, bad = float(means[last]), float(means[last + 1])
    for _ in range(STEPS):
        middle = (good + bad) / 2.0
        good, bad = (middle, bad) if possible(np.asarray(middle)) else (good, middle)
    return bad
