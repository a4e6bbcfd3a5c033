"""Whether what an analysis or a bake asks for can be measured: its metrics exist, and fit its mode, unit and slices."""

from __future__ import annotations

from collections.abc import Iterator

from steersman.domain.decoding import shown, suggest
from steersman.domain.errors import Problem
from steersman.domain.metrics import (
    COMPARISONS,
    METRICS,
    PAIRS_ONLY,
    is_mean,
    known,
    refuse_expression,
)
from steersman.domain.spec import Analysis, AnalysisMode, Bake, DeclaredMetric, EvidenceUnit, Model


def declared_metrics(model: Model) -> Iterator[Problem]:
    """The document's own metrics: no name twice and none of ours, each by an expression of one row or an entry point."""
    names = [metric.name for metric in model.spec.metrics]
    for index, metric in enumerate(model.spec.metrics):
        path = f"spec.metrics[{index}]"
        if metric.name in {**METRICS, **COMPARISONS}:
            yield Problem(path=path, message=f"name {shown(metric.name)} is one of ours; call it otherwise")
        if metric.name in names[:index]:
            yield Problem(path=path, message=f"name {shown(metric.name)} is used twice")
        if (metric.expression is None) == (metric.entry_point is None):
            yield Problem(path=path, message="write one of expression and entryPoint")
            continue
        because = None if metric.expression is None else refuse_expression(metric.expression)
        if because is not None:
            yield Problem(path=path, message=f"expression: {because}")
        if metric.needs_labels and model.spec.ground_truth is None:
            what = "entryPoint: it is given labels," if metric.expression is None else "expression: label"
            yield Problem(path=path, message=f"{what} needs ground truth; declare spec.groundTruth")


def needs_labels(metric: str, declared: tuple[DeclaredMetric, ...]) -> bool:
    """Whether a metric waits for labels: ours of scores and labels, a declared one that names or is given `label`."""
    return metric in METRICS or any(one.name == metric and one.needs_labels for one in declared)


def compared_metrics(model: Model, path: str, step: Analysis | Bake) -> Iterator[Problem]:
    """Every reason why the step's evidence could never come about."""
    names = known({one.name: one.direction for one in model.spec.metrics})
    whole = {one.name for one in model.spec.metrics if one.entry_point is not None}
    split = isinstance(step, Analysis) and step.mode is AnalysisMode.SPLIT
    for number, metric in enumerate(step.metrics):
        label = f"metrics[{number}]"
        if metric not in names:
            hint = suggest(metric, list(names)) or f"; known are {', '.join(names)}"
            yield Problem(path=path, message=f"{label}: unknown metric {shown(metric)}{hint}")
            continue
        if metric in METRICS and model.spec.ground_truth is None:
            yield Problem(path=path, message=f"{label}: {metric} needs labels; declare spec.groundTruth")
        if split and metric in PAIRS_ONLY:
            message = f"{label}: {metric} compares two answers to one request; mode split has one: use paired"
            yield Problem(path=path, message=message)
        if step.unit is EvidenceUnit.ROW and (metric in whole or not is_mean(metric)):
            message = f"{label}: {metric} is no mean of rows, so no row is evidence of it; use unit block"
            yield Problem(path=path, message=message)
    if step.rows_min is not None and step.unit is not EvidenceUnit.ROW:
        yield Problem(path=path, message="rowsMin needs unit row")
    yield from _slices(model, path, step)


def _slices(model: Model, path: str, step: Analysis | Bake) -> Iterator[Problem]:
    if not step.slices and (step.slice_margin is not None or step.slice_rows_min is not None):
        yield Problem(path=path, message="sliceMargin and sliceRowsMin need slices")
    for number, column in enumerate(step.slices):
        if column in model.spec.inference_log.drop:
            message = f"slices[{number}]: {shown(column)} is dropped from the log (inferenceLog.drop)"
            yield Problem(path=path, message=message)
        if column in step.slices[:number]:
            yield Problem(path=path, message=f"slices[{number}]: {shown(column)} is named twice")
