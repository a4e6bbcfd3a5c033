"""What a release does next, phase by phase, as plain calls: facts in, move out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.decide.approving import Agreement
from steersman.decide.rolling_out import Facts, GateFact, GuardrailReading, degrade, plan
from steersman.decide.steering import pause, resume
from steersman.decide.steps import GATES_STEP, steps_of
from steersman.domain import spec
from steersman.domain.release import (
    COMPLETIONS,
    PHASES,
    TRANSITIONS,
    Arm,
    Cause,
    Completion,
    IllegalTransition,
    Opened,
    Phase,
    Release,
    completed,
    moved,
)
from steersman.domain.verdicts import Outcome, Verdict

NOW = datetime(2013, 3, 10, tzinfo=UTC)
STABLE = Arm(release="rel-1", version=1, digest="sha256:1")

STEPS: tuple[spec.Step, ...] = (
    spec.Mirror(percent=100),
    spec.Analysis(metrics=("roc_auc",), critical=True, max_duration=timedelta(days=14)),
    spec.SetWeight(weight_pct=10),
    spec.Pause(duration=timedelta(days=1)),
    spec.Pause(),
    spec.Approval(count=1),
    spec.SetWeight(weight_pct=100),
    spec.Promote(),
    spec.Bake(duration=timedelta(days=14), metrics=("roc_auc",)),
)
MIRROR, ANALYSIS, TENTH, WAIT, UNTIL_RESUMED, APPROVAL, ALL, PROMOTE, BAKE = range(9)


def release(phase: Phase, step: int = GATES_STEP, **changes: Any) -> Release:
    fields: dict[str, Any] = {
        "id": "rel-2",
        "workspace": "default",
        "model": "delay",
        "environment": "production",
        "number": 2,
        "version": 2,
        "digest": "sha256:2",
        "previous": STABLE,
        "document": "sha256:d",
        "phase": phase,
        "step": step,
        "step_started_at": NOW - timedelta(days=2),
        "opened": Opened.COMMAND,
        "opened_at": NOW - timedelta(days=3),
        "opened_by": "ann",
    }
    return Release(**{**fields, **changes})


def facts(of: Release, **changes: Any) -> Facts:
    policy = spec.EnvironmentPolicy(strategy=spec.Canary(steps=STEPS))
    known = Facts(
        now=NOW,
        release=of,
        policy=policy,
        tier=1,
        horizon=timedelta(days=1),
        gates_declared=1,
        gates=None,
        in_effect=True,
        stable=STABLE,
    )
    return replace(known, **changes)


def agreed(*people: str, role: str = "approver") -> tuple[Agreement, ...]:
    return tuple(Agreement(actor=who, roles=frozenset({role}), at=NOW, bound=None) for who in people)


def verdict(outcome: Outcome, **numbers: Any) -> Verdict:
    return Verdict(outcome=outcome, because=str(outcome), metric="roc_auc", **numbers)


def gate(outcome: Outcome, *, applies: bool = True) -> tuple[GateFact, ...]:
    return (GateFact(gate="roc_auc on holdout", applies=applies, verdict=verdict(outcome)),)


def broken(*, critical: bool) -> tuple[GuardrailReading, ...]:
    return (GuardrailReading(name="error-rate", critical=critical, verdict=verdict(Outcome.FAILED)),)


def step_after(of: Facts) -> tuple[Phase, int]:
    move = plan(of)
    assert move is not None
    return move.release.phase, move.release.step


# --- the tables


def test_every_phase_and_completion_has_its_row() -> None:
    assert set(PHASES) == set(TRANSITIONS) == set(Phase)
    assert set(COMPLETIONS) == set(Completion)


def test_the_only_end_of_a_life_is_healthy_and_nothing_follows_it() -> None:
    assert [phase for phase in Phase if not TRANSITIONS[phase]] == [Phase.HEALTHY]


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("to", Phase)
def test_a_phase_becomes_only_what_its_row_allows(phase: Phase, to: Phase) -> None:
    if to in TRANSITIONS[phase]:
        assert moved(release(phase), to, at=NOW, because="said").phase is to
    else:
        with pytest.raises(IllegalTransition):
            moved(release(phase), to, at=NOW, because="said")


@pytest.mark.parametrize("completion", Completion)
def test_a_release_completes_once_and_only_from_its_completion_s_phases(completion: Completion) -> None:
    for phase in Phase:
        if phase in COMPLETIONS[completion][0]:
            done = completed(release(phase), completion, at=NOW, because="said")
            with pytest.raises(IllegalTransition):
                completed(done, completion, at=NOW, because="again")
        else:
            with pytest.raises(IllegalTransition):
                completed(release(phase), completion, at=NOW, because="said")


# --- Pending


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"waits_for": 1, "gates": gate(Outcome.SUCCESSFUL)}, None),
        ({"frozen": "holidays", "gates": gate(Outcome.SUCCESSFUL)}, None),
        ({"gates": gate(Outcome.SUCCESSFUL)}, (Phase.PENDING, 0)),
        ({"gates": gate(Outcome.INCONCLUSIVE, applies=False)}, (Phase.PENDING, 0)),
        ({"gates": gate(Outcome.FAILED)}, (Phase.DEGRADED, GATES_STEP)),
        ({"gates": gate(Outcome.INCONCLUSIVE)}, (Phase.DEGRADED, GATES_STEP)),
        ({"gates": gate(Outcome.ERROR)}, (Phase.DEGRADED, GATES_STEP)),
        ({"gates_broken": "no replica"}, (Phase.DEGRADED, GATES_STEP)),
        ({"broken": "version 2 does not start"}, (Phase.DEGRADED, GATES_STEP)),
        ({"gates_declared": 0}, (Phase.PROGRESSING, 0)),
        ({"gates_declared": 0, "tier": 2}, (Phase.PAUSED, GATES_STEP)),
        ({"gates_declared": 0, "tier": 2, "approvers": agreed("bob")}, (Phase.PROGRESSING, 0)),
        ({"gates_declared": 0, "tier": 3, "approvers": agreed("bob")}, (Phase.PAUSED, GATES_STEP)),
    ],
)
def test_pending(changes: dict[str, Any], expected: tuple[Phase, int] | None) -> None:
    move = plan(facts(release(Phase.PENDING), **changes))
    assert (None if move is None else (move.release.phase, move.release.step)) == expected


def test_what_waited_its_turn_is_compared_with_what_answers_now() -> None:
    newer = Arm(release="rel-9", version=9, digest="sha256:9")
    move = plan(facts(release(Phase.PENDING), stable=newer, gates=gate(Outcome.SUCCESSFUL)))
    assert move is not None
    assert (move.release.phase, move.release.previous) == (Phase.PENDING, newer)


def test_a_rollback_asks_no_gate_and_no_approval() -> None:
    back = release(Phase.PENDING, opened=Opened.ROLLBACK)
    assert step_after(facts(back, tier=3)) == (Phase.PROGRESSING, 0)
    assert steps_of(facts(back).policy, back) == (spec.SetWeight(weight_pct=100), spec.Promote())


# --- Progressing


@pytest.mark.parametrize(
    ("step", "changes", "expected"),
    [
        (MIRROR, {}, (Phase.PROGRESSING, ANALYSIS)),
        (ANALYSIS, {}, None),
        (ANALYSIS, {"analysis": {"roc_auc": verdict(Outcome.SUCCESSFUL)}}, (Phase.PROGRESSING, TENTH)),
        (ANALYSIS, {"analysis": {"roc_auc": verdict(Outcome.FAILED)}}, (Phase.DEGRADED, ANALYSIS)),
        (ANALYSIS, {"analysis": {"roc_auc": verdict(Outcome.INCONCLUSIVE)}}, None),
        (ANALYSIS, {"now": NOW + timedelta(days=20)}, (Phase.PAUSED, ANALYSIS)),
        (TENTH, {}, (Phase.PROGRESSING, WAIT)),
        (WAIT, {}, (Phase.PROGRESSING, UNTIL_RESUMED)),
        (WAIT, {"now": NOW - timedelta(days=1, hours=1)}, None),
        (UNTIL_RESUMED, {}, (Phase.PAUSED, UNTIL_RESUMED)),
        (APPROVAL, {}, (Phase.PAUSED, APPROVAL)),
        (APPROVAL, {"approvers": agreed("bob")}, (Phase.PROGRESSING, ALL)),
        (ALL, {}, (Phase.PROGRESSING, PROMOTE)),
    ],
)
def test_progressing_through_an_entered_step(
    step: int, changes: dict[str, Any], expected: tuple[Phase, int] | None
) -> None:
    move = plan(facts(release(Phase.PROGRESSING, step, entered=True), **changes))
    assert (None if move is None else (move.release.phase, move.release.step)) == expected


def test_a_step_begins_only_when_its_traffic_is_seen_to_be_in_effect() -> None:
    waiting = release(Phase.PROGRESSING, TENTH, weight_pct=10.0)
    assert plan(facts(waiting, in_effect=False)) is None
    move = plan(facts(waiting))
    assert move is not None
    assert (move.release.entered, move.release.step_started_at) == (True, NOW)


def test_promotion_waits_until_all_requests_go_there() -> None:
    ready = release(Phase.PROGRESSING, PROMOTE, weight_pct=100.0, exposed=True)
    assert plan(facts(ready, in_effect=False)) is None
    assert step_after(facts(ready)) == (Phase.VERIFYING, BAKE)


@pytest.mark.parametrize("step", [ANALYSIS, WAIT, UNTIL_RESUMED])
def test_what_a_person_promoted_waits_no_longer(step: int) -> None:
    hurried = release(Phase.PROGRESSING, step, entered=True, full=True, step_started_at=NOW)
    assert step_after(facts(hurried)) == (Phase.PROGRESSING, step + 1)


def test_not_even_promoting_stands_in_for_an_approval() -> None:
    assert step_after(facts(release(Phase.PROGRESSING, APPROVAL, entered=True, full=True))) == (Phase.PAUSED, APPROVAL)


@pytest.mark.parametrize("step", [MIRROR, ANALYSIS, WAIT])
def test_a_first_version_passes_over_what_needs_another_to_compare_with(step: int) -> None:
    first = release(Phase.PROGRESSING, step, previous=None)
    assert step_after(facts(first, stable=None)) == (Phase.PROGRESSING, step + 1)


def test_a_used_up_budget_holds_says_why_once_and_lets_failures_through() -> None:
    waiting = release(Phase.PENDING)
    move = plan(facts(waiting, exhausted="no budget is left", gates=gate(Outcome.SUCCESSFUL)))
    assert move is not None
    assert move.release == msgspec.structs.replace(waiting, because="no budget is left")
    assert plan(facts(move.release, exhausted="no budget is left", gates=gate(Outcome.SUCCESSFUL))) is None
    exposed = release(Phase.PROGRESSING, WAIT, entered=True, exposed=True, weight_pct=10.0)
    held = plan(facts(exposed, exhausted="no budget is left"))
    assert held is None or held.release.step == exposed.step
    back = plan(facts(exposed, exhausted="no budget is left", guardrails=broken(critical=True)))
    assert back is not None
    assert back.release.phase is Phase.DEGRADED


def test_a_freeze_holds_but_lets_failures_through() -> None:
    exposed = release(Phase.PROGRESSING, WAIT, entered=True, exposed=True, weight_pct=10.0)
    assert plan(facts(exposed, frozen="holidays")) is None
    assert step_after(facts(exposed, frozen="holidays", guardrails=broken(critical=True))) == (Phase.DEGRADED, WAIT)


def test_when_nobody_is_left_to_compare_with_a_person_decides() -> None:
    orphan = release(Phase.PROGRESSING, ANALYSIS, entered=True)
    move = plan(facts(orphan, stable=None))
    assert move is not None
    assert (move.release.phase, move.release.held, move.release.previous) == (Phase.PAUSED, True, None)


# --- guardrails


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.PAUSED, Phase.VERIFYING])
def test_a_broken_critical_guardrail_goes_back_from_wherever_the_version_answers(phase: Phase) -> None:
    serving = release(phase, WAIT, exposed=True, resumes=Phase.PROGRESSING)
    move = plan(facts(serving, guardrails=broken(critical=True)))
    assert move is not None
    assert (move.release.phase, move.release.ending) == (Phase.DEGRADED, Completion.ROLLED_BACK)


def test_a_guardrail_that_is_not_critical_stops_nothing() -> None:
    serving = release(Phase.PAUSED, WAIT, exposed=True, resumes=Phase.PROGRESSING)
    assert plan(facts(serving, guardrails=broken(critical=False))) is None


def test_what_breaks_a_guardrail_on_copies_ends_aborted_because_it_never_answered() -> None:
    copied = release(Phase.PROGRESSING, ANALYSIS, entered=True)
    move = plan(facts(copied, guardrails=broken(critical=True)))
    assert move is not None
    assert (move.release.phase, move.release.ending) == (Phase.DEGRADED, Completion.ABORTED)


def test_a_rollback_is_not_rolled_back_by_itself() -> None:
    back = release(Phase.PROGRESSING, 0, opened=Opened.ROLLBACK, exposed=True, entered=True)
    assert step_after(facts(back, guardrails=broken(critical=True))) == (Phase.PROGRESSING, 1)


# --- Paused


def test_paused_before_the_first_step_goes_on_with_the_approvals_its_tier_demands() -> None:
    waiting = release(Phase.PAUSED, 0, resumes=Phase.PENDING)
    assert plan(facts(waiting, tier=2)) is None
    assert step_after(facts(waiting, tier=2, approvers=agreed("bob"))) == (Phase.PENDING, 0)


@pytest.mark.parametrize("resumes", [Phase.PENDING, Phase.PROGRESSING])
def test_what_a_person_paused_only_a_person_lets_go_on(resumes: Phase) -> None:
    held = release(Phase.PAUSED, APPROVAL, resumes=resumes, held=True)
    assert plan(facts(held, approvers=agreed("bob", "carol"))) is None


def test_resuming_goes_past_the_step_that_waited_and_back_into_the_step_that_was_held() -> None:
    policy = facts(release(Phase.PENDING)).policy
    waited = release(Phase.PAUSED, UNTIL_RESUMED, entered=True, resumes=Phase.PROGRESSING)
    assert resume(waited, policy, now=NOW, because="go").release.step == APPROVAL

    judged = release(Phase.PROGRESSING, ANALYSIS, entered=True)
    held = pause(judged, now=NOW, because="hold").release
    back = resume(held, policy, now=NOW + timedelta(days=1), because="go").release
    assert back == msgspec.structs.replace(judged, because="go")


# --- Verifying and Degraded


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"now": NOW + timedelta(days=20)}, (Phase.HEALTHY, Completion.PROMOTED)),
        ({"now": NOW + timedelta(days=20), "undoing": True}, None),
        ({"replaced_by": 3}, (Phase.HEALTHY, Completion.PROMOTED)),
        ({"undone_by": 3}, (Phase.DEGRADED, None)),
        ({"analysis": {"roc_auc": verdict(Outcome.FAILED)}}, (Phase.DEGRADED, None)),
        ({"analysis": {"roc_auc": verdict(Outcome.INCONCLUSIVE)}}, None),
    ],
)
def test_verifying(changes: dict[str, Any], expected: tuple[Phase, Completion | None] | None) -> None:
    baking = release(Phase.VERIFYING, BAKE, promoted_at=NOW - timedelta(days=1), exposed=True, weight_pct=100.0)
    move = plan(facts(baking, **changes))
    assert (None if move is None else (move.release.phase, move.release.completion)) == expected


@pytest.mark.parametrize(
    ("analysis", "proved"),
    [
        ({}, True),
        ({"roc_auc": verdict(Outcome.INCONCLUSIVE), "log_loss": verdict(Outcome.INCONCLUSIVE, estimate=0.01)}, True),
        ({"roc_auc": verdict(Outcome.INCONCLUSIVE), "log_loss": verdict(Outcome.ERROR, estimate=0.01)}, False),
    ],
)
def test_a_bake_proves_something_if_anything_was_measured_of_what_was_to_be(
    analysis: dict[str, Verdict], proved: bool
) -> None:
    baking = release(Phase.VERIFYING, BAKE, promoted_at=NOW - timedelta(days=30), exposed=True, weight_pct=100.0)
    move = plan(facts(baking, analysis=analysis))
    assert move is not None
    assert move.release.completion is Completion.PROMOTED
    assert (move.release.verified_at is not None, move.release.cause) == (
        proved,
        None if proved else Cause.BAKE_UNMEASURED,
    )


def test_traffic_goes_back_first_capacity_second_status_last() -> None:
    falling = degrade(
        release(Phase.PROGRESSING, TENTH, weight_pct=10.0),
        Completion.ABORTED,
        now=NOW,
        because="no",
        cause=Cause.ABORTED,
    ).release
    assert falling.weight_pct == 0.0
    assert plan(facts(falling, in_effect=False, drained=False)) is None
    assert plan(facts(falling, drained=False)) is None
    done = plan(facts(falling))
    assert done is not None
    assert (done.release.phase, done.release.completion) == (Phase.HEALTHY, Completion.ABORTED)


def test_what_is_over_moves_no_more() -> None:
    assert plan(facts(release(Phase.HEALTHY, completion=Completion.PROMOTED))) is None


@given(
    phase=st.sampled_from([Phase.PENDING, Phase.PROGRESSING, Phase.PAUSED, Phase.VERIFYING, Phase.DEGRADED]),
    step=st.integers(0, PROMOTE),
    entered=st.booleans(),
    exposed=st.booleans(),
    full=st.booleans(),
    held=st.booleans(),
    opened=st.sampled_from(Opened),
    in_effect=st.booleans(),
    drained=st.booleans(),
    outcome=st.sampled_from([None, *Outcome]),
    gates=st.sampled_from([None, *Outcome]),
    tier=st.integers(0, 3),
    stable=st.sampled_from([STABLE, None]),
    guarded=st.booleans(),
    days=st.integers(0, 60),
)
def test_from_any_facts_the_next_move_is_legal_and_shares_stay_within_bounds(
    *,
    phase: Phase,
    step: int,
    entered: bool,
    exposed: bool,
    full: bool,
    held: bool,
    opened: Opened,
    in_effect: bool,
    drained: bool,
    outcome: Outcome | None,
    gates: Outcome | None,
    tier: int,
    stable: Arm | None,
    guarded: bool,
    days: int,
) -> None:
    step = min(step, 1) if opened is Opened.ROLLBACK else step
    before = release(
        phase,
        step,
        entered=entered,
        exposed=exposed,
        full=full,
        held=held,
        opened=opened,
        ending=Completion.ABORTED if phase is Phase.DEGRADED else None,
        resumes=Phase.PROGRESSING if phase is Phase.PAUSED else None,
    )
    given_facts = facts(
        before,
        in_effect=in_effect,
        drained=drained,
        analysis={} if outcome is None else {"roc_auc": verdict(outcome, n=9, estimate=0.0, margin=0.02)},
        gates=None if gates is None else gate(gates),
        tier=tier,
        stable=stable,
        guardrails=broken(critical=True) if guarded else (),
        now=NOW + timedelta(days=days),
    )
    move = plan(given_facts)
    if move is None:
        return
    after = move.release
    assert after.phase is phase or after.phase in TRANSITIONS[phase]
    assert 0.0 <= after.weight_pct <= 100.0
    assert not (after.weight_pct > 0 and not after.exposed)
    assert (after.completion is None) == (after.phase is not Phase.HEALTHY)
    if after.phase is Phase.DEGRADED:
        assert after.weight_pct == 0.0
