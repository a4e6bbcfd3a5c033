"""Requests of many simulated releases at once: what each version got wrong, who answered, and whose label came.

Arrays have one release a row and one request a column, in order of arrival. A version is wrong with the base error, the
candidate with the base error plus its harm; where both answer, four fifths of the smaller model's errors are shared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Signs = NDArray[np.int8]
Flags = NDArray[np.bool_]

BASE = 0.05
MARGIN = 0.01
SHARED = 0.8
DRIFT = (0.04, 0.09)
RAMP = ((0.05, 0.04), (0.25, 0.06), (0.50, 0.09))
"""Weight and base error of each third of a ramp."""

DELAY_DAYS = (1.0, 5.0)
"""Mean time until a label comes, exponential: of right answers and of wrong ones."""

LARGE = 0.9
"""Harm of one request where it is rare and large: a Brier score that goes from right to surely wrong."""

RATIO_MARGIN = 0.1
NAMED_A_DAY = (3.0, 1.5)
"""Requests a day that the candidate and the stable version take for positive: so few that some days have none."""

PRECISION = 0.7

HORIZON_DAYS = 14.0
SHOCK_SHAPE = 1.0
"""Shape of the gamma factor (mean one) that multiplies a day's error rates: standard deviation as large as the mean."""


@dataclass(frozen=True, slots=True)
class Split:
    """A split of the traffic."""

    wrong: Flags
    candidate: Flags
    weight: Floats  # of each request, the same in all releases


def drifting(requests: int) -> Floats:
    """Base error from the lower to the upper end, linear in time."""
    return np.linspace(*DRIFT, requests)


def ramp(requests: int) -> tuple[Floats, Floats]:
    """Weight and base error of each request."""
    third = np.minimum(np.arange(requests) * len(RAMP) // requests, len(RAMP) - 1)
    steps = np.array(RAMP)
    return steps[third, 0], steps[third, 1]


def pairs(rng: np.random.Generator, shape: tuple[int, int], *, harm: float, base: float | Floats = BASE) -> Signs:
    """Of each request 1 where only the candidate is wrong, −1 where only the stable version is, else 0."""
    own = (1.0 - SHARED) * np.asarray(base)  # harm is never negative here: the stable model is the smaller in errors
    return _signs(rng.random(shape, dtype=np.float32), own + harm, own)


def _signs(u: NDArray[np.float32], worse: float | Floats, better: float | Floats) -> Signs:
    return (u < worse).astype(np.int8) - (u > 1.0 - np.asarray(better)).astype(np.int8)


def shocked_pairs(rng: np.random.Generator, shape: tuple[int, int], *, harm: float, a_day: int) -> Signs:
    """As `pairs`, but each day multiplies what each version gets wrong by itself by a factor that its requests share."""
    days = shape[1] // a_day
    own = (1.0 - SHARED) * BASE
    worse, better = (_factors(rng, shape[0], days) * rate for rate in (own + harm, own))
    u = rng.random((shape[0], days, a_day), dtype=np.float32)
    return _signs(u, worse[:, :, None], better[:, :, None]).reshape(shape[0], days * a_day)


def rare_pairs(rng: np.random.Generator, shape: tuple[int, int], *, harm: float) -> Floats:
    """Harms of a bounded score: `LARGE` for better or worse in few requests, nothing in the others."""
    own = (1.0 - SHARED) * BASE / 2
    return LARGE * _signs(rng.random(shape, dtype=np.float32), own + harm / LARGE, own)


def named_days(rng: np.random.Generator, releases: int, days: int, *, harm: float) -> NDArray[np.int64]:
    """Hits and named requests of each day, of the candidate and then of the stable version; `harm` is lost precision."""
    named = [rng.poisson(a_day, (releases, days)) for a_day in NAMED_A_DAY]
    hits = [rng.binomial(n, p) for n, p in zip(named, (PRECISION - harm, PRECISION), strict=True)]
    return np.stack([hits[0], named[0], hits[1], named[1]], axis=-1)


def _factors(rng: np.random.Generator, releases: int, days: int) -> Floats:
    return rng.gamma(SHOCK_SHAPE, 1.0 / SHOCK_SHAPE, (releases, days))


def split(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    harm: float,
    weight: float | Floats = 0.1,
    base: float | Floats = BASE,
) -> Split:
    weights = np.broadcast_to(np.asarray(weight, dtype=np.float64), shape[1:])
    candidate = rng.random(shape, dtype=np.float32) < weights
    wrong = rng.random(shape, dtype=np.float32) < np.asarray(base) + harm * candidate
    return Split(wrong, candidate, weights)


def shocked_split(
    rng: np.random.Generator, shape: tuple[int, int], *, harm: float, a_day: int, weight: float = 0.5
) -> Split:
    """As `split`, with the day's factors of `shocked_pairs` on own errors and a further one on shared errors."""
    days = shape[1] // a_day
    own = (1.0 - SHARED) * BASE
    shared = np.minimum(_factors(rng, shape[0], days) * SHARED * BASE, 0.5)
    stable, candidate = (
        np.repeat(shared + _factors(rng, shape[0], days) * rate, a_day, axis=1) for rate in (own, own + harm)
    )
    shape = (shape[0], days * a_day)
    answers = rng.random(shape, dtype=np.float32) < weight
    wrong = rng.random(shape, dtype=np.float32) < np.where(answers, candidate, stable)
    return Split(wrong, answers, np.full(shape[1], weight))


def delays(rng: np.random.Generator, wrong: Flags) -> NDArray[np.float32]:
    """Days until each request's label comes: wrong answers are found out later."""
    right_days, wrong_days = DELAY_DAYS
    return rng.standard_exponential(wrong.shape, dtype=np.float32) * np.where(
        wrong, np.float32(wrong_days), np.float32(right_days)
    )


def labelled_only(labelled: Flags, *arrays: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    """Keep the labelled requests of each release, in order, cut to the length that all releases reach."""
    length = int(labelled.sum(axis=1).min())
    first = np.argsort(~labelled, axis=1, kind="stable")[:, :length]
    return [np.take_along_axis(array, first, axis=1) for array in arrays]
