"""Approvals and waivers in the database: who agreed to what, and what was let pass, once."""

from datetime import datetime

import msgspec
import sqlalchemy as sa

from steersman.domain.approval import Waiver
from steersman.store import statements as q
from steersman.store.records import Approval, Stale

_approval = msgspec.json.Decoder(Approval)
_waiver = msgspec.json.Decoder(Waiver)


class AgreementTables:
    """Part of a `Transaction`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def put_approval(self, approval: Approval) -> None:
        """Keep an approval; a renewed one takes the place of the one that expired, a withdrawn one of the one that counted."""
        key = {"release": approval.release, "step": approval.step, "actor": approval.actor}
        self._connection.execute(q.DELETE_APPROVAL, key)
        self._connection.execute(q.DELETE_APPROVAL_TERMS, key)
        row = {**key, "at": approval.at.isoformat(), "because": approval.because}
        self._connection.execute(q.INSERT_APPROVAL, row)
        body = msgspec.json.encode(approval).decode()
        self._connection.execute(q.INSERT_APPROVAL_TERMS, {**key, "body": body})

    def approvals(self, release: str) -> list[Approval]:
        """In the order they were given, withdrawn ones too."""
        rows = self._connection.execute(q.APPROVALS, {"release": release})
        return [
            _approval.decode(body)
            if body is not None
            else Approval(release=release, step=step, actor=actor, at=datetime.fromisoformat(at), because=because)
            for step, actor, at, because, body in rows
        ]

    def add_waiver(self, waiver: Waiver) -> None:
        place = {"workspace": waiver.workspace, "model": waiver.model, "environment": waiver.environment}
        body = msgspec.json.encode(waiver).decode()
        self._connection.execute(q.INSERT_WAIVER, {"id": waiver.id, **place, "body": body})

    def use_waiver(self, waiver: Waiver, *, release: str) -> None:
        """Raises Stale if another release took it meanwhile: it is good for one."""
        used = msgspec.json.encode(msgspec.structs.replace(waiver, used_by=release)).decode()
        is_it = {"is_id": waiver.id, "is_body": msgspec.json.encode(waiver).decode()}
        if self._connection.execute(q.UPDATE_WAIVER, {**is_it, "body": used}).rowcount != 1:
            raise Stale(f"waiver {waiver.id} was used meanwhile")

    def waivers(self, workspace: str, model: str) -> list[Waiver]:
        """Oldest first, used ones too."""
        rows = self._connection.execute(q.WAIVERS, {"workspace": workspace, "model": model})
        return [_waiver.decode(row[0]) for row in rows]
