"""Approvals and waivers in the database: who agreed to what, and what was let pass, once."""

from datetime import datetime

import msgspec
import sqlalchemy as sa

from steersman.domain.approval import Waiver
from steersman.store import tables as t
from steersman.store.records import Approval, Stale


class AgreementTables:
    """Part of a `Transaction`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def put_approval(self, approval: Approval) -> None:
        """Keep an approval; a renewed one takes the place of the one that expired, a withdrawn one of the one that counted."""
        key = {"release": approval.release, "step": approval.step, "actor": approval.actor}
        for table in (t.approval, t.approval_terms):
            is_it = (table.c.release == approval.release) & (table.c.step == approval.step)
            self._connection.execute(sa.delete(table).where(is_it, table.c.actor == approval.actor))
        row = {**key, "at": approval.at.isoformat(), "because": approval.because}
        self._connection.execute(sa.insert(t.approval).values(**row))
        body = msgspec.json.encode(approval).decode()
        self._connection.execute(sa.insert(t.approval_terms).values(**key, body=body))

    def approvals(self, release: str) -> list[Approval]:
        """In the order they were given, withdrawn ones too."""
        a, terms = t.approval, t.approval_terms
        same = (terms.c.release == a.c.release) & (terms.c.step == a.c.step) & (terms.c.actor == a.c.actor)
        query = sa.select(a, terms.c.body).outerjoin(terms, same).where(a.c.release == release)
        rows = self._connection.execute(query.order_by(a.c.at, a.c.id)).mappings()
        return [
            msgspec.json.decode(row["body"], type=Approval)
            if row["body"] is not None
            else Approval(
                release=row["release"],
                step=row["step"],
                actor=row["actor"],
                at=datetime.fromisoformat(row["at"]),
                because=row["because"],
            )
            for row in rows
        ]

    def add_waiver(self, waiver: Waiver) -> None:
        place = {"workspace": waiver.workspace, "model": waiver.model, "environment": waiver.environment}
        body = msgspec.json.encode(waiver).decode()
        self._connection.execute(sa.insert(t.waiver).values(id=waiver.id, **place, body=body))

    def use_waiver(self, waiver: Waiver, *, release: str) -> None:
        """Raises Stale if another release took it meanwhile: it is good for one."""
        used = msgspec.json.encode(msgspec.structs.replace(waiver, used_by=release)).decode()
        where = (t.waiver.c.id == waiver.id) & (t.waiver.c.body == msgspec.json.encode(waiver).decode())
        if self._connection.execute(sa.update(t.waiver).where(where).values(body=used)).rowcount != 1:
            raise Stale(f"waiver {waiver.id} was used meanwhile")

    def waivers(self, workspace: str, model: str) -> list[Waiver]:
        """Oldest first, used ones too."""
        query = sa.select(t.waiver.c.body).where(t.waiver.c.workspace == workspace, t.waiver.c.model == model)
        decoder = msgspec.json.Decoder(Waiver)
        return [decoder.decode(row[0]) for row in self._connection.execute(query.order_by(t.waiver.c.seq))]
