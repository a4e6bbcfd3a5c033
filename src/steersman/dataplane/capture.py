"""The write-ahead log: every answered prediction and every label, before the caller hears of it.

A table commit has no place in the path of a request, so the router appends records to *segments* (files in `wal/`) and the
committer turns them into Delta commits later. Two modes, per model. `async`: the write to the file precedes the reply, so
the record survives the death of any process, though not a power cut; a full disk drops the record, counts it, and never
fails a prediction. `durable`: the group's fsync precedes the reply, and a full disk refuses the request. Only for records of
this kind is anything synced: an fsync keeps every other write waiting at the file system's journal, and `async` has
promised nothing that is worth a caller's wait (`docs/decisions/0026`).

A segment begins with a magic line and holds frames: length (u32), CRC-32 of the payload (u32), payload (MessagePack).
A torn tail is recognised by length or checksum, so what was written before it is always recovered. A segment tells its
own story: what a prediction belongs to (model, signature) is a *context* record that precedes its first use in each
segment. Its name is `<stream>-<number>.seg`; numbers only grow, across restarts, a clock that steps back and segments that
somebody removed: they start at the clock's seconds, and the last one given stands in `<stream>.lock`. A position in the
stream is `number << 32 | offset`: it never repeats, and the committer stores it in the tables to commit each record once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import struct
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from steersman.dataplane.configuration import Column, Route
from steersman.dataplane.privacy import logged_signature
from steersman.domain.numbers import number_within

MAGIC = b"steersman-wal 1\n"
SUFFIX = ".seg"
DAMAGED = ".damaged"
"""What the name of a segment ends with that was set aside because something in it could not be read."""

_HEADER = struct.Struct("<II")

FRAME_BYTES_MAX = 128 * 1024 * 1024
"""A longer length field is damage, not a record: bodies are bounded far below."""

SEGMENT_BYTES_MAX = 64 * 1024 * 1024
SEGMENT_AGE_MAX_S = 300.0
STREAM_BYTES_MAX = 16 * 1024**3
"""Bytes waiting for a committer that does not come; beyond it the log behaves as on a full disk."""

_NUMBERS_FROM_S = 1_577_836_800
"""2020-01-01: segment numbers count seconds from here, so that they fit 31 bits until 2088."""

GIVEN_UP = 499
"""Status of a request whose caller left before its answer, or which a router that had to end gave up; nginx's number. Its
latency is how long it was waited for: the answer would have taken longer."""


class Context(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """What predictions belong to: the table they go to and the types of their inputs. `id` is a hash of the rest."""

    id: bytes
    workspace: str
    environment: str
    model: str
    sticky_by: str | None
    signature: tuple[Column, ...]


class Prediction(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """One version's answer to its part of a request. `at_us`: event time, microseconds since the epoch.

    `request` is the body this version saw, `outputs` its raw outputs, empty unless `status` is 200. `probability` is
    that of the assignment, None where a row was answered as a fallback.
    """

    context: bytes
    at_us: int
    version: str
    digest: str
    release: str
    variant: str
    probability: float | None
    request_id: str
    event_ids: list[str]
    request: bytes
    outputs: bytes
    status: int
    error: str | None
    latency_ms: float
    json_bytes: int | None = None
    """Where the request carries binary tensors (the protocol's extension): the length of its JSON part."""
    trace_id: str | None = None


class Labels(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Ground truth or feedback that arrived in one call; `ats_us` is the event time of each arrival.

    A label is about an event id, or, where that is empty, about an entity at a time (`entities`, `abouts_us`). `names`
    is empty where all are the ground truth itself; feedback of another kind has a name.
    """

    workspace: str
    model: str
    source: str
    event_ids: list[str]
    ats_us: list[int]
    values: list[float]
    entities: list[str] = []
    abouts_us: list[int] = []
    names: list[str] = []


Record = Context | Prediction | Labels
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def context_of(route: Route) -> Context:
    signature = logged_signature(route.signature, route.log)
    sticky_by = None if route.sticky_by in route.log.drop else route.sticky_by
    fields = (route.workspace, route.environment, route.model, sticky_by, signature)
    identity = hashlib.blake2b(_encoder.encode(fields), digest_size=8).digest()
    return Context(identity, *fields)


class LogFullError(Exception):
    """The log takes no more: disk full, file limit, or the bound on what waits for the committer."""


class LogHeldError(Exception):
    """Another router writes this stream."""


class CaptureCounts(msgspec.Struct):
    """What the log did since the process started; the tables are the truth, this is for watching."""

    records: int = 0
    bytes: int = 0
    dropped_records: int = 0
    dropped_rows: int = 0
    refused_records: int = 0
    syncs: int = 0
    segments: int = 0
    last_error: str | None = None


def frame(payload: bytes) -> bytes:
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


class SegmentWriter:
    """Appends records to the stream's open segment. One process a stream; called from one thread."""

    def __init__(
        self,
        folder: Path,
        stream: str,
        *,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        segment_age_max_s: float = SEGMENT_AGE_MAX_S,
        stream_bytes_max: int = STREAM_BYTES_MAX,
    ) -> None:
        """Takes the stream's lock; raises LogHeldError when another process has it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.counts = CaptureCounts()
        self._folder = folder
        self._stream = stream
        self._segment_bytes_max = segment_bytes_max
        self._segment_age_max_s = segment_age_max_s
        self._stream_bytes_max = stream_bytes_max
        self._lock = os.open(folder / f"{stream}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise LogHeldError(f"another router writes the stream {stream}; stop it first") from None
        self._fd = -1
        self._number = 0
        self._offset = 0
        self._opened_s = 0.0
        self._waiting_bytes = 0
        self._contexts: set[bytes] = set()
        self._sync_waiters: list[asyncio.Future[None]] = []
        self._sync_task: asyncio.Task[None] | None = None
        self._left: list[int] = []
        """Descriptors of segments that are complete and hold durable records not yet synced."""
        self._unsynced = False
        """Whether the open segment holds durable records that no sync has begun to cover."""
        self._folder_changed = False

    @property
    def position(self) -> int:
        """Where the next record will begin, comparable across segments."""
        return self._number << 32 | self._offset

    def append(self, context: Context | None, record: Prediction | Labels, *, durable: bool = False) -> None:
        """Write one record; when this returns it survives the death of this process.

        One that is `durable` is on the disk once `sync` has been awaited. Raises LogFullError; then nothing of the
        record is in the log.
        """
        if self._fd < 0 or self._offset >= self._segment_bytes_max or self._too_old():
            self._rotate()
        data = frame(_encoder.encode(record))
        before = b""
        if context is not None and context.id not in self._contexts:
            before = frame(_encoder.encode(context))
        if self._waiting_bytes + self._offset + len(before) + len(data) > self._stream_bytes_max:
            raise self._full("the committer is behind by the whole bound of the log")
        if before and context is not None:
            # A write of its own: a frame a reader has seen whole must never be taken back when the next does not fit.
            self._write(before)
            self._contexts.add(context.id)
        self._write(data)
        self._unsynced = self._unsynced or durable
        self.counts.records += 1
        self.counts.bytes += len(before) + len(data)

    def _too_old(self) -> bool:
        return self._offset > len(MAGIC) and time.monotonic() - self._opened_s > self._segment_age_max_s

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:] if written else data)
        except OSError as error:
            if written:
                os.ftruncate(self._fd, self._offset)
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):
                raise self._full(os.strerror(error.errno)) from None
            raise
        self._offset += len(data)

    def _full(self, because: str) -> LogFullError:
        self.counts.last_error = because
        return LogFullError(because)

    def _rotate(self) -> None:
        """Close the open segment and begin the next; the old one is complete as soon as the new one exists."""
        existing = segments(self._folder, self._stream)
        self._waiting_bytes = sum(_size(path) for _, path in existing)
        latest = max([self._number, self._given(), *(number for number, _ in existing)])
        number = max(int(time.time()) - _NUMBERS_FROM_S, latest + 1)
        path = segment_path(self._folder, self._stream, number)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
            try:
                if os.write(fd, MAGIC) < len(MAGIC):
                    raise OSError(errno.ENOSPC, "short write")
                os.pwrite(self._lock, f"{number:010d}".encode(), 0)
            except OSError:
                os.close(fd)
                path.unlink()
                raise
        except OSError as error:
            raise self._full(os.strerror(error.errno or 0)) from None
        self._leave_segment()
        self._folder_changed = True
        self._fd, self._number, self._offset = fd, number, len(MAGIC)
        self._opened_s = time.monotonic()
        self._contexts.clear()
        self.counts.segments += 1

    def _leave_segment(self) -> None:
        """The next `sync` closes a segment with durable records; others the kernel writes when it likes to."""
        if self._fd < 0:
            return
        if self._unsynced:
            self._left.append(self._fd)
        else:
            os.close(self._fd)
        self._fd, self._unsynced = -1, False

    def turn_page(self) -> None:
        """Begin a new segment where the open one is old, so that what nobody adds to is committed and deleted as well."""
        if self._fd >= 0 and self._too_old():
            with contextlib.suppress(LogFullError):  # the next record says it
                self._rotate()

    def _given(self) -> int:
        """The last number of the stream, though none of its segments may be left."""
        return number_within(os.pread(self._lock, 10, 0), 0, sys.maxsize) or 0

    def close_segment(self) -> None:
        """Close the open segment; durable records that nobody waited for are synced. The next record opens another."""
        self._leave_segment()
        if self._left:
            _sync_and_close(self._taken(), self._changed_folder())

    def close(self) -> None:
        self.close_segment()
        os.close(self._lock)

    async def sync(self) -> None:
        """Return when every durable record appended so far is on the disk. Callers that wait together share one fsync.

        Raises LogFullError when the disk refuses.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sync_waiters.append(future)
        if self._sync_task is None:
            self._sync_task = asyncio.create_task(self._sync_groups())
        await future

    def _taken(self) -> list[int]:
        left, self._left = self._left, []
        return left

    def _changed_folder(self) -> Path | None:
        changed, self._folder_changed = self._folder_changed, False
        return self._folder if changed else None

    async def _sync_groups(self) -> None:
        try:
            while self._sync_waiters:
                group, self._sync_waiters = self._sync_waiters, []
                descriptors, folder = self._taken(), self._changed_folder()
                if self._fd >= 0:
                    descriptors.append(os.dup(self._fd))
                    self._unsynced = False
                failure = await asyncio.get_running_loop().run_in_executor(None, _sync_and_close, descriptors, folder)
                self.counts.syncs += failure is None
                for future in group:
                    if not future.cancelled():
                        if failure is None:
                            future.set_result(None)
                        else:
                            future.set_exception(self._full(failure))
        finally:
            self._sync_task = None


def _sync_and_close(descriptors: Sequence[int], folder: Path | None) -> str | None:
    """Sync all, and the folder's list of files where one is given; what went wrong first, in the system's words."""
    if folder is not None:
        descriptors = [*descriptors, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    failure = None
    for descriptor in descriptors:
        try:
            os.fsync(descriptor)
        except OSError as error:
            failure = failure or os.strerror(error.errno or 0)
        finally:
            os.close(descriptor)
    return failure


def abandoned(folder: Path, stream: str) -> bool:
    """Whether no process writes the stream now; the segments listed before the question are then complete for good."""
    try:
        descriptor = os.open(folder / f"{stream}.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False  # segments without a lock are not ours to judge
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def segment_path(folder: Path, stream: str, number: int) -> Path:
    return folder / f"{stream}-{number:010d}{SUFFIX}"


def segments(folder: Path, stream: str) -> list[tuple[int, Path]]:
    """The stream's segments, oldest first."""
    found = []
    for path in folder.glob(f"{stream}-*{SUFFIX}"):
        number = number_within(path.name[len(stream) + 1 : -len(SUFFIX)], 0, sys.maxsize)
        if number is not None:
            found.append((number, path))
    return sorted(found)


def streams(folder: Path) -> list[str]:
    """Every stream that has a segment in the folder."""
    return sorted({path.name.rpartition("-")[0] for path in folder.glob(f"*-*{SUFFIX}")})


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the committer deleted it meanwhile
        return 0


class SegmentReader:
    """Reads the records of one segment, from its beginning, as far as they are whole.

    `offset` is the end of the last whole frame read. In a segment still written to, a frame that does not check out is
    the tail being written: reading stops and may be tried again. In a `closed` one a damaged frame is skipped, counted in
    `damaged_frames`, and what follows is read; an incomplete frame at the end is the tail a dying writer left.
    """

    def __init__(self, path: Path, *, closed: bool) -> None:
        self.path = path
        self.closed = closed
        self.offset = 0
        self.damaged_frames = 0
        self.torn_bytes = 0

    def records(self, start: int = 0) -> Iterator[tuple[int, Record]]:
        """Pairs of end offset and record. `start` must be an end offset told before, or 0."""
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if start == 0:
                if file.read(len(MAGIC)) != MAGIC:
                    self.torn_bytes = size
                    return
                start = len(MAGIC)
            file.seek(start)
            self.offset = start
            while self.offset < size:
                header = file.read(_HEADER.size)
                length, checksum = _HEADER.unpack(header) if len(header) == _HEADER.size else (-1, 0)
                if not 0 <= length <= min(FRAME_BYTES_MAX, size - self.offset - _HEADER.size):
                    self.torn_bytes = size - self.offset
                    return
                payload = file.read(length)
                record = _whole(payload, checksum) if len(payload) == length else None
                if record is None and not self.closed:
                    return
                self.offset += _HEADER.size + length
                if record is None:
                    self.damaged_frames += 1
                else:
                    yield self.offset, record


def _whole(payload: bytes, checksum: int) -> Record | None:
    if zlib.crc32(payload) != checksum:
        return None
    try:
        return _decoder.decode(payload)
    except msgspec.DecodeError:
        return None
