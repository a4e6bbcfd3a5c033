"""What one block says about two versions: each metric over all requests, and over each slice of them.

Takes rows as the inference log gives them and gives contrasts (`steersman.stats.contrasts`) with the cohort they rest on:
how many requests matured, how many of each version's have a score and a label, and a digest over those very rows, so that
somebody who doubts a verdict can read the same rows again.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from steersman.domain.metrics import LATENCIES, METRICS, Direction, is_mean
from steersman.ports import Answers, Measure, PairedRows, SplitRows
from steersman.stats import contrasts
from steersman.stats.contrasts import Contrast

SLICES_MAX = 50
"""Most values of one column that are judged by themselves, the most frequent of a block: a column of ids is no segment."""

BECAUSE_MAX = 300
"""Longest text kept of what an installed metric raised."""

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of a cohort; see `steersman.store.records.Cohort`."""

    matured_reference: int
    matured_compared: int
    labelled_reference: int
    labelled_compared: int
    drawn_reference: int = 0
    drawn_compared: int = 0
    share: float = 0.0
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One slice of a block (`""`: all requests). A metric that could not be measured in it is not among the contrasts;
    `raised` says what an installed one raised there."""

    slice: str
    counts: Counts
    contrasts: Mapping[str, Contrast]
    raised: Mapping[str, str]


def compare_pairs(
    rows: PairedRows,
    metrics: Sequence[str],
    directions: Mapping[str, Direction],
    installed: Mapping[str, Measure] = {},
) -> Sequence[Compared]:
    """Both versions on the same requests; `directions` are those of declared metrics, `installed` those of entry points."""
    compared = []
    for name, kept in _parts(rows.slices, len(rows.events)):
        labels = _array(rows.labels)[kept]
        ours, theirs = _answers(rows.compared, kept), _answers(rows.reference, kept)
        known = ~np.isnan(labels)
        counts = Counts(
            matured_reference=len(labels),
            matured_compared=len(labels),
            labelled_reference=int(np.count_nonzero(known & ~np.isnan(theirs.scores))),
            labelled_compared=int(np.count_nonzero(known & ~np.isnan(ours.scores))),
            digest=_digest(rows.events, kept, theirs.scores, ours.scores, labels),
        )
        found = {m: _in_pairs(m, ours, theirs, labels, directions) for m in metrics if m not in installed}
        raised = {}
        for metric, measure in installed.items():
            try:
                found[metric] = contrasts.value_in_pairs(
                    metric, measure, ours.scores, theirs.scores, labels, direction=directions[metric]
                )
            except Exception as error:  # whatever others' code raises is a verdict, and not the loop's end
                raised[metric] = _said(error)
        compared.append(Compared(slice=name, counts=counts, contrasts=_measured(found), raised=raised))
    return compared


def compare_split(
    rows: SplitRows,
    metrics: Sequence[str],
    directions: Mapping[str, Direction],
    installed: Mapping[str, Measure] = {},
) -> Sequence[Compared]:
    """Each version on the requests it was drawn for."""
    compared = []
    units = np.asarray(rows.units, dtype=object).astype(str)
    for name, kept in _parts(rows.slices, len(rows.events)):
        drawn = _Drawn(
            answers=_answers(rows.answers, kept),
            labels=_array(rows.labels)[kept],
            candidate=np.asarray(rows.candidate, dtype=bool)[kept],
            probability=_array(rows.probability)[kept],
            units=units[kept],
        )
        scored = ~np.isnan(drawn.labels) & ~np.isnan(drawn.answers.scores)
        _, first = np.unique(drawn.units, return_index=True)
        counts = Counts(
            matured_reference=int(np.count_nonzero(~drawn.candidate)),
            matured_compared=int(np.count_nonzero(drawn.candidate)),
            labelled_reference=int(np.count_nonzero(scored & ~drawn.candidate)),
            labelled_compared=int(np.count_nonzero(scored & drawn.candidate)),
            drawn_reference=int(np.count_nonzero(~drawn.candidate[first])),
            drawn_compared=int(np.count_nonzero(drawn.candidate[first])),
            share=round(float(np.mean(drawn.probability[first])), 9) if first.size else 0.0,
            digest=_digest(rows.events, kept, drawn.answers.scores, drawn.candidate, drawn.probability, drawn.labels),
        )
        found = {metric: _in_split(metric, drawn, directions) for metric in metrics if metric not in installed}
        raised = {}
        for metric, measure in installed.items():
            try:
                found[metric] = contrasts.value_in_split(
                    metric,
                    measure,
                    drawn.answers.scores,
                    drawn.labels,
                    candidate=drawn.candidate,
                    probability=drawn.probability,
                    direction=directions[metric],
                )
            except Exception as error:  # as above
                raised[metric] = _said(error)
        compared.append(Compared(slice=name, counts=counts, contrasts=_measured(found), raised=raised))
    return compared


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    scores: Floats
    failed: Floats
    latency_ms: Floats
    measured: Mapping[str, Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    answers: _Answers
    labels: Floats
    candidate: Mask
    probability: Floats
    units: NDArray[Any]


def _in_pairs(
    metric: str, ours: _Answers, theirs: _Answers, labels: Floats, directions: Mapping[str, Direction]
) -> Contrast | None:
    if metric in METRICS:
        return contrasts.performance_in_pairs(metric, ours.scores, theirs.scores, labels)
    if metric in LATENCIES:
        return contrasts.quantiles(metric, ours.latency_ms, theirs.latency_ms, level=LATENCIES[metric])
    match metric:
        case "agreement":
            alike = contrasts.agreement_rows(ours.scores, theirs.scores)
            return contrasts.means_in_pairs(metric, alike, np.where(np.isnan(alike), np.nan, 1.0))
        case "score_shift":
            shift = np.abs(ours.scores - theirs.scores)
            return contrasts.means_in_pairs(metric, shift, np.where(np.isnan(shift), np.nan, 0.0))
        case "error_rate":
            return contrasts.means_in_pairs(metric, ours.failed, theirs.failed)
    if metric not in ours.measured or metric not in theirs.measured:
        return None
    return contrasts.means_in_pairs(
        metric, ours.measured[metric], theirs.measured[metric], direction=directions[metric]
    )


def _in_split(metric: str, drawn: _Drawn, directions: Mapping[str, Direction]) -> Contrast | None:
    answers = drawn.answers
    if metric in LATENCIES:
        ours, theirs = answers.latency_ms[drawn.candidate], answers.latency_ms[~drawn.candidate]
        return contrasts.quantiles(metric, ours, theirs, level=LATENCIES[metric])
    if not is_mean(metric):
        return contrasts.performance_in_split(
            metric, answers.scores, drawn.labels, candidate=drawn.candidate, probability=drawn.probability
        )
    if metric in METRICS:
        values = contrasts.performance_rows(metric, answers.scores, drawn.labels)
    elif metric == "error_rate":
        values = answers.failed
    elif metric in answers.measured:
        values = answers.measured[metric]
    else:
        return None
    return contrasts.means_in_split(
        metric,
        values,
        candidate=drawn.candidate,
        probability=drawn.probability,
        units=drawn.units,
        direction=directions.get(metric),
    )


def _parts(slices: Mapping[str, Any], rows: int) -> Iterator[tuple[str, Mask]]:
    """All rows, then the rows of each value of each column, the columns and values in order."""
    yield "", np.ones(rows, dtype=bool)
    for column in sorted(slices):
        values = np.asarray(slices[column], dtype=object).astype(str)
        found, counts = np.unique(values, return_counts=True)
        frequent = found[np.argsort(-counts, kind="stable")][:SLICES_MAX]
        for value in sorted(frequent.tolist()):
            yield f"{column}={value}", values == value


def _answers(answers: Answers, kept: Mask) -> _Answers:
    return _Answers(
        scores=_array(answers.scores)[kept],
        failed=_array(answers.failed)[kept],
        latency_ms=_array(answers.latency_ms)[kept],
        measured={name: _array(values)[kept] for name, values in answers.measured.items()},
    )


def _array(values: Any) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _measured(found: Mapping[str, Contrast | None]) -> dict[str, Contrast]:
    return {metric: contrast for metric, contrast in found.items() if contrast is not None}


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:BECAUSE_MAX]


def _digest(events: Sequence[str], kept: Mask, *columns: NDArray[Any]) -> str:
    """Over ids and numbers of the rows in their order; the same rows read again give the same digest."""
    digest = hashlib.sha256()
    digest.update("\n".join(event for event, one in zip(events, kept.tolist(), strict=True) if one).encode())
    for column in columns:
        digest.update(b"\0" + np.ascontiguousarray(column).tobytes())
    return f"sha256:{digest.hexdigest()}"
