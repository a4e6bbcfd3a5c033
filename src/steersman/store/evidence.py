"""Evidence in the database, written once: blocks of comparisons, the requests they are about, and closed windows."""

from datetime import datetime

import msgspec
import sqlalchemy as sa

from steersman.store import statements as q
from steersman.store.records import Cohort, PairBlock, Unmeasured, Window, columns_of

_windows = msgspec.json.Decoder(Window)


class EvidenceTables:
    """Part of a `Transaction`."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def add_pair_block(self, block: PairBlock) -> None:
        self._connection.execute(q.INSERT_PAIR_BLOCK, columns_of(block))

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
        bound = {**_pair(workspace, environment, model, reference, compared), "metric": metric}
        bound |= {"mode": mode, "slice": slice_of, "since": since.isoformat()}
        rows = self._connection.execute(q.PAIR_BLOCKS, bound).mappings()
        return [PairBlock(**{**row, "block": datetime.fromisoformat(row["block"])}) for row in rows]

    def add_unmeasured(self, one: Unmeasured) -> None:
        self._connection.execute(q.INSERT_UNMEASURED, columns_of(one))

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
        bound = {**_pair(workspace, environment, model, reference, compared), "metric": metric}
        bound |= {"mode": mode, "since": since.isoformat()}
        rows = self._connection.execute(q.UNMEASURED, bound).mappings()
        return [Unmeasured(**{**row, "block": datetime.fromisoformat(row["block"])}) for row in rows]

    def add_cohort(self, cohort: Cohort) -> None:
        self._connection.execute(q.INSERT_COHORT, columns_of(cohort))

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
        bound = {**_pair(workspace, environment, model, reference, compared), "mode": mode, "since": since.isoformat()}
        rows = self._connection.execute(q.COHORTS, bound).mappings()
        return [Cohort(**{**row, "block": datetime.fromisoformat(row["block"])}) for row in rows]

    def put_window(self, window: Window, profiles: bytes) -> None:
        """Keep a window; one measured again before a crash was recorded takes the place of the first."""
        key = _window(window.workspace, window.environment, window.model, window.digest, window.start)
        self._connection.execute(q.DELETE_WINDOW, key)
        body = msgspec.json.encode(window).decode()
        values = {**key, "version": window.version, "body": body, "profiles": profiles}
        self._connection.execute(q.INSERT_WINDOW, values)

    def save_window(self, window: Window) -> None:
        key = _window(window.workspace, window.environment, window.model, window.digest, window.start)
        is_it = {f"is_{name}": value for name, value in key.items()}
        self._connection.execute(q.UPDATE_WINDOW, {**is_it, "body": msgspec.json.encode(window).decode()})

    def window(self, workspace: str, environment: str, model: str, digest: str, start: datetime) -> Window | None:
        body = self._connection.scalar(q.WINDOW_BODY, _window(workspace, environment, model, digest, start))
        return None if body is None else _windows.decode(body)

    def windows(self, workspace: str, environment: str, model: str, *, digest: str | None = None) -> list[Window]:
        bound = {"workspace": workspace, "environment": environment, "model": model}
        if digest is not None:
            bound["digest"] = digest
        return [_windows.decode(row[0]) for row in self._connection.execute(q.windows(*bound), bound)]

    def profiles(self, workspace: str, environment: str, model: str, digest: str, start: datetime) -> bytes | None:
        return self._connection.scalar(q.WINDOW_PROFILES, _window(workspace, environment, model, digest, start))


def _pair(workspace: str, environment: str, model: str, reference: str, compared: str) -> dict[str, str]:
    return dict(zip(q.PAIR, (workspace, environment, model, reference, compared), strict=True))


def _window(workspace: str, environment: str, model: str, digest: str, start: datetime) -> dict[str, str]:
    return dict(zip(q.WINDOW, (workspace, environment, model, digest, start.isoformat()), strict=True))
