"""Which data files a table has, by date, and which are new: kept in memory, brought up to date from the table's log.

A table is opened once, from Delta's newest checkpoint, and from then on one look tells whether the log has another
entry. Compactions and erasures write rows again that were there before; nobody may take those for new. Three rules:

- a file is *new* only in an entry that says it changes data, and in a partition from which the same entry takes nothing;
- a file that was compacted away before somebody folded it stays readable for a day (`upkeep.GRACE_H`), and is still told;
- rows that were erased, or written again beside rows that were, are told to nobody who had not folded them before.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote

import msgspec
import polars as pl

from steersman.dataplane.deltas import entry_path, open_table
from steersman.dataplane.storage import Storage
from steersman.ports import LogError


class CommittedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A data file of a table and the version up to which whoever folds it is then; `path` is its full name or URI."""

    table: str
    version: int
    path: str
    date: str
    rows: int


class _Added(msgspec.Struct, frozen=True):
    path: str
    date: str
    rows: int


class TableFiles:
    """The live data files of one table. Not thread-safe."""

    def __init__(self, storage: Storage, table: str) -> None:
        self.table = table
        self.version = -1
        self._storage = storage
        self._by_date: dict[str, dict[str, _Added]] = {}

    def refresh(self) -> None:
        """Take up entries written since; one look at the log where there are none."""
        if self.version < 0:
            self._load()
            return
        while (entry := self._storage.read(entry_path(self.table, self.version + 1))) is not None:
            added, removed, _ = _read(entry)
            for path, day in removed:
                self._by_date.get(day, {}).pop(path, None)
            for one in added:
                self._by_date.setdefault(one.date, {})[one.path] = one
            self.version += 1

    def _load(self) -> None:
        table = open_table(self._storage, self.table)
        if table is None:
            return
        listed = pl.DataFrame(table.get_add_actions(flatten=True))
        for path, day, rows in listed.select("path", "partition.date", "num_records").iter_rows():
            one = _Added(unquote(path), day, rows or 0)
            self._by_date.setdefault(day, {})[one.path] = one
        self.version = table.version()

    def of_dates(self, days: Iterable[str]) -> list[str]:
        """Full names of the files of some dates."""
        return [self._full(path) for day in days for path in self._by_date.get(day, ())]

    def since(self, version: int) -> list[CommittedFile]:
        """What somebody who folded up to `version` (-1: nothing) has not folded, oldest first; nothing is ever told twice.

        Raises LogError where the log no longer reaches back that far.
        """
        if version < 0:
            live = (one for files in self._by_date.values() for one in files.values())
            return [self._committed(one, self.version) for one in sorted(live, key=lambda one: (one.date, one.path))]
        new: dict[str, tuple[int, _Added]] = {}
        for number in range(version + 1, self.version + 1):
            entry = self._storage.read(entry_path(self.table, number))
            if entry is None:
                raise LogError(f"{self.table}: what was committed after {version} is no longer known; fold it all anew")
            _follow(new, number, entry)
        return [self._committed(one, number) for number, one in new.values()]

    def _committed(self, one: _Added, version: int) -> CommittedFile:
        path = self._full(one.path)
        return CommittedFile(table=self.table, version=version, path=path, date=one.date, rows=one.rows)

    def _full(self, path: str) -> str:
        return self._storage.uri(f"{self.table}/{path}")


def _follow(new: dict[str, tuple[int, _Added]], number: int, entry: bytes) -> None:
    """What an entry does to the files that are new."""
    added, removed, changes = _read(entry)
    if not changes:
        return
    unfolded: dict[str, bool] = {}
    """By partition: whether all that is taken from it was new itself, so that what is written for it is new too."""
    for path, day in removed:
        unfolded[day] = (new.pop(path, None) is not None) and unfolded.get(day, True)
    for one in added:
        if unfolded.get(one.date, True):
            new[one.path] = (number, one)


def _read(entry: bytes) -> tuple[list[_Added], list[tuple[str, str]], bool]:
    """Files added, files removed (with their dates), and whether rows changed and did not only move."""
    added, removed, changes = [], [], False
    for line in entry.splitlines():
        action = msgspec.json.decode(line)
        if (one := action.get("add")) is not None:
            rows = msgspec.json.decode(one["stats"])["numRecords"] if one.get("stats") else 0
            added.append(_Added(unquote(one["path"]), one["partitionValues"]["date"], rows))
            changes = changes or one.get("dataChange", True)
        elif (one := action.get("remove")) is not None:
            path = unquote(one["path"])
            day = (one.get("partitionValues") or {}).get("date") or path.partition("/")[0].removeprefix("date=")
            removed.append((path, day))
            changes = changes or one.get("dataChange", True)
    return added, removed, changes
