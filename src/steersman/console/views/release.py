"""One release: where it is, what every step said, and the evidence it was decided on."""

from collections.abc import Iterable
from dataclasses import dataclass

from steersman.console.views.entries import EntryView, entry_view, visible
from steersman.console.views.verdicts import Evidence, VerdictView, evidence, verdict_view
from steersman.decide.rolling_out import GATES_STEP, step_name, steps_of, verdict_data
from steersman.decide.steering import approval_step
from steersman.domain import spec
from steersman.domain.access import Access, Permission
from steersman.domain.errors import NotFound
from steersman.domain.incident import Incident
from steersman.domain.release import Completion, Opened, Phase, Release
from steersman.domain.version import Version
from steersman.loop.gathering import Readings, approvals_of
from steersman.loop.observer import reading_key
from steersman.loop.world import Documents
from steersman.store.records import Approval, PairBlock, StoredVerdict
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
    release: Release
    owner: str
    tier: int
    version: Version | None
    steps: tuple[StepView, ...]
    gates: tuple[VerdictView, ...]
    analyses: tuple[VerdictView, ...]
    guardrails: tuple[VerdictView, ...]
    evidence: tuple[Evidence, ...]
    approvals: tuple[Approval, ...]
    approvals_required: int
    entries: tuple[EntryView, ...]
    incident: Incident | None
    previous: Release | None
    next: Release | None
    before: Release | None
    actions: frozenset[str]


def release_page(tx: Transaction, access: Access, documents: Documents, release_id: str) -> ReleasePage:
    """Raises NotFound where there is no such release, or none the visitor may read."""
    release = tx.release(release_id)
    if release is None or not access.allows(Permission.MODEL_READ, release.workspace):
        raise NotFound(f"there is no release {release_id}")
    model = documents.revision(tx, release.document)
    policy = model.spec.environments.get(release.environment, spec.EnvironmentPolicy())
    siblings = tx.releases(release.workspace, release.model, release.environment)
    verdicts = [verdict_view(stored) for stored in tx.verdicts(release.id)]
    rows = tx.ledger.rows_about(release.workspace, f"{release.model}/{release.environment}/{release.number}")
    entries = visible([entry_view(row) for row in rows], access)
    required = approvals_of(tx, release, model)
    guardrails = [v for v in verdicts if v.kind == "guardrail"] or _readings(tx, release)
    return ReleasePage(
        release=release,
        owner=model.metadata.owner,
        tier=model.spec.tier,
        version=tx.version(release.workspace, release.model, release.version),
        steps=_steps(release, policy, declared=len(model.spec.gates), required=required),
        gates=tuple(_newest(v for v in verdicts if v.kind == "gate")),
        analyses=tuple(v for v in verdicts if v.kind in ("analysis", "bake")),
        guardrails=tuple(guardrails),
        evidence=_evidence(tx, release, policy),
        approvals=tuple(tx.approvals(release.id)),
        approvals_required=required,
        entries=entries,
        incident=tx.incident(release.incident) if release.incident else None,
        previous=next((r for r in siblings if release.previous and r.id == release.previous.release), None),
        next=next((r for r in siblings if r.number == release.number + 1), None),
        before=next((r for r in siblings if r.number == release.number - 1), None),
        actions=_actions(release, access, policy, required) | _second_thoughts(tx, release, access),
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
        verdict_view(
            StoredVerdict(
                subject=release.id,
                kind="guardrail",
                step=release.step,
                at=release.step_started_at,
                body=verdict_data(reading.name, reading.verdict),
            )
        )
        for reading in (stored.readings if stored else ())
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
        bake_cut = release.completion is Completion.PROMOTED and "took its place" in release.because
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


def _evidence(tx: Transaction, release: Release, policy: spec.EnvironmentPolicy) -> tuple[Evidence, ...]:
    """Blocks of the shadow end where the promotion begins; those of the bake begin there."""
    if release.previous is None or release.opened is Opened.ROLLBACK:
        return ()
    found = []
    for step in steps_of(policy, release):
        if not isinstance(step, spec.Analysis | spec.Bake):
            continue
        part = "bake" if isinstance(step, spec.Bake) else "analysis"
        for metric in step.metrics:
            blocks = [b for b in _blocks(tx, release, metric) if _in_part(b, release, part)]
            if blocks:
                found.append(
                    evidence(
                        part,
                        metric,
                        blocks,
                        margin=step.margin,
                        alpha=step.alpha,
                        blocks_min=step.blocks_min,
                        block=step.block,
                    )
                )
    return tuple(found)


def _blocks(tx: Transaction, release: Release, metric: str) -> list[PairBlock]:
    assert release.previous is not None
    return tx.pair_blocks(
        release.workspace,
        release.environment,
        release.model,
        reference=release.previous.digest,
        compared=release.digest,
        metric=metric,
        since=release.opened_at.replace(hour=0, minute=0, second=0, microsecond=0),
    )


def _in_part(block: PairBlock, release: Release, part: str) -> bool:
    promoted = release.promoted_at
    if part == "bake":
        ends = release.closed_at
        return promoted is not None and block.block >= promoted.replace(hour=0) and (ends is None or block.block < ends)
    return promoted is None or block.block < promoted.replace(hour=0)


def _second_thoughts(tx: Transaction, release: Release, access: Access) -> frozenset[str]:
    """What takes something back: one's own approval, or the end of a release that did not make it."""
    found = set()
    mine = any(
        a.actor == access.principal.actor and a.withdrawn is None and a.step == approval_step(release)
        for a in tx.approvals(release.id)
    )
    if mine and release.active and access.allows(Permission.RELEASE_APPROVE, release.workspace):
        found.add("withdraw")
    again = release.completion in (Completion.ABORTED, Completion.SUPERSEDED, Completion.ROLLED_BACK)
    if again and release.opened is not Opened.ROLLBACK and access.allows(Permission.RELEASE_CONTROL, release.workspace):
        found.add("retry")
    return frozenset(found)


def _actions(release: Release, access: Access, policy: spec.EnvironmentPolicy, required: int) -> frozenset[str]:
    """Forms shown: what fits the state, and what the visitor may do. The server decides again."""
    fits: set[str] = set()
    if release.completion is None and release.phase is not Phase.DEGRADED:
        if release.active:
            fits |= {"abort", "promote"}
            fits.add("resume" if release.phase is Phase.PAUSED else "pause")
        steps = steps_of(policy, release)
        at_approval = 0 <= release.step < len(steps) and isinstance(steps[release.step], spec.Approval)
        before = release.phase is Phase.PENDING or release.resumes is Phase.PENDING
        if (before and required) or (at_approval and release.active):
            fits |= {"approve", "reject"}
            fits -= set() if release.held else {"resume"}
    control = access.allows(Permission.RELEASE_CONTROL, release.workspace)
    approve = access.allows(Permission.RELEASE_APPROVE, release.workspace)
    may = {"abort", "promote", "pause", "resume"} if control else set()
    return frozenset(fits & (may | ({"approve", "reject"} if approve else set())))
