"""The linter says what would hurt later: releases that wait for ever, pass without evidence, or fail unseen."""

from __future__ import annotations

from datetime import timedelta

from msgspec.structs import replace

from steersman.domain.linting import Finding, Level, lint
from steersman.domain.spec import (
    Analysis,
    Approval,
    Bake,
    Canary,
    EnvironmentPolicy,
    GroundTruth,
    Metadata,
    Mirror,
    Model,
    ModelSpec,
    OnInconclusive,
    Promote,
    Retrain,
    RetrainMode,
    SetWeight,
    Step,
    Versions,
)

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


def test_from_tier_2_on_a_person_must_approve() -> None:
    assert "tier 2 demands an approval" in said(lint(tier(2, model(*STEPS))))
    assert lint(tier(2, model(Approval(), *STEPS))) == []
    assert lint(tier(3, model(*STEPS, environment="staging"))) == []


def test_a_target_that_cannot_mirror_is_found_before_the_release() -> None:
    assert "cannot mirror" in said(lint(model(*STEPS), {"production": frozenset({"split"})}))
    assert "cannot split" in said(lint(model(*STEPS), {"production": frozenset({"mirror"})}))
    assert lint(model(*STEPS), {"production": frozenset({"mirror", "split"})}) == []
