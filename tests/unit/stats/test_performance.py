"""Metrics of matured predictions, and the harm per block between two versions."""

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from steersman.domain.metrics import METRICS as DOCUMENTED
from steersman.domain.metrics import QUANTILES, Direction
from steersman.stats.performance import METRICS, evaluate, metric_named, mid_ranks, paired_blocks

binary_rows = st.lists(st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.integers(0, 1)), min_size=2, max_size=200)


def test_every_metric_of_the_documents_can_be_computed() -> None:
    assert set(METRICS) == set(DOCUMENTED)


@given(binary_rows)
def test_binary_metrics_equal_scikit_learns(rows: list[tuple[float, int]]) -> None:
    scores, labels = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    predicted = scores >= 0.5
    assert evaluate("log_loss", scores, labels) == pytest.approx(
        sklearn.metrics.log_loss(labels, np.clip(scores, 2.2e-16, 1 - 2.2e-16), labels=[0, 1]), abs=1e-9
    )
    assert evaluate("brier", scores, labels) == pytest.approx(np.mean((scores - labels) ** 2))
    assert evaluate("accuracy", scores, labels) == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    assert evaluate("precision", scores, labels) == pytest.approx(
        sklearn.metrics.precision_score(labels, predicted, zero_division=0)
    )
    if 0 < labels.sum() < labels.size:
        assert evaluate("roc_auc", scores, labels) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores))
        assert evaluate("f1", scores, labels) == pytest.approx(sklearn.metrics.f1_score(labels, predicted))
        assert evaluate("recall", scores, labels) == pytest.approx(sklearn.metrics.recall_score(labels, predicted))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.integers(0, 2**31))
def test_regression_metrics_equal_their_definitions(scores: list[float], seed: int) -> None:
    labels = np.random.default_rng(seed).normal(size=len(scores))
    error = np.array(scores) - labels
    assert evaluate("rmse", scores, labels) == pytest.approx(math.sqrt(np.mean(error**2)))
    assert evaluate("mae", scores, labels) == pytest.approx(np.mean(np.abs(error)))


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50), st.sampled_from(sorted(QUANTILES)))
def test_quantile_loss_equals_scikit_learns(scores: list[float], metric: str) -> None:
    labels = np.random.default_rng(len(scores)).normal(size=len(scores))
    known = sklearn.metrics.mean_pinball_loss(labels, scores, alpha=QUANTILES[metric])
    assert evaluate(metric, scores, labels) == pytest.approx(known)


@given(binary_rows)
def test_auc_depends_on_the_order_of_scores_only(rows: list[tuple[float, int]]) -> None:
    scores, labels = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    if 0 < labels.sum() < labels.size:
        assert evaluate("roc_auc", scores, labels) == pytest.approx(evaluate("roc_auc", scores**3, labels))
        assert evaluate("roc_auc", scores, labels) == pytest.approx(1 - evaluate("roc_auc", 1 - scores, labels))


def test_ties_share_their_rank() -> None:
    assert mid_ranks(np.array([5.0, 1.0, 5.0])).tolist() == [2.5, 1.0, 2.5]


def test_a_model_that_says_what_happens_is_calibrated() -> None:
    scores = np.repeat([0.15, 0.85], 100)
    labels = np.concatenate([np.arange(100) < 15, np.arange(100) < 85])
    assert evaluate("calibration_error", scores, labels) == pytest.approx(0.0, abs=1e-12)
    assert evaluate("calibration_error", np.full(200, 1.0), labels) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("metric", "scores", "labels", "message"),
    [
        ("auc", [0.1], [1], "known are accuracy, brier"),
        ("log_loss", [0.1, 0.2], [1, math.nan], "1 of 2 labels are NaN"),
        ("log_loss", [0.1, math.nan], [1, 0], "1 of 2 scores are NaN"),
        ("log_loss", [0.1], [1, 0], "1 scores for 2 labels"),
        ("log_loss", [1.1], [1], "within 0..1"),
        ("brier", [0.5], [2], "labels 0 or 1"),
        ("roc_auc", [0.1, 0.2], [1, 1], "needs both classes"),
        ("rmse", [], [], "at least one row"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_reason(
    metric: str, scores: list[float], labels: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(metric, scores, labels)


def test_directions_are_those_of_the_documents() -> None:
    assert metric_named("roc_auc").direction is Direction.HIGHER
    assert metric_named("rmse").direction is Direction.LOWER


@given(st.integers(0, 2**31), st.sampled_from(sorted(METRICS)))
def test_exchanging_the_versions_turns_harm_around(seed: int, metric: str) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 120)
    a, b = rng.random(120), rng.random(120)
    blocks = np.repeat(["2013-03-01", "2013-03-02", "2013-03-03"], 40)
    forth, back = paired_blocks(metric, a, b, labels, blocks), paired_blocks(metric, b, a, labels, blocks)
    assert forth.harms == pytest.approx([-harm for harm in back.harms])
    assert forth.candidate == back.reference


def test_a_worse_candidate_has_positive_harm_whatever_the_metrics_direction() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 500)
    good, bad = np.where(labels == 1, 0.9, 0.1), np.full(500, 0.5)
    for metric in ("roc_auc", "log_loss", "brier", "accuracy"):
        assert paired_blocks(metric, bad, good, labels, ["d"] * 500).harms[0] > 0


def test_blocks_come_out_in_order_and_unusable_ones_are_named() -> None:
    labels = np.array([0, 1] * 40 + [1] * 40 + [0, 1])
    blocks = np.array(["2013-03-02"] * 80 + ["2013-03-01"] * 40 + ["2013-03-03"] * 2)
    scores = np.linspace(0, 1, 122)
    pairs = paired_blocks("roc_auc", scores, scores, labels, blocks)
    assert pairs.blocks == ("2013-03-02",)
    assert (pairs.n, pairs.rows_total, pairs.harms) == (1, 80, (0.0,))
    assert [(s.block, s.because) for s in pairs.skipped] == [
        ("2013-03-01", "all 40 labels are 1, roc_auc needs both classes"),
        ("2013-03-03", "2 labelled rows, need 30"),
    ]


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    a, b, labels, blocks = rng.random(300), rng.random(300), rng.integers(0, 2, 300), rng.integers(0, 3, 300)
    order = rng.permutation(300)
    straight = paired_blocks("roc_auc", a, b, labels, blocks)
    shuffled = paired_blocks("roc_auc", a[order], b[order], labels[order], blocks[order])
    assert straight.blocks == shuffled.blocks
    assert straight.harms == pytest.approx(shuffled.harms)


def test_no_rows_are_no_blocks() -> None:
    assert paired_blocks("roc_auc", [], [], [], []).n == 0


def test_pairs_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="arrays of one length"):
        paired_blocks("brier", [0.1], [0.1, 0.2], [1, 0], ["a", "b"])
    with pytest.raises(ValueError, match="rows_min"):
        paired_blocks("brier", [0.1], [0.1], [1], ["a"], rows_min=0)


def test_a_ratio_over_blocks_has_the_harm_of_all_rows_whatever_the_blocks_hold() -> None:
    """A day of two positives beside days of many: the mean of harms is the difference of the whole, not that of the days."""
    rng = np.random.default_rng(3)
    labels = (rng.random(600) < np.repeat([0.02, 0.3, 0.5], 200)).astype(float)
    candidate, reference = (np.where(rng.random(600) < right, labels, 1.0 - labels) for right in (0.8, 0.9))
    blocks = np.repeat(["a", "b", "c"], 200)
    for metric in ("precision", "recall", "f1"):
        pairs = paired_blocks(metric, candidate, reference, labels, blocks)
        whole = evaluate(metric, reference, labels) - evaluate(metric, candidate, labels)
        assert np.mean(pairs.harms) == pytest.approx(whole), metric
        assert pairs.counted is not None
        days = [theirs - ours for ours, theirs in zip(pairs.candidate, pairs.reference, strict=True)]
        assert np.mean(days) != pytest.approx(whole, rel=0.01), metric


def test_a_block_in_which_a_ratio_has_nothing_to_divide_by_is_named() -> None:
    labels, low = np.array([0.0] * 40 + [0.0, 1.0] * 20), np.full(80, 0.1)
    blocks = np.repeat(["a", "b"], 40)
    assert [(s.block, s.because) for s in paired_blocks("recall", low, low, labels, blocks).skipped] == [
        ("a", "recall has nothing to divide by")
    ]
