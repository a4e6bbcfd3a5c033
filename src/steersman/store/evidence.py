"""Evidence in the database, written once: blocks of comparisons, the requests they are about, and closed windows."""

from datetime import datetime

import msgspec
import sqlalchemy as sa

from steersman.store import tables as t
from steersman.store.records import Cohort, PairBlock, Unmeasured, Window, columns_of


class EvidenceTables:
    """Part of a `Transaction`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def add_pair_block(self, block: PairBlock) -> None:
        self._connection.execute(sa.insert(t.pair_block).values(**columns_of(block)))

    def pair_blocks(
        self,
        workspace: str,
        environment: str,
        model: str,
        *,
        reference: str,
        compared: str,
        metric: str,
        since: datetime,
        mode: str = "paired",
        slice_of: str = "",
    ) -> list[PairBlock]:
        """Blocks that began at or after `since`, oldest first; of all requests, or of one slice (`origin=JFK`)."""
        query = (
            sa.select(t.pair_block)
            .where(
                *_pair_is(t.pair_block, workspace, environment, model, reference, compared),
                t.pair_block.c.metric == metric,
                t.pair_block.c.mode == mode,
                t.pair_block.c.slice == slice_of,
                t.pair_block.c.block >= since.isoformat(),
            )
            .order_by(t.pair_block.c.block)
        )
        return [
            PairBlock(**{**row, "block": datetime.fromisoformat(row["block"])})
            for row in self._connection.execute(query).mappings()
        ]

    def add_unmeasured(self, one: Unmeasured) -> None:
        self._connection.execute(sa.insert(t.unmeasured).values(**columns_of(one)))

    def unmeasured(
        self,
        workspace: str,
        environment: str,
        model: str,
        *,
        reference: str,
        compared: str,
        metric: str,
        since: datetime,
        mode: str = "paired",
    ) -> list[Unmeasured]:
        """Where a metric raised in blocks that began at or after `since`, oldest first: over all requests, and in slices."""
        query = (
            sa.select(t.unmeasured)
            .where(
                *_pair_is(t.unmeasured, workspace, environment, model, reference, compared),
                t.unmeasured.c.metric == metric,
                t.unmeasured.c.mode == mode,
                t.unmeasured.c.block >= since.isoformat(),
            )
            .order_by(t.unmeasured.c.block, t.unmeasured.c.slice)
        )
        return [
            Unmeasured(**{**row, "block": datetime.fromisoformat(row["block"])})
            for row in self._connection.execute(query).mappings()
        ]

    def add_cohort(self, cohort: Cohort) -> None:
        self._connection.execute(sa.insert(t.cohort).values(**columns_of(cohort)))

    def cohorts(
        self,
        workspace: str,
        environment: str,
        model: str,
        *,
        reference: str,
        compared: str,
        since: datetime,
        mode: str = "paired",
    ) -> list[Cohort]:
        """What the blocks from `since` on are about, oldest first: all requests, and each slice."""
        query = (
            sa.select(t.cohort)
            .where(
                *_pair_is(t.cohort, workspace, environment, model, reference, compared),
                t.cohort.c.mode == mode,
                t.cohort.c.block >= since.isoformat(),
            )
            .order_by(t.cohort.c.block, t.cohort.c.slice)
        )
        return [
            Cohort(**{**row, "block": datetime.fromisoformat(row["block"])})
            for row in self._connection.execute(query).mappings()
        ]

    def put_window(self, window: Window, profiles: bytes) -> None:
        """Keep a window; one measured again before a crash was recorded takes the place of the first."""
        self._connection.execute(sa.delete(t.window).where(_window_is(window)))
        self._connection.execute(
            sa.insert(t.window).values(
                workspace=window.workspace,
                environment=window.environment,
                model=window.model,
                digest=window.digest,
                version=window.version,
                start=window.start.isoformat(),
                body=msgspec.json.encode(window).decode(),
                profiles=profiles,
            )
        )

    def save_window(self, window: Window) -> None:
        self._connection.execute(
            sa.update(t.window).where(_window_is(window)).values(body=msgspec.json.encode(window).decode())
        )

    def window(self, workspace: str, environment: str, model: str, digest: str, start: datetime) -> Window | None:
        query = sa.select(t.window.c.body).where(
            t.window.c.workspace == workspace,
            t.window.c.environment == environment,
            t.window.c.model == model,
            t.window.c.digest == digest,
            t.window.c.start == start.isoformat(),
        )
        body = self._connection.scalar(query)
        return None if body is None else msgspec.json.decode(body, type=Window)

    def windows(self, workspace: str, environment: str, model: str, *, digest: str | None = None) -> list[Window]:
        query = (
            sa.select(t.window.c.body)
            .where(t.window.c.workspace == workspace, t.window.c.environment == environment, t.window.c.model == model)
            .order_by(t.window.c.start)
        )
        if digest is not None:
            query = query.where(t.window.c.digest == digest)
        decoder = msgspec.json.Decoder(Window)
        return [decoder.decode(body) for body in self._connection.scalars(query)]

    def profiles(self, workspace: str, environment: str, model: str, digest: str, start: datetime) -> bytes | None:
        return self._connection.scalar(
            sa.select(t.window.c.profiles).where(
                t.window.c.workspace == workspace,
                t.window.c.environment == environment,
                t.window.c.model == model,
                t.window.c.digest == digest,
                t.window.c.start == start.isoformat(),
            )
        )


def _pair_is(
    table: sa.Table, workspace: str, environment: str, model: str, reference: str, compared: str
) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        table.c.workspace == workspace,
        table.c.environment == environment,
        table.c.model == model,
        table.c.reference == reference,
        table.c.compared == compared,
    )


def _window_is(window: Window) -> sa.ColumnElement[bool]:
    return sa.and_(
        t.window.c.workspace == window.workspace,
        t.window.c.environment == window.environment,
        t.window.c.model == window.model,
        t.window.c.digest == window.digest,
        t.window.c.start == window.start.isoformat(),
    )
