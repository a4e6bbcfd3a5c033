"""Verdicts about a candidate's harm, errors and latency, and what becomes of undecided ones."""

import math
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.decide.judging import (
    SettlementAction,
    judge_error_rate,
    judge_latency_ratio,
    judge_paired,
    judge_together,
    settle_inconclusive,
)
from steersman.domain.spec import OnInconclusive
from steersman.domain.verdicts import Outcome, Verdict
from steersman.stats.performance import paired_blocks

DAY = timedelta(days=1)


def test_a_candidate_surely_within_the_margin_succeeds_and_says_with_what_numbers() -> None:
    verdict = judge_paired([-0.03, -0.05, -0.02, -0.04, -0.03, -0.04], metric="roc_auc", margin=0.02)
    assert verdict.outcome is Outcome.SUCCESSFUL
    assert (verdict.n, verdict.n_unit, verdict.margin) == (6, "days", 0.02)
    assert verdict.because == "roc_auc: harm -0.0350 [-0.0526, -0.0174], below the margin 0.02, 6 days"


def test_a_candidate_surely_beyond_the_margin_fails() -> None:
    assert judge_paired([0.2, 0.25, 0.18, 0.21, 0.19, 0.22], metric="roc_auc", margin=0.02).outcome is Outcome.FAILED


def test_an_uncritical_metric_never_fails() -> None:
    harms = [0.2, 0.25, 0.18, 0.21, 0.19, 0.22]
    assert judge_paired(harms, metric="brier", margin=0.02, critical=False).outcome is Outcome.INCONCLUSIVE


def test_few_days_are_inconclusive_rather_than_good() -> None:
    verdict = judge_paired([-0.5] * 4, metric="roc_auc", margin=0.02)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.because == "roc_auc: 4 days of evidence, need at least 5"
    assert verdict.needed == 1
    assert judge_paired([], metric="roc_auc", margin=0.02).outcome is Outcome.INCONCLUSIVE


def test_an_undecided_verdict_says_how_many_days_more_it_will_take() -> None:
    harms = [0.05, -0.05, 0.03, -0.04, 0.01, -0.02]
    verdict = judge_paired(harms, metric="roc_auc", margin=0.02)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.needed is not None
    assert 10 < verdict.needed < 200


def test_harm_that_is_not_a_number_is_an_error_not_a_pass() -> None:
    assert judge_paired([0.0] * 9 + [math.nan], metric="roc_auc", margin=0.02).outcome is Outcome.ERROR


def test_two_identical_versions_succeed_after_five_days_in_spite_of_no_spread() -> None:
    verdict = judge_paired([0.0] * 5, metric="roc_auc", margin=0.02)
    assert verdict.outcome is Outcome.SUCCESSFUL
    assert verdict.lower is not None
    assert verdict.lower < 0


def test_differences_by_block_bring_their_metric_along() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 700)
    scores = np.clip(labels * 0.3 + rng.random(700) * 0.7, 0, 1)
    pairs = paired_blocks("roc_auc", scores, scores, labels, np.repeat(np.arange(7), 100))
    assert judge_paired(pairs, margin=0.02).metric == "roc_auc"


@pytest.mark.parametrize(
    "arguments", [{"margin": -1}, {"margin": math.inf}, {"margin": 0.1, "blocks_min": 1}, {"margin": 0.1, "metric": ""}]
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must|need"):
        judge_paired([0.0] * 6, **{"metric": "brier", **arguments})  # type: ignore[arg-type]


@given(st.lists(st.floats(-1, 1), min_size=5, max_size=40), st.floats(0, 0.5))
def test_the_verdict_follows_from_its_own_interval(harms: list[float], margin: float) -> None:
    verdict = judge_paired(harms, metric="brier", margin=margin)
    lower = -math.inf if verdict.lower is None else verdict.lower
    upper = math.inf if verdict.upper is None else verdict.upper
    assert (verdict.outcome is Outcome.FAILED) == (lower > margin)
    assert (verdict.outcome is Outcome.SUCCESSFUL) == (upper < margin)


@pytest.mark.parametrize("noise", ["normal", "heavy tails", "storms hurt", "storms help"])
def test_looked_at_daily_for_two_weeks_a_wrong_verdict_is_rare(noise: str) -> None:
    """Margin .02, daily spread .03: identical candidates fail, and ones worse by twice the margin pass, in at most 2 %."""
    rng = np.random.default_rng(21)
    shape = (400, 14)
    draws = {
        "normal": rng.normal(size=shape),
        "heavy tails": rng.standard_t(3, size=shape) / math.sqrt(3),
        "storms hurt": rng.exponential(size=shape) - 1,
        "storms help": 1 - rng.exponential(size=shape),
    }[noise]
    identical = [_first_decision(row) for row in 0.03 * draws]
    harmful = [_first_decision(row) for row in 0.04 + 0.03 * draws]
    assert identical.count(Outcome.FAILED) <= 8
    assert harmful.count(Outcome.SUCCESSFUL) <= 8
    improved = [_first_decision(row) for row in -0.03 + 0.03 * draws]
    assert improved.count(Outcome.SUCCESSFUL) >= 370


def test_no_requests_are_inconclusive() -> None:
    verdict = judge_error_rate(errors=0, requests=0, limit=0.001, requests_min=30)
    assert (verdict.outcome, verdict.needed) == (Outcome.INCONCLUSIVE, 30)
    assert verdict.because == "error rate unknown, no requests yet; need 30 requests"


def test_few_requests_are_inconclusive_rather_than_good() -> None:
    assert judge_error_rate(errors=0, requests=9, limit=0.01, requests_min=100).outcome is Outcome.INCONCLUSIVE


def test_a_version_that_always_raises_fails_within_three_requests() -> None:
    assert judge_error_rate(errors=3, requests=3, limit=0.001, requests_min=30).outcome is Outcome.FAILED


def test_one_error_among_few_requests_is_no_proof() -> None:
    assert judge_error_rate(errors=1, requests=100, limit=0.001, requests_min=30).outcome is Outcome.INCONCLUSIVE


def test_a_clean_version_keeps_its_limit() -> None:
    assert judge_error_rate(errors=0, requests=30, limit=0.001, requests_min=30).outcome is Outcome.SUCCESSFUL


@given(errors=st.integers(0, 300), more=st.integers(0, 3_000), limit=st.floats(0, 1))
def test_more_errors_never_improve_the_verdict(errors: int, more: int, limit: float) -> None:
    rank = {Outcome.SUCCESSFUL: 0, Outcome.INCONCLUSIVE: 1, Outcome.FAILED: 2}
    requests = errors + more + 1
    fewer = judge_error_rate(errors=errors, requests=requests, limit=limit, requests_min=30)
    worse = judge_error_rate(errors=errors + 1, requests=requests, limit=limit, requests_min=30)
    assert rank[fewer.outcome] <= rank[worse.outcome]


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"errors must lie in 0\.\.requests, got 3 of 2"):
        judge_error_rate(errors=3, requests=2, limit=0.1, requests_min=1)
    with pytest.raises(ValueError, match="fraction"):
        judge_error_rate(errors=0, requests=2, limit=5, requests_min=1)


def test_a_much_slower_candidate_fails_and_an_equal_one_does_not() -> None:
    rng = np.random.default_rng(5)
    stable, equal = rng.lognormal(1, 0.4, 4_000), rng.lognormal(1, 0.4, 4_000)
    assert judge_latency_ratio(equal, stable, ratio_limit=1.2).outcome is not Outcome.FAILED
    assert judge_latency_ratio(equal * 3, stable, ratio_limit=1.2).outcome is Outcome.FAILED
    assert judge_latency_ratio(equal / 2, stable, ratio_limit=1.2).outcome is Outcome.SUCCESSFUL


def test_latency_of_few_requests_is_inconclusive_and_impossible_latency_an_error() -> None:
    assert judge_latency_ratio([], [1.0], ratio_limit=1.2).outcome is Outcome.INCONCLUSIVE
    assert judge_latency_ratio([math.nan] * 400, [1.0] * 400, ratio_limit=1.2).outcome is Outcome.ERROR
    with pytest.raises(ValueError, match="positive"):
        judge_latency_ratio([], [], ratio_limit=0)


def test_together_one_failure_fails_and_success_needs_all() -> None:
    good, bad, open_, error = (Verdict(outcome=outcome, because=outcome.value) for outcome in Outcome)
    assert judge_together([good, bad, error]).outcome is Outcome.FAILED
    assert judge_together([good, open_, error]).outcome is Outcome.ERROR
    assert judge_together([good, open_]).outcome is Outcome.INCONCLUSIVE
    assert judge_together([good, good]).outcome is Outcome.SUCCESSFUL
    assert judge_together([]).outcome is Outcome.ERROR
    assert judge_together([good]) is good


UNDECIDED = Verdict(
    outcome=Outcome.INCONCLUSIVE, because="b", metric="roc_auc", estimate=0.01, n=14, n_unit="days", margin=0.02
)


@pytest.mark.parametrize(
    ("policy", "tier", "changes", "expected"),
    [
        (OnInconclusive.PAUSE, 1, {}, SettlementAction.PAUSE),
        (OnInconclusive.ROLLBACK, 1, {}, SettlementAction.ROLLBACK),
        (OnInconclusive.PROMOTE_WITHIN_MARGIN, 1, {}, SettlementAction.PROMOTE),
        (OnInconclusive.PROMOTE_WITHIN_MARGIN, 2, {}, SettlementAction.PAUSE),
        (OnInconclusive.PROMOTE_WITHIN_MARGIN, 1, {"estimate": 0.021}, SettlementAction.ROLLBACK),
        (OnInconclusive.PROMOTE_WITHIN_MARGIN, 1, {"n": 4}, SettlementAction.ROLLBACK),
        (OnInconclusive.PROMOTE_WITHIN_MARGIN, 1, {"estimate": None}, SettlementAction.ROLLBACK),
        (OnInconclusive.PROMOTE_WITHIN_MARGIN, 0, {"outcome": Outcome.ERROR}, SettlementAction.ROLLBACK),
    ],
)
def test_when_the_time_is_over_the_policy_decides(
    policy: OnInconclusive, tier: int, changes: dict[str, object], expected: SettlementAction
) -> None:
    verdict = _with(UNDECIDED, **changes)
    settled = settle_inconclusive(verdict, policy=policy, tier=tier, elapsed=14 * DAY, max_duration=14 * DAY)
    assert settled.action is expected
    assert "undecided after 14 d" in settled.because


def test_before_the_time_is_over_it_waits() -> None:
    settled = settle_inconclusive(
        UNDECIDED, policy=OnInconclusive.ROLLBACK, tier=1, elapsed=13.5 * DAY, max_duration=14 * DAY
    )
    assert settled.action is SettlementAction.WAIT
    assert settled.because == "b; 12 h of 14 d left"


def test_a_decided_verdict_is_not_settled() -> None:
    with pytest.raises(ValueError, match="only an undecided verdict"):
        settle_inconclusive(
            _with(UNDECIDED, outcome=Outcome.FAILED),
            policy=OnInconclusive.PAUSE,
            tier=1,
            elapsed=DAY,
            max_duration=DAY,
        )


def test_a_verdict_needs_a_reason_and_an_interval_the_right_way_round() -> None:
    for arguments in ({"because": ""}, {"because": "b", "lower": 1.0, "upper": 0.0}, {"because": "b", "n": -1}):
        with pytest.raises(ValueError, match=r"reason|above|negative"):
            Verdict(outcome=Outcome.ERROR, **arguments)  # type: ignore[arg-type]


def _with(verdict: Verdict, **changes: object) -> Verdict:
    return replace(verdict, **changes)  # type: ignore[arg-type]


def _first_decision(harms: np.ndarray) -> Outcome:
    for n in range(5, len(harms) + 1):
        verdict = judge_paired(harms[:n].tolist(), metric="roc_auc", margin=0.02)
        if verdict.outcome is not Outcome.INCONCLUSIVE:
            return verdict.outcome
    return Outcome.INCONCLUSIVE
