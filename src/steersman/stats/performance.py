"""How good predictions were, once the truth has arrived.

Every metric has one name (the one people write in documents), one direction, and one function from scores and labels to
a number. Comparisons between two versions are made *per block*, as **harm**: the candidate minus the one it is compared
with, signed so that above zero the candidate is worse, whatever the metric's direction. Blocks (days) and not rows are
the evidence, because rows of one day share their weather; see `sequences`.

A missing label is refused instead of skipped: which labels have matured is decided by whoever joins them, and a NaN
that reaches this place is a join gone wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steersman.domain.metrics import METRICS as DIRECTIONS
from steersman.domain.metrics import QUANTILES, Direction, harm
from steersman.stats.ratios import Sums, judged_harms

Floats = NDArray[np.float64]

THRESHOLD = 0.5
"""Score from which a row counts as predicted positive in `accuracy`, `precision`, `recall` and `f1`."""

CALIBRATION_BINS = 10
"""Equal-width bins of the expected calibration error (Guo et al. 2017 use 10 to 15)."""

BLOCK_ROWS_MIN = 30
"""Fewest labelled rows of a block that counts as evidence: the daily AUC of fewer rows is mostly noise."""


Task = Literal["binary", "regression"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A performance metric: `of(scores, labels)` over checked arrays of one length, at least one row.

    `rows` gives what each row adds where the metric is a mean of rows, and is None where it is not (AUC, F1, RMSE): only
    means may be weighted row by row, or have a row as their evidence. `sums` gives numerator and denominator where it is a
    sum over a sum: many blocks are then judged by the sums of all of them, not by the mean of their ratios.
    """

    name: str
    task: Task
    of: Callable[[Floats, Floats], float]
    rows: Callable[[Floats, Floats], Floats] | None = None
    sums: Callable[[Floats, Floats], tuple[int, int]] | None = None
    needs_both_classes: bool = False  # undefined where all labels are equal

    @property
    def direction(self) -> Direction:
        """Which way it is good; the documents' vocabulary says so."""
        return DIRECTIONS[self.name]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedBlock:
    """A block that is no evidence, and why."""

    block: str
    rows: int
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDifferences:
    """Harm per block, in the order of the block ids; the four tuples run in parallel.

    `counted` says that each harm is what its block adds to a ratio of sums (`steersman.stats.ratios.Harms`).
    """

    metric: str
    blocks: tuple[str, ...]
    harms: tuple[float, ...]
    candidate: tuple[float, ...]  # the metric itself, per block
    reference: tuple[float, ...]
    rows: tuple[int, ...]
    skipped: tuple[SkippedBlock, ...]
    counted: float | None = None

    @property
    def n(self) -> int:
        """How many blocks are evidence."""
        return len(self.blocks)

    @property
    def rows_total(self) -> int:
        """How many rows the evidence rests on, skipped blocks not counted."""
        return sum(self.rows)


def _log_loss_rows(scores: Floats, labels: Floats) -> Floats:
    clip = float(
        np.finfo(np.float64).eps
    )  # a certain wrong answer costs 36 nats instead of infinity, as in scikit-learn
    p = np.clip(scores, clip, 1.0 - clip)
    return -(labels * np.log(p) + (1.0 - labels) * np.log1p(-p))


def _brier_rows(scores: Floats, labels: Floats) -> Floats:
    return (scores - labels) ** 2


def _roc_auc(scores: Floats, labels: Floats) -> float:
    positives = labels == 1.0
    n_positive = int(np.count_nonzero(positives))
    n_negative = labels.size - n_positive
    rank_sum = float(np.sum(mid_ranks(scores)[positives]))
    return (rank_sum - n_positive * (n_positive + 1) / 2.0) / (n_positive * n_negative)


def _accuracy_rows(scores: Floats, labels: Floats) -> Floats:
    right: Floats = ((scores >= THRESHOLD) == (labels == 1.0)).astype(np.float64)
    return right


def _precision_sums(scores: Floats, labels: Floats) -> tuple[int, int]:
    return _hits(scores, labels), int(np.count_nonzero(scores >= THRESHOLD))


def _recall_sums(scores: Floats, labels: Floats) -> tuple[int, int]:
    return _hits(scores, labels), int(np.count_nonzero(labels))


def _f1_sums(scores: Floats, labels: Floats) -> tuple[int, int]:
    return 2 * _hits(scores, labels), int(np.count_nonzero(scores >= THRESHOLD)) + int(np.count_nonzero(labels))


def _hits(scores: Floats, labels: Floats) -> int:
    return int(np.count_nonzero((scores >= THRESHOLD) & (labels == 1.0)))


def share_of(sums: tuple[float, float]) -> float:
    """The ratio; 0 where there is nothing to divide by (nothing predicted positive: no precision), as in scikit-learn."""
    part, whole = sums
    return part / whole if whole else 0.0


def _calibration_error(scores: Floats, labels: Floats) -> float:
    bins = np.minimum((scores * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gap = np.bincount(bins, weights=scores - labels, minlength=CALIBRATION_BINS)
    return float(np.sum(np.abs(gap)) / scores.size)


def _rmse(scores: Floats, labels: Floats) -> float:
    return float(np.sqrt(np.mean((scores - labels) ** 2)))


def _mae_rows(scores: Floats, labels: Floats) -> Floats:
    return np.abs(scores - labels)


def _quantile_loss(level: float) -> Callable[[Floats, Floats], Floats]:
    """Pinball loss of a predicted quantile (Koenker & Bassett 1978): too low costs `level` a unit, too high the rest."""

    def rows(scores: Floats, labels: Floats) -> Floats:
        missed = labels - scores
        return np.maximum(level * missed, (level - 1.0) * missed)

    return rows


def _mean(name: str, task: Task, rows: Callable[[Floats, Floats], Floats]) -> Metric:
    return Metric(name=name, task=task, of=lambda scores, labels: float(np.mean(rows(scores, labels))), rows=rows)


def _ratio(name: str, sums: Callable[[Floats, Floats], tuple[int, int]], *, needs_both_classes: bool = False) -> Metric:
    return Metric(
        name=name,
        task="binary",
        of=lambda scores, labels: share_of(sums(scores, labels)),
        sums=sums,
        needs_both_classes=needs_both_classes,
    )


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _mean("log_loss", "binary", _log_loss_rows),
        _mean("brier", "binary", _brier_rows),
        Metric(name="roc_auc", task="binary", of=_roc_auc, needs_both_classes=True),
        _mean("accuracy", "binary", _accuracy_rows),
        _ratio("precision", _precision_sums),
        _ratio("recall", _recall_sums, needs_both_classes=True),
        _ratio("f1", _f1_sums, needs_both_classes=True),
        Metric(name="calibration_error", task="binary", of=_calibration_error),
        Metric(name="rmse", task="regression", of=_rmse),
        _mean("mae", "regression", _mae_rows),
        *(_mean(name, "regression", _quantile_loss(level)) for name, level in QUANTILES.items()),
    )
}
"""How each metric of the documents is computed."""


def metric_named(name: str) -> Metric:
    """Look a metric up; raises ValueError with the known names."""
    try:
        return METRICS[name]
    except KeyError:
        raise ValueError(f"unknown metric {name!r}; known are {', '.join(sorted(METRICS))}") from None


def evaluate(name: str, scores: ArrayLike, labels: ArrayLike) -> float:
    """The metric over all rows; O(n log n) for `roc_auc`, O(n) else.

    Raises ValueError on an unknown metric, on arrays that are empty, of different length or with NaN, on labels and
    scores a binary metric cannot have, and on a single class where the metric needs both.
    """
    metric = metric_named(name)
    checked_labels = _checked(metric, "labels", labels)
    checked_scores = _checked(metric, "scores", scores)
    if checked_scores.size != checked_labels.size:
        raise ValueError(f"{checked_scores.size} scores for {checked_labels.size} labels")
    if metric.needs_both_classes and _is_constant(checked_labels):
        raise ValueError(f"{name} needs both classes, all {checked_labels.size} labels are {checked_labels[0]:g}")
    return metric.of(checked_scores, checked_labels)


def paired_blocks(
    metric: str,
    scores_candidate: ArrayLike,
    scores_reference: ArrayLike,
    labels: ArrayLike,
    block_ids: ArrayLike,
    *,
    rows_min: int = BLOCK_ROWS_MIN,
) -> BlockDifferences:
    """Harm of the candidate per block, both versions scored on the same rows.

    `block_ids` name each row's block (ISO dates, say); blocks come out sorted by id. A block with fewer than `rows_min`
    rows, with a single class where the metric needs both, or without anything to divide by is listed as skipped. What is a
    sum over a sum is compared by the sums of all blocks, if some block of each version has any. Raises as `evaluate`.
    """
    chosen = metric_named(metric)
    if rows_min < 1:
        raise ValueError(f"rows_min must be at least 1, got {rows_min}")
    truth = _checked(chosen, "labels", labels, empty_ok=True)
    candidate = _checked(chosen, "scores of the candidate", scores_candidate, empty_ok=True)
    reference = _checked(chosen, "scores of the reference", scores_reference, empty_ok=True)
    ids = np.asarray(block_ids).astype(str).ravel()
    if not candidate.size == reference.size == truth.size == ids.size:
        raise ValueError(
            f"pairs need arrays of one length, got {candidate.size} and {reference.size} scores, "
            f"{truth.size} labels, {ids.size} block ids"
        )
    order = np.argsort(ids, kind="stable")
    names, starts = np.unique(ids[order], return_index=True)
    kept: list[tuple[str, float, float, float, int]] = []
    skipped: list[SkippedBlock] = []
    sums: list[Sums | None] = []
    for name, rows in zip(names.tolist(), np.split(order, starts[1:]), strict=False):
        size = int(rows.size)
        because = _why_skipped(chosen, truth[rows], rows_min)
        if because:
            skipped.append(SkippedBlock(block=name, rows=size, because=because))
            continue
        added = sums_of(chosen, candidate[rows], reference[rows], truth[rows])
        if added is not None and not added.tells:
            skipped.append(SkippedBlock(block=name, rows=size, because=f"{metric} has nothing to divide by"))
            continue
        sums.append(added)
        of_candidate = chosen.of(candidate[rows], truth[rows])
        of_reference = chosen.of(reference[rows], truth[rows])
        kept.append((name, harm(metric, of_candidate - of_reference), of_candidate, of_reference, size))
    judged = judged_harms(metric, [row[1] for row in kept], sums)
    return BlockDifferences(
        metric=metric,
        blocks=tuple(row[0] for row in kept),
        harms=judged.values,
        candidate=tuple(row[2] for row in kept),
        reference=tuple(row[3] for row in kept),
        rows=tuple(row[4] for row in kept),
        skipped=tuple(skipped),
        counted=judged.counted,
    )


def sums_of(metric: Metric, candidate: Floats, reference: Floats, labels: Floats) -> Sums | None:
    """What rows that both versions answered add to a ratio; None where the metric is none."""
    if metric.sums is None:
        return None
    numerator, denominator = metric.sums(candidate, labels)
    numerator_reference, denominator_reference = metric.sums(reference, labels)
    return Sums(
        numerator=numerator,
        denominator=denominator,
        numerator_reference=numerator_reference,
        denominator_reference=denominator_reference,
    )


def mid_ranks(values: Floats) -> Floats:
    """Ranks from 1, ties share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2.0)[inverse.ravel()]
    return ranks


def _why_skipped(metric: Metric, labels: Floats, rows_min: int) -> str | None:
    if labels.size < rows_min:
        return f"{labels.size} labelled rows, need {rows_min}"
    if metric.needs_both_classes and metric.sums is None and _is_constant(labels):
        return f"all {labels.size} labels are {labels[0]:g}, {metric.name} needs both classes"
    return None


def _is_constant(labels: Floats) -> bool:
    return bool(np.all(labels == labels[0]))


def _checked(metric: Metric, what: str, values: ArrayLike, *, empty_ok: bool = False) -> Floats:
    array = np.asarray(values, dtype=np.float64).ravel()
    if array.size == 0 and not empty_ok:
        raise ValueError(f"{metric.name} needs at least one row of {what}")
    if not np.all(np.isfinite(array)):
        missing = int(np.count_nonzero(~np.isfinite(array)))
        raise ValueError(f"{missing} of {array.size} {what} are NaN or infinite; join only matured rows")
    if metric.task == "binary":
        if what == "labels" and not np.all((array == 0.0) | (array == 1.0)):
            raise ValueError(f"{metric.name} needs labels 0 or 1")
        if what != "labels" and not np.all((array >= 0.0) & (array <= 1.0)):
            raise ValueError(f"{metric.name} needs {what} within 0..1, got {float(array.min())}..{float(array.max())}")
    return array
