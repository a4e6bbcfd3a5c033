"""Reads what `decide.explaining` needs to say why a release stands where it stands."""

from datetime import datetime, timedelta

from steersman.decide.approving import approvals_required, demanded_at_start, demanded_by, missing
from steersman.decide.explaining import Circumstances, Judged, Standing, explain
from steersman.decide.freezing import frozen
from steersman.decide.routing import in_progress
from steersman.decide.steps import steps_of
from steersman.domain import spec
from steersman.domain.release import Opened, Phase, Release
from steersman.domain.verdicts import Outcome
from steersman.loop.datasets import horizon
from steersman.loop.gathering import agreed, approvals_of
from steersman.loop.world import Documents, environment_of
from steersman.store.records import StoredVerdict
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
    declared = approvals_required(policy, model.spec.tier, hotfix=release.hotfix)
    outside = approvals_of(tx, release, model) > declared
    asked = step if isinstance(step, spec.Approval) and release.resumes is not Phase.PENDING else None
    at_start = demanded_at_start(policy, model.spec.tier, outside=outside, hotfix=release.hotfix)
    demand = demanded_by(asked, policy) if asked else at_start
    lacking, roles = missing(demand, agreed(tx, release, policy, now))
    return Circumstances(
        release=release,
        step=step,
        judged=tuple(_judged(stored) for stored in tx.verdicts(release.id)),
        lacking=lacking,
        roles=roles,
        outside=outside,
        waits_for=oldest.number if oldest is not None and oldest.id != release.id and release.active else None,
        frozen=None if release.opened is Opened.ROLLBACK or release.hotfix else frozen(policy, environment, now),
        ends_at=_ends_at(release, policy, step, horizon(model)),
    )


def _judged(stored: StoredVerdict) -> Judged:
    name = str(stored.body.get("name") or stored.body.get("metric") or stored.kind)
    return Judged(kind=stored.kind, step=stored.step, name=name, outcome=Outcome(stored.body["outcome"]))


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
