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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steersman.domain.spec import EvidenceUnit, OnInconclusive
from steersman.domain.verdicts import NUnit, Outcome, Verdict
from steersman.stats.bounded import bounded_interval, log_wealth_below
from steersman.stats.performance import BLOCK_ROWS_MIN, BlockDifferences
from steersman.stats.ratios import Sums, blocks_told, judged_harms, spread_floor
from steersman.stats.sequences import (
    BLOCKS_TUNED_AT,
    ROWS_TUNED_AT,
    SPREAD_FLOOR,
    Interval,
    asymptotic_radii,
    bernoulli_interval,
    needed_n,
    student_interval,
)
from steersman.stats.shares import log_wealth_against

BLOCKS_MIN = 5
"""Fewest blocks a verdict may rest on: below it the spread between blocks is itself unknown."""

ROWS_MIN = 500
"""Fewest requests the asymptotic sequence over rows judges: it holds where the central limit theorem does. Fewer (a smaller
`rowsMin`) are judged by the sequence for a known range, which needs no such theorem, where the metric has one."""

FEW_STEP = 10
"""Steps of n in which it is looked for when few requests will decide."""

RIGHT_OR_WRONG = frozenset({"accuracy", "agreement", "error_rate"})
"""Metrics whose rows are right or wrong and nothing between. Their errors are rare, so a short run without any says less
than its standard deviation pretends; `row_bounds` then believes in the spread that harm at the margin would have."""

DEPENDENCE_ALPHA = 1e-4
"""Chance, at one look, that independent requests are taken for dependent ones."""

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
    counted: float | None = None,
) -> Verdict:
    """Judge a candidate by its harm per block; `harms` come from `performance.paired_blocks` or are plain numbers.

    `counted` says of plain numbers that they are what each block adds to a ratio of sums (`stats.ratios.Harms`).

    `alpha` is the probability that a bound is ever wrong, for each of the two bounds: a candidate worse than the margin
    is ever passed with at most alpha, one better than the margin is ever failed with at most alpha. With k critical
    metrics pass alpha / k. An uncritical metric never fails, it stays inconclusive. NaN harm is an error.
    """
    values, name = _harms_of(harms, metric)
    if isinstance(harms, BlockDifferences):
        counted = harms.counted
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
    interval, spread = harm_interval(values, margin=margin, alpha=alpha, tuned_at=tuned_at, counted=counted)
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
        method=f"{interval.method}{'' if counted is None else ' over sums'}, each bound {1 - alpha:.1%}",
        needed=needed,
    )


def harm_interval(
    values: NDArray[np.float64],
    *,
    margin: float,
    alpha: float = 0.05,
    tuned_at: int = BLOCKS_TUNED_AT,
    counted: float | None = None,
) -> tuple[Interval, float]:
    """The sequence's interval over block harms, each bound with 1 − alpha, and the spread it used."""
    spread = max(float(np.std(values, ddof=1)), SPREAD_FLOOR * margin, spread_floor(margin, counted))
    mean = float(np.mean(values))
    return student_interval(int(values.size), mean, spread, alpha=alpha, sides=1, tuned_at=tuned_at), spread


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockEvidence:
    """What one block (or one cluster) says about one metric in one slice of the requests."""

    harm: float  # candidate minus stable, above 0 is worse, in the metric's own unit
    n: int  # labelled requests behind it
    spread: float | None  # sample sd of the single requests' harms; None where the metric is no mean of requests
    sums: Sums | None = None  # of a sum over a sum; None in blocks kept before sums were


def share_of_alpha(alpha: float, *, metrics: int, parts: int) -> float:
    """What each bound of one metric in one part may be wrong with, where a step judges `metrics` in `parts` each.

    `parts` are all requests and each slice. Alpha is for the whole step, so they share it (Bonferroni).
    """
    if metrics < 1 or parts < 1:
        raise ValueError(f"alpha is shared by at least one metric and one part, got {metrics} and {parts}")
    return alpha / (metrics * parts)


def judge_evidence(
    blocks: Sequence[BlockEvidence],
    *,
    metric: str,
    margin: float,
    unit: EvidenceUnit = EvidenceUnit.BLOCK,
    blocks_min: int = BLOCKS_MIN,
    rows_min: int = ROWS_MIN,
    harm_range: tuple[float, float] | None = None,
    alpha: float = 0.05,
    n_unit: NUnit = "days",
    critical: bool = True,
) -> Verdict:
    """Judge what was measured in pairs or in a split; the two are stored alike and judged alike.

    Unit *block*: the student sequence over block harms (`judge_paired`); of a sum over a sum over what each block adds to
    the ratio of all sums, if every block has its sums. Unit *row*: a sequence over all requests, from the blocks' running
    sums; inconclusive below `rows_min` requests, and an error where the metric is no mean of requests or where the blocks
    spread wider than independent requests could. From `ROWS_MIN` requests on it is the asymptotic one. Where `rows_min` is
    smaller, fewer are judged by the one for values in `harm_range` (of one request's harm), each of the two with half of
    alpha; without a range that is an error. `alpha` is as in `judge_paired`; with k slices or k critical metrics pass
    alpha / k (`share_of_alpha`).
    """
    if unit is EvidenceUnit.BLOCK:
        return _judge_blocks(
            blocks, margin=margin, metric=metric, blocks_min=blocks_min, alpha=alpha, n_unit=n_unit, critical=critical
        )
    if margin < 0 or not math.isfinite(margin):
        raise ValueError(f"margin must be finite and not negative, got {margin}")
    return _judge_rows(
        [block for block in blocks if block.n],
        metric=metric,
        margin=margin,
        rows_min=max(rows_min, 2),
        harm_range=harm_range,
        alpha=alpha,
        critical=critical,
    )


def _judge_blocks(
    blocks: Sequence[BlockEvidence],
    *,
    metric: str,
    margin: float,
    blocks_min: int,
    alpha: float,
    n_unit: NUnit,
    critical: bool,
) -> Verdict:
    harms = judged_harms(metric, [block.harm for block in blocks], [block.sums for block in blocks])
    verdict = judge_paired(
        harms.values,
        margin=margin,
        metric=metric,
        blocks_min=blocks_min,
        alpha=alpha,
        n_unit=n_unit,
        critical=critical,
        counted=harms.counted,
    )
    told = blocks_told([block.sums for block in blocks if block.sums is not None])
    if harms.counted is None or told >= blocks_min or verdict.outcome is Outcome.ERROR:
        return verdict
    because = f"{metric}: one version has something to divide by in {told} {n_unit} only, need at least {blocks_min}"
    return replace(
        verdict, outcome=Outcome.INCONCLUSIVE, because=because, n=told, lower=None, upper=None, needed=blocks_min - told
    )


def _judge_rows(
    blocks: Sequence[BlockEvidence],
    *,
    metric: str,
    margin: float,
    rows_min: int,
    harm_range: tuple[float, float] | None,
    alpha: float,
    critical: bool,
) -> Verdict:
    n = sum(block.n for block in blocks)

    def verdict(outcome: Outcome, because: str, needed: int | None = None, mean: float | None = None) -> Verdict:
        because = f"{metric}: {because}"
        return Verdict(
            outcome=outcome, because=because, metric=metric, estimate=mean, n=n, margin=margin, needed=needed
        )

    if any(not math.isfinite(block.harm) for block in blocks):
        return verdict(Outcome.ERROR, f"harm could not be measured in one of {len(blocks)} blocks")
    if any(block.spread is None for block in blocks):
        return verdict(Outcome.ERROR, "is no mean of single requests; judge it by blocks")
    mean, spread = _pooled(blocks) if n else (None, 0.0)
    if mean is None or n < rows_min:
        return verdict(Outcome.INCONCLUSIVE, f"{n} requests of evidence, need at least {rows_min}", rows_min - n, mean)
    effect = _dependence(blocks, mean)
    if effect is not None:
        because = (
            f"blocks spread as if one in {effect:.0f} requests were evidence: they are not independent; judge by blocks"
        )
        return verdict(Outcome.ERROR, because, mean=mean)
    if n < ROWS_MIN and harm_range is None:
        because = (
            f"{n} requests, and below {ROWS_MIN} nothing is known of the spread of values without a known range; leave "
            "rowsMin out, or use unit block"
        )
        return verdict(Outcome.ERROR, because, mean=mean)
    # Where fewer requests may decide there are two sequences, one after the other: they share alpha.
    spent = alpha / 2.0 if rows_min < ROWS_MIN else alpha
    if n < ROWS_MIN and harm_range is not None:
        low, high = harm_range
        interval = bounded_interval(n, mean, spread, low=low, high=high, alpha=spent, sides=1)
    else:
        lower, upper = row_bounds(n, mean, spread, metric=metric, margin=margin, alpha=spent)
        interval = Interval(
            estimate=mean,
            lower=float(lower),
            upper=float(upper),
            n=n,
            alpha=spent,
            method="asymptotic mixture sequence",
        )
    outcome, finding = _compare(interval, margin, critical)
    needed = None
    if outcome is Outcome.INCONCLUSIVE:
        total = _needed_rows(n, mean, spread, metric=metric, margin=margin, harm_range=harm_range, alpha=spent)
        needed = max(total - n, 1) if total is not None else None
    return Verdict(
        outcome=outcome,
        because=f"{metric}: harm {_shown(interval)}, {finding} the margin {margin:g}, {n} requests",
        metric=metric,
        estimate=mean,
        lower=_finite(interval.lower),
        upper=_finite(interval.upper),
        n=n,
        margin=margin,
        method=f"{interval.method} over requests, each bound {1 - spent:.1%}",
        needed=needed,
    )


def _needed_rows(
    n: int,
    mean: float,
    spread: float,
    *,
    metric: str,
    margin: float,
    harm_range: tuple[float, float] | None,
    alpha: float,
) -> int | None:
    """Requests in all until a decision, if what comes is like what was; None where it would be too many."""
    if n < ROWS_MIN and harm_range is not None:
        low, high = harm_range if mean < margin else (-harm_range[1], -harm_range[0])
        sign = 1.0 if mean < margin else -1.0
        counts = np.arange(n + 1, ROWS_MIN, FEW_STEP)
        won = log_wealth_below(counts, sign * mean, spread, sign * margin, low=low, high=high) >= -math.log(alpha)
        if won.any():
            return int(counts[np.argmax(won)])
    believed = float(_believed(spread, metric, margin))
    total = needed_n(abs(mean - margin), believed, alpha=alpha, sides=1, tuned_at=ROWS_TUNED_AT, radii=asymptotic_radii)
    return None if total is None else max(total, ROWS_MIN)


def row_bounds(
    n: ArrayLike,
    mean: ArrayLike,
    sd: ArrayLike,
    *,
    metric: str,
    margin: float,
    alpha: float = 0.05,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bound of harm over rows, at one look or (arrays of one shape) at many; each with 1 − alpha.

    From running sums: how many requests, mean and sample standard deviation of their harms. Infinite below `ROWS_MIN`.
    """
    counts = np.asarray(n)
    radius = asymptotic_radii(counts, alpha=alpha, sides=1) * _believed(np.asarray(sd), metric, margin)
    radius = np.where(counts >= ROWS_MIN, radius, np.inf)
    return np.asarray(mean) - radius, np.asarray(mean) + radius


def _believed(sd: ArrayLike, metric: str, margin: float) -> NDArray[np.float64]:
    """The spread of single harms that is believed, at least. Right-or-wrong rows with mean harm m have variance ≥ m − m²."""
    floor = math.sqrt(max(margin - margin * margin, 0.0)) if metric in RIGHT_OR_WRONG else SPREAD_FLOOR * margin
    return np.maximum(sd, floor)


def _pooled(blocks: Sequence[BlockEvidence]) -> tuple[float, float]:
    """Mean and sample standard deviation of all single harms, from those of the blocks."""
    counts = np.array([block.n for block in blocks], dtype=np.float64)
    harms = np.array([block.harm for block in blocks])
    spreads = np.array([block.spread or 0.0 for block in blocks])
    n = float(counts.sum())
    mean = float(counts @ harms / n)
    squares = float((counts - 1.0) @ spreads**2 + counts @ (harms - mean) ** 2)
    return mean, math.sqrt(squares / max(n - 1.0, 1.0))


def _dependence(blocks: Sequence[BlockEvidence], mean: float) -> float | None:
    """The design effect, where blocks surely spread wider than independent requests would; else None.

    Σ n (harm − mean)² / spread² is chi-square with one degree less than blocks if requests are independent; its tail by
    Laurent & Massart (2000), lemma 1: P(Q ≥ k + 2 √(k x) + 2 x) ≤ exp(−x).
    """
    told = [block for block in blocks if block.n >= BLOCK_ROWS_MIN and block.spread]
    k = len(told) - 1
    if k < 1:
        return None
    q = sum(block.n * ((block.harm - mean) / (block.spread or 1.0)) ** 2 for block in told)
    x = -math.log(DEPENDENCE_ALPHA)
    return q / k if q > k + 2.0 * math.sqrt(k * x) + 2.0 * x else None


def judge_slices(verdicts: Mapping[str, Verdict], *, metric: str) -> Verdict:
    """One verdict over the slices of one metric; `verdicts` by slice, "" being all requests.

    A failed slice fails the whole and is named. The caller judges each slice with alpha / number of slices, so that the
    chance of any wrong bound stays alpha. Success needs every slice; slices that cannot be told apart stay inconclusive.
    """
    if not verdicts:
        return Verdict(outcome=Outcome.ERROR, because=f"{metric}: no slice was judged", metric=metric)
    for outcome in (Outcome.FAILED, Outcome.ERROR, Outcome.INCONCLUSIVE):
        decisive = {name: verdict for name, verdict in verdicts.items() if verdict.outcome is outcome}
        if decisive:
            break
    else:
        outcome, decisive = Outcome.SUCCESSFUL, dict(verdicts)
    name, worst = max(decisive.items(), key=lambda item: -math.inf if item[1].estimate is None else item[1].estimate)
    others = len(decisive) - 1
    count = "" if others == 0 else f" (and {others} more {outcome.value})"
    said = {Outcome.SUCCESSFUL: "worst slice", Outcome.INCONCLUSIVE: "slice"}.get(outcome, f"{outcome.value} slice")
    return replace(worst, because=f"{said} {name or 'all requests'}{count}: {worst.because}")


def judge_assignment(counts: Mapping[str, int], shares: Mapping[str, float], *, alpha: float = 0.001) -> Verdict:
    """Whether arms got the shares of units they were meant to get: the sample-ratio check, valid at every look.

    `counts` are independent units of assignment (entities where assignment is sticky, else requests) since the shares
    were last changed; `shares` need not sum to one. A mismatch says that whatever is measured in this split compares two
    different populations: an error, whatever the metric. Judge each step of constant shares by itself.
    """
    if set(counts) != set(shares):
        raise ValueError(f"counts of {sorted(counts)} and shares of {sorted(shares)} must name the same arms")
    n = sum(counts.values())
    if n == 0:
        return Verdict(outcome=Outcome.INCONCLUSIVE, because="sample ratio: nothing was assigned yet")
    arms = sorted(counts)
    total = sum(shares.values())
    log_wealth = log_wealth_against([counts[arm] for arm in arms], [shares[arm] / total for arm in arms])
    shown = ", ".join(f"{arm} {counts[arm] / n:.2%} (meant {shares[arm] / total:.2%})" for arm in arms)
    mismatch = log_wealth >= -math.log(alpha)
    return Verdict(
        outcome=Outcome.ERROR if mismatch else Outcome.SUCCESSFUL,
        because=f"sample ratio {'mismatch' if mismatch else 'as meant'}: {shown}, n={n}",
        n=n,
        method=f"sequential multinomial test, {1 - alpha:.1%}",
    )


def judge_coverage(
    matured: Mapping[str, int], labelled: Mapping[str, int], *, coverage_min: float, alpha: float = 0.001
) -> Verdict:
    """Whether enough of the matured requests have a label, and equally many in each arm; valid at every look.

    By arm: matured requests, and those of them that are labelled. Too few labels leave it inconclusive (more may come).
    Arms whose coverage surely differs are an error: what is missing in one arm only cannot be judged by what is there.
    """
    if set(matured) != set(labelled):
        raise ValueError(f"matured {sorted(matured)} and labelled {sorted(labelled)} must name the same arms")
    n = sum(matured.values())
    if not matured or min(matured.values()) == 0:
        return Verdict(outcome=Outcome.INCONCLUSIVE, because="coverage of labels: no request has matured yet", n=n)
    spent = alpha / len(matured)
    intervals = {arm: bernoulli_interval(labelled[arm], matured[arm], alpha=spent) for arm in sorted(matured)}
    shown = ", ".join(f"{arm} {interval.estimate:.2%} of {interval.n}" for arm, interval in intervals.items())
    lowest = min(interval.estimate for interval in intervals.values())
    unequal = max(i.lower for i in intervals.values()) > min(i.upper for i in intervals.values())
    if unequal:
        outcome, because = Outcome.ERROR, f"coverage of labels differs between arms: {shown}"
    elif lowest < coverage_min:
        outcome, because = Outcome.INCONCLUSIVE, f"coverage of labels: {shown}, need {coverage_min:.0%}"
    else:
        outcome, because = Outcome.SUCCESSFUL, f"coverage of labels: {shown}"
    return Verdict(
        outcome=outcome,
        because=because,
        estimate=lowest,
        n=n,
        margin=coverage_min,
        method=f"beta-binomial sequences, {1 - alpha:.1%}",
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
    if not verdict.measured or verdict.estimate is None or verdict.margin is None:
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


def _shown(interval: Interval) -> str:
    return f"{interval.estimate:+.4f} [{interval.lower:+.4f}, {interval.upper:+.4f}]"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _days(span: timedelta) -> str:
    days = span / timedelta(days=1)
    return f"{days:g} d" if days >= 1 else f"{span / timedelta(hours=1):g} h"
