"""Does the candidate keep its service levels? Verdicts on errors, latency and budgets, from the first request on.

A guardrail looks for harm at every turn of the loop, so all its intervals are valid at every look. It fails when the
whole interval lies beyond the limit, whatever the number of requests, and passes when the measured value itself keeps the
limit and there are enough requests. No request at all is never a pass.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steersman.domain.verdicts import Outcome, Verdict
from steersman.stats.quantiles import quantile_interval
from steersman.stats.sequences import Interval, bernoulli_interval


def judge_error_rate(
    *, errors: int, requests: int, limit: float, requests_min: int, alpha: float = 0.05, name: str = "error rate"
) -> Verdict:
    """Guard an error rate by its limit, at any number of looks.

    Two counts since the step began; `limit` is a fraction in 0..1, not percent. A guardrail looks for harm: it fails
    when the whole interval lies above the limit (whatever the number of requests), and passes at `requests_min` when
    the rate itself keeps the limit. In between, and below `requests_min`, it is inconclusive.
    """
    if not 0.0 <= limit <= 1.0:
        raise ValueError(f"limit is a fraction within 0..1, got {limit}")
    if not 0 <= errors <= requests:
        raise ValueError(f"errors must lie in 0..requests, got {errors} of {requests}")
    interval = bernoulli_interval(errors, requests, alpha=alpha)
    measured = (
        f"{name} {errors / requests:.4%} [{interval.lower:.4%}, {interval.upper:.4%}], limit {limit:g}, n={requests}"
        if requests
        else f"{name} unknown, no requests yet"
    )
    needed = None
    if interval.lower > limit:
        outcome, because = Outcome.FAILED, measured
    elif requests < requests_min:
        outcome, because = Outcome.INCONCLUSIVE, f"{measured}; need {requests_min} requests"
        needed = requests_min - requests
    elif errors / requests <= limit:
        outcome, because = Outcome.SUCCESSFUL, measured
    else:
        outcome, because = Outcome.INCONCLUSIVE, f"{measured}; the interval straddles the limit"
    return Verdict(
        outcome=outcome,
        because=because,
        metric=name,
        estimate=errors / requests if requests else None,
        lower=interval.lower,
        upper=interval.upper,
        n=requests,
        n_unit="requests",
        margin=limit,
        method=f"{interval.method}, {1 - alpha:.1%}",
        needed=needed,
    )


def judge_latency(
    latencies_ms: ArrayLike, *, limit_ms: float, quantile: float = 0.99, requests_min: int = 300, alpha: float = 0.05
) -> Verdict:
    """Guard a latency quantile by an absolute limit, at any number of looks since the step began.

    As `judge_error_rate`: fails when the quantile surely exceeds the limit, passes at `requests_min` when it keeps it.
    """
    if limit_ms <= 0:
        raise ValueError(f"limit_ms must be positive, got {limit_ms}")
    name = f"latency p{quantile * 100:g}"
    values = _latencies(latencies_ms)
    if values is None:
        return _impossible(name, limit_ms)
    interval = quantile_interval(values, quantile, alpha=alpha)
    measured = f"{name} {_ms(interval)}, limit {limit_ms:g} ms, n={interval.n}"
    if interval.n == 0:
        measured = f"{name} unknown, no requests yet"
    needed = None
    if interval.lower > limit_ms:
        outcome, because = Outcome.FAILED, measured
    elif interval.n < requests_min:
        outcome, because = Outcome.INCONCLUSIVE, f"{measured}; need {requests_min} requests"
        needed = requests_min - interval.n
    elif interval.estimate <= limit_ms:
        outcome, because = Outcome.SUCCESSFUL, measured
    else:
        outcome, because = Outcome.INCONCLUSIVE, f"{measured}; the interval straddles the limit"
    return Verdict(
        outcome=outcome,
        because=because,
        metric=name,
        estimate=_finite(interval.estimate),
        lower=_finite(interval.lower),
        upper=_finite(interval.upper),
        n=interval.n,
        margin=limit_ms,
        method=f"{interval.method}, {1 - alpha:.1%}",
        needed=needed,
    )


def judge_latency_ratio(
    candidate_ms: ArrayLike,
    stable_ms: ArrayLike,
    *,
    ratio_limit: float,
    quantile: float = 0.99,
    requests_min: int = 300,
    alpha: float = 0.05,
) -> Verdict:
    """Compare a latency quantile of the candidate with the stable version's, measured at the same time.

    Valid at any number of looks: each arm's quantile has a sequence with alpha / 2. Fails when the ratio surely exceeds
    the limit. In a replay installation latency is the replay machine's: the caller records this verdict and lets it
    decide nothing.
    """
    if ratio_limit <= 0:
        raise ValueError(f"ratio_limit must be positive, got {ratio_limit}")
    name = f"latency p{quantile * 100:g} ratio"
    arms = [_latencies(arm) for arm in (candidate_ms, stable_ms)]
    candidate, stable = (None if arm is None else quantile_interval(arm, quantile, alpha=alpha / 2) for arm in arms)
    if candidate is None or stable is None:
        return _impossible(name, ratio_limit)
    n = min(candidate.n, stable.n)
    if n < requests_min:
        return Verdict(
            outcome=Outcome.INCONCLUSIVE,
            because=f"{name}: {candidate.n} and {stable.n} requests, need {requests_min} of each",
            metric=name,
            n=n,
            margin=ratio_limit,
            needed=requests_min - n,
        )
    estimate = candidate.estimate / stable.estimate
    lower = max(candidate.lower, 0.0) / stable.upper
    upper = candidate.upper / stable.lower if stable.lower > 0 else math.inf
    outcome = Outcome.INCONCLUSIVE
    if lower > ratio_limit:
        outcome = Outcome.FAILED
    elif estimate <= ratio_limit:
        outcome = Outcome.SUCCESSFUL
    return Verdict(
        outcome=outcome,
        because=f"{name} {estimate:.2f} [{lower:.2f}, {upper:.2f}] ({candidate.estimate:.1f} ms against "
        f"{stable.estimate:.1f} ms), limit {ratio_limit:g}, {candidate.n} and {stable.n} requests",
        metric=name,
        estimate=estimate,
        lower=lower,
        upper=_finite(upper),
        n=n,
        margin=ratio_limit,
        method=f"{candidate.method}, {1 - alpha:.1%}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Burn:
    """Counts of one pair of windows that end now, and how fast the budget may burn in both."""

    long: timedelta
    short: timedelta
    factor: float  # times the rate that would use up the budget exactly at the end of its period
    errors_long: int
    requests_long: int
    errors_short: int
    requests_short: int


BURN_WINDOWS = (
    (timedelta(hours=1), timedelta(minutes=5), 14.4),
    (timedelta(hours=6), timedelta(minutes=30), 6.0),
    (timedelta(days=3), timedelta(hours=6), 1.0),
)
"""Long window, short window, factor: 2 %, 5 % and 10 % of a 30-day budget. Google, *The Site Reliability Workbook* (2018),
chapter 5, multiwindow, multi-burn-rate alerts."""


def judge_burn_rate(
    burns: Sequence[Burn], *, budget: float, requests_min: int, name: str = "error budget", alpha: float = 0.05
) -> Verdict:
    """Whether errors use up their budget too fast; `budget` is the tolerated error rate, a fraction within 0..1.

    Fails when in some pair both windows burn faster than the pair's factor, the long one surely (its interval lies above
    the budget, so that a single error among few requests rolls nothing back): the long window says it matters, the short
    one that it still goes on. Inconclusive while no long window has `requests_min` requests. Windows slide, so the
    interval is a brake and no bound over all looks.
    """
    if not 0.0 < budget < 1.0:
        raise ValueError(f"budget is a fraction strictly within 0..1, got {budget}")
    for burn in burns:
        if not (0 <= burn.errors_long <= burn.requests_long and 0 <= burn.errors_short <= burn.requests_short):
            raise ValueError(f"errors must lie in 0..requests, got {burn}")
    told = [burn for burn in burns if burn.requests_long > 0]
    n = max((burn.requests_long for burn in told), default=0)
    if not told:
        because = f"{name}: burn rate unknown, no requests yet"
        return Verdict(outcome=Outcome.INCONCLUSIVE, because=because, metric=name, margin=budget, needed=requests_min)
    worst = max(told, key=lambda burn: _rate_long(burn, budget) / burn.factor)
    burning = [burn for burn in told if _burns(burn, budget, alpha)]
    shown = max(burning, key=lambda burn: _rate_long(burn, budget) / burn.factor) if burning else worst
    because = (
        f"{name} burns {_rate_long(shown, budget):.1f} times its rate over {_span(shown.long)} and "
        f"{_rate_short(shown, budget):.1f} times over {_span(shown.short)}, limit {shown.factor:g} in both, "
        f"n={shown.requests_long}"
    )
    outcome, needed = Outcome.SUCCESSFUL, None
    if burning:
        outcome = Outcome.FAILED
    elif n < requests_min:
        outcome, because, needed = Outcome.INCONCLUSIVE, f"{because}; need {requests_min} requests", requests_min - n
    return Verdict(
        outcome=outcome,
        because=because,
        metric=name,
        estimate=shown.errors_long / shown.requests_long,
        n=n,
        margin=budget,
        method="multi-window burn rate",
        needed=needed,
    )


def _burns(burn: Burn, budget: float, alpha: float) -> bool:
    fast = _rate_long(burn, budget) > burn.factor and _rate_short(burn, budget) > burn.factor
    return fast and bernoulli_interval(burn.errors_long, burn.requests_long, alpha=alpha).lower > budget


def _rate_long(burn: Burn, budget: float) -> float:
    return burn.errors_long / burn.requests_long / budget


def _rate_short(burn: Burn, budget: float) -> float:
    return burn.errors_short / burn.requests_short / budget if burn.requests_short else 0.0


def _latencies(values: ArrayLike) -> NDArray[np.float64] | None:
    """The latencies, or None where one of them is no positive number."""
    array = np.asarray(values, dtype=np.float64).ravel()
    return array if np.all(array > 0) else None


def _impossible(name: str, limit: float) -> Verdict:
    because = f"{name}: latencies must be positive numbers"
    return Verdict(outcome=Outcome.ERROR, because=because, metric=name, margin=limit)


def _ms(interval: Interval) -> str:
    return f"{interval.estimate:.1f} ms [{max(interval.lower, 0.0):.1f}, {interval.upper:.1f}]"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _span(span: timedelta) -> str:
    minutes = span / timedelta(minutes=1)
    return f"{minutes:g} min" if minutes < 60 else f"{minutes / 60:g} h" if minutes < 1440 else f"{minutes / 1440:g} d"
