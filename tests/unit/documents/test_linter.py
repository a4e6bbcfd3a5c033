"""The linter says what would hurt later: releases that wait for ever, pass without evidence, or fail unseen."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from steersman.decide.approving import approvals_required
from steersman.domain.linting import Finding, Level, lint
from steersman.domain.spec import (
    Analysis,
    AnalysisMode,
    Approval,
    Bake,
    Canary,
    EnvironmentPolicy,
    EnvironmentSpec,
    EvidenceUnit,
    GroundTruth,
    Incidents,
    InferenceLog,
    Metadata,
    Mirror,
    Model,
    ModelSpec,
    OnInconclusive,
    PerformanceMonitor,
    PolicyMode,
    Promote,
    Retrain,
    RetrainMode,
    SetWeight,
    Step,
    Versions,
)
from steersman.plugins.targets.local import LocalTarget

DAY = timedelta(days=1)
SOUND = Analysis(metrics=("roc_auc",), critical=True, max_duration=14 * DAY, on_inconclusive=OnInconclusive.ROLLBACK)
STEPS: tuple[Step, ...] = (
    Mirror(),
    SOUND,
    SetWeight(weight_pct=10),
    SetWeight(weight_pct=100),
    Promote(),
    Bake(duration=DAY),
)


def model(*steps: Step, environment: str = "production") -> Model:
    policy = EnvironmentPolicy(strategy=Canary(steps=steps))
    return Model(
        metadata=Metadata(name="m"),
        spec=ModelSpec(
            versions=Versions(registry="mlflow", name="m"),
            ground_truth=GroundTruth(column="y", horizon=DAY),
            environments={environment: policy},
        ),
    )


def tier(number: int, of: Model) -> Model:
    return replace(of, spec=replace(of.spec, tier=number))


def said(findings: list[Finding]) -> str:
    return "\n".join(map(str, findings))


def test_a_sound_document_has_no_finding() -> None:
    assert lint(model(*STEPS)) == []


def test_an_analysis_says_how_long_it_may_take_and_what_happens_then() -> None:
    found = said(lint(model(Mirror(), Analysis(metrics=("roc_auc",)), *STEPS[2:])))
    assert "steps[1].analysis: no maxDuration" in found
    assert "steps[1].analysis: no onInconclusive" in found
    assert "no analysis is critical" in found


def test_few_requests_of_what_has_no_range_are_found() -> None:
    few = replace(SOUND, metrics=("brier", "log_loss"), unit=EvidenceUnit.ROW, rows_min=200)
    found = said(lint(model(Mirror(), few, *STEPS[2:])))
    assert (
        "steps[1]: rowsMin 200: log_loss cannot be judged by fewer than 500 requests (a single request's harm" in found
    )
    lots = replace(SOUND, mode=AnalysisMode.SPLIT, metrics=("brier",), unit=EvidenceUnit.ROW, rows_min=200)
    assert "brier cannot be judged by fewer than 500 requests (in a split" in said(
        lint(model(*STEPS[2:3], lots, *STEPS[3:]))
    )
    assert lint(model(Mirror(), replace(few, metrics=("brier",)), *STEPS[2:])) == []
    assert lint(model(Mirror(), replace(few, rows_min=500), *STEPS[2:])) == []


def test_automatic_retraining_does_not_wait_for_a_person_by_accident() -> None:
    waiting = model(Mirror(), replace(SOUND, on_inconclusive=OnInconclusive.PAUSE), *STEPS[2:])
    automatic = replace(waiting, spec=replace(waiting.spec, retrain=Retrain(mode=RetrainMode.AUTO)))
    assert lint(waiting) == []
    assert "retrain.mode auto with onInconclusive pause" in said(lint(automatic))


def test_reaching_everybody_without_a_bake_is_found() -> None:
    assert "steps reach 100 without a bake" in said(lint(model(*STEPS[:-1])))
    assert lint(model(*STEPS[:-1], environment="dev")) == []


def test_labels_later_than_the_analysis_are_an_error() -> None:
    late = model(*STEPS)
    late = replace(late, spec=replace(late.spec, ground_truth=GroundTruth(column="y", horizon=30 * DAY)))
    (finding,) = lint(late)
    assert finding.level is Level.ERROR
    assert "horizon is beyond maxDuration" in finding.message


def test_from_tier_2_on_the_document_says_that_a_person_must_approve() -> None:
    (finding,) = lint(tier(2, model(*STEPS)))
    assert finding.level is Level.WARNING
    assert "tier 2: a release waits for an approval" in finding.message
    assert lint(tier(2, model(Approval(), *STEPS))) == []
    assert lint(tier(3, model(*STEPS, environment="staging"))) == []


@pytest.mark.parametrize("environment", ["dev", "staging", "production", "prod-eu"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_what_it_advises_to_write_down_is_what_is_demanded(environment: str, number: int) -> None:
    found = said(lint(tier(number, model(SetWeight(weight_pct=10), Promote(), environment=environment))))
    demanded = approvals_required(EnvironmentPolicy(), number, environment=environment)
    assert ("a release waits for an approval" in found) == (demanded > 0)


def test_a_rollback_by_a_monitor_that_says_nothing_during_the_bake_is_found() -> None:
    def rolled_back_when(bake: Bake) -> Model:
        watched = model(*STEPS[:-1], bake)
        monitor = PerformanceMonitor(name="quality", metric="log_loss")
        incidents = Incidents(rollback_when="quality")
        return replace(watched, spec=replace(watched.spec, monitors=(monitor,), incidents=incidents))

    assert "quality says nothing in its first 15d" in said(lint(rolled_back_when(Bake(duration=14 * DAY))))
    assert lint(rolled_back_when(Bake(duration=28 * DAY))) == []


ALL = frozenset({"mirror", "setWeight", "keepWarm"})


def test_what_a_target_cannot_do_is_found_before_the_release() -> None:
    assert "cannot mirror" in said(lint(model(*STEPS), targets={"local": ALL - {"mirror"}}))
    assert "cannot split" in said(lint(model(*STEPS), targets={"local": ALL - {"setWeight"}}))
    assert "spec.serving: the environment's target cannot keep" in said(
        lint(model(*STEPS), targets={"local": ALL - {"keepWarm"}})
    )
    assert lint(model(*STEPS), targets={"local": ALL}) == []
    assert LocalTarget.capabilities == ALL


def test_each_environment_is_judged_by_its_own_target_and_mode() -> None:
    elsewhere = {"production": EnvironmentSpec(target="plain")}
    assert "cannot mirror" in said(
        lint(model(*STEPS), environments=elsewhere, targets={"local": ALL, "plain": frozenset()})
    )
    nobody_asks = {"production": EnvironmentSpec(mode=PolicyMode.OFF)}
    assert lint(model(*STEPS), environments=nobody_asks, targets={"local": frozenset()}) == []


def test_a_retention_within_the_horizon_deletes_predictions_before_their_labels() -> None:
    sound = model(*STEPS)

    def kept_for(days: int) -> list[str]:
        log = InferenceLog(retention=days * DAY)
        return [f.message for f in lint(replace(sound, spec=replace(sound.spec, inference_log=log)))]

    assert kept_for(2) == []
    assert kept_for(1) == [
        "predictions are deleted after 1d, before their labels have arrived (groundTruth.horizon 1d); keep them longer"
    ]
