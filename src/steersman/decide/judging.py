"""Is the candidate good enough? Verdicts from measured evidence, for analyses, bakes and guardrails.

Quality is judged in pairs: both versions answered the same requests, the metric's harm is taken per block, and a
confidence sequence over the blocks says how much harm is compatible with what was seen, at every look. The rule has two
thresholds in one number, the tolerated harm (`margin`):

- *failed* when the lower bound of harm exceeds the margin: it is surely worse than what we tolerate;
- *successful* when the upper bound lies below the margin: it is surely within what we tolerate;
- else *inconclusive*, until `maxDuration` hands over to `onInconclusive` (`settle_inconclusive`).

A rule that rolls back as soon as harm exceeds zero would abort 45 % of candidates that are worse but tolerable.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steersman.domain.spec import OnInconclusive
from steersman.domain.verdicts import NUnit, Outcome, Verdict
from steersman.stats.performance import BlockDifferences
from steersman.stats.sequences import (
    BLOCKS_TUNED_AT,
    Interval,
    bernoulli_interval,
    needed_n,
    student_interval,
)

BLOCKS_MIN = 5
"""Fewest blocks a verdict may rest on: below it the spread between blocks is itself unknown."""

SPREAD_FLOOR = 0.25
"""Smallest believed standard deviation between blocks, as a share of the margin. A handful of equal differences (two
identical versions, or a metric that rarely moves) would otherwise give an interval of width zero."""

TIER_PROMOTE_WITHIN_MARGIN_MAX = 1
"""Highest risk tier in which an undecided candidate may be promoted; above it a person decides."""


class SettlementAction(StrEnum):
    """What becomes of an analysis that has not decided."""

    WAIT = "wait"  # there is time left
    PAUSE = "pause"  # a person decides
    ROLLBACK = "rollback"
    PROMOTE = "promote"  # go on to the next step, recorded as undecided


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The action and its reason, for the ledger."""

    action: SettlementAction
    because: str


def judge_paired(
    harms: BlockDifferences | Sequence[float],
    *,
    margin: float,
    metric: str = "",
    blocks_min: int = BLOCKS_MIN,
    alpha: float = 0.05,
    n_unit: NUnit = "days",
    critical: bool = True,
    tuned_at: int = BLOCKS_TUNED_AT,
) -> Verdict:
    """Judge a candidate by its harm per block; `harms` come from `performance.paired_blocks` or are plain numbers.

    `alpha` is the probability that a bound is ever wrong, for each of the two bounds: a candidate worse than the margin
    is ever passed with at most alpha, one better than the margin is ever failed with at most alpha. With k critical
    metrics pass alpha / k. An uncritical metric never fails, it stays inconclusive. NaN harm is an error.
    """
    values, name = _harms_of(harms, metric)
    if margin < 0 or not math.isfinite(margin):
        raise ValueError(f"margin must be finite and not negative, got {margin}")
    if blocks_min < 2:
        raise ValueError(f"blocks_min must be at least 2, got {blocks_min}")
    n = int(values.size)
    if not np.all(np.isfinite(values)):
        because = f"{name}: harm could not be measured in {int(np.sum(~np.isfinite(values)))} of {n} {n_unit}"
        return Verdict(outcome=Outcome.ERROR, because=because, metric=name, n=n, n_unit=n_unit, margin=margin)
    if n < blocks_min:
        estimate = float(np.mean(values)) if n else None
        return Verdict(
            outcome=Outcome.INCONCLUSIVE,
            because=f"{name}: {n} {n_unit} of evidence, need at least {blocks_min}",
            metric=name,
            estimate=estimate,
            n=n,
            n_unit=n_unit,
            margin=margin,
            needed=blocks_min - n,
        )
    interval, spread = harm_interval(values, margin=margin, alpha=alpha, tuned_at=tuned_at)
    outcome, finding = _compare(interval, margin, critical)
    needed = None
    if outcome is Outcome.INCONCLUSIVE:
        total = needed_n(abs(interval.estimate - margin), spread, alpha=alpha, sides=1, tuned_at=tuned_at)
        needed = max(total - n, 1) if total is not None else None
    return Verdict(
        outcome=outcome,
        because=f"{name}: harm {_shown(interval)}, {finding} the margin {margin:g}, {n} {n_unit}",
        metric=name,
        estimate=interval.estimate,
        lower=_finite(interval.lower),
        upper=_finite(interval.upper),
        n=n,
        n_unit=n_unit,
        margin=margin,
        method=f"{interval.method}, each bound {1 - alpha:.1%}",
        needed=needed,
    )


def harm_interval(
    values: NDArray[np.float64], *, margin: float, alpha: float = 0.05, tuned_at: int = BLOCKS_TUNED_AT
) -> tuple[Interval, float]:
    """The sequence's interval over block harms, each bound with 1 − alpha, and the spread it used."""
    spread = max(float(np.std(values, ddof=1)), SPREAD_FLOOR * margin)
    mean = float(np.mean(values))
    return student_interval(int(values.size), mean, spread, alpha=alpha, sides=1, tuned_at=tuned_at), spread


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

    The interval comes from order statistics (no assumption on the distribution), so its bounds are those of one look.
    Fails when the ratio's lower bound exceeds the limit. In a replay installation latency is the replay machine's: the
    caller records this verdict and lets it decide nothing.
    """
    if ratio_limit <= 0:
        raise ValueError(f"ratio_limit must be positive, got {ratio_limit}")
    name = f"latency p{quantile * 100:g} ratio"
    arms = [np.sort(np.asarray(arm, dtype=np.float64).ravel()) for arm in (candidate_ms, stable_ms)]
    n = min(int(arm.size) for arm in arms)
    if any(not np.all(arm > 0) for arm in arms):
        because = f"{name}: latencies must be positive numbers"
        return Verdict(outcome=Outcome.ERROR, because=because, metric=name, n=n, margin=ratio_limit)
    if n < requests_min:
        because = f"{name}: {arms[0].size} and {arms[1].size} requests, need {requests_min} of each"
        return Verdict(
            outcome=Outcome.INCONCLUSIVE,
            because=because,
            metric=name,
            n=n,
            margin=ratio_limit,
            needed=requests_min - n,
        )
    (low_c, mid_c, high_c), (low_s, mid_s, high_s) = (_quantile_bounds(arm, quantile, alpha / 2) for arm in arms)
    estimate, lower, upper = mid_c / mid_s, low_c / high_s, high_c / low_s
    outcome = Outcome.INCONCLUSIVE
    if lower > ratio_limit:
        outcome = Outcome.FAILED
    elif estimate <= ratio_limit:
        outcome = Outcome.SUCCESSFUL
    return Verdict(
        outcome=outcome,
        because=f"{name} {estimate:.2f} [{lower:.2f}, {upper:.2f}] ({mid_c:.1f} ms against {mid_s:.1f} ms), "
        f"limit {ratio_limit:g}, {arms[0].size} and {arms[1].size} requests",
        metric=name,
        estimate=estimate,
        lower=lower,
        upper=upper,
        n=n,
        n_unit="requests",
        margin=ratio_limit,
        method=f"order statistics, {1 - alpha:.1%}, one look",
    )


def judge_together(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict over several metrics: any failure fails, all successes succeed, no verdict at all is an error.

    Success needs every metric, so it needs no correction; failure is a union, so its alphas add up.
    """
    if not verdicts:
        return Verdict(outcome=Outcome.ERROR, because="nothing was judged")
    for outcome in (Outcome.FAILED, Outcome.ERROR, Outcome.INCONCLUSIVE):
        decisive = [verdict for verdict in verdicts if verdict.outcome is outcome]
        if decisive:
            break
    else:
        outcome, decisive = Outcome.SUCCESSFUL, list(verdicts)
    if len(verdicts) == 1:
        return verdicts[0]
    needed = [verdict.needed for verdict in decisive]
    return Verdict(
        outcome=outcome,
        because="; ".join(verdict.because for verdict in decisive),
        n=min(verdict.n for verdict in decisive),
        n_unit=decisive[0].n_unit,
        needed=None if any(n is None for n in needed) else max((n for n in needed if n is not None), default=None),
    )


def settle_inconclusive(
    verdict: Verdict,
    *,
    policy: OnInconclusive,
    tier: int,
    elapsed: timedelta,
    max_duration: timedelta,
    blocks_min: int = BLOCKS_MIN,
) -> Settlement:
    """What becomes of an analysis whose verdict is inconclusive or an error; event time.

    Before `max_duration` it waits. Then the policy decides; `promoteWithinMargin` goes on only in tier 0 or 1, with
    at least `blocks_min` blocks of evidence and an estimate within the margin, never after an error.
    """
    if verdict.outcome not in (Outcome.INCONCLUSIVE, Outcome.ERROR):
        raise ValueError(f"only an undecided verdict is settled, this one is {verdict.outcome}")
    if elapsed < max_duration:
        return Settlement(
            action=SettlementAction.WAIT,
            because=f"{verdict.because}; {_days(max_duration - elapsed)} of {_days(max_duration)} left",
        )
    over = f"undecided after {_days(max_duration)} ({verdict.because})"
    match policy:
        case OnInconclusive.PAUSE:
            return Settlement(action=SettlementAction.PAUSE, because=f"{over}; onInconclusive is pause")
        case OnInconclusive.ROLLBACK:
            return Settlement(action=SettlementAction.ROLLBACK, because=f"{over}; onInconclusive is rollback")
        case OnInconclusive.PROMOTE_WITHIN_MARGIN:
            return _promote_within_margin(verdict, tier=tier, over=over, blocks_min=blocks_min)


def _promote_within_margin(verdict: Verdict, *, tier: int, over: str, blocks_min: int) -> Settlement:
    if tier > TIER_PROMOTE_WITHIN_MARGIN_MAX:
        because = f"{over}; promoteWithinMargin is for tier 0 and 1, this is tier {tier}: a person decides"
        return Settlement(action=SettlementAction.PAUSE, because=because)
    if verdict.outcome is Outcome.ERROR or verdict.estimate is None or verdict.margin is None:
        return Settlement(action=SettlementAction.ROLLBACK, because=f"{over}; nothing was measured, no data is no pass")
    if verdict.n < blocks_min:
        because = f"{over}; {verdict.n} {verdict.n_unit} of evidence are fewer than {blocks_min}"
        return Settlement(action=SettlementAction.ROLLBACK, because=because)
    if verdict.estimate > verdict.margin:
        because = f"{over}; estimated harm {verdict.estimate:+.4g} exceeds the margin {verdict.margin:g}"
        return Settlement(action=SettlementAction.ROLLBACK, because=because)
    because = f"{over}; estimated harm {verdict.estimate:+.4g} lies within the margin {verdict.margin:g}"
    return Settlement(action=SettlementAction.PROMOTE, because=because)


def _compare(interval: Interval, margin: float, critical: bool) -> tuple[Outcome, str]:
    if interval.lower > margin:
        if critical:
            return Outcome.FAILED, "above"
        return Outcome.INCONCLUSIVE, "above, but not critical:"
    if interval.upper < margin:
        return Outcome.SUCCESSFUL, "below"
    return Outcome.INCONCLUSIVE, "straddling"


def _harms_of(harms: BlockDifferences | Sequence[float], metric: str) -> tuple[NDArray[np.float64], str]:
    if isinstance(harms, BlockDifferences):
        return np.asarray(harms.harms, dtype=np.float64), metric or harms.metric
    if not metric:
        raise ValueError("plain harms need the metric's name")
    return np.asarray(harms, dtype=np.float64).ravel(), metric


def _quantile_bounds(ordered: NDArray[np.float64], quantile: float, alpha: float) -> tuple[float, float, float]:
    """Lower bound, estimate, upper bound of a quantile from order statistics, normal approximation of the binomial."""
    n = ordered.size
    z = math.sqrt(2.0 * math.log(2.0 / alpha))  # sub-Gaussian bound: wider than the normal quantile, needs no table
    reach = z * math.sqrt(n * quantile * (1.0 - quantile))
    low = min(max(math.floor(n * quantile - reach), 0), n - 1)
    high = min(max(math.ceil(n * quantile + reach), 0), n - 1)
    middle = min(math.ceil(n * quantile) - 1, n - 1)
    return float(ordered[low]), float(ordered[max(middle, 0)]), float(ordered[high])


def _shown(interval: Interval) -> str:
    return f"{interval.estimate:+.4f} [{interval.lower:+.4f}, {interval.upper:+.4f}]"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _days(span: timedelta) -> str:
    days = span / timedelta(days=1)
    return f"{days:g} d" if days >= 1 else f"{span / timedelta(hours=1):g} h"
