"""Evidence by blocks or by requests, slices, sample ratios and coverage of labels."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.decide.judging import (
    BlockEvidence,
    judge_assignment,
    judge_coverage,
    judge_evidence,
    judge_paired,
    judge_slices,
    row_bounds,
)
from steersman.domain.spec import EvidenceUnit
from steersman.domain.verdicts import Outcome, Verdict

ROW = EvidenceUnit.ROW


def blocks_of(rows: np.ndarray, size: int = 500) -> list[BlockEvidence]:
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [BlockEvidence(harm=float(p.mean()), n=len(p), spread=float(p.std(ddof=1))) for p in parts]


def test_by_blocks_it_is_the_paired_judgement() -> None:
    harms = [-0.03, -0.05, -0.02, -0.04, -0.03, -0.04]
    blocks = [BlockEvidence(harm=harm, n=100, spread=None) for harm in harms]
    assert judge_evidence(blocks, metric="roc_auc", margin=0.02) == judge_paired(harms, metric="roc_auc", margin=0.02)


def test_by_requests_it_says_how_many_and_by_which_method() -> None:
    rows = np.random.default_rng(1).normal(0, 0.1, 4_000)
    verdict = judge_evidence(blocks_of(rows), metric="brier", margin=0.01, unit=ROW)
    assert verdict.outcome is Outcome.SUCCESSFUL
    assert (verdict.n, verdict.n_unit) == (4_000, "requests")
    assert verdict.method == "asymptotic mixture sequence over requests, each bound 95.0%"
    assert verdict.because.endswith("below the margin 0.01, 4000 requests")


def test_harm_beyond_the_margin_fails_unless_the_metric_is_not_critical() -> None:
    rows = np.random.default_rng(2).normal(0.05, 0.1, 4_000)
    assert judge_evidence(blocks_of(rows), metric="brier", margin=0.01, unit=ROW).outcome is Outcome.FAILED
    lenient = judge_evidence(blocks_of(rows), metric="brier", margin=0.01, unit=ROW, critical=False)
    assert lenient.outcome is Outcome.INCONCLUSIVE


def test_few_requests_are_inconclusive_and_none_too() -> None:
    few = judge_evidence([BlockEvidence(harm=-1.0, n=499, spread=0.1)], metric="brier", margin=0.1, unit=ROW)
    assert (few.outcome, few.needed) == (Outcome.INCONCLUSIVE, 1)
    assert judge_evidence([], metric="brier", margin=0.1, unit=ROW).outcome is Outcome.INCONCLUSIVE


def test_a_metric_that_is_no_mean_of_requests_is_an_error_by_requests() -> None:
    verdict = judge_evidence([BlockEvidence(harm=0.0, n=9_999, spread=None)], metric="roc_auc", margin=0.1, unit=ROW)
    assert verdict.outcome is Outcome.ERROR
    assert "judge it by blocks" in verdict.because


def test_harm_that_is_not_a_number_is_an_error() -> None:
    blocks = [BlockEvidence(harm=math.nan, n=900, spread=0.1)]
    assert judge_evidence(blocks, metric="brier", margin=0.1, unit=ROW).outcome is Outcome.ERROR
    with pytest.raises(ValueError, match="margin"):
        judge_evidence(blocks, metric="brier", margin=-1, unit=ROW)


def test_an_undecided_verdict_says_how_many_requests_more_it_will_take() -> None:
    rows = np.random.default_rng(3).normal(0, 0.3, 2_000)
    verdict = judge_evidence(blocks_of(rows), metric="brier", margin=0.02, unit=ROW)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.needed is not None
    assert 500 < verdict.needed < 20_000


def test_days_that_spread_wider_than_their_requests_are_an_error_not_a_verdict() -> None:
    rng = np.random.default_rng(4)
    rows = rng.normal(0, 0.1, 10_000) + np.repeat(rng.normal(0, 0.05, 10), 1_000)
    verdict = judge_evidence(blocks_of(rows, 1_000), metric="brier", margin=0.01, unit=ROW)
    assert verdict.outcome is Outcome.ERROR
    assert "not independent; judge by blocks" in verdict.because


def test_independent_requests_are_hardly_ever_taken_for_dependent_ones() -> None:
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(300):
        rows = rng.choice([-1.0, 0.0, 1.0], p=[0.01, 0.98, 0.01], size=7_000)
        verdict = judge_evidence(blocks_of(rows, 500), metric="accuracy", margin=0.01, unit=ROW)
        wrong += verdict.outcome is Outcome.ERROR
    assert wrong <= 3


def test_no_error_in_a_thousand_rows_is_no_proof_at_a_margin_of_a_thousandth() -> None:
    """A model that errs in one request of 500 more shows none in 1,000 with probability 14 %."""
    quiet = [BlockEvidence(harm=0.0, n=1_000, spread=0.0)]
    assert judge_evidence(quiet, metric="accuracy", margin=0.001, unit=ROW).outcome is Outcome.INCONCLUSIVE


@settings(deadline=None)
@given(cuts=st.lists(st.integers(1, 1_999), max_size=5, unique=True))
def test_how_requests_are_cut_into_blocks_changes_no_bound(cuts: list[int]) -> None:
    rows = np.random.default_rng(6).normal(0, 0.2, 2_000)
    parts = np.split(rows, sorted(cuts))
    blocks = [
        BlockEvidence(harm=float(p.mean()), n=len(p), spread=float(p.std(ddof=1)) if len(p) > 1 else 0.0) for p in parts
    ]
    whole = judge_evidence(blocks_of(rows, 2_000), metric="brier", margin=0.01, unit=ROW)
    cut = judge_evidence(blocks, metric="brier", margin=0.01, unit=ROW)
    if (
        cut.outcome is not Outcome.ERROR
    ):  # cut between the looks a block may look like a shock, one time in ten thousand
        assert (cut.lower, cut.upper) == pytest.approx((whole.lower, whole.upper))


def test_the_bounds_of_many_looks_are_those_of_each() -> None:
    n, mean, sd = np.array([10, 600, 5_000]), np.array([0.0, 0.01, 0.02]), np.array([0.1, 0.2, 0.3])
    lower, upper = row_bounds(n, mean, sd, metric="brier", margin=0.01)
    assert math.isinf(lower[0])
    for look in (1, 2):
        blocks = [BlockEvidence(harm=float(mean[look]), n=int(n[look]), spread=float(sd[look]))]
        verdict = judge_evidence(blocks, metric="brier", margin=0.01, unit=ROW)
        assert (verdict.lower, verdict.upper) == pytest.approx((lower[look], upper[look]))


def _verdict(outcome: Outcome, estimate: float) -> Verdict:
    return Verdict(outcome=outcome, because="b", metric="brier", estimate=estimate)


def test_a_slice_that_fails_fails_all_and_is_named() -> None:
    verdict = judge_slices(
        {"": _verdict(Outcome.SUCCESSFUL, 0.0), "origin=EWR": _verdict(Outcome.FAILED, 0.1)}, metric="brier"
    )
    assert verdict.outcome is Outcome.FAILED
    assert verdict.because == "failed slice origin=EWR: b"


def test_of_several_failed_slices_the_worst_is_named_and_the_others_counted() -> None:
    slices = {name: _verdict(Outcome.FAILED, harm) for name, harm in (("a=1", 0.1), ("a=2", 0.3), ("a=3", 0.2))}
    verdict = judge_slices(slices, metric="brier")
    assert (verdict.because, verdict.estimate) == ("failed slice a=2 (and 2 more failed): b", 0.3)


def test_all_slices_must_succeed_and_no_slice_is_an_error() -> None:
    good, open_ = _verdict(Outcome.SUCCESSFUL, 0.0), _verdict(Outcome.INCONCLUSIVE, 0.0)
    assert judge_slices({"": good, "a=1": good}, metric="brier").outcome is Outcome.SUCCESSFUL
    assert judge_slices({"": good, "a=1": open_}, metric="brier").outcome is Outcome.INCONCLUSIVE
    assert judge_slices({}, metric="brier").outcome is Outcome.ERROR


SHARES = {"candidate": 0.1, "stable": 0.9}


def test_an_arm_that_loses_requests_is_an_error_with_the_numbers() -> None:
    verdict = judge_assignment({"candidate": 1_600, "stable": 18_000}, SHARES)
    assert verdict.outcome is Outcome.ERROR
    assert verdict.because == (
        "sample ratio mismatch: candidate 8.16% (meant 10.00%), stable 91.84% (meant 90.00%), n=19600"
    )


def test_shares_as_meant_are_successful_and_no_request_inconclusive() -> None:
    assert judge_assignment({"candidate": 1_010, "stable": 8_990}, SHARES).outcome is Outcome.SUCCESSFUL
    assert judge_assignment({"candidate": 0, "stable": 0}, SHARES).outcome is Outcome.INCONCLUSIVE
    assert judge_assignment({"candidate": 1, "stable": 9}, {"candidate": 10, "stable": 90}).outcome is (
        Outcome.SUCCESSFUL
    )
    with pytest.raises(ValueError, match="same arms"):
        judge_assignment({"candidate": 1}, SHARES)


def test_labels_that_are_missing_in_one_arm_are_an_error_and_in_both_inconclusive() -> None:
    matured = {"candidate": 1_000, "stable": 9_000}
    unequal = judge_coverage(matured, {"candidate": 800, "stable": 8_900}, coverage_min=0.7)
    assert unequal.outcome is Outcome.ERROR
    assert unequal.because == "coverage of labels differs between arms: candidate 80.00% of 1000, stable 98.89% of 9000"
    assert judge_coverage(matured, {"candidate": 800, "stable": 7_200}, coverage_min=0.9).outcome is (
        Outcome.INCONCLUSIVE
    )
    assert judge_coverage(matured, {"candidate": 960, "stable": 8_600}, coverage_min=0.9).outcome is Outcome.SUCCESSFUL


def test_coverage_of_nothing_is_inconclusive_and_of_pairs_has_one_arm() -> None:
    assert judge_coverage({"pairs": 0}, {"pairs": 0}, coverage_min=0.9).outcome is Outcome.INCONCLUSIVE
    assert judge_coverage({}, {}, coverage_min=0.9).outcome is Outcome.INCONCLUSIVE
    assert judge_coverage({"pairs": 100}, {"pairs": 95}, coverage_min=0.9).outcome is Outcome.SUCCESSFUL
    with pytest.raises(ValueError, match="same arms"):
        judge_coverage({"pairs": 1}, {}, coverage_min=0.9)
