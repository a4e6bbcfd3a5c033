"""What a version brings along when its release is opened: what it proved in the environment before, and what it may skip."""

from dataclasses import dataclass
from datetime import datetime

from steersman.decide.routing import proof_of
from steersman.decide.steps import step_name
from steersman.domain import spec
from steersman.domain.approval import Waived, Waiver
from steersman.domain.errors import Blocked
from steersman.domain.release import Cause, Proof
from steersman.domain.version import Version
from steersman.store.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """`waivers` are those that opening the release uses up."""

    proved: Proof | None = None
    waived: tuple[Waived, ...] = ()
    waivers: tuple[Waiver, ...] = ()

    def told(self) -> dict[str, object]:
        """As it stands in the opening entry; what there is none of is left out."""
        data: dict[str, object] = {} if self.proved is None else {"proved": _proof_data(self.proved)}
        if self.waivers:
            data["waivers"] = [
                {"waiver": w.id, "skips": w.skips, "actor": w.actor, "because": w.because} for w in self.waivers
            ]
        return data


def bring_along(
    tx: Transaction,
    version: Version,
    policy: spec.EnvironmentPolicy,
    environment: str,
    *,
    opened_by: str,
    now: datetime,
) -> Brought:
    """What the release of `version` takes with it; raises Blocked where it proved nothing before and nobody waives it.

    A waiver is taken only where it is needed, and never one given by whoever opens the release.
    """
    waivers = [
        waiver
        for waiver in tx.agreements.waivers(version.workspace, version.model)
        if waiver.usable(digest=version.digest, environment=environment, now=now) and waiver.actor != opened_by
    ]
    steps = policy.strategy.steps
    taken = {
        waiver.step: waiver
        for waiver in waivers
        if waiver.step is not None and waiver.step < len(steps) and step_name(steps[waiver.step]) == waiver.what
    }
    waived = tuple(waived_step(waiver) for waiver in taken.values())
    if policy.after is None:
        return Brought(waived=waived, waivers=tuple(taken.values()))
    proved = proved_before(tx, version, policy.after)
    if proved is not None:
        return Brought(proved=proved, waived=waived, waivers=tuple(taken.values()))
    passes = next((waiver for waiver in waivers if waiver.skips == policy.after), None)
    if passes is None:
        raise _not_proved(tx, version, policy.after, environment)
    return Brought(waived=waived, waivers=(passes, *taken.values()))


def proved_before(tx: Transaction, version: Version, before: str) -> Proof | None:
    """What the version's bytes proved in the environment `before`; None where they have not stood their bake there."""
    release = proof_of(tx.releases(version.workspace, version.model, before), version.digest)
    if release is None:
        return None
    assert release.completion is not None
    assert release.promoted_at is not None
    assert release.verified_at is not None
    said = [f"{v.kind} {v.body['name']}: {v.body['because']}" for v in tx.verdicts(release.id)]
    return Proof(
        environment=before,
        release=release.id,
        number=release.number,
        completion=release.completion,
        promoted_at=release.promoted_at,
        verified_at=release.verified_at,
        verdicts=tuple(dict.fromkeys(said)),
    )


def _proof_data(proof: Proof) -> dict[str, object]:
    return {
        "environment": proof.environment,
        "release": proof.number,
        "completion": str(proof.completion),
        "promoted_at": proof.promoted_at.isoformat(),
        "verified_at": proof.verified_at.isoformat(),
        "verdicts": list(proof.verdicts),
    }


def _not_proved(tx: Transaction, version: Version, before: str, environment: str) -> Blocked:
    name = version.model if version.workspace == "default" else f"{version.workspace}/{version.model}"
    there = (r for r in tx.releases(version.workspace, version.model, before) if r.digest == version.digest)
    unmeasured = any(r.cause is Cause.BAKE_UNMEASURED for r in there)
    why = ": its bake there measured nothing" if unmeasured else ""
    return Blocked(
        f"version {version.number} has not stood its bake in {before}, which {environment} comes after{why}",
        next_step=f"steersman release {name} {version.number} --environment {before} --because …; or an approver lets this "
        f"version skip it: steersman waive {name} {version.number} --environment {environment} --skip {before} --because …",
    )


def waived_step(waiver: Waiver) -> Waived:
    """A waiver of a step as the release that uses it keeps it."""
    assert waiver.step is not None
    return Waived(
        step=waiver.step, waiver=waiver.id, actor=waiver.actor, because=waiver.because, until=waiver.expires_at
    )
