"""From readings to findings, incidents, remedies and verified recovery."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.decide.triaging import (
    ATTEMPTS_MAX,
    Action,
    DataBreak,
    Filing,
    RecentPromotion,
    RecoveryAction,
    TriageFacts,
    assign,
    data_breaks,
    judge_challenger,
    judge_drift,
    judge_realised,
    judge_recovery,
    triage,
)
from steersman.domain.incident import Finding, Incident, IncidentKind, IncidentState, Remedy
from steersman.domain.spec import RetrainMode
from steersman.domain.verdicts import Outcome, Verdict
from steersman.stats.drift import Detector
from steersman.stats.performance import BlockDifferences

DAY = timedelta(days=1)
NOW = datetime(2013, 5, 20, tzinfo=UTC)


def blocks(harms: list[float]) -> BlockDifferences:
    n = len(harms)
    return BlockDifferences(
        metric="roc_auc",
        blocks=tuple(f"{i:03d}" for i in range(n)),
        harms=tuple(harms),
        candidate=(0.7,) * n,
        reference=(0.7,) * n,
        rows=(900,) * n,
        skipped=(),
    )


def incident(**changes: object) -> Incident:
    known = Incident(
        id="i1",
        workspace="ops",
        model="flight-delay",
        environment="production",
        kind=IncidentKind.CHALLENGER,
        state=IncidentState.OPEN,
        version=1,
        began_at=NOW - 9 * DAY,
        detected_at=NOW - DAY,
    )
    return msgspec.structs.replace(known, **changes)


def finding(**changes: object) -> Finding:
    known = Finding(
        id="f1",
        workspace="ops",
        model="flight-delay",
        environment="production",
        monitor="freshness",
        kind=IncidentKind.CHALLENGER,
        version=1,
        began_at=NOW,
        found_at=NOW,
        because="b",
    )
    return msgspec.structs.replace(known, **changes)


FACTS = TriageFacts(
    now=NOW,
    incident=incident(),
    mode=RetrainMode.AUTO,
    monitor_retrains=True,
    cooldown=14 * DAY,
    retrained_at=None,
    labels_new=20_000,
    labels_needed=5_000,
)


def test_the_evidence_of_all_columns_becomes_a_finding_at_the_limit() -> None:
    verdict = judge_drift(Detector(windows=9, evidence={"temp": 900.0, "dest": 0.4}), windows_between_false_alarms=365)
    assert verdict.outcome is Outcome.FAILED
    assert verdict.because == (
        "evidence of change 450, limit 365 (one false alarm in 365 windows), led by temp, 2 columns, 9 windows"
    )


def test_a_finding_stays_until_the_evidence_has_fallen_well_below_the_limit() -> None:
    halfway = Detector(windows=30, evidence={"temp": 100.0})
    quiet = Detector(windows=40, evidence={"temp": 30.0})
    assert judge_drift(halfway, windows_between_false_alarms=365).outcome is Outcome.SUCCESSFUL
    assert judge_drift(halfway, windows_between_false_alarms=365, open_finding=True).outcome is Outcome.FAILED
    assert judge_drift(quiet, windows_between_false_alarms=365, open_finding=True).outcome is Outcome.SUCCESSFUL


def test_without_windows_nothing_is_known() -> None:
    assert judge_drift(Detector(), windows_between_false_alarms=365).outcome is Outcome.INCONCLUSIVE
    realised = judge_realised(Detector(), metric="log_loss", latest=0.6, usual=0.5, windows_between_false_alarms=365)
    assert realised.outcome is Outcome.INCONCLUSIVE
    with pytest.raises(ValueError, match="exceed 1"):
        judge_drift(Detector(), windows_between_false_alarms=1)


def test_realised_performance_says_what_it_is_and_what_it_usually_is() -> None:
    verdict = judge_realised(
        Detector(windows=60, evidence={"log_loss": 800.0}),
        metric="log_loss",
        latest=0.61,
        usual=0.48,
        windows_between_false_alarms=365,
    )
    assert verdict.outcome is Outcome.FAILED
    assert verdict.because == "log_loss 0.6100, usually 0.4800; evidence of loss 800, limit 365, 60 days"


def test_production_has_fallen_behind_when_surely_worse_and_by_the_margin() -> None:
    rng = np.random.default_rng(1)
    behind = judge_challenger(blocks((0.05 + 0.04 * rng.normal(size=14)).tolist()), margin=0.02)
    assert behind.outcome is Outcome.FAILED
    assert "the challenger is better by +0.0" in behind.because
    slightly = judge_challenger(blocks((0.01 + 0.005 * rng.normal(size=14)).tolist()), margin=0.02)
    assert slightly.outcome is Outcome.SUCCESSFUL
    unclear = judge_challenger(blocks((0.03 + 0.2 * rng.normal(size=14)).tolist()), margin=0.02)
    assert unclear.outcome is Outcome.INCONCLUSIVE
    assert judge_challenger(blocks([0.5] * 4), margin=0.02).needed == 1


def test_an_equal_challenger_looked_at_daily_for_four_weeks_is_rarely_a_finding() -> None:
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(100):
        harms = (0.04 * rng.standard_t(4, size=28) / np.sqrt(2)).tolist()
        found += any(
            judge_challenger(blocks(harms[:n]), margin=0.02).outcome is Outcome.FAILED for n in range(5, len(harms) + 1)
        )
    assert found <= 5


def test_findings_of_one_cause_share_an_incident() -> None:
    open_one = incident()
    assert assign(finding(), [], stable_version=1).filing is Filing.OPEN
    attached = assign(finding(), [open_one], stable_version=1)
    assert (attached.filing, attached.incident) == (Filing.ATTACH, "i1")
    for other in (
        incident(state=IncidentState.CLOSED),
        incident(environment="staging"),
        incident(kind=IncidentKind.DRIFT),
    ):
        assert assign(finding(), [other], stable_version=1).filing is Filing.OPEN


def test_a_finding_joins_the_incident_whose_remedy_already_replaces_its_version() -> None:
    remedied = incident(kind=IncidentKind.DRIFT, state=IncidentState.REMEDYING, remedy=Remedy.RETRAIN)
    assert assign(finding(), [remedied], stable_version=1).filing is Filing.ATTACH
    assert assign(finding(version=2), [remedied], stable_version=2).filing is Filing.OPEN


def test_a_finding_about_a_version_that_no_longer_answers_is_dropped() -> None:
    dropped = assign(finding(version=1), [], stable_version=2)
    assert dropped.filing is Filing.DROP
    assert dropped.because == "about version 1, version 2 answers now"


def test_enough_new_labels_and_no_cooldown_start_a_retraining() -> None:
    decided = triage(FACTS)
    assert (decided.action, decided.remedy) == (Action.START, Remedy.RETRAIN)
    assert decided.because == "20000 matured labels are new, cooldown over"


def test_bad_data_is_not_trained_on() -> None:
    breaks = data_breaks({"temp": 0.35, "dest": 0.1, "wind": -0.5}, missing=["visib"], retyped=["dewp"])
    assert [broken.column for broken in breaks] == ["visib", "dewp", "temp"]
    decided = triage(replace(FACTS, breaks=breaks))
    assert (decided.action, decided.remedy) == (Action.ASK, Remedy.NONE)
    assert decided.because == ("bad data, do not retrain: visib is missing; dewp changed its type; temp has +35% nulls")


def test_the_cooldown_is_waited_for_and_says_until_when() -> None:
    decided = triage(replace(FACTS, retrained_at=NOW - 10 * DAY))
    assert (decided.action, decided.remedy, decided.until) == (Action.WAIT, Remedy.RETRAIN, NOW + 4 * DAY)
    assert triage(replace(FACTS, retrained_at=NOW - 14 * DAY)).action is Action.START


def test_too_few_new_labels_are_waited_for() -> None:
    decided = triage(replace(FACTS, labels_new=100))
    assert decided.action is Action.WAIT
    assert decided.because == "100 matured labels since the last training data, need 5000"


WORSE = Verdict(outcome=Outcome.FAILED, because="harm +0.03 [+0.01, +0.05]")


def test_a_recent_promotion_that_is_surely_worse_is_rolled_back_even_in_a_freeze_or_cooldown() -> None:
    promotion = RecentPromotion(promoted_at=NOW - 5 * DAY, previous=1, against_previous=WORSE)
    facts = replace(
        FACTS,
        incident=incident(version=2),
        promotion=promotion,
        rollback_window=14 * DAY,
        retrained_at=NOW - DAY,
        frozen="holidays",
        mode=RetrainMode.OFF,
    )
    decided = triage(facts)
    assert (decided.action, decided.remedy) == (Action.START, Remedy.ROLLBACK)
    assert decided.because == (
        "version 2 was promoted on 2013-05-15 and version 1 is better: harm +0.03 [+0.01, +0.05]"
    )
    for other in (
        replace(promotion, previous=None),
        replace(promotion, against_previous=None),
        replace(promotion, against_previous=replace(WORSE, outcome=Outcome.INCONCLUSIVE)),
        replace(promotion, promoted_at=NOW - 30 * DAY),
        replace(promotion, promoted_at=NOW),
    ):
        assert triage(replace(facts, promotion=other)).remedy is not Remedy.ROLLBACK


def test_drift_that_costs_nothing_is_accepted() -> None:
    level = Verdict(outcome=Outcome.SUCCESSFUL, because="the challenger is better by +0.0010")
    drift = replace(FACTS, incident=incident(kind=IncidentKind.DRIFT), regret=level)
    assert triage(drift).remedy is Remedy.ACCEPT
    assert triage(replace(drift, regret=None)).remedy is Remedy.RETRAIN
    assert triage(replace(FACTS, regret=level)).remedy is Remedy.RETRAIN


@pytest.mark.parametrize(
    ("changes", "action", "words"),
    [
        ({"mode": RetrainMode.OFF}, Action.ASK, "retraining is off"),
        ({"monitor_retrains": False}, Action.ASK, "not among retrain.on"),
        ({"mode": RetrainMode.REGISTER}, Action.START, "matured labels are new"),
        ({"frozen": "Christmas"}, Action.WAIT, "frozen: Christmas"),
        ({"incident": incident(attempts=ATTEMPTS_MAX)}, Action.ASK, "did not help"),
        ({"incident": incident(kind=IncidentKind.RELEASE)}, Action.ASK, "a release failed"),
    ],
)
def test_what_else_keeps_a_retraining_from_starting(changes: dict[str, object], action: Action, words: str) -> None:
    decided = triage(replace(FACTS, **changes))  # type: ignore[arg-type]
    assert decided.action is action
    assert words in decided.because


@given(
    labels=st.integers(0, 10_000),
    ago=st.integers(0, 40),
    broken=st.booleans(),
    mode=st.sampled_from([RetrainMode.OFF, RetrainMode.REGISTER, RetrainMode.AUTO]),
    attempts=st.integers(0, 5),
)
def test_no_retraining_ever_starts_on_bad_data_in_cooldown_without_labels_or_against_the_policy(
    labels: int, ago: int, broken: bool, mode: RetrainMode, attempts: int
) -> None:
    facts = replace(
        FACTS,
        labels_new=labels,
        retrained_at=NOW - ago * DAY,
        breaks=(DataBreak(column="x", because="x is missing"),) if broken else (),
        mode=mode,
        incident=incident(attempts=attempts),
    )
    decided = triage(facts)
    allowed = labels >= 5_000 and ago >= 14 and not broken and mode is not RetrainMode.OFF and attempts < ATTEMPTS_MAX
    assert (decided.action is Action.START) == allowed
    assert decided.because


def test_recovery_is_not_declared_before_two_weeks() -> None:
    early = judge_recovery(blocks([-0.05] * 13))
    assert (early.action, early.verdict.needed) == (RecoveryAction.WAIT, 1)
    assert judge_recovery(blocks([])).action is RecoveryAction.WAIT


def test_a_better_version_closes_the_incident_and_says_how_sure_that_is() -> None:
    rng = np.random.default_rng(3)
    sure = judge_recovery(blocks((-0.05 + 0.03 * rng.normal(size=14)).tolist()))
    assert sure.action is RecoveryAction.CLOSE
    assert "surely better than the replaced version" in sure.because
    unsure = judge_recovery(blocks([-0.05, 0.04] * 7))
    assert unsure.action is RecoveryAction.CLOSE
    assert "better by the estimate, not surely" in unsure.because


def test_a_version_that_is_not_better_waits_until_four_weeks_and_then_escalates() -> None:
    assert judge_recovery(blocks([0.05, -0.04] * 7)).action is RecoveryAction.WAIT
    assert judge_recovery(blocks([0.05, -0.04] * 14)).action is RecoveryAction.ESCALATE


def test_a_surely_worse_version_escalates_at_once() -> None:
    worse = judge_recovery(blocks([0.1, 0.11, 0.1, 0.12, 0.11, 0.1]))
    assert worse.action is RecoveryAction.ESCALATE
    assert worse.verdict.outcome is Outcome.FAILED
