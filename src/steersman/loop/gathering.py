"""Gathers the facts about one release for the planner, from the database and from what was just observed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from steersman.decide.approving import Agreement, approvals_required, counting
from steersman.decide.freezing import frozen
from steersman.decide.gating import outside_envelope
from steersman.decide.rolling_out import Facts, GateFact, GuardrailReading
from steersman.decide.routing import in_progress, promoted
from steersman.decide.steering import approval_step
from steersman.decide.steps import steps_of
from steersman.domain import spec
from steersman.domain.access import Permission, allowed
from steersman.domain.approval import Binding
from steersman.domain.durations import format_duration
from steersman.domain.operation import OperationKind, OperationState
from steersman.domain.release import Opened, Phase, Release
from steersman.domain.verdicts import Outcome, Verdict
from steersman.loop.datasets import horizon
from steersman.loop.observer import Pairing, reading_key
from steersman.loop.weighing import weigh
from steersman.store.records import Approval
from steersman.store.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one look at target and router says about one model in one environment."""

    in_effect: bool
    drained: bool
    broken: str | None


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """Guardrail verdicts of one release, as last measured."""

    at: datetime
    readings: tuple[GuardrailReading, ...] = ()


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What an error budget last said; failed means it is used up."""

    at: datetime
    verdict: Verdict


def budget_key(rule: spec.BurnRate) -> str:
    """Under which monitor name a budget is kept; no monitor can have it."""
    return f"budget/{rule.objective}/{format_duration(rule.period)}"


def gate_key(release: Release) -> str:
    return f"gate/{release.id}"


def gather(
    tx: Transaction,
    release: Release,
    releases: Sequence[Release],
    model: spec.Model,
    *,
    environment: spec.EnvironmentSpec,
    now: datetime,
    seen: Seen,
) -> Facts:
    """Everything `rolling_out.plan` may know about `release`; reads only."""
    policy = model.spec.environments.get(release.environment, spec.EnvironmentPolicy())
    gates, gates_broken = _gates(tx, release)
    oldest = in_progress(releases)
    readings = tx.monitor_state(release.workspace, release.model, release.environment, reading_key(release), Readings)
    standing = promoted(releases)
    newer = [r for r in standing if r.number > release.number]
    undone = bool(newer) and newer[0].opened is Opened.ROLLBACK and newer[0].digest != release.digest
    back = oldest if oldest is not None and oldest.opened is Opened.ROLLBACK else None
    return Facts(
        now=now,
        release=release,
        policy=policy,
        tier=model.spec.tier,
        horizon=horizon(model),
        gates_declared=len(model.spec.gates),
        gates=gates,
        gates_broken=gates_broken,
        in_effect=seen.in_effect,
        drained=seen.drained,
        waits_for=oldest.number if oldest is not None and oldest.id != release.id and release.active else None,
        broken=seen.broken,
        outside=_outside(tx, release, model, gates),
        approvers=agreed(tx, release, policy, now),
        analysis=_analysis(tx, release, model, policy),
        guardrails=readings.readings if readings else (),
        frozen=None if release.opened is Opened.ROLLBACK or release.hotfix else frozen(policy, environment, now),
        exhausted=None if release.opened is Opened.ROLLBACK else without_budget(tx, release, policy),
        stable=standing[-1].arm if standing else None,
        replaced_by=newer[0].number if newer and not undone else None,
        undone_by=newer[0].number if undone else None,
        undoing=back is not None and back.number > release.number and back.digest != release.digest,
    )


def _gates(tx: Transaction, release: Release) -> tuple[tuple[GateFact, ...] | None, str | None]:
    operation = tx.operation(gate_key(release))
    if operation is None or not operation.state.ended:
        return None, None
    if operation.state is not OperationState.SUCCEEDED or operation.kind is not OperationKind.GATE:
        return None, operation.error or "cancelled"
    return msgspec.convert((operation.result or {})["gates"], tuple[GateFact, ...]), None


def approvals_of(tx: Transaction, release: Release, model: spec.Model) -> int:
    """How many people must agree to this release before its first step."""
    policy = model.spec.environments.get(release.environment, spec.EnvironmentPolicy())
    outside = _outside(tx, release, model, _gates(tx, release)[0])
    return approvals_required(
        policy, model.spec.tier, environment=release.environment, outside=outside is not None, hotfix=release.hotfix
    )


def _outside(tx: Transaction, release: Release, model: spec.Model, gates: Sequence[GateFact] | None) -> str | None:
    """Why a release that nobody asked for is beyond its model's envelope; None before its gates, and for people's releases."""
    before_steps = release.phase is Phase.PENDING or release.resumes is Phase.PENDING
    if release.opened is not Opened.REMEDY or release.previous is None or not before_steps or gates is None:
        return None
    candidate = tx.version(release.workspace, release.model, release.version)
    production = tx.version(release.workspace, release.model, release.previous.version)
    assert candidate is not None
    assert production is not None
    compared = [
        fact.verdict
        for gate, fact in zip(model.spec.gates, gates, strict=True)
        if isinstance(gate, spec.PairedGate | spec.DropGate) and fact.applies
    ]
    return outside_envelope(
        model.spec.retrain.envelope, compared=compared, candidate=candidate.format, production=production.format
    )


def agreed(tx: Transaction, release: Release, policy: spec.EnvironmentPolicy, now: datetime) -> tuple[Agreement, ...]:
    """The approvals that count at the present step, by the roles that their givers still have."""
    version = tx.version(release.workspace, release.model, release.version)
    given = (
        Agreement(
            actor=approval.actor,
            roles=_still_held(tx, release.workspace, approval),
            at=approval.at,
            bound=approval.bound,
            withdrawn=approval.withdrawn is not None,
        )
        for approval in tx.agreements.approvals(release.id)
    )
    return counting(
        given,
        binding=binding_of(tx, release),
        authors=(release.opened_by, *(version.author_chain if version else ())),
        expires=(policy.approvals or spec.Approvals()).expires,
        now=now,
    )


def _still_held(tx: Transaction, workspace: str, approval: Approval) -> frozenset[str]:
    """The roles somebody agreed by and holds now; all of them where people are known to another issuer only."""
    person = tx.credentials.user(approval.actor)
    if person is None:
        return frozenset(approval.roles)
    if person.disabled_at is not None or not allowed(person.grants, Permission.RELEASE_APPROVE, workspace):
        return frozenset()
    held = {str(grant.role) for grant in person.grants if grant.covers(workspace)}
    return frozenset(role for role in approval.roles if role in held)


def binding_of(tx: Transaction, release: Release) -> Binding:
    """What an approval given now is bound to."""
    declared = tx.document("Model", release.workspace, release.model)
    return Binding(
        step=approval_step(release),
        environment=release.environment,
        digest=release.digest,
        document=release.document,
        declared=declared.digest if declared is not None else release.document,
        previous=release.previous.digest if release.previous else None,
    )


def present_pairing(
    release: Release, policy: spec.EnvironmentPolicy, declared: tuple[spec.DeclaredMetric, ...] = ()
) -> Pairing | None:
    """The comparison the release's present step rests on: its analysis, or its bake against the replaced version.

    A split counts from where the release was opened, whatever the weight was then: each request carries its probability.
    """
    if release.previous is None or release.opened is Opened.ROLLBACK or release.phase is Phase.PENDING:
        return None
    steps = steps_of(policy, release)
    if release.phase is Phase.VERIFYING:
        bake = next((step for step in steps[release.step :] if isinstance(step, spec.Bake) and step.metrics), None)
        since = release.promoted_at
        judged: spec.Bake | spec.Analysis | None = bake
    else:
        step = steps[release.step] if 0 <= release.step < len(steps) else None
        judged = step if isinstance(step, spec.Analysis) else None
        since = release.step_started_at
    if judged is None or since is None or (release.phase is not Phase.VERIFYING and not release.entered):
        return None
    return pairing_of(release, judged, since, declared)


def pairing_of(
    release: Release,
    judged: spec.Analysis | spec.Bake,
    since: datetime,
    declared: tuple[spec.DeclaredMetric, ...] = (),
) -> Pairing:
    """The comparison a step rests on that began at `since`. The release must have a version to compare with."""
    assert release.previous is not None
    mode = judged.mode if isinstance(judged, spec.Analysis) else spec.AnalysisMode.PAIRED
    return Pairing(
        workspace=release.workspace,
        environment=release.environment,
        model=release.model,
        reference=release.previous.digest,
        compared=release.digest,
        metrics=judged.metrics,
        block=judged.block,
        since=release.opened_at if mode is spec.AnalysisMode.SPLIT else since,
        mode=mode,
        slices=judged.slices,
        declared=declared,
    )


def _analysis(
    tx: Transaction, release: Release, model: spec.Model, policy: spec.EnvironmentPolicy
) -> dict[str, Verdict]:
    pairing = present_pairing(release, policy, model.spec.metrics)
    if pairing is None:
        return {}
    steps = steps_of(policy, release)
    judged = next(s for s in steps[release.step :] if isinstance(s, spec.Bake | spec.Analysis) and s.metrics)
    return {metric: weigh(tx, pairing, metric, judged) for metric in pairing.metrics}


def holding_budgets(
    tx: Transaction, workspace: str, model: str, environment: str, policy: spec.EnvironmentPolicy
) -> list[tuple[spec.BurnRate, Budget | None]]:
    """The error budgets without which no release goes on, and what each last said; None where it was never read."""
    rules = [guardrail.burn_rate for guardrail in policy.guardrails]
    return [
        (rule, tx.monitor_state(workspace, model, environment, budget_key(rule), Budget))
        for rule in rules
        if rule is not None and rule.holds_releases
    ]


def without_budget(tx: Transaction, release: Release, policy: spec.EnvironmentPolicy) -> str | None:
    """Why a used-up error budget keeps the release waiting; a budget that was not read yet does, too."""
    if release.phase is Phase.VERIFYING:
        return None
    for rule, read in holding_budgets(tx, release.workspace, release.model, release.environment, policy):
        if read is None:
            return f"waits for the reading of the error budget of {rule.objective}"
        if read.verdict.outcome is Outcome.FAILED:
            return f"waits until the error budget recovers: {read.verdict.because}"
    return None
