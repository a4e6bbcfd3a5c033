"""Findings, incidents, training runs: what is wrong, what is done about it, and what that produced."""

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec


class IncidentKind(StrEnum):
    """One incident per model, environment and cause."""

    DRIFT = "drift"
    PERFORMANCE = "performance"
    CHALLENGER = "challenger"
    RELEASE = "release"


class IncidentState(StrEnum):
    OPEN = "open"
    REMEDYING = "remedying"
    RECOVERING = "recovering"
    CLOSED = "closed"


INCIDENT_TRANSITIONS: dict[IncidentState, frozenset[IncidentState]] = {
    IncidentState.OPEN: frozenset({IncidentState.REMEDYING, IncidentState.CLOSED}),
    IncidentState.REMEDYING: frozenset({IncidentState.OPEN, IncidentState.RECOVERING, IncidentState.CLOSED}),
    IncidentState.RECOVERING: frozenset({IncidentState.OPEN, IncidentState.CLOSED}),
    IncidentState.CLOSED: frozenset(),
}

if set(INCIDENT_TRANSITIONS) != set(IncidentState):
    raise ImportError("an incident state has no row in steersman.domain.incident")


class Remedy(StrEnum):
    ROLLBACK = "rollback"
    RETRAIN = "retrain"
    ACCEPT = "accept"
    NONE = "none"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One bad verdict of one monitor about one window."""

    id: str
    workspace: str
    model: str
    environment: str
    monitor: str
    kind: IncidentKind
    version: int
    began_at: datetime
    found_at: datetime
    because: str
    evidence: dict[str, Any] = {}
    incident: str | None = None


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """`began_at` is when the evidence says it began, `detected_at` when a monitor said so, `resolved_at` when recovery was
    verified (or the incident was closed otherwise): time to detect and to resolve are their differences, in event time."""

    id: str
    workspace: str
    model: str
    environment: str
    kind: IncidentKind
    state: IncidentState
    version: int
    began_at: datetime
    detected_at: datetime
    remedied_at: datetime | None = None
    resolved_at: datetime | None = None
    remedy: Remedy = Remedy.NONE
    training: str | None = None
    release: str | None = None
    attempts: int = 0
    because: str = ""
    row: int = 0


class Purpose(StrEnum):
    RETRAIN = "retrain"
    CHALLENGER = "challenger"


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a model's training command. `known_until` bounds what it may see: rows whose label was known by then."""

    id: str
    workspace: str
    model: str
    environment: str
    purpose: Purpose
    incident: str | None
    started_at: datetime
    known_until: datetime
    data_digest: str | None = None
    rows: int = 0
    holdout_from: datetime | None = None
    seed: int = 0
    finished_at: datetime | None = None
    version: int | None = None
    outcome: str = "running"
    record: dict[str, Any] = {}
