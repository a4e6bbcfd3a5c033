"""What people's commands mean in each phase: one table, every cell of it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.decide.rolling_out import Move
from steersman.decide.steering import approval_step, pause, promote, resume, waits_for_approval
from steersman.decide.steps import GATES_STEP
from steersman.domain import spec
from steersman.domain.errors import Blocked, Conflict, SteersmanError
from steersman.domain.release import TRANSITIONS, Arm, Opened, Phase, Release

NOW = datetime(2013, 3, 10, tzinfo=UTC)
STEPS: tuple[spec.Step, ...] = (
    spec.Mirror(),
    spec.Analysis(metrics=("roc_auc",)),
    spec.SetWeight(weight_pct=10),
    spec.Pause(duration=timedelta(days=1)),
    spec.Pause(),
    spec.Approval(),
    spec.SetWeight(weight_pct=100),
    spec.Promote(),
)
MIRROR, ANALYSIS, TENTH, WAIT, UNTIL_RESUMED, APPROVAL, ALL, PROMOTE = range(8)
POLICY = spec.EnvironmentPolicy(strategy=spec.Canary(steps=STEPS))


def release(phase: Phase, step: int = GATES_STEP, **changes: Any) -> Release:
    fields: dict[str, Any] = {
        "id": "rel-2",
        "workspace": "default",
        "model": "delay",
        "environment": "production",
        "number": 2,
        "version": 2,
        "digest": "sha256:2",
        "previous": Arm(release="rel-1", version=1, digest="sha256:1"),
        "document": "sha256:d",
        "phase": phase,
        "step": step,
        "entered": True,
        "step_started_at": NOW - timedelta(days=2),
        "opened": Opened.COMMAND,
        "opened_at": NOW - timedelta(days=3),
        "opened_by": "ann",
    }
    return Release(**{**fields, **changes})


def at_gates() -> Release:
    return release(Phase.PAUSED, 0, resumes=Phase.PENDING)


def waiting(step: int, **changes: Any) -> Release:
    return release(Phase.PAUSED, step, resumes=Phase.PROGRESSING, **changes)


def steer(command: str, of: Release, *, tier: int = 1) -> Move:
    commands: dict[str, Callable[[], Move]] = {
        "pause": lambda: pause(of, now=NOW, because="said"),
        "resume": lambda: resume(of, POLICY, now=NOW, because="said"),
        "promote": lambda: promote(of, POLICY, tier=tier, full=False, now=NOW, because="said"),
        "promote --full": lambda: promote(of, POLICY, tier=tier, full=True, now=NOW, because="said"),
    }
    return commands[command]()


def outcome(command: str, of: Release, *, tier: int = 1) -> object:
    try:
        after = steer(command, of, tier=tier).release
    except SteersmanError as error:
        return type(error)
    return after.phase, after.step


@pytest.mark.parametrize(
    ("of", "paused", "resumed", "promoted", "full"),
    [
        (release(Phase.PENDING), (Phase.PAUSED, -1), Conflict, Conflict, Conflict),
        (at_gates(), Conflict, Conflict, Conflict, Conflict),
        (release(Phase.PROGRESSING, MIRROR), (Phase.PAUSED, 0), Conflict, Conflict, (Phase.PROGRESSING, 0)),
        (
            release(Phase.PROGRESSING, ANALYSIS),
            (Phase.PAUSED, 1),
            Conflict,
            (Phase.PROGRESSING, 2),
            (Phase.PROGRESSING, 1),
        ),
        (release(Phase.PROGRESSING, WAIT), (Phase.PAUSED, 3), Conflict, (Phase.PROGRESSING, 4), (Phase.PROGRESSING, 3)),
        (waiting(ANALYSIS), Conflict, (Phase.PROGRESSING, 2), (Phase.PROGRESSING, 2), (Phase.PROGRESSING, 2)),
        (waiting(UNTIL_RESUMED), Conflict, (Phase.PROGRESSING, 5), (Phase.PROGRESSING, 5), (Phase.PROGRESSING, 5)),
        (waiting(APPROVAL), Conflict, Conflict, Conflict, (Phase.PAUSED, 5)),
        (
            waiting(ANALYSIS, held=True),
            Conflict,
            (Phase.PROGRESSING, 1),
            (Phase.PROGRESSING, 2),
            (Phase.PROGRESSING, 1),
        ),
        (release(Phase.VERIFYING, PROMOTE), Conflict, Conflict, Conflict, Conflict),
        (release(Phase.DEGRADED, TENTH), Conflict, Conflict, Conflict, Conflict),
    ],
)
def test_each_command_in_each_phase(
    of: Release, paused: object, resumed: object, promoted: object, full: object
) -> None:
    said = [outcome(command, of) for command in ("pause", "resume", "promote", "promote --full")]
    assert said == [paused, resumed, promoted, full]


def test_the_next_step_s_share_of_requests_comes_with_the_skip() -> None:
    after = steer("promote", release(Phase.PROGRESSING, ANALYSIS)).release
    assert (after.weight_pct, after.exposed, after.hurried) == (10.0, True, True)


@pytest.mark.parametrize("tier", [2, 3])
def test_from_tier_2_an_analysis_is_skipped_by_a_waiver_only(tier: int) -> None:
    for of in (release(Phase.PROGRESSING, ANALYSIS), waiting(ANALYSIS)):
        with pytest.raises(Blocked) as no:
            steer("promote", of, tier=tier)
        assert "steersman waive delay 2 --environment production --skip 1" in no.value.next_step
    assert outcome("promote", release(Phase.PROGRESSING, WAIT), tier=tier) == (Phase.PROGRESSING, UNTIL_RESUMED)


def test_a_rollback_is_not_promoted_by_hand() -> None:
    assert outcome("promote --full", release(Phase.PROGRESSING, 0, opened=Opened.ROLLBACK)) is Conflict


@given(
    command=st.sampled_from(["pause", "resume", "promote", "promote --full"]),
    phase=st.sampled_from(Phase),
    step=st.integers(0, PROMOTE),
    resumes=st.sampled_from([Phase.PENDING, Phase.PROGRESSING]),
    held=st.booleans(),
    entered=st.booleans(),
    tier=st.integers(0, 3),
)
def test_a_command_is_refused_or_a_legal_move_and_none_stands_in_for_an_approval(
    *, command: str, phase: Phase, step: int, resumes: Phase, held: bool, entered: bool, tier: int
) -> None:
    paused = phase is Phase.PAUSED
    of = release(phase, step, resumes=resumes if paused else None, held=held and paused, entered=entered)
    try:
        after = steer(command, of, tier=tier).release
    except (Conflict, Blocked):
        return
    assert after.phase is phase or after.phase in TRANSITIONS[phase]
    skipped = STEPS[of.step : after.step]
    assert all(isinstance(one, spec.Analysis | spec.Pause) for one in skipped)
    if waits_for_approval(of, POLICY):
        assert (after.phase, after.step) == (of.phase, of.step)
    if approval_step(of) == GATES_STEP:
        assert approval_step(after) == GATES_STEP
