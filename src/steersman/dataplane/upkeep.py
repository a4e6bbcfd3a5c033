"""Keeping the tables cheap to open and to read, beside the commits and never in their way.

A commit each five seconds makes 17,280 files and as many entries of the log a day. Left alone, a question over a day
opens them all and a new process reads every entry ever written. So, table by table and one piece of work at a time:

- *compaction*: small files of one date become one. Rows only move (`dataChange` is false), readers fold nothing twice.
  While a date is written to, files below 16 MB are merged once 64 of them lie there, so that a row is rewritten a few
  times and not once for every other file; when the date is over, what is left becomes files of up to 256 MB.
- *checkpoints*: each 100 entries, so that opening a table reads one file and at most 100 entries.
- *vacuum*: files nobody refers to go a day after they were replaced, or after a committer died before it committed them.
  A reader that took its list of files before a compaction has that long.

A piece of work opens its table itself. A compaction takes away only files it has read and an append takes away none, so
Delta lets both commit, whoever is first; only a deletion waits for the piece under way. A merge needs 100 MB and more for a
moment, and the process that did it keeps much of that: so the committer has it done in another (`steersman.dataplane.apart`).
What does the work therefore imports no Polars, which would double its start.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

import msgspec
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from steersman.dataplane import tables
from steersman.dataplane.deltas import NO_HOOKS, open_table
from steersman.dataplane.storage import Storage

SMALL_FILES_MAX = 64
"""Small files of one date before they are merged. A question over a day of 64 files of 100 rows costs 2 to 3 times one
over a single file, and a merge of 64 takes 0.1 s of one core in 320 s of commits (`docs/decisions/0015`)."""

SMALL_BYTES = 16 * 1024 * 1024
"""A file below this is small: about 100,000 rows of 20 columns, what one commit brings under load."""

DATE_BYTES = 256 * 1024 * 1024
"""Largest file of a date that is over: read in parallel by row groups, and small enough to be rewritten by an erasure."""

DATE_OVER_S = 3600.0
"""Wall seconds without a new file after which a date counts as over; a file that comes later is merged an hour after it."""

CHECKPOINT_ENTRIES = 100
"""Entries of the log between two checkpoints: Delta's own default, 5 to 10 minutes of commits."""

GRACE_H = 24
"""Hours a replaced file stays for whoever still has it on a list: a long job of another engine is over by then."""

LOOK_AGAIN_S = 3600.0
"""Wall seconds after which a table is looked at though little was written to it."""

VACUUM_S = 24 * 3600.0

_log = logging.getLogger("steersman.upkeep")


class Done(msgspec.Struct):
    """What one piece of work did; `again` if the table may need another at once."""

    compactions: int = 0
    files_merged: int = 0
    checkpoints: int = 0
    files_vacuumed: int = 0
    conflicts: int = 0
    again: bool = False


Work = Callable[[str, bool], Done]
"""Do one piece of work on the table at a path, with a vacuum where one is due. Raises DeltaError or OSError."""


class UpkeepCounts(msgspec.Struct):
    compactions: int = 0
    files_merged: int = 0
    checkpoints: int = 0
    files_vacuumed: int = 0
    conflicts: int = 0
    last_error: str | None = None

    def add(self, done: Done) -> None:
        self.compactions += done.compactions
        self.files_merged += done.files_merged
        self.checkpoints += done.checkpoints
        self.files_vacuumed += done.files_vacuumed
        self.conflicts += done.conflicts


@dataclass
class _Known:
    """What is remembered of one table between two looks; losing it costs a look."""

    commits: int = 0
    looked_s: float = float("-inf")
    vacuumed_s: float = float("-inf")
    again: bool = True


class _LastCheckpoint(msgspec.Struct):
    version: int


@dataclass
class Upkeep:
    """Which table is next, of all under one root. `committed` may be called from any thread, `turn` from one at a time.

    `work` is done here and now unless another is given. `alone` is held during each piece of it; whoever deletes rows
    holds it too.
    """

    storage: Storage
    work: Work | None = None
    counts: UpkeepCounts = field(default_factory=UpkeepCounts)
    alone: threading.Lock = field(default_factory=threading.Lock)
    _known: dict[str, _Known] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def committed(self, table: str) -> None:
        """A commit was made to a table."""
        with self._guard:
            self._known.setdefault(table, _Known()).commits += 1

    def find(self) -> None:
        """Take up the tables there are, which an earlier process wrote to."""
        for path in tables.every_table(self.storage):
            with self._guard:
                self._known.setdefault(path, _Known())

    def turn(self) -> bool:
        """Do one piece of work on the table that has waited longest; False when nothing is due."""
        now_s = time.monotonic()
        with self._guard:
            due = [
                (known.looked_s, path)
                for path, known in self._known.items()
                if known.again or known.commits >= SMALL_FILES_MAX or now_s - known.looked_s >= LOOK_AGAIN_S
            ]
            if not due:
                return False
            path = min(due)[1]
            known = self._known[path]
            known.looked_s, known.commits, known.again = now_s, 0, False
        work = self.work or functools.partial(work_on, self.storage)
        stale = now_s - known.vacuumed_s >= VACUUM_S
        with self.alone:
            done = work(path, stale)
        if stale and not done.again:
            known.vacuumed_s = now_s
        known.again = done.again
        self.counts.add(done)
        return True


def work_on(storage: Storage, path: str, stale: bool) -> Done:
    """One merge if any is due, and then, if none is left, a checkpoint, and a vacuum where the last is long ago."""
    done = Done()
    table = open_table(storage, path)
    if table is None:
        return done
    try:
        _merge(table, done)
        if not done.again:
            if table.version() - _checkpointed(storage, path) >= CHECKPOINT_ENTRIES:
                table.create_checkpoint()
                done.checkpoints += 1
            if stale:
                done.files_vacuumed += vacuum(storage, path, table, hours=GRACE_H, orphans=True)
                table.cleanup_metadata()
    except CommitFailedError as error:  # a writer beside us was first; the next look sees what is left to do
        done.conflicts += 1
        _log.info("%s: %s", path, error)
    return done


def _merge(table: DeltaTable, done: Done) -> None:
    """Merge the first date that can be, and note whether another waits."""
    for day, size in _mergeable(table):
        if done.compactions:
            done.again = True
            return
        merged = table.optimize.compact(
            partition_filters=[("date", "=", day)],
            target_size=size,
            max_concurrent_tasks=1,
            post_commithook_properties=NO_HOOKS,
        )
        if merged["numFilesRemoved"]:
            done.compactions += 1
            done.files_merged += merged["numFilesRemoved"]


def _mergeable(table: DeltaTable) -> Iterator[tuple[str, int]]:
    """Dates whose files are to be merged, and up to which size."""
    listed = table.get_add_actions(flatten=True)
    if not listed.num_rows:
        return
    files: dict[str, list[tuple[int, int]]] = {}
    days, sizes, changed_ms = (
        listed.column(name).to_pylist() for name in ("partition.date", "size_bytes", "modification_time")
    )
    for day, size, at_ms in zip(days, sizes, changed_ms, strict=True):
        files.setdefault(day, []).append((size, at_ms))
    now_ms = time.time() * 1000
    for day, there in sorted(files.items()):
        mergeable = sum(size < DATE_BYTES // 2 for size, _ in there)
        if mergeable > 1 and now_ms - max(at_ms for _, at_ms in there) > DATE_OVER_S * 1000:
            yield day, DATE_BYTES
        elif sum(size < SMALL_BYTES for size, _ in there) >= SMALL_FILES_MAX:
            yield day, SMALL_BYTES


def _checkpointed(storage: Storage, path: str) -> int:
    last = storage.read(f"{path}/_delta_log/_last_checkpoint")
    return -1 if last is None else msgspec.json.decode(last, type=_LastCheckpoint).version


def vacuum(storage: Storage, path: str, table: DeltaTable, *, hours: int, orphans: bool) -> int:
    """Delete files the table no longer refers to, `hours` after; returns how many there were.

    With `orphans` also those it never referred to (left by a writer that died).
    """
    named = table.vacuum(hours, dry_run=True, enforce_retention_duration=False, full=orphans)
    there = storage.files(path)  # deltalake names every file the log remembers as replaced, gone or not
    dead = [file for file in named if unquote(file) in there]
    if dead:  # a vacuum writes two entries into the log whether it finds anything or not
        table.vacuum(
            hours,
            dry_run=False,
            enforce_retention_duration=False,
            full=orphans,
            post_commithook_properties=NO_HOOKS,
        )
    return len(dead)
