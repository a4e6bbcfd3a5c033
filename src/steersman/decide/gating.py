"""Gates: what a version must prove on the holdout before any request reaches it.

Unlike an analysis, a gate looks once, at data that lies there complete. So its intervals are those of a single look,
narrower than confidence sequences. Gates stop what is broken cheaply (a gate on mean log loss together with a clause on
AUC stopped 90 of 90 scrambled candidates); the fine judgement is the paired shadow's.

A gate's answer is a verdict. What could not be measured is `error` and never a pass. One answer is neither: a gate that
compares with production has nothing to compare with at the first release. That is said as *not applicable*, with the
reason, and does not block; gates that need no comparison (floors) still apply then.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steersman.decide.judging import BLOCKS_MIN
from steersman.domain import spec
from steersman.domain.metrics import Direction, harm
from steersman.domain.verdicts import Outcome, Verdict
from steersman.stats.beta import student_quantile
from steersman.stats.performance import evaluate, metric_named, paired_blocks
from steersman.stats.sequences import SPREAD_FLOOR

NO_PRODUCTION = "no production version to compare with"


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldoutScores:
    """What both versions said about the same holdout rows; arrays of one length, `production` None at first release.

    `blocks` names each row's block, an ISO date for daily blocks.
    """

    labels: ArrayLike
    candidate: ArrayLike
    production: ArrayLike | None
    blocks: ArrayLike


@dataclass(frozen=True, slots=True, kw_only=True)
class NotApplicable:
    """A gate that has no meaning here; it neither passes nor blocks."""

    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """One gate's answer, by the name it is shown with."""

    gate: str
    answer: Verdict | NotApplicable


def gate_paired(
    holdout: HoldoutScores,
    *,
    metric: str,
    margin: float,
    alpha: float = 0.05,
    blocks_min: int = BLOCKS_MIN,
    block_rows_min: int = 1,
) -> GateResult:
    """Non-inferiority in pairs: the upper bound of harm over the blocks must lie below the margin.

    Fails when the lower bound lies above the margin, else inconclusive, which blocks too. Student's interval over
    block harms, each bound with 1 − alpha, one look.
    """
    name = f"{metric} paired, margin {margin:g}"
    metric_named(metric)
    if margin < 0 or not math.isfinite(margin):
        raise ValueError(f"margin must be finite and not negative, got {margin}")
    if holdout.production is None:
        return GateResult(gate=name, answer=NotApplicable(because=NO_PRODUCTION))
    try:
        pairs = paired_blocks(
            metric, holdout.candidate, holdout.production, holdout.labels, holdout.blocks, rows_min=block_rows_min
        )
    except ValueError as problem:
        return GateResult(gate=name, answer=_error(metric, margin, str(problem)))
    harms = np.asarray(pairs.harms, dtype=np.float64)
    if pairs.n == 0:
        because = f"no block of the holdout could be compared ({len(pairs.skipped)} skipped)"
        return GateResult(gate=name, answer=_error(metric, margin, because))
    if pairs.n < blocks_min:
        answer = Verdict(
            outcome=Outcome.INCONCLUSIVE,
            because=f"{metric}: {pairs.n} blocks of the holdout can be compared, need at least {blocks_min}",
            metric=metric,
            estimate=float(np.mean(harms)),
            n=pairs.n,
            n_unit="blocks",
            margin=margin,
            needed=blocks_min - pairs.n,
        )
        return GateResult(gate=name, answer=answer)
    estimate, radius = _student(harms, alpha=alpha, spread_min=SPREAD_FLOOR * margin)
    outcome, finding = Outcome.INCONCLUSIVE, "straddling"
    if estimate - radius > margin:
        outcome, finding = Outcome.FAILED, "above"
    elif estimate + radius < margin:
        outcome, finding = Outcome.SUCCESSFUL, "below"
    answer = Verdict(
        outcome=outcome,
        because=f"{metric}: harm {estimate:+.4f} [{estimate - radius:+.4f}, {estimate + radius:+.4f}] against "
        f"production, {finding} the margin {margin:g}, {pairs.n} blocks, {pairs.rows_total} rows",
        metric=metric,
        estimate=estimate,
        lower=estimate - radius,
        upper=estimate + radius,
        n=pairs.n,
        n_unit="blocks",
        margin=margin,
        method=f"Student's t over blocks, one look, each bound {1 - alpha:.1%}",
    )
    return GateResult(gate=name, answer=answer)


def gate_max_drop(holdout: HoldoutScores, *, metric: str, max_drop: float, alpha: float = 0.05) -> GateResult:
    """The metric over all rows may be worse than production's by at most `max_drop`.

    The estimate decides, as the document says; the interval beside it (block jackknife) is shown for people.
    """
    name = f"{metric}, drop at most {max_drop:g}"
    metric_named(metric)
    if max_drop < 0 or not math.isfinite(max_drop):
        raise ValueError(f"max_drop must be finite and not negative, got {max_drop}")
    if holdout.production is None:
        return GateResult(gate=name, answer=NotApplicable(because=NO_PRODUCTION))
    try:
        labels, candidate, blocks = _arrays(holdout, holdout.candidate)
        _, production, _ = _arrays(holdout, holdout.production)
        of_candidate = evaluate(metric, candidate, labels)
        of_production = evaluate(metric, production, labels)
    except ValueError as problem:
        return GateResult(gate=name, answer=_error(metric, max_drop, str(problem)))
    drop = harm(metric, of_candidate - of_production)

    def drop_in(rows: NDArray[np.bool_]) -> float:
        truth = labels[rows]
        return harm(metric, evaluate(metric, candidate[rows], truth) - evaluate(metric, production[rows], truth))

    answer = _pooled_verdict(
        metric=metric,
        outcome=Outcome.SUCCESSFUL if drop <= max_drop else Outcome.FAILED,
        because=f"{metric} {of_candidate:.4f} against production's {of_production:.4f}, drop {drop:+.4f}, "
        f"at most {max_drop:g} allowed, {labels.size} rows",
        estimate=drop,
        radius=_jackknife_radius(blocks, drop_in, alpha),
        n=int(labels.size),
        margin=max_drop,
        alpha=alpha,
    )
    return GateResult(gate=name, answer=answer)


def gate_floor(holdout: HoldoutScores, *, metric: str, floor: float, alpha: float = 0.05) -> GateResult:
    """The candidate's metric over all rows must reach `floor`; needs no production version.

    For metrics where higher is better (ValueError else). The estimate decides, the interval is shown.
    """
    name = f"{metric} at least {floor:g}"
    if metric_named(metric).direction is not Direction.HIGHER:
        raise ValueError(f"a floor is for metrics where higher is better, {metric} is better when lower")
    try:
        labels, candidate, blocks = _arrays(holdout, holdout.candidate)
        value = evaluate(metric, candidate, labels)
    except ValueError as problem:
        return GateResult(gate=name, answer=_error(metric, floor, str(problem)))
    answer = _pooled_verdict(
        metric=metric,
        outcome=Outcome.SUCCESSFUL if value >= floor else Outcome.FAILED,
        because=f"{metric} {value:.4f}, floor {floor:g}, {labels.size} rows",
        estimate=value,
        radius=_jackknife_radius(blocks, lambda rows: evaluate(metric, candidate[rows], labels[rows]), alpha),
        n=int(labels.size),
        margin=floor,
        alpha=alpha,
    )
    return GateResult(gate=name, answer=answer)


def gate_policy(policy: str, holds: bool | None, *, has_production: bool) -> GateResult:
    """The answer of an evaluated policy expression: None is unknown, which blocks unless there is no production yet."""
    if holds is None and not has_production:
        return GateResult(gate=policy, answer=NotApplicable(because=NO_PRODUCTION))
    if holds is None:
        because = "the policy could not be evaluated: a field it names is unknown"
        return GateResult(gate=policy, answer=Verdict(outcome=Outcome.ERROR, because=because))
    outcome = Outcome.SUCCESSFUL if holds else Outcome.FAILED
    return GateResult(gate=policy, answer=Verdict(outcome=outcome, because=f"{policy} is {str(holds).lower()}"))


def outside_envelope(
    envelope: spec.Envelope,
    *,
    compared: Sequence[Verdict],
    candidate: str,
    production: str,
) -> str | None:
    """Why an automatic release goes beyond what it may change by itself; None inside of the envelope.

    `compared` are the verdicts of the gates that measured harm against production; `candidate` and `production` are the
    formats. The lower bound decides where there is one: an estimate above zero is half of the time noise. No comparison
    is no proof of being inside.
    """
    if envelope.algorithm is spec.Algorithm.SAME and candidate != production:
        return f"it is {candidate}, production's is {production}, and algorithm is same"
    allowed = envelope.max_metric_drop
    drops = [(v.metric, v.estimate if v.lower is None else v.lower) for v in compared]
    measured = [(metric, drop) for metric, drop in drops if drop is not None]
    if not measured:
        return "no gate compared it with production, so maxMetricDrop is not known to be kept"
    metric, drop = max(measured, key=lambda pair: pair[1])
    if drop > allowed:
        return f"{metric} is worse by at least {drop:.4f} on the holdout, maxMetricDrop is {allowed:g}"
    return None


def _student(values: NDArray[np.float64], *, alpha: float, spread_min: float) -> tuple[float, float]:
    n = int(values.size)
    spread = max(float(np.std(values, ddof=1)), spread_min)
    return float(np.mean(values)), student_quantile(1.0 - alpha, n - 1) * spread / math.sqrt(n)


def _pooled_verdict(
    *,
    metric: str,
    outcome: Outcome,
    because: str,
    estimate: float,
    radius: float | None,
    n: int,
    margin: float,
    alpha: float,
) -> Verdict:
    lower, upper = (estimate - radius, estimate + radius) if radius is not None else (None, None)
    shown = f" [{lower:+.4f}, {upper:+.4f}]" if lower is not None else ", no interval from so few blocks"
    return Verdict(
        outcome=outcome,
        because=f"{because}; estimate {estimate:+.4f}{shown}",
        metric=metric,
        estimate=estimate,
        lower=lower,
        upper=upper,
        n=n,
        n_unit="rows",
        margin=margin,
        method=None if radius is None else f"block jackknife, one look, each bound {1 - alpha:.1%}",
    )


def _jackknife_radius(
    blocks: NDArray[np.str_], value_in: Callable[[NDArray[np.bool_]], float], alpha: float
) -> float | None:
    """Half-width of the interval of a pooled metric, by leaving out one block at a time (Efron & Tibshirani, ch. 11).

    None below three blocks, or where the metric is undefined without one of them. Costs one evaluation a block.
    """
    names = np.unique(blocks)
    count = int(names.size)
    if count < 3:
        return None
    try:
        without = np.asarray([value_in(blocks != name) for name in names], dtype=np.float64)
    except ValueError:
        return None
    error = math.sqrt((count - 1) / count * float(np.sum((without - without.mean()) ** 2)))
    return student_quantile(1.0 - alpha, count - 1) * error


def _arrays(
    holdout: HoldoutScores, scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.str_]]:
    labels = np.asarray(holdout.labels, dtype=np.float64).ravel()
    values = np.asarray(scores, dtype=np.float64).ravel()
    blocks = np.asarray(holdout.blocks).astype(str).ravel()
    if not labels.size == values.size == blocks.size:
        raise ValueError(f"{values.size} scores for {labels.size} labels in {blocks.size} rows of blocks")
    return labels, values, blocks


def _error(metric: str, margin: float, because: str) -> Verdict:
    return Verdict(outcome=Outcome.ERROR, because=f"{metric} not measured: {because}", metric=metric, margin=margin)
