"""One incident: what was found, what was done about it, and whether that helped."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from steersman.console.views.entries import EntryView, entry_view, visible
from steersman.console.views.verdicts import Evidence, evidence, present_view
from steersman.decide.judging import judge_paired
from steersman.decide.triaging import MATURED_DAYS_MIN, judge_recovery
from steersman.domain import spec
from steersman.domain.access import Access, Permission
from steersman.domain.errors import NotFound
from steersman.domain.events import Action
from steersman.domain.incident import Finding, Incident, IncidentState, Training
from steersman.domain.release import Release
from steersman.domain.verdicts import Verdict
from steersman.loop.observer import differences
from steersman.loop.watching import recovery_blocks
from steersman.loop.world import Documents
from steersman.store.records import PairBlock
from steersman.store.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentPage:
    incident: Incident
    findings: tuple[Finding, ...]
    triage: str
    training: Training | None
    release: Release | None
    recovery: str
    recovered: str
    evidence: Evidence | None
    entries: tuple[EntryView, ...]
    may_accept: bool

    @property
    def to_detect(self) -> timedelta:
        return self.incident.detected_at - self.incident.began_at

    @property
    def to_resolve(self) -> timedelta | None:
        resolved = self.incident.resolved_at
        return None if resolved is None else resolved - self.incident.detected_at


def incident_page(tx: Transaction, access: Access, documents: Documents, incident_id: str) -> IncidentPage:
    """Raises NotFound where there is no such incident, or none the visitor may read.

    `recovery` is the outcome of the comparison with the replaced version as far as it has come, `recovered` what was
    said when it was verified; both are empty before there is anything.
    """
    incident = tx.incident(incident_id)
    if incident is None or not access.allows(Permission.MODEL_READ, incident.workspace):
        raise NotFound(f"there is no incident {incident_id}")
    rows = [
        *tx.ledger.rows_about(incident.workspace, f"{incident.model}/{incident.kind}"),
        *tx.ledger.rows_about(incident.workspace, incident.id),
    ]
    found = sorted((entry_view(row) for row in rows), key=lambda entry: entry.index)
    entries = visible([e for e in found if incident.id in (e.incident, e.name)], access)
    release = tx.release(incident.release) if incident.release else None
    shown = None if release is None else _evidence(tx, documents, incident, release)
    recovered = next((e.because for e in reversed(entries) if e.action == Action.INCIDENT_RECOVERED), "")
    triage = next((e.because for e in reversed(entries) if e.action == Action.INCIDENT_TRIAGED), "")
    act = access.allows(Permission.INCIDENT_ACT, incident.workspace)
    return IncidentPage(
        incident=incident,
        findings=tuple(f for f in tx.findings(incident.workspace, incident.model) if f.incident == incident.id),
        triage=triage,
        training=tx.training(incident.training) if incident.training else None,
        release=release,
        recovery="successful" if recovered else shown.outcome if shown else "",
        recovered=recovered,
        evidence=shown,
        entries=entries,
        may_accept=act and incident.state is not IncidentState.CLOSED,
    )


def _evidence(tx: Transaction, documents: Documents, incident: Incident, release: Release) -> Evidence | None:
    """The remedy's version in pairs against the replaced one, from its promotion until the incident was closed."""
    if release.promoted_at is None or release.previous is None:
        return None
    model = documents.revision(tx, release.document)
    compared = recovery_blocks(tx, model, release)
    blocks = [
        block
        for block in tx.evidence.pair_blocks(
            release.workspace,
            release.environment,
            release.model,
            reference=release.previous.digest,
            compared=release.digest,
            metric=compared.metric,
            since=release.promoted_at,
        )
        if incident.resolved_at is None or block.block < incident.resolved_at
    ]
    if not blocks:
        return None
    alpha = spec.Bake(duration=timedelta(days=1)).alpha

    def judge(known: Sequence[PairBlock]) -> Verdict:
        return judge_paired(differences(compared.metric, known), margin=0.0, blocks_min=MATURED_DAYS_MIN, alpha=alpha)

    block = timedelta(days=1)
    found = evidence("recovery", compared.metric, blocks, judge, margin=0.0, blocks_min=MATURED_DAYS_MIN, block=block)
    verdict = judge_recovery(compared).verdict
    reached = present_view(verdict, kind="recovery", name=compared.metric, step=0, at=blocks[-1].block)
    return replace(found, verdict=reached)
