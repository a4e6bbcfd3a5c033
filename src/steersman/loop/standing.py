"""Reads what `decide.explaining` needs to say why a release stands where it stands."""

from datetime import datetime, timedelta

from steersman.decide.approving import demanded_at_start, demanded_by, missing
from steersman.decide.explaining import Circumstances, Standing, explain
from steersman.decide.freezing import frozen
from steersman.decide.routing import in_progress
from steersman.decide.steps import steps_of
from steersman.domain import spec
from steersman.domain.release import Cause, Opened, Phase, Release
from steersman.domain.verdicts import Verdict
from steersman.loop.datasets import horizon
from steersman.loop.gathering import agreed, pairing_of, without_budget
from steersman.loop.weighing import doubt
from steersman.loop.world import Documents, environment_of
from steersman.store.transaction import Transaction


def standing(tx: Transaction, documents: Documents, release: Release, *, now: datetime) -> Standing:
    """Why the release stands where it stands, what that means and what may come next; reads only."""
    return explain(circumstances(tx, documents, release, now=now))


def circumstances(tx: Transaction, documents: Documents, release: Release, *, now: datetime) -> Circumstances:
    model = documents.revision(tx, release.document)
    policy = model.spec.environments.get(release.environment, spec.EnvironmentPolicy())
    environment = environment_of(tx, release.workspace, release.environment)
    steps = steps_of(policy, release)
    step = steps[release.step] if 0 <= release.step < len(steps) else None
    oldest = in_progress(tx.releases(release.workspace, release.model, release.environment))
    asked = step if isinstance(step, spec.Approval) and release.resumes is not Phase.PENDING else None
    outside = release.cause is Cause.OUTSIDE_ENVELOPE
    at_start = demanded_at_start(
        policy, model.spec.tier, environment=release.environment, outside=outside, hotfix=release.hotfix
    )
    demand = demanded_by(asked, policy) if asked else at_start
    doubted = _doubt(tx, release, model, step)
    rollback = release.opened is Opened.ROLLBACK
    lacking, roles = missing(demand, agreed(tx, release, policy, now))
    return Circumstances(
        release=release,
        step=step,
        lacking=lacking,
        roles=roles,
        waits_for=oldest.number if oldest is not None and oldest.id != release.id and release.active else None,
        frozen=None if rollback or release.hotfix else frozen(policy, environment, now),
        exhausted=None if rollback else without_budget(tx, release, policy),
        doubt=doubted.doubt if doubted else None,
        doubted=doubted.because if doubted else "",
        ends_at=_ends_at(release, policy, step, horizon(model)),
    )


def _doubt(tx: Transaction, release: Release, model: spec.Model, step: spec.Step | None) -> Verdict | None:
    """What is wrong with the comparison of an analysis that is under way."""
    if not isinstance(step, spec.Analysis) or release.phase is not Phase.PROGRESSING or not release.entered:
        return None
    if release.previous is None:
        return None
    return doubt(tx, pairing_of(release, step, release.step_started_at, model.spec.metrics), step)


def _ends_at(
    release: Release, policy: spec.EnvironmentPolicy, step: spec.Step | None, after_bake: timedelta
) -> datetime | None:
    """When the present step ends by itself; None where it waits for something else than time."""
    if release.phase is Phase.VERIFYING:
        bake = next((s for s in steps_of(policy, release)[release.step :] if isinstance(s, spec.Bake)), None)
        return None if bake is None else (release.promoted_at or release.step_started_at) + bake.duration + after_bake
    if not release.entered:
        return None
    if isinstance(step, spec.Analysis):
        return release.step_started_at + step.duration_max
    if isinstance(step, spec.Pause) and step.duration is not None:
        return release.step_started_at + step.duration
    return None
