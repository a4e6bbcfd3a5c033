"""How two versions compare in one block: in pairs, and by lot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.domain.metrics import COMPARISONS, HARM_RANGES, LATENCIES, MEANS, METRICS, PAIRS_ONLY, Direction
from steersman.stats import performance
from steersman.stats.contrasts import (
    agreement_rows,
    means_in_pairs,
    means_in_split,
    performance_in_pairs,
    performance_in_split,
    performance_rows,
    quantiles,
)
from steersman.stats.performance import evaluate

NAN = float("nan")


def rows(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two versions and labels, of which some are missing."""
    random = np.random.default_rng(seed)
    labels = (random.random(n) < 0.4).astype(float)
    candidate, reference = random.random(n), random.random(n)
    labels[random.random(n) < 0.1] = NAN
    candidate[random.random(n) < 0.1] = NAN
    return candidate, reference, labels


def test_the_lists_of_what_is_a_mean_agree() -> None:
    of_rows = {name for name, metric in performance.METRICS.items() if metric.rows is not None}
    assert of_rows | (set(COMPARISONS) - set(LATENCIES)) == MEANS
    assert set(COMPARISONS) >= PAIRS_ONLY
    assert set(HARM_RANGES) < MEANS
    assert not set(METRICS) & set(COMPARISONS)


@given(st.integers(0, 2**31), st.sampled_from(sorted(METRICS)))
def test_in_pairs_harm_is_the_difference_of_the_metric_over_rows_both_scored(seed: int, metric: str) -> None:
    candidate, reference, labels = rows(seed)
    kept = ~np.isnan(labels) & ~np.isnan(candidate)
    found = performance_in_pairs(metric, candidate, reference, labels)
    assert found is not None
    ours, theirs = (evaluate(metric, scores[kept], labels[kept]) for scores in (candidate, reference))
    sign = 1 if METRICS[metric] is Direction.LOWER else -1
    assert found.harm == pytest.approx(sign * (ours - theirs))
    assert (found.spread is not None) == (metric in MEANS)
    assert found.n == int(kept.sum())


@given(scores=st.tuples(st.floats(0, 1), st.floats(0, 1)), label=st.sampled_from([0.0, 1.0]))
def test_the_harm_of_one_request_lies_in_the_range_that_is_said_of_it(
    scores: tuple[float, float], label: float
) -> None:
    ours, theirs = (np.array([score] * 2) for score in scores)
    labels = np.array([label] * 2)
    found = {metric: performance_in_pairs(metric, ours, theirs, labels, rows_min=2) for metric in ("accuracy", "brier")}
    alike = agreement_rows(ours, theirs)
    found["agreement"] = means_in_pairs("agreement", alike, np.ones(2), rows_min=2)
    for metric, contrast in found.items():
        low, high = HARM_RANGES[metric]
        assert contrast is not None
        assert low <= contrast.harm <= high


def test_sums_in_a_split_stand_for_all_requests_of_the_block() -> None:
    random = np.random.default_rng(9)
    labels = (random.random(20_000) < 0.4).astype(float)
    scores = np.where(random.random(20_000) < 0.8, labels, 1 - labels)
    drawn = random.random(20_000) < 0.1
    found = performance_in_split("precision", scores, labels, candidate=drawn, probability=np.full(20_000, 0.1))
    assert found is not None
    assert found.sums is not None
    named = np.count_nonzero(scores >= 0.5)
    assert found.sums.denominator == pytest.approx(named, rel=0.1)
    assert found.sums.denominator_reference == pytest.approx(named, rel=0.05)
    assert found.sums.counted == pytest.approx(np.count_nonzero(drawn & (scores >= 0.5)))


def test_a_block_without_anything_to_divide_by_is_no_contrast() -> None:
    low, labels = np.full(50, 0.1), np.zeros(50)
    assert performance_in_pairs("precision", low, low, labels) is None
    assert performance_in_pairs("recall", low, low, labels) is None
    some = performance_in_pairs("f1", np.full(50, 0.9), low, labels)
    assert some is not None
    assert some.sums is not None
    assert (some.sums.denominator, some.sums.denominator_reference) == (50, 0)


def test_the_spread_is_that_of_the_single_rows_harms() -> None:
    found = means_in_pairs("error_rate", np.array([0.0, 1.0, 1.0, NAN]), np.array([0.0, 0.0, 1.0, 1.0]), rows_min=3)
    assert found is not None
    assert (found.harm, found.n) == (pytest.approx(1 / 3), 3)
    assert found.spread == pytest.approx(np.std([0.0, 1.0, 0.0], ddof=1))


@pytest.mark.parametrize(
    ("metric", "scores", "labels"),
    [
        ("brier", np.full(50, 0.5), np.full(50, 3.0)),
        ("log_loss", np.full(50, 1.5), np.ones(50)),
        ("roc_auc", np.linspace(0, 1, 50), np.ones(50)),
        ("brier", np.full(9, 0.5), np.ones(9)),
    ],
    ids=["labels that are no classes", "scores that are no probabilities", "one class", "too few rows"],
)
def test_what_a_metric_cannot_be_measured_on_is_no_contrast(
    metric: str, scores: np.ndarray, labels: np.ndarray
) -> None:
    assert performance_in_pairs(metric, scores, scores, labels) is None
    half = np.arange(labels.size) % 2 == 0
    assert performance_in_split(metric, scores, labels, candidate=half, probability=np.full(labels.size, 0.5)) is None


def test_a_quantile_of_latency_is_each_versions_own() -> None:
    found = quantiles("latency_p95", np.arange(100.0) + 10, np.append(np.arange(100.0), NAN), level=0.95)
    assert found is not None
    assert (found.harm, found.n_candidate, found.n_reference) == (pytest.approx(10.0), 100, 100)


def test_versions_agree_where_they_decide_alike() -> None:
    assert agreement_rows(np.array([0.9, 0.1, 0.6, NAN]), np.array([0.5, 0.4, 0.2, 0.2]))[:3].tolist() == [
        1.0,
        1.0,
        0.0,
    ]


@pytest.mark.parametrize("seed", range(3))
def test_by_lot_the_mean_over_many_draws_is_the_true_difference_at_every_weight(seed: int) -> None:
    random = np.random.default_rng(seed)
    n, harms = 400, []
    probability = np.repeat([0.05, 0.5], n // 2)
    loss = random.random(n) + np.repeat([0.0, 3.0], n // 2)  # the base rate drifts with the weight
    for _ in range(400):
        candidate = random.random(n) < probability
        values = loss + 0.2 * candidate
        found = means_in_split(
            "cost", values, candidate=candidate, probability=probability, units=np.arange(n), direction=Direction.LOWER
        )
        if found is not None:
            harms.append(found.harm)
    error = np.std(harms) / np.sqrt(len(harms))
    assert abs(np.mean(harms) - 0.2) < 5 * error


def test_rows_of_one_unit_were_drawn_together_and_count_as_one() -> None:
    units = np.repeat([f"u{number}" for number in range(40)], 5)
    candidate = np.repeat(np.arange(40) % 2 == 0, 5)
    values = np.repeat(np.arange(40.0), 5) + np.tile([-1.0, 0.0, 1.0, 0.0, 0.0], 40)
    found = means_in_split("error_rate", values, candidate=candidate, probability=np.full(200, 0.5), units=units)
    assert found is not None
    assert (found.n, found.n_candidate, found.n_reference) == (40, 20, 20)
    alone = means_in_split(
        "error_rate", np.arange(40.0), candidate=candidate[::5], probability=np.full(40, 0.5), units=np.arange(40)
    )
    assert alone is not None
    assert found.harm == pytest.approx(alone.harm)


def test_a_weight_that_changed_within_the_block_leaves_what_is_no_mean_unmeasured() -> None:
    random = np.random.default_rng(3)
    scores, labels = random.random(400), (random.random(400) < 0.5).astype(float)
    candidate = random.random(400) < 0.5
    steady, changed = np.full(400, 0.5), np.repeat([0.5, 0.2], 200)
    assert performance_in_split("roc_auc", scores, labels, candidate=candidate, probability=steady) is not None
    assert performance_in_split("roc_auc", scores, labels, candidate=candidate, probability=changed) is None
    with pytest.raises(ValueError, match="no mean of rows"):
        performance_rows("roc_auc", scores, labels)
