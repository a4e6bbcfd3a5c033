"""What a split of the traffic says about harm, whatever the shares did meanwhile.

Each request was answered by one version only, so its harm is never seen; but the router logged the probability with
which it chose. Weighted by that probability, a request's loss is an unbiased score of harm, at 5 % and at 50 % alike.
Pooling the raw losses instead turns a ramp on a day of rising error rates into harm out of nothing: with shares of 5, 25
and 50 % and base errors of 4, 6 and 9 % identical versions differ by 1.9 points (Simpson's paradox).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitBlock:
    """One block of a split, in the shape of evidence."""

    harm: float  # mean score: candidate minus stable, above 0 is worse
    n: int
    spread: float  # of the single scores, not below what the design makes them
    loss_sum: float  # of all requests, for the next block's baseline


def aipw_scores(
    loss: ArrayLike, candidate: ArrayLike, probability: ArrayLike, *, baseline: ArrayLike | None = None
) -> Floats:
    """Score of harm of each request: (A / w − (1 − A) / (1 − w)) (loss − baseline), whose mean estimates the harm.

    In order of the requests: `loss` (any sign), `candidate` (which arm answered, 0 or 1), `probability` (logged: that the
    candidate answers, strictly within 0..1). `baseline` takes out what both arms share (a predicted risk, say) and must be
    known *before* the request is assigned, else scores are biased; without one it is the mean loss of the requests
    before it. Robins, Rotnitzky & Zhao (1994); sequentially Waudby-Smith et al. (Annals of Statistics 2024), section 4.
    Arrays of two dimensions are many splits, one a row.
    """
    losses = np.asarray(loss, dtype=np.float64)
    arm = np.asarray(candidate, dtype=np.float64)
    weight = np.asarray(probability, dtype=np.float64)
    if losses.shape != arm.shape or np.broadcast_shapes(losses.shape, weight.shape) != losses.shape:
        raise ValueError(f"scores need arrays of one shape, got {losses.shape}, {arm.shape} and {weight.shape}")
    if not np.all((weight > 0.0) & (weight < 1.0)):
        raise ValueError("probabilities must lie strictly within 0..1: a request that could not be split says nothing")
    if not np.all((arm == 0.0) | (arm == 1.0)):
        raise ValueError("candidate must be 0 or 1")
    expected = mean_before(losses) if baseline is None else np.asarray(baseline, dtype=np.float64)
    return (arm / weight - (1.0 - arm) / (1.0 - weight)) * (losses - expected)


def mean_before(loss: ArrayLike, *, seen: int = 0, loss_sum: float = 0.0) -> Floats:
    """Mean loss of all requests before each one, along the last axis; 0 before the first.

    `seen` requests with `loss_sum` in all came before (in earlier blocks).
    """
    losses = np.asarray(loss, dtype=np.float64)
    before = loss_sum + np.cumsum(losses, axis=-1) - losses
    counts = seen + np.arange(losses.shape[-1], dtype=np.float64)
    return before / np.maximum(counts, 1.0)


def design_spread(loss_variance: ArrayLike, probability: ArrayLike) -> Floats:
    """Standard deviation that scores have if both arms' losses vary alike: sqrt(v / w + v / (1 − w)).

    The spread seen in the scores falls short of it while the smaller arm has met none of its rare errors, which is just
    when a candidate would look best.
    """
    weight = np.asarray(probability, dtype=np.float64)
    spread: Floats = np.sqrt(np.asarray(loss_variance, dtype=np.float64) / (weight * (1.0 - weight)))
    return spread


def split_block(
    loss: ArrayLike, candidate: ArrayLike, probability: ArrayLike, *, seen: int = 0, loss_sum: float = 0.0
) -> SplitBlock:
    """A block of a split as evidence; `seen` and `loss_sum` are those of the blocks before it, for the baseline.

    Raises ValueError without requests, and as `aipw_scores`.
    """
    losses = np.asarray(loss, dtype=np.float64)
    if losses.size == 0:
        raise ValueError("a block of a split needs at least one request")
    baseline = mean_before(losses, seen=seen, loss_sum=loss_sum)
    scores = aipw_scores(losses, candidate, probability, baseline=baseline)
    spread = float(np.std(scores, ddof=1)) if scores.size > 1 else 0.0
    designed = design_spread(np.var(losses), probability)
    return SplitBlock(
        harm=float(np.mean(scores)),
        n=int(scores.size),
        spread=max(spread, float(np.sqrt(np.mean(designed**2)))),
        loss_sum=loss_sum + float(losses.sum()),
    )
