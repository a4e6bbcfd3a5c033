"""One incident: what was found, what was done about it, and whether that helped."""

from dataclasses import dataclass
from datetime import timedelta

from steersman.console.views.entries import EntryView, entry_view, visible
from steersman.console.views.verdicts import VerdictView, verdict_view
from steersman.domain.access import Access, Permission
from steersman.domain.errors import NotFound
from steersman.domain.events import Action
from steersman.domain.incident import Finding, Incident, IncidentState, Training
from steersman.domain.release import Release
from steersman.store.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentPage:
    incident: Incident
    findings: tuple[Finding, ...]
    triage: str
    training: Training | None
    release: Release | None
    recovery: VerdictView | None
    entries: tuple[EntryView, ...]
    may_accept: bool

    @property
    def to_detect(self) -> timedelta:
        return self.incident.detected_at - self.incident.began_at

    @property
    def to_resolve(self) -> timedelta | None:
        resolved = self.incident.resolved_at
        return None if resolved is None else resolved - self.incident.detected_at


def incident_page(tx: Transaction, access: Access, incident_id: str) -> IncidentPage:
    """Raises NotFound where there is no such incident, or none the visitor may read."""
    incident = tx.incident(incident_id)
    if incident is None or not access.allows(Permission.MODEL_READ, incident.workspace):
        raise NotFound(f"there is no incident {incident_id}")
    rows = tx.ledger.rows_about(incident.workspace, incident.id)
    entries = visible([entry_view(row) for row in rows], access)
    recoveries = [verdict_view(stored) for stored in tx.verdicts(incident.id)]
    triage = next((e.because for e in reversed(entries) if e.action == Action.INCIDENT_TRIAGED), "")
    act = access.allows(Permission.INCIDENT_ACT, incident.workspace)
    return IncidentPage(
        incident=incident,
        findings=tuple(f for f in tx.findings(incident.workspace, incident.model) if f.incident == incident.id),
        triage=triage,
        training=tx.training(incident.training) if incident.training else None,
        release=tx.release(incident.release) if incident.release else None,
        recovery=recoveries[-1] if recoveries else None,
        entries=entries,
        may_accept=act and incident.state is not IncidentState.CLOSED,
    )
