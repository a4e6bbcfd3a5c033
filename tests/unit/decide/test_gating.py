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
    gate_ceiling,
    gate_floor,
    gate_max_drop,
    gate_paired,
    gate_policy,
    gate_slices,
    outside_envelope,
)
from steersman.domain.spec import Algorithm, Envelope, EvidenceUnit
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


# --- absolute bounds


def answers(right: int, of: int, *, blocks: int = 1) -> HoldoutScores:
    """A holdout of `of` rows whose label is 1, `right` of them answered so."""
    scores = np.where(np.arange(of) < right, 0.9, 0.1)
    return HoldoutScores(
        labels=np.ones(of), candidate=scores, production=None, blocks=[str(n % blocks) for n in range(of)]
    )


def verdict(result: GateResult) -> Verdict:
    assert isinstance(result.answer, Verdict)
    return result.answer


def test_nine_right_answers_of_nine_prove_no_accuracy_of_99_percent() -> None:
    few = gate_floor(answers(9, 9), metric="accuracy", floor=0.99, unit=EvidenceUnit.ROW)
    assert outcome(few) is Outcome.INCONCLUSIVE
    many = gate_floor(answers(1000, 1000), metric="accuracy", floor=0.99, unit=EvidenceUnit.ROW)
    assert outcome(many) is Outcome.SUCCESSFUL


def test_the_interval_of_a_rate_of_independent_rows_is_the_exact_one() -> None:
    found = verdict(gate_floor(answers(45, 50), metric="accuracy", floor=0.5, alpha=0.025, unit=EvidenceUnit.ROW))
    # Clopper and Pearson's 95 % interval of 45 of 50, as in the usual tables.
    assert found.lower == pytest.approx(0.7819, abs=5e-5)
    assert found.upper == pytest.approx(0.9667, abs=5e-5)
    assert found.method == "Clopper-Pearson, one look, each bound 97.5%"


@pytest.mark.parametrize(("metric", "events", "of"), [("precision", 3, 4), ("recall", 3, 5), ("accuracy", 5, 8)])
def test_precision_recall_and_accuracy_are_shares_of_their_own_rows(metric: str, events: int, of: int) -> None:
    rows = HoldoutScores(
        labels=[1, 1, 1, 1, 1, 0, 0, 0],
        candidate=[0.9, 0.9, 0.9, 0.1, 0.1, 0.9, 0.1, 0.1],
        production=None,
        blocks=["a"] * 8,
    )
    found = verdict(gate_floor(rows, metric=metric, floor=0.01, unit=EvidenceUnit.ROW, blocks_min=2))
    assert found.estimate == pytest.approx(events / of)
    assert found.lower is not None
    assert found.lower < events / of


def test_a_ceiling_is_kept_by_the_upper_end_and_missed_by_the_lower() -> None:
    loss = verdict(gate_ceiling(EQUAL, metric="log_loss", ceiling=1.0)).estimate
    assert loss is not None
    assert outcome(gate_ceiling(EQUAL, metric="log_loss", ceiling=2 * loss)) is Outcome.SUCCESSFUL
    assert outcome(gate_ceiling(EQUAL, metric="log_loss", ceiling=loss)) is Outcome.INCONCLUSIVE
    assert outcome(gate_ceiling(EQUAL, metric="log_loss", ceiling=loss / 2)) is Outcome.FAILED
    with pytest.raises(ValueError, match="lower is better"):
        gate_ceiling(EQUAL, metric="roc_auc", ceiling=0.9)


def test_too_few_blocks_have_no_interval_and_do_not_pass() -> None:
    found = gate_floor(answers(1000, 1000, blocks=4), metric="accuracy", floor=0.5)
    assert outcome(found) is Outcome.INCONCLUSIVE
    assert "4 blocks of the holdout, need at least 5" in verdict(found).because


def test_a_floor_at_the_truth_is_rarely_passed_though_rows_of_a_day_share_their_luck() -> None:
    by_block = by_row = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        day = np.repeat(rng.beta(16, 4, size=14), 100)  # accuracy 0.8 on average, each day its own
        right = rng.random(day.size) < day
        rows = HoldoutScores(
            labels=np.ones(day.size),
            candidate=np.where(right, 0.9, 0.1),
            production=None,
            blocks=np.repeat([f"{n:02d}" for n in range(14)], 100),
        )
        by_block += outcome(gate_floor(rows, metric="accuracy", floor=0.8)) is Outcome.SUCCESSFUL
        by_row += outcome(gate_floor(rows, metric="accuracy", floor=0.8, unit=EvidenceUnit.ROW)) is Outcome.SUCCESSFUL
    assert by_block <= 32, "alpha 5 %: 20 expected, 32 is three standard deviations more"
    assert by_row > 80, "what rows taken for independent would have let through"


@settings(max_examples=30, deadline=None)
@given(right=st.integers(0, 60), more=st.integers(0, 60), floor=st.floats(0.05, 0.95))
def test_one_right_answer_more_never_loses_a_floor(right: int, more: int, floor: float) -> None:
    few, many = min(right, more), max(right, more)
    passed = [
        outcome(gate_floor(answers(n, 60), metric="accuracy", floor=floor, unit=EvidenceUnit.ROW)) for n in (few, many)
    ]
    assert passed[0] is not Outcome.SUCCESSFUL or passed[1] is Outcome.SUCCESSFUL


# --- slices


def by_origin(*, harmed: str | None, share: float = 0.2, small: int = 0) -> HoldoutScores:
    """Both versions equal, but in the slice `harmed`, where the candidate is scrambled."""
    rows = holdout(skill_candidate=0.8, skill_production=0.8, seed=3, days=14)
    size = np.asarray(rows.labels).size
    rng = np.random.default_rng(9)
    origin = np.where(rng.random(size) < share, "EWR", "JFK").astype("<U3")
    origin[:small] = "LGA"
    candidate = np.asarray(rows.candidate).copy()
    bad = origin == harmed
    candidate[bad] = rng.permutation(candidate[bad])
    return replace(rows, candidate=candidate, slices={"origin": origin})


def sliced(rows: HoldoutScores, *, margin: float = 0.3, rows_min: int = 200) -> Verdict:
    def judge(part: HoldoutScores, alpha: float) -> GateResult:
        return gate_paired(part, metric="log_loss", margin=margin, alpha=alpha)

    return verdict(gate_slices(judge, rows, columns=["origin"], rows_min=rows_min, alpha=0.05, higher_is_worse=True))


def test_a_candidate_worse_in_one_segment_fails_and_the_segment_is_named() -> None:
    found = sliced(by_origin(harmed="EWR"), margin=0.4)
    assert found.outcome is Outcome.FAILED
    assert "below the margin" in found.because, "over all rows it passes"
    assert "failed: origin=EWR: log_loss: harm +" in found.because
    assert "at alpha 0.025 each" in found.because


def test_slices_that_are_not_surely_worse_stop_nothing_and_the_worst_is_named() -> None:
    found = sliced(by_origin(harmed=None))
    assert found.outcome is Outcome.SUCCESSFUL
    assert "none surely beyond" in found.because
    assert "worst origin=" in found.because


def test_small_slices_are_counted_and_not_judged() -> None:
    found = sliced(by_origin(harmed=None, small=50))
    assert "2 slices by origin at alpha 0.025 each, 1 smaller than 200 rows not judged" in found.because


def test_slices_that_cannot_be_measured_are_an_error_and_no_pass() -> None:
    found = sliced(by_origin(harmed=None), rows_min=100_000)
    assert found.outcome is Outcome.ERROR
    assert "no slice by origin could be measured" in found.because


def test_a_gate_without_slices_is_the_gate_itself() -> None:
    def judge(part: HoldoutScores, alpha: float) -> GateResult:
        return gate_floor(part, metric="roc_auc", floor=0.7, alpha=alpha)

    assert gate_slices(judge, EQUAL, columns=[], rows_min=200, alpha=0.05, higher_is_worse=False) == judge(EQUAL, 0.05)


def test_a_ratio_is_gated_by_the_sums_of_the_holdout_and_a_handful_of_hits_proves_nothing() -> None:
    gate = gate_paired(EQUAL, metric="precision", margin=0.1)
    assert isinstance(gate.answer, Verdict)
    assert gate.answer.outcome is Outcome.SUCCESSFUL
    assert gate.answer.method == "Student's t over blocks by sums, one look, each bound 95.0%"

    blocks = np.repeat([f"2013-03-{day:02d}" for day in range(1, 7)], 50)
    labels = np.tile([1.0] + [0.0] * 49, 6)
    rare = HoldoutScores(labels=labels, candidate=labels, production=labels, blocks=blocks)
    assert outcome(gate_paired(rare, metric="precision", margin=0.05)) is Outcome.INCONCLUSIVE
