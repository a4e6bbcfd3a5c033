"""What people do to a release on its way: hold it, let it go on, promote it. Each is a move like the planner's own.

What a command means in each phase is decided here once, so that command line, API and console cannot differ.
"""

from datetime import datetime

import msgspec

from steersman.decide.rolling_out import Move, Note, hold
from steersman.decide.steps import GATES_STEP, promotes_past, step_name, steps_of, with_weight
from steersman.domain import spec
from steersman.domain.errors import Blocked, Conflict
from steersman.domain.events import Action
from steersman.domain.release import Cause, Opened, Phase, Release, moved


def pause(release: Release, *, now: datetime, because: str) -> Move:
    """A person holds the release where it is; its traffic stays as it is. Raises Conflict outside Pending and Progressing."""
    if release.phase not in (Phase.PENDING, Phase.PROGRESSING):
        instead = {
            Phase.PAUSED: "It waits already; `abort` ends it.",
            Phase.VERIFYING: "It was promoted: `rollback` or `abort` brings the previous version back.",
        }
        raise Conflict(f"a release that is {release.phase} cannot be paused", next_step=instead.get(release.phase))
    return hold(release, now=now, because=because, cause=Cause.HELD)


def resume(release: Release, policy: spec.EnvironmentPolicy, *, now: datetime, because: str) -> Move:
    """A person lets a paused release go on: past the step that waited for them, or, where they paused it themselves,
    from there: a pause by hand never stands in for an analysis or an approval.

    Raises Conflict where it is not paused, or waits for an approval.
    """
    if release.phase is not Phase.PAUSED:
        raise Conflict(f"release {release.number} is {release.phase}, not Paused")
    if waits_for_approval(release, policy):
        raise Conflict(
            f"release {release.number} waits for an approval, which `resume` does not replace",
            next_step=f"steersman approve {release.id} --because …",
        )
    return Move(
        release=_let_go(release, policy, now=now, because=because),
        notes=(Note(action=Action.RELEASE_RESUMED, because=because),),
    )


def promote(
    release: Release, policy: spec.EnvironmentPolicy, *, tier: int, full: bool, now: datetime, because: str
) -> Move:
    """Past the analysis or pause it stands at, or with `full` past all that are still to come. Gates, approvals and
    guardrails stand; from tier 2 an analysis does too, and takes a waiver.

    Raises Conflict where there is nothing to pass, Blocked where a waiver is needed.
    """
    if release.phase not in (Phase.PROGRESSING, Phase.PAUSED) or release.resumes is Phase.PENDING:
        raise Conflict(f"release {release.number} is {release.phase}; only one past its gates can be promoted")
    if release.opened is Opened.ROLLBACK:
        raise Conflict(f"release {release.number} is a rollback, which waits for nothing that could be skipped")
    step = steps_of(policy, release)[release.step]
    resumed = Note(action=Action.RELEASE_RESUMED, because=because, data={"full": full})
    if full:
        after = release
        if release.phase is Phase.PAUSED and not waits_for_approval(release, policy):
            after = _let_go(release, policy, now=now, because=because)
        return Move(release=msgspec.structs.replace(after, full=True, because=because), notes=(resumed,))
    if not isinstance(step, spec.Analysis | spec.Pause):
        raise Conflict(
            f"release {release.number} stands at step {release.step} ({step_name(step)}), which cannot be skipped",
            next_step="With --full it passes the analyses and pauses still to come.",
        )
    if not promotes_past(step, tier):
        raise Blocked(
            f"step {release.step} ({step_name(step)}) of a tier {tier} model cannot be skipped by `promote`",
            next_step=f"An approver may let this version skip it: steersman waive {release.model} {release.version} "
            f"--environment {release.environment} --skip {release.step} --because …",
        )
    going = release
    if release.phase is Phase.PAUSED:
        going = moved(release, Phase.PROGRESSING, at=now, because=because, resumes=None, held=False)
    after = msgspec.structs.replace(
        going, step=release.step + 1, entered=False, step_started_at=now, because=because, hurried=True
    )
    data = {"step": release.step, "kind": step_name(step), "release": release.number, "waiver": None}
    skipped = Note(action=Action.STEP_SKIPPED, because=f"{step_name(step)} skipped: {because}", data=data)
    return Move(release=with_weight(after, policy), notes=(resumed, skipped))


def waits_for_approval(release: Release, policy: spec.EnvironmentPolicy) -> bool:
    """Whether it is paused until people agree, and by nothing else."""
    if release.phase is not Phase.PAUSED or release.held:
        return False
    return release.resumes is Phase.PENDING or isinstance(steps_of(policy, release)[release.step], spec.Approval)


def approval_step(release: Release) -> int:
    """The step an approval given now is for: the present one, or the start of the release."""
    before_steps = release.phase is Phase.PENDING or release.resumes is Phase.PENDING
    return GATES_STEP if before_steps else release.step


def _let_go(release: Release, policy: spec.EnvironmentPolicy, *, now: datetime, because: str) -> Release:
    if release.held:
        back = release.resumes or Phase.PROGRESSING
        after = moved(release, back, at=now, because=because, resumes=None, held=False)
        return msgspec.structs.replace(after, step_started_at=release.step_started_at)
    after = moved(release, Phase.PROGRESSING, at=now, because=because, resumes=None)
    step = steps_of(policy, release)[release.step]
    asks_a_person = isinstance(step, spec.Analysis) or (isinstance(step, spec.Pause) and step.duration is None)
    if release.entered and asks_a_person:
        return with_weight(msgspec.structs.replace(after, step=release.step + 1, entered=False), policy)
    return msgspec.structs.replace(after, step_started_at=release.step_started_at)
