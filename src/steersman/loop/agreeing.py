"""What the second pair of eyes says: approvals, their withdrawal, and waivers, each with its entry in the caller's transaction.

Who may is decided by permission before (`server.security`); here, who may *for this release*: not its author, not for another
version, not for what changed since.
"""

from collections.abc import Collection
from datetime import datetime, timedelta

import msgspec

from steersman.decide.steering import approval_step
from steersman.decide.steps import step_name
from steersman.domain import spec
from steersman.domain.approval import Waiver
from steersman.domain.errors import BadRequest, Conflict, NotAllowed
from steersman.domain.events import Action, Event
from steersman.domain.identifiers import new_id
from steersman.domain.release import Opened, Phase, Release
from steersman.domain.version import Version
from steersman.loop.entries import release_event
from steersman.loop.gathering import agreed, binding_of
from steersman.loop.opening import reason, version_of
from steersman.loop.proving import waived_step
from steersman.loop.withdrawing import void
from steersman.store.records import Approval
from steersman.store.transaction import Transaction

WAIVER_LIFE_DEFAULT = timedelta(days=7)
"""A waiver not used by then is void: what was known when it was given is no longer what is known."""

WAIVER_LIFE_MAX = timedelta(days=90)
"""Longest life of a waiver; leave for longer is a change of the document."""


def approve(
    tx: Transaction,
    release: Release,
    policy: spec.EnvironmentPolicy,
    *,
    actor: str,
    because: str,
    roles: Collection[str],
    now: datetime,
) -> None:
    """Agree to what the release waits for now. Raises NotAllowed for its opener and the version's authors."""
    version = version_of(tx, release.workspace, release.model, release.version)
    _refuse_author(actor, release.opened_by, version, "approve")
    if release.opened is Opened.ROLLBACK:
        raise Conflict(f"release {release.number} is a rollback, which waits for nobody")
    if any(agreement.actor == actor for agreement in agreed(tx, release, policy, now)):
        return
    bound, step = binding_of(tx, release), approval_step(release)
    approval = Approval(
        release=release.id,
        step=step,
        actor=actor,
        at=now,
        because=reason(because),
        roles=tuple(sorted(roles)),
        bound=bound,
    )
    tx.agreements.put_approval(approval)
    data: dict[str, object] = {
        "release": release.number,
        "version": release.version,
        "digest": release.digest,
        "environment": release.environment,
        "document": release.document,
        "declared": bound.declared,
        "previous": bound.previous,
        "step": step,
        "roles": list(approval.roles),
    }
    tx.append(release_event(release, Action.RELEASE_APPROVED, at=now, actor=actor, because=because, data=data))


def withdraw(
    tx: Transaction, release: Release, policy: spec.EnvironmentPolicy, *, actor: str, because: str, now: datetime
) -> None:
    """Take one's own approval back while nothing rests on it yet. Raises Conflict where there is none that counts."""
    counting = {agreement.actor for agreement in agreed(tx, release, policy, now)}
    step = approval_step(release)
    mine = next((a for a in tx.agreements.approvals(release.id) if (a.actor, a.step) == (actor, step)), None)
    if mine is None or actor not in counting:
        raise Conflict(
            f"no approval of {actor} counts for release {release.number} now",
            next_step="What was agreed to has begun: `steersman abort` or `rollback` stops it.",
        )
    void(tx, release, mine, because=f"taken back by {actor}: {reason(because)}", actor=actor, now=now)


def waive(
    tx: Transaction,
    model: spec.Model,
    version: Version,
    environment: str,
    *,
    skip: str,
    actor: str,
    because: str,
    life: timedelta,
    now: datetime,
) -> Waiver:
    """Let one version skip one thing in one environment, once: the environment before it, or a step by its number.

    A release of that version on its way there uses a step's waiver at once, else the next one does. Raises BadRequest
    for what cannot be waived, NotAllowed for the version's authors and the release's opener.
    """
    _refuse_author(actor, None, version, "waive")
    if not timedelta() < life <= WAIVER_LIFE_MAX:
        raise BadRequest(f"a waiver lasts at most {WAIVER_LIFE_MAX.days}d", next_step="Give a shorter --expires.")
    step, what = _skipped(model, environment, skip)
    coming = [
        r
        for r in tx.releases(version.workspace, version.model, environment)
        if r.active and r.phase is not Phase.DEGRADED and r.digest == version.digest and r.opened is not Opened.ROLLBACK
    ]
    for release in coming:
        _refuse_author(actor, release.opened_by, version, "waive")
    waiver = Waiver(
        id=new_id("wai"),
        workspace=version.workspace,
        model=version.model,
        environment=environment,
        version=version.number,
        digest=version.digest,
        skips=skip if step is None else f"step {step}",
        step=step,
        what=what,
        actor=actor,
        at=now,
        expires_at=now + life,
        because=reason(because),
    )
    tx.agreements.add_waiver(waiver)
    using = next((r for r in coming if step is not None and r.step <= step), None)
    tx.append(_granted(waiver, using))
    if using is not None:
        tx.agreements.use_waiver(waiver, release=using.id)
        tx.save_release(using, msgspec.structs.replace(using, waived=(*using.waived, waived_step(waiver))))
        return msgspec.structs.replace(waiver, used_by=using.id)
    return waiver


def waivable(policy: spec.EnvironmentPolicy) -> dict[str, str]:
    """What one version may be let past in an environment, under the name `skip` takes, in words."""
    before = {} if policy.after is None else {policy.after: f"the environment {policy.after}"}
    steps = enumerate(policy.strategy.steps)
    return before | {str(i): step_name(step) for i, step in steps if isinstance(step, spec.Analysis | spec.Pause)}


def _skipped(model: spec.Model, environment: str, skip: str) -> tuple[int | None, str]:
    """The step's number and words, or None and the environment."""
    policy = model.spec.environments.get(environment)
    if policy is None:
        declared = ", ".join(sorted(model.spec.environments)) or "none"
        raise BadRequest(f"model {model.metadata.name} declares no environment {environment!r}; it declares {declared}")
    if policy.after is not None and skip == policy.after:
        return None, f"the environment {skip}"
    may = waivable(policy)
    if skip in may:
        return int(skip), may[skip]
    offered = [name if name == policy.after else f"{name} ({what})" for name, what in may.items()]
    raise BadRequest(
        f"{skip[:60]!r} is nothing that can be waived in {environment}: it has {', '.join(offered) or 'nothing'}",
        next_step="Approvals, gates and guardrails are not waived: approve, or change the document.",
    )


def _refuse_author(actor: str, opened_by: str | None, version: Version, verb: str) -> None:
    if actor == opened_by or actor in version.author_chain:
        raise NotAllowed(
            f"{actor} made or opened what is to be {verb}d, and cannot {verb} it",
            next_step="Ask somebody else with the role approver.",
        )


def _granted(waiver: Waiver, using: Release | None) -> Event:
    return Event(
        action=Action.WAIVER_GRANTED,
        at=waiver.at,
        actor=waiver.actor,
        workspace=waiver.workspace,
        kind="version",
        name=f"{waiver.model}/{waiver.version}",
        because=waiver.because,
        data={
            "waiver": waiver.id,
            "version": waiver.version,
            "digest": waiver.digest,
            "environment": waiver.environment,
            "skips": waiver.skips,
            "what": waiver.what,
            "expires_at": waiver.expires_at.isoformat(),
            "release": using.number if using else None,
        },
    )
