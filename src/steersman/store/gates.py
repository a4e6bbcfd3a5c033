"""Verdicts of gates that were measured once: kept under the digest of everything they rest on, so never wrong, only gone.

A convenience, not a record: what a release was decided on stands with the release.
"""

import sqlalchemy as sa

from steersman.store import statements as q
from steersman.store import tables as t

KEPT_MAX = 5_000
"""Verdicts kept, about 1 kB each; the oldest go first and are then measured again."""


class GateTables:
    """Reads and writes within one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def kept(self, key: str) -> str | None:
        """The JSON of a verdict; None where it was never kept, or is no longer."""
        found: str | None = self._connection.scalar(q.GATE_VERDICT, {"key": key})
        return found

    def keep(self, key: str, body: str, *, most: int = KEPT_MAX) -> None:
        """Keep a verdict, and no more than `most` of them."""
        self._connection.execute(q.DELETE_GATE_VERDICT, {"key": key})
        self._connection.execute(q.INSERT_GATE_VERDICT, {"key": key, "body": body})
        newest = sa.select(t.gate_verdict.c.seq).order_by(t.gate_verdict.c.seq.desc()).offset(most).limit(1)
        oldest = self._connection.scalar(newest)
        if oldest is not None:
            self._connection.execute(sa.delete(t.gate_verdict).where(t.gate_verdict.c.seq <= oldest))
