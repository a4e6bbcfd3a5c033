"""Every question and every change the control server has for its database, as typed methods.

The only SQL of the project stands here and in `tables`. Methods that change a record and could be raced take the record
they read: the write is refused with `Stale` if somebody else wrote in between.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from steersman.domain.events import Event
from steersman.domain.incident import Finding, Incident, IncidentState, Training
from steersman.domain.operation import Operation, OperationState
from steersman.domain.release import Release
from steersman.domain.traffic import Challenger
from steersman.domain.version import Version
from steersman.store import tables as t
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

    def _one(self, statement: Any, kind: type[Record]) -> Record | None:
        row = self._connection.execute(statement).first()
        return None if row is None else msgspec.json.decode(row[0], type=kind)

    def _all(self, statement: Any, kind: type[Record]) -> list[Record]:
        decoder = msgspec.json.Decoder(kind)
        return [decoder.decode(row[0]) for row in self._connection.execute(statement)]

    def _run(self, statement: Any) -> int:
        return int(self._connection.execute(statement).rowcount)

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
        return self._connection.scalar(sa.select(t.installation.c.value).where(t.installation.c.name == name))

    def put_setting(self, name: str, value: str) -> None:
        self._run(sa.delete(t.installation).where(t.installation.c.name == name))
        self._run(sa.insert(t.installation).values(name=name, value=value))

    # --- documents

    def put_document(self, document: StoredDocument) -> None:
        self._run(sa.insert(t.document).values(**columns_of(document)))

    def document(self, kind: str, workspace: str, name: str) -> StoredDocument | None:
        """The newest revision."""
        query = (
            sa.select(t.document)
            .where(t.document.c.kind == kind, t.document.c.workspace == workspace, t.document.c.name == name)
            .order_by(t.document.c.revision.desc())
            .limit(1)
        )
        row = self._connection.execute(query).mappings().first()
        return None if row is None else _document(row)

    def document_by_digest(self, digest: str) -> StoredDocument | None:
        row = (
            self._connection.execute(sa.select(t.document).where(t.document.c.digest == digest).limit(1))
            .mappings()
            .first()
        )
        return None if row is None else _document(row)

    def documents(self, kind: str) -> list[StoredDocument]:
        """The newest revision of every document of a kind, by workspace and name."""
        newest = (
            sa.select(t.document.c.workspace, t.document.c.name, sa.func.max(t.document.c.revision).label("revision"))
            .where(t.document.c.kind == kind)
            .group_by(t.document.c.workspace, t.document.c.name)
            .subquery()
        )
        query = (
            sa.select(t.document)
            .join(
                newest,
                (t.document.c.workspace == newest.c.workspace)
                & (t.document.c.name == newest.c.name)
                & (t.document.c.revision == newest.c.revision),
            )
            .where(t.document.c.kind == kind)
            .order_by(t.document.c.workspace, t.document.c.name)
        )
        return [_document(row) for row in self._connection.execute(query).mappings()]

    # --- versions

    def put_version(self, version: Version) -> None:
        where = (
            (t.version.c.workspace == version.workspace)
            & (t.version.c.model == version.model)
            & (t.version.c.number == version.number)
        )
        self._run(sa.delete(t.version).where(where))
        self._run(
            sa.insert(t.version).values(
                workspace=version.workspace,
                model=version.model,
                number=version.number,
                digest=version.digest,
                body=_json(version),
            )
        )

    def version(self, workspace: str, model: str, number: int) -> Version | None:
        query = sa.select(t.version.c.body).where(
            t.version.c.workspace == workspace, t.version.c.model == model, t.version.c.number == number
        )
        return self._one(query, Version)

    def versions(self, workspace: str, model: str) -> list[Version]:
        query = (
            sa.select(t.version.c.body)
            .where(t.version.c.workspace == workspace, t.version.c.model == model)
            .order_by(t.version.c.number)
        )
        return self._all(query, Version)

    # --- releases

    def add_release(self, release: Release) -> None:
        self._run(sa.insert(t.release).values(id=release.id, **_release_columns(release)))

    def save_release(self, before: Release, after: Release) -> Release:
        """Write `after` if the row is still `before`; raises Stale otherwise."""
        after = msgspec.structs.replace(after, row=before.row + 1)
        changed = self._run(
            sa.update(t.release)
            .where(t.release.c.id == before.id, t.release.c.row == before.row)
            .values(**_release_columns(after))
        )
        if changed != 1:
            raise Stale(f"release {before.id} changed since it was read")
        return after

    def release(self, release_id: str) -> Release | None:
        return self._one(sa.select(t.release.c.body).where(t.release.c.id == release_id), Release)

    def releases(
        self, workspace: str | None = None, model: str | None = None, environment: str | None = None
    ) -> list[Release]:
        """Oldest first."""
        query = sa.select(t.release.c.body).order_by(
            t.release.c.workspace, t.release.c.model, t.release.c.environment, t.release.c.number
        )
        for column, value in (
            (t.release.c.workspace, workspace),
            (t.release.c.model, model),
            (t.release.c.environment, environment),
        ):
            if value is not None:
                query = query.where(column == value)
        return self._all(query, Release)

    # --- evidence

    def add_verdict(self, verdict: StoredVerdict) -> None:
        self._run(
            sa.insert(t.verdict).values(
                subject=verdict.subject,
                kind=verdict.kind,
                step=verdict.step,
                at=verdict.at.isoformat(),
                body=_json(verdict),
            )
        )

    def verdicts(self, subject: str, kind: str | None = None) -> list[StoredVerdict]:
        query = sa.select(t.verdict.c.body).where(t.verdict.c.subject == subject).order_by(t.verdict.c.id)
        if kind is not None:
            query = query.where(t.verdict.c.kind == kind)
        return self._all(query, StoredVerdict)

    # --- operations

    def add_operation(self, operation: Operation) -> bool:
        """False if the key was asked for before: the row that is there stands."""
        if self._connection.scalar(sa.select(t.operation.c.id).where(t.operation.c.key == operation.key)) is not None:
            return False
        self._run(sa.insert(t.operation).values(id=operation.id, key=operation.key, **_operation_columns(operation)))
        return True

    def operation(self, key: str) -> Operation | None:
        return self._one(sa.select(t.operation.c.body).where(t.operation.c.key == key), Operation)

    def operations_like(self, prefix: str) -> list[Operation]:
        """Operations whose key begins with `prefix`, in the order they were asked for."""
        query = (
            sa.select(t.operation.c.body)
            .where(t.operation.c.key >= prefix, t.operation.c.key < prefix + "\U0010ffff")
            .order_by(t.operation.c.seq)
        )
        return self._all(query, Operation)

    def open_operations(self) -> list[Operation]:
        """Intended or running, in the order they were asked for."""
        query = (
            sa.select(t.operation.c.body)
            .where(t.operation.c.state.in_([OperationState.INTENDED, OperationState.RUNNING]))
            .order_by(t.operation.c.seq)
        )
        return self._all(query, Operation)

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
        self._run(sa.update(t.operation).where(t.operation.c.id == claimed.id).values(**_operation_columns(claimed)))
        return claimed

    def save_operation(self, operation: Operation) -> None:
        """Write a result; raises Stale when the operation was claimed again under a newer epoch."""
        changed = self._run(
            sa.update(t.operation)
            .where(t.operation.c.id == operation.id, t.operation.c.epoch == operation.epoch)
            .values(**_operation_columns(operation))
        )
        if changed != 1:
            raise Stale(f"operation {operation.key} was claimed by another process")

    # --- findings, incidents, trainings

    def add_finding(self, finding: Finding) -> None:
        self._run(
            sa.insert(t.finding).values(
                id=finding.id,
                workspace=finding.workspace,
                model=finding.model,
                environment=finding.environment,
                incident=finding.incident,
                body=_json(finding),
            )
        )

    def findings(self, workspace: str, model: str) -> list[Finding]:
        query = (
            sa.select(t.finding.c.body)
            .where(t.finding.c.workspace == workspace, t.finding.c.model == model)
            .order_by(t.finding.c.seq)
        )
        return self._all(query, Finding)

    def add_incident(self, incident: Incident) -> None:
        self._run(sa.insert(t.incident).values(id=incident.id, **_incident_columns(incident)))

    def save_incident(self, before: Incident, after: Incident) -> Incident:
        after = msgspec.structs.replace(after, row=before.row + 1)
        changed = self._run(
            sa.update(t.incident)
            .where(t.incident.c.id == before.id, t.incident.c.row == before.row)
            .values(**_incident_columns(after))
        )
        if changed != 1:
            raise Stale(f"incident {before.id} changed since it was read")
        return after

    def incident(self, incident_id: str) -> Incident | None:
        return self._one(sa.select(t.incident.c.body).where(t.incident.c.id == incident_id), Incident)

    def incidents(
        self, workspace: str | None = None, model: str | None = None, *, open_only: bool = False
    ) -> list[Incident]:
        query = sa.select(t.incident.c.body).order_by(t.incident.c.seq)
        if workspace is not None:
            query = query.where(t.incident.c.workspace == workspace)
        if model is not None:
            query = query.where(t.incident.c.model == model)
        if open_only:
            query = query.where(t.incident.c.state != IncidentState.CLOSED)
        return self._all(query, Incident)

    def add_training(self, training: Training) -> None:
        self._run(sa.insert(t.training).values(id=training.id, **_training_columns(training)))

    def save_training(self, training: Training) -> None:
        self._run(sa.update(t.training).where(t.training.c.id == training.id).values(**_training_columns(training)))

    def training(self, training_id: str) -> Training | None:
        return self._one(sa.select(t.training.c.body).where(t.training.c.id == training_id), Training)

    def trainings(self, workspace: str, model: str) -> list[Training]:
        query = (
            sa.select(t.training.c.body)
            .where(t.training.c.workspace == workspace, t.training.c.model == model)
            .order_by(t.training.c.seq)
        )
        return self._all(query, Training)

    # --- challengers, routes, monitors, aliases

    def put_challenger(self, challenger: Challenger) -> None:
        where = (
            (t.challenger.c.workspace == challenger.workspace)
            & (t.challenger.c.model == challenger.model)
            & (t.challenger.c.environment == challenger.environment)
        )
        self._run(sa.delete(t.challenger).where(where))
        self._run(
            sa.insert(t.challenger).values(
                workspace=challenger.workspace,
                model=challenger.model,
                environment=challenger.environment,
                body=_json(challenger),
            )
        )

    def drop_challenger(self, workspace: str, model: str, environment: str) -> None:
        self._run(
            sa.delete(t.challenger).where(
                t.challenger.c.workspace == workspace,
                t.challenger.c.model == model,
                t.challenger.c.environment == environment,
            )
        )

    def challenger(self, workspace: str, model: str, environment: str) -> Challenger | None:
        query = sa.select(t.challenger.c.body).where(
            t.challenger.c.workspace == workspace,
            t.challenger.c.model == model,
            t.challenger.c.environment == environment,
        )
        return self._one(query, Challenger)

    def add_route(self, generation: int, at: datetime, body: str) -> None:
        self._run(sa.insert(t.route).values(generation=generation, at=at.isoformat(), body=body))

    def newest_route(self) -> tuple[int, str] | None:
        """The newest generation and the configuration it stands for."""
        row = self._connection.execute(
            sa.select(t.route.c.generation, t.route.c.body).order_by(t.route.c.generation.desc()).limit(1)
        ).first()
        return None if row is None else (int(row[0]), str(row[1]))

    def monitor_state(
        self, workspace: str, model: str, environment: str, monitor: str, kind: type[Record]
    ) -> Record | None:
        query = sa.select(t.monitor_state.c.body).where(
            t.monitor_state.c.workspace == workspace,
            t.monitor_state.c.model == model,
            t.monitor_state.c.environment == environment,
            t.monitor_state.c.monitor == monitor,
        )
        return self._one(query, kind)

    def put_monitor_state(
        self, workspace: str, model: str, environment: str, monitor: str, state: msgspec.Struct
    ) -> None:
        values = {"workspace": workspace, "model": model, "environment": environment, "monitor": monitor}
        where = sa.and_(*(t.monitor_state.c[name] == value for name, value in values.items()))
        self._run(sa.delete(t.monitor_state).where(where))
        self._run(sa.insert(t.monitor_state).values(**values, body=_json(state)))

    def observed_aliases(self, workspace: str, model: str) -> dict[str, int]:
        query = sa.select(t.observed_alias.c.alias, t.observed_alias.c.number).where(
            t.observed_alias.c.workspace == workspace, t.observed_alias.c.model == model
        )
        return {str(alias): int(number) for alias, number in self._connection.execute(query)}

    def put_observed_alias(self, workspace: str, model: str, alias: str, number: int | None) -> None:
        """Keep what an alias was pointed to; None when it was taken away."""
        values = {"workspace": workspace, "model": model, "alias": alias}
        where = sa.and_(*(t.observed_alias.c[name] == value for name, value in values.items()))
        self._run(sa.delete(t.observed_alias).where(where))
        if number is not None:
            self._run(sa.insert(t.observed_alias).values(**values, number=number))


def _document(row: Any) -> StoredDocument:
    values = {name: row[name] for name in ("kind", "workspace", "name", "revision", "digest", "actor", "body")}
    return StoredDocument(**values, at=datetime.fromisoformat(row["at"]))


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
