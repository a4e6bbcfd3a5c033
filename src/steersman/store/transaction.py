"""Every question and every change the control server has for its database, as typed methods.

The SQL of them stands in `statements`. Methods that change a record and could be raced take the record
they read: the write is refused with `Stale` if somebody else wrote in between.
"""

from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from steersman.domain.events import Event
from steersman.domain.incident import Finding, Incident, Training
from steersman.domain.operation import Operation, OperationState
from steersman.domain.release import Release
from steersman.domain.traffic import Challenger
from steersman.domain.version import Version
from steersman.store import statements as q
from steersman.store.agreements import AgreementTables
from steersman.store.credentials import CredentialTables
from steersman.store.evidence import EvidenceTables
from steersman.store.gates import GateTables
from steersman.store.ledger_log import LedgerLog
from steersman.store.records import Stale, StoredDocument, StoredVerdict, columns_of

Record = TypeVar("Record", bound=msgspec.Struct)

__all__ = ("Stale", "Transaction")


def _json(record: object) -> str:
    return msgspec.json.encode(record).decode()


class Transaction:
    """One unit of reading and writing; made by `Store`."""

    def __init__(self, connection: sa.Connection, wall: Callable[[], datetime]) -> None:
        self._connection = connection
        self._ledger = LedgerLog(connection, wall)

    @property
    def credentials(self) -> CredentialTables:
        """People, tokens, login codes and sessions."""
        return CredentialTables(self._connection)

    @property
    def gates(self) -> GateTables:
        """Verdicts of gates that were measured before."""
        return GateTables(self._connection)

    @property
    def agreements(self) -> AgreementTables:
        """Approvals and waivers."""
        return AgreementTables(self._connection)

    @property
    def evidence(self) -> EvidenceTables:
        """Blocks of comparisons, what they are about, and windows."""
        return EvidenceTables(self._connection)

    # --- plumbing

    def _one(self, statement: sa.Select[Any], kind: type[Record], /, **bound: Any) -> Record | None:
        body = self._connection.scalar(statement, bound)
        return None if body is None else _decoder(kind).decode(body)

    def _all(self, statement: sa.Select[Any], kind: type[Record], /, **bound: Any) -> list[Record]:
        decode = _decoder(kind).decode
        return [decode(row[0]) for row in self._connection.execute(statement, bound)]

    def _run(self, statement: sa.Executable, values: dict[str, Any]) -> int:
        return int(self._connection.execute(statement, values).rowcount)

    # --- ledger

    def append(self, event: Event) -> int:
        """Record what happened, in this transaction; returns its index in the ledger."""
        return self._ledger.append(event)

    @property
    def appended(self) -> int:
        return self._ledger.appended

    @property
    def ledger(self) -> LedgerLog:
        return self._ledger

    def flush_ledger(self) -> None:
        self._ledger.flush()

    # --- settings of the installation

    def setting(self, name: str) -> str | None:
        return self._connection.scalar(q.SETTING, {"name": name})

    def put_setting(self, name: str, value: str) -> None:
        self._run(q.DELETE_SETTING, {"name": name})
        self._run(q.INSERT_SETTING, {"name": name, "value": value})

    # --- documents

    def put_document(self, document: StoredDocument) -> None:
        self._run(q.INSERT_DOCUMENT, columns_of(document))

    def document(self, kind: str, workspace: str, name: str) -> StoredDocument | None:
        """The newest revision."""
        row = self._connection.execute(q.DOCUMENT, {"kind": kind, "workspace": workspace, "name": name}).first()
        return None if row is None else _document(row)

    def document_by_digest(self, digest: str) -> StoredDocument | None:
        row = self._connection.execute(q.DOCUMENT_BY_DIGEST, {"digest": digest}).first()
        return None if row is None else _document(row)

    def documents(self, kind: str) -> list[StoredDocument]:
        """The newest revision of every document of a kind, by workspace and name."""
        return [_document(row) for row in self._connection.execute(q.DOCUMENTS, {"kind": kind})]

    # --- versions

    def put_version(self, version: Version) -> None:
        key = {"workspace": version.workspace, "model": version.model, "number": version.number}
        self._run(q.DELETE_VERSION, key)
        self._run(q.INSERT_VERSION, {**key, "digest": version.digest, "body": _json(version)})

    def version(self, workspace: str, model: str, number: int) -> Version | None:
        return self._one(q.VERSION, Version, workspace=workspace, model=model, number=number)

    def versions(self, workspace: str, model: str) -> list[Version]:
        return self._all(q.VERSIONS, Version, workspace=workspace, model=model)

    # --- releases

    def add_release(self, release: Release) -> None:
        self._run(q.INSERT_RELEASE, {"id": release.id, **_release_columns(release)})

    def save_release(self, before: Release, after: Release) -> Release:
        """Write `after` if the row is still `before`; raises Stale otherwise."""
        after = msgspec.structs.replace(after, row=before.row + 1)
        values = {**_release_columns(after), "is_id": before.id, "is_row": before.row}
        if self._run(q.UPDATE_RELEASE, values) != 1:
            raise Stale(f"release {before.id} changed since it was read")
        return after

    def release(self, release_id: str) -> Release | None:
        return self._one(q.RELEASE, Release, id=release_id)

    def releases(
        self, workspace: str | None = None, model: str | None = None, environment: str | None = None
    ) -> list[Release]:
        """Oldest first."""
        bound = _given(workspace=workspace, model=model, environment=environment)
        return self._all(q.releases(*bound), Release, **bound)

    # --- evidence

    def add_verdict(self, verdict: StoredVerdict) -> None:
        values = {
            "subject": verdict.subject,
            "kind": verdict.kind,
            "step": verdict.step,
            "at": verdict.at.isoformat(),
            "body": _json(verdict),
        }
        self._run(q.INSERT_VERDICT, values)

    def verdicts(self, subject: str, kind: str | None = None) -> list[StoredVerdict]:
        bound = _given(subject=subject, kind=kind)
        return self._all(q.verdicts(*bound), StoredVerdict, **bound)

    # --- operations

    def add_operation(self, operation: Operation) -> bool:
        """False if the key was asked for before: the row that is there stands."""
        if self._connection.scalar(q.OPERATION_ID, {"key": operation.key}) is not None:
            return False
        self._run(q.INSERT_OPERATION, {"id": operation.id, "key": operation.key, **_operation_columns(operation)})
        return True

    def operation(self, key: str) -> Operation | None:
        return self._one(q.OPERATION, Operation, key=key)

    def operations_like(self, prefix: str) -> list[Operation]:
        """Operations whose key begins with `prefix`, in the order they were asked for."""
        return self._all(q.OPERATIONS_BETWEEN, Operation, first=prefix, beyond=prefix + "\U0010ffff")

    def open_operations(self) -> list[Operation]:
        """Intended or running, in the order they were asked for."""
        return self._all(q.OPEN_OPERATIONS, Operation)

    def claim(self, operation: Operation, *, owner: str, now_s: float, lease_s: float) -> Operation | None:
        """Take an operation whose lease is free or over; None when somebody else holds it. `now_s` is wall time."""
        current = self.operation(operation.key)
        if current is None or current.state.ended or current.not_before > now_s:
            return None
        if current.lease_owner not in (None, owner) and current.lease_until > now_s:
            return None
        claimed = msgspec.structs.replace(
            current,
            lease_owner=owner,
            lease_until=now_s + lease_s,
            epoch=current.epoch + 1,
            state=OperationState.RUNNING,
        )
        self._run(q.UPDATE_OPERATION, {**_operation_columns(claimed), "is_id": claimed.id})
        return claimed

    def save_operation(self, operation: Operation) -> None:
        """Write a result; raises Stale when the operation was claimed again under a newer epoch."""
        values = {**_operation_columns(operation), "is_id": operation.id, "is_epoch": operation.epoch}
        if self._run(q.UPDATE_OPERATION_OF_EPOCH, values) != 1:
            raise Stale(f"operation {operation.key} was claimed by another process")

    # --- findings, incidents, trainings

    def add_finding(self, finding: Finding) -> None:
        values = {
            "id": finding.id,
            "workspace": finding.workspace,
            "model": finding.model,
            "environment": finding.environment,
            "incident": finding.incident,
            "body": _json(finding),
        }
        self._run(q.INSERT_FINDING, values)

    def findings(self, workspace: str, model: str) -> list[Finding]:
        return self._all(q.FINDINGS, Finding, workspace=workspace, model=model)

    def add_incident(self, incident: Incident) -> None:
        self._run(q.INSERT_INCIDENT, {"id": incident.id, **_incident_columns(incident)})

    def save_incident(self, before: Incident, after: Incident) -> Incident:
        after = msgspec.structs.replace(after, row=before.row + 1)
        values = {**_incident_columns(after), "is_id": before.id, "is_row": before.row}
        if self._run(q.UPDATE_INCIDENT, values) != 1:
            raise Stale(f"incident {before.id} changed since it was read")
        return after

    def incident(self, incident_id: str) -> Incident | None:
        return self._one(q.INCIDENT, Incident, id=incident_id)

    def incidents(
        self, workspace: str | None = None, model: str | None = None, *, open_only: bool = False
    ) -> list[Incident]:
        bound = _given(workspace=workspace, model=model)
        return self._all(q.incidents(*bound, open_only=open_only), Incident, **bound)

    def add_training(self, training: Training) -> None:
        self._run(q.INSERT_TRAINING, {"id": training.id, **_training_columns(training)})

    def save_training(self, training: Training) -> None:
        self._run(q.UPDATE_TRAINING, {**_training_columns(training), "is_id": training.id})

    def training(self, training_id: str) -> Training | None:
        return self._one(q.TRAINING, Training, id=training_id)

    def trainings(self, workspace: str, model: str) -> list[Training]:
        return self._all(q.TRAININGS, Training, workspace=workspace, model=model)

    # --- challengers, routes, monitors, aliases

    def put_challenger(self, challenger: Challenger) -> None:
        place = _place(challenger.workspace, challenger.model, challenger.environment)
        self._run(q.DELETE_CHALLENGER, place)
        self._run(q.INSERT_CHALLENGER, {**place, "body": _json(challenger)})

    def drop_challenger(self, workspace: str, model: str, environment: str) -> None:
        self._run(q.DELETE_CHALLENGER, _place(workspace, model, environment))

    def challenger(self, workspace: str, model: str, environment: str) -> Challenger | None:
        return self._one(q.CHALLENGER, Challenger, **_place(workspace, model, environment))

    def add_route(self, generation: int, at: datetime, body: str) -> None:
        self._run(q.INSERT_ROUTE, {"generation": generation, "at": at.isoformat(), "body": body})

    def newest_route(self) -> tuple[int, str] | None:
        """The newest generation and the configuration it stands for."""
        row = self._connection.execute(q.NEWEST_ROUTE).first()
        return None if row is None else (int(row[0]), str(row[1]))

    def monitor_state(
        self, workspace: str, model: str, environment: str, monitor: str, kind: type[Record]
    ) -> Record | None:
        return self._one(q.MONITOR_STATE, kind, monitor=monitor, **_place(workspace, model, environment))

    def put_monitor_state(
        self, workspace: str, model: str, environment: str, monitor: str, state: msgspec.Struct
    ) -> None:
        key = {**_place(workspace, model, environment), "monitor": monitor}
        self._run(q.DELETE_MONITOR_STATE, key)
        self._run(q.INSERT_MONITOR_STATE, {**key, "body": _json(state)})

    def observed_aliases(self, workspace: str, model: str) -> dict[str, int]:
        rows = self._connection.execute(q.ALIASES, {"workspace": workspace, "model": model})
        return {str(alias): int(number) for alias, number in rows}

    def put_observed_alias(self, workspace: str, model: str, alias: str, number: int | None) -> None:
        """Keep what an alias was pointed to; None when it was taken away."""
        key = {"workspace": workspace, "model": model, "alias": alias}
        self._run(q.DELETE_ALIAS, key)
        if number is not None:
            self._run(q.INSERT_ALIAS, {**key, "number": number})


@cache
def _decoder(kind: type[Record]) -> "msgspec.json.Decoder[Record]":
    """Made once a kind: making one costs more than decoding a record with it."""
    return msgspec.json.Decoder(kind)


def _given(**values: str | None) -> dict[str, str]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _place(workspace: str, model: str, environment: str) -> dict[str, str]:
    return {"workspace": workspace, "model": model, "environment": environment}


def _document(row: Any) -> StoredDocument:
    values = dict(zip(q.DOCUMENT_COLUMNS, row, strict=True))
    return StoredDocument(**{**values, "at": datetime.fromisoformat(values["at"])})


def _release_columns(release: Release) -> dict[str, Any]:
    return {
        "workspace": release.workspace,
        "model": release.model,
        "environment": release.environment,
        "number": release.number,
        "version": release.version,
        "phase": release.phase,
        "completion": release.completion,
        "active": release.active,
        "row": release.row,
        "body": _json(release),
    }


def _operation_columns(operation: Operation) -> dict[str, Any]:
    return {
        "kind": operation.kind,
        "state": operation.state,
        "epoch": operation.epoch,
        "lease_until": operation.lease_until,
        "not_before": operation.not_before,
        "body": _json(operation),
    }


def _incident_columns(incident: Incident) -> dict[str, Any]:
    return {
        "workspace": incident.workspace,
        "model": incident.model,
        "environment": incident.environment,
        "kind": incident.kind,
        "state": incident.state,
        "row": incident.row,
        "body": _json(incident),
    }


def _training_columns(training: Training) -> dict[str, Any]:
    return {
        "workspace": training.workspace,
        "model": training.model,
        "environment": training.environment,
        "outcome": training.outcome,
        "body": _json(training),
    }
