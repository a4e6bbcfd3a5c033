"""What a version must prove on the holdout, and that what cannot be measured never passes."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.decide.gating import (
    NO_PRODUCTION,
    GateResult,
    HoldoutScores,
    NotApplicable,
    gate_floor,
    gate_max_drop,
    gate_paired,
    gate_policy,
    outside_envelope,
)
from steersman.domain.spec import Algorithm, Envelope
from steersman.domain.verdicts import Outcome, Verdict


def holdout(*, skill_candidate: float, skill_production: float, seed: int = 1, days: int = 14) -> HoldoutScores:
    """Two weeks of 200 rows a day; skill 0 is a coin, 1 a strong model. Days differ in how often the label is 1."""
    rng = np.random.default_rng(seed)
    blocks = np.repeat([f"2013-03-{day + 1:02d}" for day in range(days)], 200)
    signal = rng.normal(size=days * 200) + np.repeat(rng.normal(scale=0.7, size=days), 200)
    labels = (rng.random(days * 200) < 1 / (1 + np.exp(-2 * signal))).astype(float)

    def scores(skill: float) -> np.ndarray:
        return 1 / (1 + np.exp(-2 * (skill * signal + (1 - skill) * rng.normal(size=signal.size))))

    return HoldoutScores(
        labels=labels, candidate=scores(skill_candidate), production=scores(skill_production), blocks=blocks
    )


EQUAL = holdout(skill_candidate=0.8, skill_production=0.8)
SCRAMBLED = holdout(skill_candidate=0.0, skill_production=0.8)


def outcome(result: GateResult) -> Outcome:
    assert isinstance(result.answer, Verdict)
    return result.answer.outcome


def stops(result: GateResult) -> bool:
    return outcome(result) is not Outcome.SUCCESSFUL


def test_an_equal_candidate_passes_and_a_scrambled_one_is_stopped() -> None:
    for gate in (
        lambda rows: gate_paired(rows, metric="log_loss", margin=0.05),
        lambda rows: gate_paired(rows, metric="roc_auc", margin=0.03),
        lambda rows: gate_max_drop(rows, metric="roc_auc", max_drop=0.02),
        lambda rows: gate_floor(rows, metric="roc_auc", floor=0.7),
    ):
        assert outcome(gate(EQUAL)) is Outcome.SUCCESSFUL
        assert outcome(gate(SCRAMBLED)) is Outcome.FAILED
        assert stops(gate(SCRAMBLED))


def test_a_gate_that_cannot_tell_blocks() -> None:
    undecided = gate_paired(holdout(skill_candidate=0.78, skill_production=0.8), metric="log_loss", margin=0.004)
    assert outcome(undecided) is Outcome.INCONCLUSIVE
    assert stops(undecided)


def test_the_answer_carries_its_numbers() -> None:
    verdict = gate_max_drop(SCRAMBLED, metric="roc_auc", max_drop=0.01).answer
    assert isinstance(verdict, Verdict)
    assert (verdict.n, verdict.n_unit, verdict.margin) == (2_800, "rows", 0.01)
    assert verdict.lower is not None
    assert verdict.estimate is not None
    assert verdict.lower < verdict.estimate
    assert "against production's" in verdict.because


def test_the_first_release_has_nothing_to_be_compared_with_but_floors_apply() -> None:
    first = replace(EQUAL, production=None)
    comparing = [
        gate_paired(first, metric="log_loss", margin=0.03),
        gate_max_drop(first, metric="roc_auc", max_drop=0.01),
        gate_policy("version.signature == production.signature", None, has_production=False),
    ]
    assert [result.answer for result in comparing] == [NotApplicable(because=NO_PRODUCTION)] * 3
    assert outcome(gate_floor(first, metric="roc_auc", floor=0.6)) is Outcome.SUCCESSFUL
    assert stops(gate_floor(first, metric="roc_auc", floor=0.99))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": [], "candidate": [], "production": [], "blocks": []}, ""),
        ({"labels": [math.nan] * 2_800}, "NaN"),
        ({"candidate": [math.nan] * 2_800}, "NaN"),
        ({"labels": [1.0] * 2_800}, ""),
        ({"candidate": [0.5]}, ""),
    ],
)
def test_missing_or_broken_data_is_an_error_and_blocks(changes: dict[str, object], reason: str) -> None:
    rows = replace(EQUAL, **changes)  # type: ignore[arg-type]
    results = [
        gate_paired(rows, metric="roc_auc", margin=0.03),
        gate_max_drop(rows, metric="roc_auc", max_drop=0.01),
        gate_floor(rows, metric="roc_auc", floor=0.6),
    ]
    for result in results:
        assert outcome(result) is Outcome.ERROR
        assert stops(result)
        assert reason in result.answer.because


def test_too_few_blocks_are_inconclusive() -> None:
    rows = holdout(skill_candidate=1, skill_production=0.5, days=4)
    result = gate_paired(rows, metric="roc_auc", margin=0.5)
    assert outcome(result) is Outcome.INCONCLUSIVE
    assert "4 blocks of the holdout can be compared, need at least 5" in result.answer.because


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    for call in (
        lambda: gate_paired(EQUAL, metric="auc", margin=0.1),
        lambda: gate_max_drop(EQUAL, metric="auc", max_drop=0.1),
        lambda: gate_floor(EQUAL, metric="auc", floor=0.1),
    ):
        with pytest.raises(ValueError, match="known are"):
            call()


def test_limits_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="higher is better"):
        gate_floor(EQUAL, metric="log_loss", floor=0.1)
    with pytest.raises(ValueError, match="not negative"):
        gate_paired(EQUAL, metric="log_loss", margin=-0.1)
    with pytest.raises(ValueError, match="not negative"):
        gate_max_drop(EQUAL, metric="log_loss", max_drop=-0.1)


@settings(max_examples=20, deadline=None)
@given(skill=st.floats(0, 1), seed=st.integers(0, 1_000), limit=st.floats(0, 0.2), more=st.floats(0, 0.2))
def test_a_wider_limit_never_stops_what_a_narrower_one_lets_through(
    skill: float, seed: int, limit: float, more: float
) -> None:
    rows = holdout(skill_candidate=skill, skill_production=0.6, seed=seed, days=6)
    for narrow, wide in (
        (
            gate_max_drop(rows, metric="roc_auc", max_drop=limit),
            gate_max_drop(rows, metric="roc_auc", max_drop=limit + more),
        ),
        (gate_paired(rows, metric="brier", margin=limit), gate_paired(rows, metric="brier", margin=limit + more)),
    ):
        assert stops(narrow) or not stops(wide)


def test_equal_candidates_are_rarely_stopped_and_scrambled_ones_never_pass() -> None:
    passed = blocked = 0
    for seed in range(20):
        equal = holdout(skill_candidate=0.8, skill_production=0.8, seed=seed)
        scrambled = holdout(skill_candidate=0.0, skill_production=0.8, seed=seed)
        passed += not stops(gate_paired(equal, metric="log_loss", margin=0.05))
        blocked += stops(gate_paired(scrambled, metric="log_loss", margin=0.05))
    assert passed >= 18
    assert blocked == 20


def test_a_policy_that_is_unknown_blocks_once_there_is_a_production_version() -> None:
    assert outcome(gate_policy("p", None, has_production=True)) is Outcome.ERROR
    assert outcome(gate_policy("p", True, has_production=True)) is Outcome.SUCCESSFUL
    assert outcome(gate_policy("p", False, has_production=False)) is Outcome.FAILED


def compared(rows: HoldoutScores) -> list[Verdict]:
    answer = gate_paired(rows, metric="log_loss", margin=0.05).answer
    assert isinstance(answer, Verdict)
    return [answer]


def test_an_automatic_release_may_change_what_its_envelope_allows() -> None:
    better = compared(holdout(skill_candidate=0.9, skill_production=0.7))
    assert outside_envelope(Envelope(), compared=better, candidate="lightgbm", production="lightgbm") is None
    other = outside_envelope(Envelope(), compared=better, candidate="onnx", production="lightgbm")
    assert other == "it is onnx, production's is lightgbm, and algorithm is same"
    any_one = Envelope(algorithm=Algorithm.ANY)
    assert outside_envelope(any_one, compared=better, candidate="onnx", production="lightgbm") is None


def test_only_a_drop_that_is_sure_is_outside_of_the_envelope_and_no_measurement_is_not_inside() -> None:
    same = {"candidate": "lightgbm", "production": "lightgbm"}
    assert outside_envelope(Envelope(), compared=compared(EQUAL), **same) is None
    said = outside_envelope(Envelope(), compared=compared(SCRAMBLED), **same)
    assert said is not None
    assert "log_loss is worse by at least" in said
    assert outside_envelope(Envelope(max_metric_drop=5.0), compared=compared(SCRAMBLED), **same) is None
    nothing = outside_envelope(Envelope(max_metric_drop=5.0), compared=[], **same)
    assert nothing == "no gate compared it with production, so maxMetricDrop is not known to be kept"
