"""Whether counts follow the shares they were meant to follow, looked at as often as one likes.

A split that does not get the shares it was set to is the most frequent cause of wrong experiments (lost redirects,
crashed logging, bots): whatever differs between the arms then may be who is in them. So the counts are tested before
any outcome is compared.
"""

import math
from collections.abc import Sequence

CONCENTRATION = 10_000.0
"""Weight of the mixture around the meant shares: mismatches of about one standard deviation in 10,000 units (half a
point of an even split) are what it looks for first. The value of the reference implementation (Optimizely's `ssrm`)."""


def log_wealth_against(
    counts: Sequence[int], shares: Sequence[float], *, concentration: float = CONCENTRATION
) -> float:
    """Log of the wealth of a bet against `shares` (positive, summing to one); above −log alpha they are rejected.

    Lindon & Malek, *Anytime-valid inference for multinomial count data* (NeurIPS 2022): Dirichlet mixture with
    parameters concentration · shares over multinomial alternatives. A martingale under the shares, so by Ville's
    inequality it ever reaches 1 / alpha with probability at most alpha.
    """
    if len(counts) != len(shares) or min(counts, default=-1) < 0:
        raise ValueError(f"counts must be one not negative number per share, got {counts} for {shares}")
    if min(shares) <= 0 or not math.isclose(math.fsum(shares), 1.0, abs_tol=1e-9):
        raise ValueError(f"shares must be positive and sum to one, got {shares}")
    gained = math.fsum(
        math.lgamma(concentration * share + count) - math.lgamma(concentration * share) - count * math.log(share)
        for count, share in zip(counts, shares, strict=True)
    )
    return gained + math.lgamma(concentration) - math.lgamma(concentration + sum(counts))
