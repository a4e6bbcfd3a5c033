"""Commits to Delta tables, each with the position of the log it brings the table to.

A commit may carry an *application transaction*: a name and a number that the table remembers. The committer's name is the
stream, its number the position up to which the table now has the stream; rows and position become visible together or
not at all. A table that somebody else wrote to meanwhile is read again, its position too: the attempt that failed may
have been our own, whose answer was lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

import msgspec
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from steersman.dataplane.storage import LocalStorage, Storage

if TYPE_CHECKING:
    import polars as pl  # the upkeep's process opens tables, and has no use for frames

APPLICATION = "steersman:"

CONFLICTS_MAX = 5
"""Attempts at one commit where others keep changing the table's columns or repeat our transaction; appends, deletions
and compactions of others do not even count, deltalake puts our commit behind theirs."""

TABLE_PROPERTIES: dict[str, str | None] = {
    # Monitors fold each committed file once and find them in the log's entries. A day of commits is 17,280 entries at one
    # each 5 s, 70 MB on a file system with 4 kB blocks: a week of them, and checkpoints for what is older.
    "delta.logRetentionDuration": "interval 7 days",
    # Only the time: the smallest and largest entity or event id of a file has no place in a log that outlives the rows.
    "delta.dataSkippingStatsColumns": "at",
}

NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
"""A commit is a commit: checkpoints and the clearing of old entries are upkeep, outside of anybody's flush."""

OPEN_ENTRIES_MAX = 1000
"""Entries of a log that an open table follows before it is opened anew: it keeps 0.3 to 0.7 kB of each, up to 11 MB a day.
Opening reads a checkpoint and at most 100 entries, 14 ms."""

T = TypeVar("T")

_log = logging.getLogger("steersman.committer")


def open_table(storage: Storage, path: str) -> DeltaTable | None:
    """The table as it is now; None where there is none."""
    uri = storage.uri(path)
    if not DeltaTable.is_deltatable(uri, storage.options):
        return None
    return DeltaTable(uri, storage_options=storage.options)


def entry_path(table: str, version: int) -> str:
    """The file of the log that made a version."""
    return f"{table}/_delta_log/{version:020d}.json"


class DeltaTables:
    """The tables one committer writes, kept open. Used from one thread at a time; `committed` hears of each commit."""

    def __init__(
        self, storage: Storage, committed: Callable[[str], None], *, synced: dict[str, int] | None = None
    ) -> None:
        """`synced`: up to which version each table is known to be on the disk, by an earlier `sync`."""
        self.synced = dict(synced or {})
        self._storage = storage
        self._committed = committed
        self._open: dict[str, DeltaTable] = {}
        self._touched: set[str] = set()
        self.last_commit_ms = 0.0
        if isinstance(storage, LocalStorage):  # an object store's objects are there whole or not at all
            for path, version in self.synced.items():
                _take_back(storage, path, version)

    def append_once(
        self,
        path: str,
        stream: str,
        items: Sequence[tuple[int, T]],
        end: int,
        frame_of: Callable[[Sequence[tuple[int, T]]], pl.DataFrame],
    ) -> int:
        """Commit those items the table does not have, and that it now has the stream up to `end`; returns the rows.

        Raises DeltaError or OSError; then what the table has is found out at the next call.
        """
        for attempt in range(1, CONFLICTS_MAX + 1):
            fresh = self._beyond(path, stream, items)
            if not fresh:
                return 0
            frame = frame_of(fresh)
            try:
                self._append(path, frame, stream, end)
            except CommitFailedError:
                if attempt == CONFLICTS_MAX:
                    raise
                continue
            return frame.height
        return 0

    def _beyond(self, path: str, stream: str, items: Sequence[tuple[int, T]]) -> Sequence[tuple[int, T]]:
        table = self._table(path)
        done = table.transaction_version(APPLICATION + stream) if table is not None else None
        return items if done is None else [item for item in items if item[0] > done]

    def _table(self, path: str) -> DeltaTable | None:
        self._touched.add(path)
        table = self._open.get(path)
        if table is None and (table := open_table(self._storage, path)) is not None:
            self._open[path] = table
        return table

    def _append(self, path: str, frame: pl.DataFrame, stream: str, position: int) -> None:
        started = time.perf_counter()
        table = self._table(path)
        before = 0 if table is None else table.version()
        properties = CommitProperties(app_transactions=[Transaction(APPLICATION + stream, position)])
        try:
            if table is None:
                write_deltalake(
                    self._storage.uri(path),
                    frame,
                    mode="append",
                    partition_by=["date"],
                    configuration=TABLE_PROPERTIES,
                    storage_options=self._storage.options,
                    commit_properties=properties,
                    post_commithook_properties=NO_HOOKS,
                )
                table = self._table(path)
                assert table is not None
            else:
                write_deltalake(
                    table,
                    frame,
                    mode="append",
                    schema_mode="merge",
                    commit_properties=properties,
                    post_commithook_properties=NO_HOOKS,
                )
        except BaseException:
            self.forget(path)  # whatever it holds may be behind; the next attempt reads the log again
            raise
        if table.version() // OPEN_ENTRIES_MAX > before // OPEN_ENTRIES_MAX:
            self.forget(path)
        self.last_commit_ms = round((time.perf_counter() - started) * 1000, 1)
        self._committed(path)

    def forget(self, path: str) -> None:
        """Read the table's log again at the next commit."""
        self._open.pop(path, None)

    def sync(self) -> None:
        """Bring the tables written or looked at to the disk: data files, entries of the log, and their folders.

        Also what others committed, a merge or a process before this one that died: what the log loses next may rest on it.
        """
        wanted: list[str] = []
        reached: dict[str, int] = {}
        for path in self._touched:
            table = self._table(path)
            if table is None:
                continue
            reached[path] = table.version()
            first = max(self.synced.get(path, -1) + 1, reached[path] + 1 - OPEN_ENTRIES_MAX)
            for version in range(first, reached[path] + 1):
                entry = entry_path(path, version)
                content = self._storage.read(entry)
                if content is not None:
                    wanted += [entry, *added_files(path, content)]
        self._storage.sync(wanted)
        self.synced |= reached
        self._touched.clear()


def added_files(table: str, entry: bytes) -> list[str]:
    """Data files that an entry of the log adds."""
    return list(_files(table, entry, "add"))


def _files(table: str, entry: bytes, action: str) -> dict[str, int]:
    """Data files that an entry of the log adds or removes, and the sizes it says they have."""
    found = (msgspec.json.decode(line).get(action) for line in entry.splitlines())
    return {f"{table}/{unquote(one['path'])}": one.get("size", 0) for one in found if one is not None}


def _take_back(storage: LocalStorage, table: str, synced: int) -> None:
    """Set aside a table's commits, from the first that a power cut left unfinished.

    Only those beyond what was brought to the disk are looked at, so the log still has their records, and they are made again.
    """
    entries: list[bytes] = []
    while (content := storage.read(entry_path(table, synced + 1 + len(entries)))) is not None:
        entries.append(content)
    whole = _whole(storage, table, entries)
    if whole < len(entries):
        first, last = synced + 1 + whole, synced + len(entries)
        _log.error("%s: commits %d to %d are unfinished; set aside, to be made again from the log", table, first, last)
        for version in range(last, first - 1, -1):
            storage.set_aside(entry_path(table, version))


def _whole(storage: LocalStorage, table: str, entries: Sequence[bytes]) -> int:
    """How many entries of a log are there with all their files, counted up to the first that is not."""
    added: list[dict[str, int]] = []
    replaced: set[str] = set()
    for entry in entries:
        if not entry:
            break
        try:
            added.append(_files(table, entry, "add"))
            replaced |= _files(table, entry, "remove").keys()
        except (msgspec.DecodeError, KeyError, AttributeError):
            break
    for number, files in enumerate(added):
        if any(storage.size(file) != size for file, size in files.items() if file not in replaced):
            return number
    return len(added)
