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
