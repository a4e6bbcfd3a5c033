"""One release: where it is, what every step said, and the evidence it was decided on."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from steersman.console.views.entries import EntryView, entry_view, visible
from steersman.console.views.evidence import judging
from steersman.console.views.verdicts import Evidence, VerdictView, present_view, verdict_view
from steersman.decide.explaining import Standing, explain
from steersman.decide.steering import approval_step
from steersman.decide.steps import GATES_STEP, step_name, steps_of
from steersman.domain import spec
from steersman.domain.access import Access, Permission
from steersman.domain.errors import NotFound
from steersman.domain.incident import Incident
from steersman.domain.release import Completion, Opened, Phase, Release
from steersman.domain.version import Version
from steersman.ledger.entry import parse_entry
from steersman.loop.agreeing import waivable
from steersman.loop.checking import newest_check
from steersman.loop.gathering import Readings, approvals_of
from steersman.loop.observer import reading_key
from steersman.loop.standing import circumstances
from steersman.loop.world import Documents
from steersman.store.records import Approval
from steersman.store.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """`state`: done, current, waiting, failed, ahead or skipped."""

    index: int
    name: str
    kind: str
    state: str
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasePage:
    """`checked` is what the newest check of the version's bytes found, before any release. `checks` are verdicts about the
    measuring itself: whether arms got their shares, whether labels came. `lacking` approvals are those of the present step,
    which `roles` may give."""

    release: Release
    standing: Standing
    owner: str
    tier: int
    version: Version | None
    steps: tuple[StepView, ...]
    gates: tuple[VerdictView, ...]
    checked: tuple[VerdictView, ...]
    checks: tuple[VerdictView, ...]
    analyses: tuple[VerdictView, ...]
    guardrails: tuple[VerdictView, ...]
    evidence: tuple[Evidence, ...]
    approvals: tuple[Approval, ...]
    approvals_required: int
    lacking: int
    roles: tuple[str, ...]
    entries: tuple[EntryView, ...]
    incident: Incident | None
    previous: Release | None
    next: Release | None
    before: Release | None
    waivable: tuple[tuple[str, str], ...]
    actions: frozenset[str]


def release_page(
    tx: Transaction, access: Access, documents: Documents, release_id: str, *, now: datetime
) -> ReleasePage:
    """Raises NotFound where there is no such release, or none the visitor may read."""
    release = tx.release(release_id)
    if release is None or not access.allows(Permission.MODEL_READ, release.workspace):
        raise NotFound(f"there is no release {release_id}")
    model = documents.revision(tx, release.document)
    policy = model.spec.environments.get(release.environment, spec.EnvironmentPolicy())
    siblings = tx.releases(release.workspace, release.model, release.environment)
    verdicts = [verdict_view(stored) for stored in tx.verdicts(release.id)]
    rows = tx.ledger.rows_about(release.workspace, f"{release.model}/{release.environment}/{release.number}")
    required = approvals_of(tx, release, model)
    waivable_steps = _waivable(release, policy)
    known = circumstances(tx, documents, release, now=now)
    judged = judging(tx, release, model, verdicts, [parse_entry(row.body) for row in rows])
    return ReleasePage(
        release=release,
        standing=explain(known),
        owner=model.metadata.owner,
        tier=model.spec.tier,
        version=tx.version(release.workspace, release.model, release.version),
        steps=_steps(release, policy, declared=len(model.spec.gates), required=required),
        gates=tuple(_newest(v for v in verdicts if v.kind == "gate")),
        checked=tuple(verdict_view(stored) for stored in newest_check(tx, release)),
        checks=judged.checks,
        analyses=tuple(v for v in verdicts if v.kind in ("analysis", "bake")),
        guardrails=tuple([v for v in verdicts if v.kind == "guardrail"] or _readings(tx, release)),
        evidence=judged.evidence,
        approvals=tuple(tx.agreements.approvals(release.id)),
        approvals_required=required,
        lacking=known.lacking,
        roles=known.roles,
        entries=visible([entry_view(row) for row in rows], access),
        incident=tx.incident(release.incident) if release.incident else None,
        previous=next((r for r in siblings if release.previous and r.id == release.previous.release), None),
        next=next((r for r in siblings if r.number == release.number + 1), None),
        before=next((r for r in siblings if r.number == release.number - 1), None),
        waivable=waivable_steps,
        actions=_actions(release, access, policy, required)
        | _second_thoughts(tx, release, access)
        | frozenset({"waive"} if waivable_steps and _may_waive(tx, release, access) else ()),
    )


def _newest(verdicts: Iterable[VerdictView]) -> list[VerdictView]:
    """One verdict a gate: the last one, in the order of first appearance."""
    by_name: dict[str, VerdictView] = {}
    for verdict in verdicts:
        by_name[verdict.name] = verdict
    return list(by_name.values())


def _readings(tx: Transaction, release: Release) -> list[VerdictView]:
    """What the guardrails last read, where none was broken."""
    stored = tx.monitor_state(release.workspace, release.model, release.environment, reading_key(release), Readings)
    return [
        present_view(reading.verdict, kind="guardrail", name=reading.name, step=release.step, at=stored.at)
        for reading in (stored.readings if stored else ())
        if stored
    ]


def _steps(release: Release, policy: spec.EnvironmentPolicy, *, declared: int, required: int) -> tuple[StepView, ...]:
    """Gates and approval first, then the document's steps, each with what became of it."""
    steps = steps_of(policy, release)
    if release.opened is Opened.ROLLBACK:
        head: list[StepView] = []
    else:
        head = [_head(release, declared, required)]
    return (*head, *(_step(release, index, step, len(steps)) for index, step in enumerate(steps)))


def _head(release: Release, declared: int, required: int) -> StepView:
    name = f"gates ({declared})" if declared else "gates (none)"
    if required:
        name = f"{name} and approval"
    before = release.step == GATES_STEP or release.phase is Phase.PENDING or release.resumes is Phase.PENDING
    if not before:
        state = "done"
    elif release.completion is not None or release.phase is Phase.DEGRADED:
        state = "failed"
    else:
        state = "waiting" if release.phase is Phase.PAUSED else "current"
    said = release.because if state in ("waiting", "failed", "current") else ""
    return StepView(index=GATES_STEP, name=name, kind="gate", state=state, said=said)


def _step(release: Release, index: int, step: spec.Step, total: int) -> StepView:
    here = release.step == index and release.phase is not Phase.PENDING and release.resumes is not Phase.PENDING
    ended = release.completion is not None
    failed = release.degraded_at is not None
    promoted_and_over = ended and not failed
    if promoted_and_over or release.step > index:
        compares = isinstance(step, spec.Mirror | spec.Analysis | spec.Pause)
        state = "skipped" if release.previous is None and compares else "done"
        if release.full and isinstance(step, spec.Analysis | spec.Pause) and promoted_and_over:
            state = "skipped"
        bake_cut = promoted_and_over and release.cause is None and release.verified_at is None
        state = "skipped" if bake_cut and isinstance(step, spec.Bake) else state
    elif here and failed:
        state = "failed"
    elif here:
        state = "waiting" if release.phase is Phase.PAUSED else "current"
    else:
        state = "skipped" if failed or ended else "ahead"
    kind = type(step).__struct_config__.tag
    said = release.because if state in ("failed", "waiting") and index < total else ""
    return StepView(index=index, name=step_name(step), kind=str(kind), state=state, said=said)


def _waivable(release: Release, policy: spec.EnvironmentPolicy) -> tuple[tuple[str, str], ...]:
    """Steps from the present one on that somebody may let the version past; none where it is a rollback, or over."""
    if not release.active or release.phase is Phase.DEGRADED or release.opened is Opened.ROLLBACK:
        return ()
    known = {waived.step for waived in release.waived}
    offered = ((name, what) for name, what in waivable(policy).items() if name != policy.after)
    return tuple((n, f"{n}: {what}") for n, what in offered if int(n) >= release.step and int(n) not in known)


def _may_waive(tx: Transaction, release: Release, access: Access) -> bool:
    """Not who opened the release, nor who made the version."""
    version = tx.version(release.workspace, release.model, release.version)
    authors = (release.opened_by, *(version.author_chain if version else ()))
    return access.principal.actor not in authors and access.allows(Permission.RELEASE_WAIVE, release.workspace)


def _second_thoughts(tx: Transaction, release: Release, access: Access) -> frozenset[str]:
    """One's own approval may be taken back while nothing rests on it."""
    mine = any(
        a.actor == access.principal.actor and a.withdrawn is None and a.step == approval_step(release)
        for a in tx.agreements.approvals(release.id)
    )
    may = mine and release.active and access.allows(Permission.RELEASE_APPROVE, release.workspace)
    return frozenset({"withdraw"} if may else ())


def _actions(release: Release, access: Access, policy: spec.EnvironmentPolicy, required: int) -> frozenset[str]:
    """Forms shown: what fits the state, and what the visitor may do. The server decides again."""
    may = {name for name, permission in ACTIONS.items() if access.allows(permission, release.workspace)}
    return frozenset(may & _fitting(release, policy, required))


ACTIONS = {
    "approve": Permission.RELEASE_APPROVE,
    "reject": Permission.RELEASE_APPROVE,
    "pause": Permission.RELEASE_CONTROL,
    "resume": Permission.RELEASE_CONTROL,
    "promote": Permission.RELEASE_CONTROL,
    "abort": Permission.RELEASE_CONTROL,
    "retry": Permission.RELEASE_CONTROL,
    "rollback": Permission.RELEASE_ROLLBACK,
}


def _fitting(release: Release, policy: spec.EnvironmentPolicy, required: int) -> set[str]:
    if release.completion is not None:
        return {"retry"} if release.completion not in PROMOTED else set()
    if release.phase is Phase.DEGRADED:
        return set()
    if not release.active:
        return {"rollback"} if release.previous is not None and release.opened is not Opened.ROLLBACK else set()
    fits = {"abort", "resume" if release.phase is Phase.PAUSED else "pause"}
    before = release.phase is Phase.PENDING or release.resumes is Phase.PENDING
    if not before:
        fits.add("promote")
    steps = steps_of(policy, release)
    at_approval = 0 <= release.step < len(steps) and isinstance(steps[release.step], spec.Approval)
    if (before and required) or at_approval:
        fits |= {"approve", "reject"}
        fits -= set() if release.held else {"resume"}
    return fits


PROMOTED = (Completion.PROMOTED, Completion.FAST_PROMOTED, Completion.FAST_ROLLED_BACK)
"""Completions after which there is nothing to try again."""
