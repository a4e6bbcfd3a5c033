"""Gates: what a version must prove on the holdout before any request reaches it.

Unlike an analysis, a gate looks once, at data that lies there complete. So its intervals are those of a single look,
narrower than confidence sequences. Gates stop what is broken cheaply (a gate on mean log loss together with a clause on
AUC stopped 90 of 90 scrambled candidates); the fine judgement is the paired shadow's.

An absolute bound (a floor, a ceiling) is passed when the whole interval keeps it, not when the estimate does: nine right
answers of nine prove no accuracy of 99 %. Slices veto: the rows of one value of a column fail the gate when they are
*surely* beyond the bound, at alpha over the number of slices; a slice that cannot tell is counted and does not block.

A gate's answer is a verdict. What could not be measured is `error` and never a pass. One answer is neither: a gate that
compares with production has nothing to compare with at the first release. That is said as *not applicable*, with the
reason, and does not block; gates that need no comparison (floors) still apply then.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steersman.decide.judging import BLOCKS_MIN
from steersman.domain import spec
from steersman.domain.metrics import Direction, harm
from steersman.domain.verdicts import Outcome, Verdict
from steersman.stats.beta import student_quantile
from steersman.stats.performance import THRESHOLD, evaluate, metric_named, paired_blocks
from steersman.stats.ratios import spread_floor
from steersman.stats.sequences import SPREAD_FLOOR, clopper_pearson_interval

NO_PRODUCTION = "no production version to compare with"

ROW_GROUPS = 40
"""Groups of rows left out in turn where rows count as independent: the interval's spread then has 39 degrees of freedom,
and 40 evaluations cost as much as those of 40 days."""

SLICES_MAX = 100
"""Most slices one gate judges, the largest first: at more, alpha over their number proves nothing of any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldoutScores:
    """What both versions said about the same holdout rows; arrays of one length, `production` None at first release.

    `blocks` names each row's block, an ISO date for daily blocks. `slices` are columns of the rows, by name.
    """

    labels: ArrayLike
    candidate: ArrayLike
    production: ArrayLike | None
    blocks: ArrayLike
    slices: Mapping[str, ArrayLike] = field(default_factory=dict)


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
    spread_min = max(SPREAD_FLOOR * margin, spread_floor(margin, pairs.counted))
    estimate, radius = _student(harms, alpha=alpha, spread_min=spread_min)
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
        method=f"Student's t over blocks{'' if pairs.counted is None else ' by sums'}, one look, each bound {1 - alpha:.1%}",
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


def gate_floor(
    holdout: HoldoutScores,
    *,
    metric: str,
    floor: float,
    alpha: float = 0.05,
    unit: spec.EvidenceUnit = spec.EvidenceUnit.BLOCK,
    blocks_min: int = BLOCKS_MIN,
) -> GateResult:
    """The candidate's metric over all rows must surely reach `floor`; needs no production version.

    For metrics where higher is better (ValueError else). Passes when the lower bound does, fails when the upper bound
    does not, else inconclusive.
    """
    name = f"{metric} at least {floor:g}"
    if metric_named(metric).direction is not Direction.HIGHER:
        raise ValueError(f"a floor is for metrics where higher is better, {metric} is better when lower")
    answer = _absolute(holdout, metric=metric, bound=floor, alpha=alpha, unit=unit, blocks_min=blocks_min)
    return GateResult(gate=name, answer=answer)


def gate_ceiling(
    holdout: HoldoutScores,
    *,
    metric: str,
    ceiling: float,
    alpha: float = 0.05,
    unit: spec.EvidenceUnit = spec.EvidenceUnit.BLOCK,
    blocks_min: int = BLOCKS_MIN,
) -> GateResult:
    """The candidate's loss over all rows must surely keep `ceiling`; for metrics where lower is better (ValueError else)."""
    name = f"{metric} at most {ceiling:g}"
    if metric_named(metric).direction is not Direction.LOWER:
        raise ValueError(f"a ceiling is for metrics where lower is better, {metric} is better when higher")
    answer = _absolute(holdout, metric=metric, bound=ceiling, alpha=alpha, unit=unit, blocks_min=blocks_min)
    return GateResult(gate=name, answer=answer)


Judge = Callable[[HoldoutScores, float], GateResult]
"""A gate, given rows and alpha."""


def gate_slices(
    judge: Judge, holdout: HoldoutScores, *, columns: Sequence[str], rows_min: int, alpha: float, higher_is_worse: bool
) -> GateResult:
    """The gate on all rows, and its veto by slices: the rows of each value of each column, at alpha over their number.

    A failed slice fails the gate and is named; slices below `rows_min` are not judged and counted. Without one slice that
    could be measured the gate is an error: a question about segments was asked and nothing answers it. `higher_is_worse`
    says which estimate is the worst one: harm and losses are.
    """
    whole = judge(holdout, alpha)
    if not isinstance(whole.answer, Verdict) or not columns:
        return whole
    judged, small = _slices(holdout, columns, rows_min)
    share = alpha / max(len(judged), 1)
    answers = {name: judge(rows, share).answer for name, rows in judged.items()}
    verdicts = {name: answer for name, answer in answers.items() if isinstance(answer, Verdict)}
    measured = {name: verdict for name, verdict in verdicts.items() if verdict.outcome is not Outcome.ERROR}
    failed = {name: verdict for name, verdict in measured.items() if verdict.outcome is Outcome.FAILED}
    told = f"{len(measured)} slices by {', '.join(columns)} at alpha {share:.2g} each"
    told += f", {small} smaller than {rows_min} rows not judged" if small else ""
    outcome = whole.answer.outcome
    if failed:
        outcome = Outcome.FAILED
        said = f"{told}; failed: " + "; ".join(f"{name}: {verdict.because}" for name, verdict in failed.items())
    elif measured:
        sign = 1.0 if higher_is_worse else -1.0
        estimates = {n: -math.inf if v.estimate is None else sign * v.estimate for n, v in measured.items()}
        name, worst = max(measured.items(), key=lambda item: estimates[item[0]])
        unsure = sum(verdict.outcome is Outcome.INCONCLUSIVE for verdict in measured.values())
        said = f"{told}, none surely beyond, {unsure} cannot tell; worst {name}: {worst.because}"
    else:
        outcome = Outcome.ERROR if outcome is not Outcome.FAILED else outcome
        said = f"no slice by {', '.join(columns)} could be measured ({small} smaller than {rows_min} rows)"
    answer = replace(whole.answer, outcome=outcome, because=f"{whole.answer.because}; {said}")
    return GateResult(gate=f"{whole.gate}, by {', '.join(columns)}", answer=answer)


def _slices(holdout: HoldoutScores, columns: Sequence[str], rows_min: int) -> tuple[dict[str, HoldoutScores], int]:
    """The rows of each value that has enough of them, largest first, and how many values have not."""
    found: list[tuple[str, NDArray[np.bool_]]] = []
    small = 0
    for column in columns:
        values = np.asarray(holdout.slices[column]).astype(str).ravel()
        names, counts = np.unique(values, return_counts=True)
        small += int(np.sum(counts < rows_min))
        found += [(f"{column}={name}", values == name) for name in names[counts >= rows_min].tolist()]
    found.sort(key=lambda pair: (-int(np.sum(pair[1])), pair[0]))
    small += max(len(found) - SLICES_MAX, 0)
    return {name: _rows(holdout, rows) for name, rows in found[:SLICES_MAX]}, small


def _rows(holdout: HoldoutScores, rows: NDArray[np.bool_]) -> HoldoutScores:
    production = None if holdout.production is None else np.asarray(holdout.production)[rows]
    return HoldoutScores(
        labels=np.asarray(holdout.labels)[rows],
        candidate=np.asarray(holdout.candidate)[rows],
        production=production,
        blocks=np.asarray(holdout.blocks)[rows],
    )


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


def _absolute(
    holdout: HoldoutScores, *, metric: str, bound: float, alpha: float, unit: spec.EvidenceUnit, blocks_min: int
) -> Verdict:
    """The metric over all rows against an absolute bound, by its interval; each bound of it holds with 1 − alpha."""
    try:
        labels, candidate, blocks = _arrays(holdout, holdout.candidate)
        value = evaluate(metric, candidate, labels)
    except ValueError as problem:
        return _error(metric, bound, str(problem))
    by_rows = unit is spec.EvidenceUnit.ROW
    if by_rows:
        blocks = (np.arange(labels.size) % ROW_GROUPS).astype(str)
    count = int(np.unique(blocks).size)
    which = "floor" if metric_named(metric).direction is Direction.HIGHER else "ceiling"
    if count < blocks_min:
        because = f"{metric} {value:.4f}, {count} blocks of the holdout, need at least {blocks_min} for an interval"
        return Verdict(
            outcome=Outcome.INCONCLUSIVE,
            because=because,
            metric=metric,
            estimate=value,
            n=count,
            n_unit="blocks",
            margin=bound,
            needed=blocks_min - count,
        )
    interval = _interval(metric, labels, candidate, blocks, value=value, alpha=alpha, by_rows=by_rows)
    if interval is None:
        because = f"{metric} {value:.4f}, but it cannot be computed without one of the {count} blocks: no interval"
        return _error(metric, bound, because)
    lower, upper, method = interval
    kept = lower >= bound if which == "floor" else upper <= bound
    missed = upper < bound if which == "floor" else lower > bound
    outcome = Outcome.SUCCESSFUL if kept else Outcome.FAILED if missed else Outcome.INCONCLUSIVE
    finding = {Outcome.SUCCESSFUL: "keeps", Outcome.FAILED: "misses", Outcome.INCONCLUSIVE: "straddles"}[outcome]
    return Verdict(
        outcome=outcome,
        because=f"{metric} {value:.4f} [{lower:.4f}, {upper:.4f}] {finding} the {which} {bound:g}, "
        f"{labels.size} rows" + ("" if by_rows else f" in {count} blocks"),
        metric=metric,
        estimate=value,
        lower=lower,
        upper=upper,
        n=int(labels.size),
        n_unit="rows",
        margin=bound,
        method=f"{method}, one look, each bound {1 - alpha:.1%}",
    )


def _interval(
    metric: str,
    labels: NDArray[np.float64],
    candidate: NDArray[np.float64],
    blocks: NDArray[np.str_],
    *,
    value: float,
    alpha: float,
    by_rows: bool,
) -> tuple[float, float, str] | None:
    """Bounds of a metric over all rows, and how they were made; None where leaving one block out leaves nothing.

    A rate of independent rows: exact (Clopper & Pearson 1934). Of rows in blocks: the wider on each side of that and the
    block jackknife, because rows of one day share their weather and a day without an error proves little. Others: the
    jackknife over blocks, over groups of rows where rows are independent; never narrower than one row's weight.
    """
    rate = _rate(metric, candidate, labels)
    exact = clopper_pearson_interval(*rate, alpha=min(2 * alpha, 0.5)) if rate is not None else None
    if exact is not None and by_rows:
        return exact.lower, exact.upper, exact.method
    radius = _jackknife_radius(blocks, lambda rows: evaluate(metric, candidate[rows], labels[rows]), alpha)
    if radius is None:
        return None
    radius = max(radius, 1.0 / labels.size)
    if exact is not None:
        lower, upper = min(exact.lower, value - radius), max(exact.upper, value + radius)
        return max(lower, 0.0), min(upper, 1.0), f"wider of {exact.method} and block jackknife"
    return value - radius, value + radius, "jackknife over groups of rows" if by_rows else "block jackknife"


def _rate(metric: str, scores: NDArray[np.float64], labels: NDArray[np.float64]) -> tuple[int, int] | None:
    """A metric that is a share of rows as its two counts; None for others."""
    said, true = scores >= THRESHOLD, labels == 1.0
    hits = int(np.count_nonzero(said & true))
    match metric:
        case "accuracy":
            return int(np.count_nonzero(said == true)), int(labels.size)
        case "precision":
            return hits, int(np.count_nonzero(said))
        case "recall":
            return hits, int(np.count_nonzero(true))
    return None


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
