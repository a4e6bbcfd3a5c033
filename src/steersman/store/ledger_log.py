"""Appends to the ledger inside the caller's transaction: the change and its evidence commit together.

SQLite has one writer, so the index is gapless and the Merkle frontier is read and written under the same lock as the
change itself (about 10 µs an entry beside the commit's fsync). The tree's nodes are not stored: proofs are made from
the leaves, which for the thousands of entries a control plane writes in a year takes milliseconds.
"""

from collections.abc import Callable, Iterator
from datetime import datetime

import msgspec
import sqlalchemy as sa

from steersman.domain.events import Event
from steersman.domain.identifiers import new_id
from steersman.ledger.entry import Actor, Entry, Object
from steersman.ledger.merkle import Frontier, leaf_hash
from steersman.store import statements as q
from steersman.store import tables as t

ISSUER = "steersman"
"""Issuer of identities this installation makes itself."""


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    body: bytes


class LedgerLog:
    """The ledger as one transaction sees it; made by `Transaction`."""

    def __init__(self, connection: sa.Connection, wall: Callable[[], datetime]) -> None:
        self._connection = connection
        self._wall = wall
        self._frontier: Frontier | None = None
        self.appended = 0

    def _load(self) -> Frontier:
        if self._frontier is None:
            stored = self._connection.scalar(q.LEDGER_FRONTIER)
            self._frontier = Frontier() if stored is None else Frontier.from_bytes(stored)
        return self._frontier

    def append(self, event: Event) -> int:
        frontier = self._load()
        index = frontier.size
        entry = Entry(
            id=new_id("evt"),
            at=event.at,
            recorded_at=self._wall(),
            actor=Actor(issuer=ISSUER, subject=event.actor, kind=actor_kind(event.actor)),
            action=event.action,
            object=Object(kind=event.kind, workspace=event.workspace, name=event.name),
            because=event.because,
            request_id=event.request_id,
            data=event.data,
        )
        body = entry.body()
        leaf = leaf_hash(body)
        values = {
            "idx": index,
            "id": entry.id,
            "action": event.action,
            "workspace": event.workspace,
            "name": event.name,
            "at": event.at.isoformat(),
            "body": body,
            "leaf": leaf,
        }
        self._connection.execute(q.INSERT_LEDGER_ENTRY, values)
        self._frontier = frontier.append(leaf)
        self.appended += 1
        return index

    def flush(self) -> None:
        """Store the frontier; called once, just before the commit."""
        if not self.appended or self._frontier is None:
            return
        state = {"size": self._frontier.size, "frontier": self._frontier.to_bytes()}
        if self._connection.execute(q.UPDATE_LEDGER_STATE, state).rowcount == 0:
            self._connection.execute(q.INSERT_LEDGER_STATE, {"id": 1, **state})

    def size(self) -> int:
        return self._load().size

    def root(self) -> bytes:
        return self._load().root()

    def rows(self, start: int = 0, limit: int = 1_000_000) -> Iterator[LedgerRow]:
        """Entries in order, from index `start`."""
        for index, body in self._connection.execute(q.LEDGER_ROWS, {"start": start, "most": limit}):
            yield LedgerRow(index=int(index), body=bytes(body))

    def rows_about(self, workspace: str, name: str, limit: int = 500) -> list[LedgerRow]:
        """The newest entries about one object, oldest first."""
        found = self._connection.execute(q.LEDGER_ROWS_ABOUT, {"workspace": workspace, "name": name, "most": limit})
        rows = [LedgerRow(index=int(index), body=bytes(body)) for index, body in found]
        return rows[::-1]

    def count(self, action: str) -> int:
        """How many entries of one action there are."""
        query = sa.select(sa.func.count()).select_from(t.ledger_entry).where(t.ledger_entry.c.action == action)
        return int(self._connection.scalar(query) or 0)

    def leaves(self) -> list[bytes]:
        query = sa.select(t.ledger_entry.c.leaf).order_by(t.ledger_entry.c.idx)
        return [bytes(leaf) for (leaf,) in self._connection.execute(query)]

    def put_checkpoint(self, size: int, note: str) -> None:
        self._connection.execute(sa.delete(t.ledger_checkpoint).where(t.ledger_checkpoint.c.size == size))
        self._connection.execute(sa.insert(t.ledger_checkpoint).values(size=size, note=note))

    def checkpoint(self) -> str | None:
        """The newest signed checkpoint."""
        query = sa.select(t.ledger_checkpoint.c.note).order_by(t.ledger_checkpoint.c.size.desc()).limit(1)
        return self._connection.scalar(query)


def actor_kind(subject: str) -> str:
    """`system` for Steersman's own loops, `service` for ``service:…`` tokens, else `human`."""
    if subject == "system" or subject.startswith("system:"):
        return "system"
    return "service" if subject.startswith("service:") else "human"
