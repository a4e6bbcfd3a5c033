"""The committer: turns segments of the write-ahead log into Delta commits, each record exactly once.

Each commit says up to which position of the segment stream its table now has the records (`steersman.dataplane.deltas`).
After a crash between two tables the log is simply read again and each table takes what lies beyond its own position. The
note in `wal/committed.json` of how far everything is done saves reading most of it; it never says more than is on the disk.
A segment is deleted when a newer one exists and all of it is committed, files and log synced to disk: by this process, which
can wait, and not by the router.

    python -m steersman.dataplane.committer --state DIR [--interval-s 5] [--bytes 16777216]

It commits when enough bytes wait, when `interval-s` passed (0: never by time), and on `POST /flush` at
`run/committer.sock`, which returns when everything written before the call is in the tables. Beside it, and never in its
way, runs the upkeep of the tables (`steersman.dataplane.upkeep`). As the one writer it also deletes (`POST /expire`,
`POST /erase`; `steersman.dataplane.removal`), after a commit, so that what waits in the log is deleted too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import functools
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import polars as pl
import uvloop
from deltalake.exceptions import DeltaError

from steersman.dataplane import capture, expansion, priority, sockets, tables
from steersman.dataplane.apart import Apart, ApartError
from steersman.dataplane.capture import Context, Labels, Prediction, SegmentReader
from steersman.dataplane.deltas import DeltaTables
from steersman.dataplane.exchange import Exchange, Refusal
from steersman.dataplane.handles import write_handle
from steersman.dataplane.listening import EdgeServer
from steersman.dataplane.priority import Session
from steersman.dataplane.removal import Counts, EraseRequest, ExpireRequest, Remover
from steersman.dataplane.storage import LocalStorage, Storage, StorageError, StorageRefusedError, open_storage
from steersman.dataplane.tables import TooManyTablesError
from steersman.dataplane.upkeep import Upkeep

BATCH_ROWS_MAX = 10_000
"""Rows of one commit: bounds the committer's memory (about 1 kB a row while it is expanded), of which the allocators keep what
the largest commit needed (`docs/decisions/0026`)."""

RETRY_S = 5.0
"""Pause after a failed commit."""

DAMAGED_KEPT_MAX = 20
"""Segments set aside because something in them could not be read."""

PATIENCE = ((10.0, 10), (20.0, priority.HURRIED), (60.0, 0))
"""Wall seconds of one commit, and how far it then steps forward, to its end. With a tenth of a core left over it is done in half
of the first; where callers leave nothing, the log must not grow without end. By steps, because a third of a core at once is
more than it needs and what callers then lack (`docs/decisions/0026`)."""

AWAITED_S = 10.0
"""Wall seconds that somebody has waited for a flush or a deletion, after which it takes its full share."""

LOOK_S = 0.5
"""Pause between looks at what waits; a look is one `stat` of the newest segment."""

UPKEEP_PAUSE_S = 1.0
"""Pause between two pieces of upkeep, and between two looks whether one is due: commits have the machine meanwhile."""

REQUEST_BYTES_MAX = 64 * 1024
"""Of a request on the socket: names, a date, an entity."""

REQUEST_S = 5.0

COMMIT_ERRORS = (DeltaError, OSError, TooManyTablesError, pl.exceptions.PolarsError)
"""What a place of tables that is full, gone or changed by others makes of a commit: the log keeps what waits."""

T = TypeVar("T")
R = TypeVar("R", ExpireRequest, EraseRequest)

_OFFSET = 0xFFFF_FFFF

_log = logging.getLogger("steersman.committer")


class Committed(msgspec.Struct):
    """How far each stream is in the tables and these are on the disk; a note that saves reading, never the truth."""

    positions: dict[str, int] = {}
    versions: dict[str, int] = {}
    """Of the tables, by path: up to which everything is on the disk."""


class CommitterCounts(msgspec.Struct):
    commits: int = 0
    rows: int = 0
    flushes: int = 0
    damaged_frames: int = 0
    torn_bytes: int = 0
    segments_deleted: int = 0
    last_error: str | None = None
    last_commit_ms: float = 0.0


class _Pending(msgspec.Struct):
    """Records read but not committed, by table; `end` is the position behind the last one."""

    predictions: dict[tuple[str, str, str], list[tuple[int, Context, Prediction]]] = {}
    labels: dict[tuple[str, str], list[tuple[int, Labels]]] = {}
    rows: int = 0
    end: int = 0


class Committer:
    """Reads segments and commits; one a state directory, used from one thread at a time."""

    def __init__(
        self, state: Path, storage: Storage | None = None, *, committed: Callable[[str], None] = lambda _table: None
    ) -> None:
        """Without `storage` the tables are in the state directory; `committed` hears the path of each table written."""
        self.counts = CommitterCounts()
        self._wal = state / "wal"
        self._storage = storage or LocalStorage(state / "tables")
        self._note = self._wal / "committed.json"
        self._contexts: dict[bytes, Context] = {}
        self._wal.mkdir(parents=True, exist_ok=True)
        try:
            noted = msgspec.json.decode(self._note.read_bytes(), type=Committed)
        except (FileNotFoundError, msgspec.DecodeError):
            noted = Committed()
        self._tables = DeltaTables(self._storage, committed, synced=noted.versions)
        self._positions = noted.positions
        """How far each stream is in the tables, as this process knows: ahead of the note."""

    def waiting_bytes(self) -> int:
        """Bytes written and not yet committed, over all streams."""
        waiting = 0
        for stream in capture.streams(self._wal):
            done = self._positions.get(stream, 0)
            for number, path in capture.segments(self._wal, stream):
                if number >= done >> 32:
                    start = done & _OFFSET if number == done >> 32 else len(capture.MAGIC)
                    waiting += max(0, path.stat().st_size - start)
        return waiting

    def commit_all(self) -> int:
        """Commit everything written before the call; returns the rows committed. Raises DeltaError, OSError."""
        before = self.counts.rows
        for stream in capture.streams(self._wal):
            closed: list[SegmentReader] = []
            for pending in self._read(stream, closed):
                self._commit(stream, pending)
                self._positions[stream] = pending.end
            self._remove(closed)
        return self.counts.rows - before

    # --- reading the log ---------------------------------------------------------------------------------------------

    def _read(self, stream: str, closed: list[SegmentReader]) -> Iterator[_Pending]:
        """What lies beyond the noted position, in portions. Closed segments read to their end go to `closed`."""
        done = self._positions.get(stream, 0)
        existing = capture.segments(self._wal, stream)
        newest = existing[-1][0] if existing else 0
        if existing and capture.abandoned(self._wal, stream):
            newest += 1  # asked after the list was made: whoever writes the stream next begins beyond it
        pending = _Pending(end=done)
        for number, path in existing:
            reader = SegmentReader(path, closed=number < newest)
            if number >= done >> 32:
                for offset, record in reader.records(done & _OFFSET if number == done >> 32 else 0):
                    if isinstance(record, Context):
                        self._contexts[record.id] = record
                        continue
                    self._add(pending, path, number << 32 | offset, record)
                    if pending.rows >= BATCH_ROWS_MAX:
                        yield pending
                        pending = _Pending(end=pending.end)
                pending.end = max(pending.end, number << 32 | reader.offset)
            if number < newest:
                closed.append(reader)
        if pending.end > done or pending.rows:
            yield pending

    def _add(self, pending: _Pending, path: Path, position: int, record: Prediction | Labels) -> None:
        pending.end = position
        if isinstance(record, Labels):
            pending.labels.setdefault((record.workspace, record.model), []).append((position, record))
            pending.rows += len(record.event_ids)
            return
        if record.context not in self._contexts:
            self._learn_contexts(path)
        context = self._contexts.get(record.context)
        if context is None:  # it lay in a damaged frame
            self.counts.damaged_frames += 1
            return
        key = (context.workspace, context.environment, context.model)
        pending.predictions.setdefault(key, []).append((position, context, record))
        pending.rows += len(record.event_ids)

    def _learn_contexts(self, path: Path) -> None:
        """Read a segment's contexts from its head, which a reader that resumed in its middle has not seen."""
        for _, record in SegmentReader(path, closed=True).records():
            if isinstance(record, Context):
                self._contexts[record.id] = record

    # --- committing --------------------------------------------------------------------------------------------------

    def _commit(self, stream: str, pending: _Pending) -> None:
        for (workspace, environment, model), found in pending.predictions.items():
            folder = tables.predictions_folder(workspace, environment, model)
            for name, items in self._by_table(folder, found).items():
                table = tables.read_catalogue(self._storage, folder).table(name)
                rows = functools.partial(expansion.prediction_rows, table)
                self._append(f"{folder}/{name}", stream, items, pending.end, rows)
        for (workspace, model), arrived in pending.labels.items():
            self._append(tables.labels_table(workspace, model), stream, arrived, pending.end, expansion.label_rows)

    def _append(
        self,
        path: str,
        stream: str,
        items: Sequence[tuple[int, T]],
        end: int,
        frame_of: Callable[[Sequence[tuple[int, T]]], pl.DataFrame],
    ) -> None:
        rows = self._tables.append_once(path, stream, items, end, frame_of)
        if rows:
            self.counts.commits += 1
            self.counts.rows += rows
            self.counts.last_commit_ms = self._tables.last_commit_ms

    def forget(self, workspace: str, model: str) -> None:
        """Somebody else of this process changed the model's tables: read their logs again before the next commit."""
        for path in tables.tables_of(self._storage, workspace, model):
            self._tables.forget(path)

    def _by_table(
        self, folder: str, found: list[tuple[int, Context, Prediction]]
    ) -> dict[str, list[tuple[int, tuple[Context, Prediction]]]]:
        """Sort records to the tables their signatures belong to; new signatures are written down first."""
        catalogue = tables.read_catalogue(self._storage, folder)
        changed = False
        grouped: dict[str, list[tuple[int, tuple[Context, Prediction]]]] = {}
        for position, context, record in found:
            changed |= catalogue.assign(context.id.hex(), tables.inputs_of(context.signature))
            grouped.setdefault(catalogue.contexts[context.id.hex()], []).append((position, (context, record)))
        if changed:
            tables.write_catalogue(self._storage, folder, catalogue)
        return grouped

    def _sync(self) -> None:
        """Bring the tables to the disk, then the note: after a power cut one ahead of them would hide records of the log."""
        self._tables.sync()
        staging = self._note.with_suffix(".new")
        with staging.open("wb") as file:
            file.write(msgspec.json.encode(Committed(self._positions, self._tables.synced)))
            file.flush()
            os.fsync(file.fileno())  # before a segment is deleted: with its name, the note of what was in it
        staging.rename(self._note)

    # --- letting go of segments --------------------------------------------------------------------------------------

    def _remove(self, closed: list[SegmentReader]) -> None:
        """Delete committed closed segments, once the tables are on the disk. What could not be read is set aside."""
        if not closed:
            return
        self._sync()
        for reader in closed:
            if reader.damaged_frames or reader.torn_bytes:
                self.counts.damaged_frames += reader.damaged_frames
                self.counts.torn_bytes += reader.torn_bytes
                _log.error(
                    "%s: %d damaged records, %d bytes of an unfinished one; kept as %s",
                    reader.path.name,
                    reader.damaged_frames,
                    reader.torn_bytes,
                    reader.path.with_suffix(capture.DAMAGED).name,
                )
                reader.path.rename(reader.path.with_suffix(capture.DAMAGED))
            else:
                reader.path.unlink(missing_ok=True)
            self.counts.segments_deleted += 1
        for path in sorted(self._wal.glob(f"*{capture.DAMAGED}"))[:-DAMAGED_KEPT_MAX]:
            path.unlink()


class Service:
    """The process around a committer: when to commit and to keep up, and the socket."""

    def __init__(
        self,
        committer: Committer,
        upkeep: Upkeep,
        remover: Remover,
        session: Session,
        *,
        interval_s: float,
        bytes_max: int,
    ) -> None:
        self._committer = committer
        self._upkeep = upkeep
        self._remover = remover
        self._session = session
        self._interval_s = interval_s
        self._bytes_max = bytes_max
        self._one_at_a_time = asyncio.Lock()
        self._last_s = time.monotonic()
        self._nice = priority.NICE

    @contextlib.asynccontextmanager
    async def _turn(self, *, awaited: bool) -> AsyncIterator[None]:
        """Have the tables alone, in the background for as long as that goes well. Who is `awaited` hurries those before it."""
        loop = asyncio.get_running_loop()
        due = loop.time() + AWAITED_S
        steps = [loop.call_at(due, self._hurry, 0)] if awaited else []
        try:
            async with self._one_at_a_time:
                if not awaited:
                    steps = [loop.call_later(after_s, self._hurry, nice) for after_s, nice in PATIENCE]
                elif loop.time() >= due:
                    self._hurry(0)
                try:
                    yield
                finally:
                    if self._nice < priority.NICE:
                        self._nice = priority.NICE
                        self._session.step_back(patience_s=LOOK_S)
        finally:
            for step in steps:
                step.cancel()

    def _hurry(self, nice: int) -> None:
        if nice < self._nice:
            self._nice = nice
            self._session.step_forward(nice, patience_s=LOOK_S)

    async def commit(self, *, awaited: bool = False) -> int:
        async with self._turn(awaited=awaited):
            try:
                rows = await asyncio.to_thread(self._committer.commit_all)
            except Exception as error:
                self._committer.counts.last_error = f"{type(error).__name__}: {error}"[:500]
                raise
            finally:
                self._last_s = time.monotonic()
            self._committer.counts.last_error = None
            return rows

    async def commit_when_due(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            waiting = self._committer.waiting_bytes()
            overdue = self._interval_s > 0 and time.monotonic() - self._last_s >= self._interval_s
            if waiting >= self._bytes_max or (waiting and overdue):
                try:
                    await self.commit()
                except COMMIT_ERRORS as error:
                    _log.error("commit failed, will be tried again: %s", error)
                    await asyncio.sleep(RETRY_S)

    async def keep_up(self) -> None:
        """Compact, checkpoint and vacuum beside the commits, one piece after the other."""
        with contextlib.suppress(*COMMIT_ERRORS):  # tables that get commits are told by the committer
            await asyncio.to_thread(self._upkeep.find)
        while True:
            await asyncio.sleep(UPKEEP_PAUSE_S)
            try:
                await asyncio.to_thread(self._upkeep.turn)
                self._upkeep.counts.last_error = None
            except (*COMMIT_ERRORS, ApartError) as error:
                self._upkeep.counts.last_error = f"{type(error).__name__}: {error}"[:500]
                _log.error("upkeep of a table failed, will be tried again: %s", error)
                await asyncio.sleep(RETRY_S)

    async def remove(self, request: ExpireRequest | EraseRequest) -> Counts:
        """Commit what waits, so that it is removed too; then delete while nobody else writes."""

        def work() -> Counts:
            self._committer.commit_all()
            with self._upkeep.alone:
                try:
                    if isinstance(request, ExpireRequest):
                        return self._remover.expire(request)
                    return self._remover.erase(request)
                finally:
                    self._committer.forget(request.workspace, request.model)

        async with self._turn(awaited=True):
            return await asyncio.to_thread(work)

    async def app(self, exchange: Exchange, key: bytes) -> None:
        try:
            if not sockets.key_matches(exchange.headers, key):
                raise Refusal(401, "the socket's key is missing or wrong", "read it from the file beside the socket")
            try:
                exchange.answer(200, await self._answer(exchange))
            except COMMIT_ERRORS as error:
                raise Refusal(503, f"commit failed: {error}"[:1000], "see the committer's log") from None
        except Refusal as refusal:
            exchange.refuse(refusal)

    async def _answer(self, exchange: Exchange) -> bytes:
        match (exchange.method, exchange.path):
            case ("POST", "/flush"):
                self._committer.counts.flushes += 1
                return b'{"rows": %d}' % await self.commit(awaited=True)
            case ("POST", "/expire"):
                return msgspec.json.encode(await self.remove(await _decoded(exchange, ExpireRequest)))
            case ("POST", "/erase"):
                return msgspec.json.encode(await self.remove(await _decoded(exchange, EraseRequest)))
            case ("GET", "/counters"):
                waiting = self._committer.waiting_bytes()
                counts = {"committer": self._committer.counts, "upkeep": self._upkeep.counts}
                return msgspec.json.encode({"waiting_bytes": waiting, **counts})
            case (method, path):
                raise Refusal(404, f"no {method} {path}", "POST /flush, /expire, /erase, GET /counters")


async def _decoded(exchange: Exchange, kind: type[R]) -> R:
    body = await exchange.body(bytes_max=REQUEST_BYTES_MAX, timeout_s=REQUEST_S)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise Refusal(400, f"the request cannot be read: {error}", "see steersman.dataplane.removal") from None


async def serve(state: Path, storage: Storage, session: Session, *, interval_s: float, bytes_max: int) -> None:
    """Commit until SIGTERM or SIGINT; what waits then is committed once more before leaving."""
    apart = Apart(state)
    upkeep = Upkeep(storage, apart)
    committer = Committer(state, storage, committed=upkeep.committed)
    service = Service(committer, upkeep, Remover(state, storage), session, interval_s=interval_s, bytes_max=bytes_max)
    listener, key = sockets.listen_unix(state / "run" / "committer.sock")

    async def app(exchange: Exchange) -> None:
        await service.app(exchange, key)

    server = EdgeServer(app)

    def stop() -> None:
        server.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    write_handle(state / "run" / "committer.json")
    tasks = [asyncio.create_task(service.commit_when_due()), asyncio.create_task(service.keep_up())]
    await server.serve(listener)
    for task in tasks:
        task.cancel()
    apart.stop()
    try:
        await service.commit(awaited=True)
    except COMMIT_ERRORS as error:
        _log.error("the last commit failed; the log keeps what waits: %s", error)


def _storage(state: Path) -> Storage:
    """The place of the tables, tried; ends the process where it refuses for good, goes on where it does not answer yet."""
    try:
        storage = open_storage(state)
        storage.check()
    except (StorageRefusedError, ValueError) as error:
        sys.exit(f"committer: the tables cannot be written: {error}")
    except StorageError as error:
        _log.error("%s; what is captured waits in the log", error)
    return storage


def main() -> None:
    parser = argparse.ArgumentParser(prog="steersman.dataplane.committer", description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--interval-s", type=float, default=5.0)
    parser.add_argument("--bytes", type=int, default=16 * 1024 * 1024, dest="bytes_max")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    wal: Path = arguments.state / "wal"
    wal.mkdir(parents=True, exist_ok=True)
    lock = os.open(wal / "committer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("committer: another committer works on this state directory; stop it first")
    storage = _storage(arguments.state)
    session = priority.step_back()  # a commit is a burst of work, beside routers and workers whose callers wait
    uvloop.run(serve(arguments.state, storage, session, interval_s=arguments.interval_s, bytes_max=arguments.bytes_max))


if __name__ == "__main__":
    main()
