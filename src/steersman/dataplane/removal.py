"""Taking rows away for good: what is older than a model's retention, and what belongs to one entity.

A row is gone when no file holds it: neither those the table refers to, nor those a compaction or this very deletion
replaced, nor a segment that was set aside because something in it could not be read. So each removal ends with a vacuum
that gives replaced files no grace; a reader with an old list of files takes a new one.

An entity's name must not survive in what tells of its erasure. Delta's own DELETE would write its predicate into the log;
here each date with rows of the entity is written anew without them, and the log says `date = …` only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from urllib.parse import unquote

import msgspec
import polars as pl
from deltalake import DeltaTable, write_deltalake

from steersman.dataplane import capture, tables
from steersman.dataplane.capture import Context, Prediction, SegmentReader
from steersman.dataplane.deltas import NO_HOOKS, open_table
from steersman.dataplane.expansion import dates_of
from steersman.dataplane.storage import Storage
from steersman.dataplane.upkeep import vacuum

ORPHANS_H = 1
"""Hours a file nobody refers to is left alone by a removal: a writer beside us may be about to commit it."""

NOTES_MAX = 1000
"""Remembered expirations: each model has one a day, and only the last is ever asked for again."""


class ExpireRequest(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    workspace: str
    model: str
    until: date


class EraseRequest(msgspec.Struct, frozen=True, kw_only=True):
    workspace: str
    model: str
    entities: list[str]
    """One entity by every name it may have in the log: plain, and hashed."""


class Counts(msgspec.Struct, kw_only=True):
    """Answer to both requests: `steersman.ports.Removed` on the other side."""

    predictions: int = 0
    labels: int = 0
    files: int = 0
    segments: int = 0


class Remover:
    """Deletes from the tables of one state directory. The caller holds the commits and the upkeep back."""

    def __init__(self, state: Path, storage: Storage) -> None:
        self._wal = state / "wal"
        self._storage = storage
        self._notes = self._wal / "expired.json"

    def expire(self, request: ExpireRequest) -> Counts:
        """Drop the dates before `until` from the model's tables, and damaged segments as old; safe to repeat.

        What is about to be dropped is written down first: repeated after a crash, the same `key` is answered with what
        all attempts removed together.
        """
        noted = self._read_notes()
        counts = noted.pop(request.key, Counts())
        found = Counts()
        paths = [path for path in tables.tables_of(self._storage, request.workspace, request.model) if self._has(path)]
        for path in paths:
            self._add(found, path, rows_before(self._opened(path), request.until))
        counts.predictions = max(counts.predictions, found.predictions)
        counts.labels = max(counts.labels, found.labels)
        noted[request.key] = counts
        self._write_notes(noted)
        for path in paths:
            table = self._opened(path)
            if rows_before(table, request.until):
                table.delete(f"date < '{request.until.isoformat()}'", post_commithook_properties=NO_HOOKS)
            counts.files += self._vacuum(path, table)
        counts.segments += self._remove_segments(before=request.until)
        noted[request.key] = counts
        self._write_notes(noted)
        return counts

    def erase(self, request: EraseRequest) -> Counts:
        """Write each date with rows of the entity anew without them: predictions, and labels about it or its events."""
        counts = Counts()
        paths = tables.tables_of(self._storage, request.workspace, request.model)
        events: set[str] = set()
        for path in [path for path in paths if self._has(path)]:
            labels = path == tables.labels_table(request.workspace, request.model)
            doomed = pl.col("entity").is_in(request.entities)
            if labels:  # the last: by then the ids of all events of the entity are known
                doomed |= pl.col("event_id").is_in(list(events))
            table = self._opened(path)
            for day, ids in self._affected(path, table, doomed):
                if not labels:
                    events |= ids
                self._add(counts, path, self._rewrite(path, table, day, doomed))
            counts.files += self._vacuum(path, self._opened(path))
        counts.segments += self._remove_segments(naming=[entity.encode() for entity in request.entities])
        return counts

    # --- tables ------------------------------------------------------------------------------------------------------

    def _has(self, path: str) -> bool:
        return open_table(self._storage, path) is not None

    def _opened(self, path: str) -> DeltaTable:
        table = open_table(self._storage, path)
        assert table is not None
        return table

    @staticmethod
    def _add(counts: Counts, path: str, rows: int) -> None:
        if path.endswith("/labels"):
            counts.labels += rows
        else:
            counts.predictions += rows

    def _affected(self, path: str, table: DeltaTable, doomed: pl.Expr) -> Iterator[tuple[str, set[str]]]:
        """Dates that hold rows to be erased, with the ids of their events; one date after the other in memory."""
        for day in sorted(self._files_by_date(path, table)):
            found = self._scan(path, table, day).filter(doomed).select("event_id").collect()
            if found.height:
                yield day, set(found["event_id"].drop_nulls().to_list())

    def _rewrite(self, path: str, table: DeltaTable, day: str, doomed: pl.Expr) -> int:
        """Replace a date by its other rows, in one commit; returns the rows that are gone."""
        rows = self._scan(path, table, day).collect()
        kept = rows.filter(doomed.fill_null(value=False).not_())
        if kept.height:
            write_deltalake(
                table,
                kept,
                mode="overwrite",
                predicate=f"date = '{day}'",
                post_commithook_properties=NO_HOOKS,
            )
        else:
            table.delete(f"date = '{day}'", post_commithook_properties=NO_HOOKS)
        return rows.height - kept.height

    def _scan(self, path: str, table: DeltaTable, day: str) -> pl.LazyFrame:
        """All columns of one date; a column that older files lack is null."""
        schema = pl.Schema(table.schema().to_arrow())
        return pl.scan_parquet(
            self._files_by_date(path, table)[day],
            schema={name: dtype for name, dtype in schema.items() if name != "date"},
            missing_columns="insert",
            cast_options=pl.ScanCastOptions(missing_struct_fields="insert"),
            hive_partitioning=False,
            glob=False,
            storage_options=self._storage.scan_options,
        ).with_columns(pl.lit(day).alias("date"))

    def _files_by_date(self, path: str, table: DeltaTable) -> dict[str, list[str]]:
        """Full names of the table's live files, by date."""
        listed = pl.DataFrame(table.get_add_actions(flatten=True))
        found: dict[str, list[str]] = {}
        if listed.height:
            for file, day in listed.select("path", "partition.date").iter_rows():
                found.setdefault(day, []).append(self._storage.uri(f"{path}/{unquote(file)}"))
        return found

    def _vacuum(self, path: str, table: DeltaTable) -> int:
        """Replaced files at once, whoever replaced them; files nobody ever referred to when they are old enough."""
        return vacuum(self._storage, path, table, hours=0, orphans=False) + vacuum(
            self._storage, path, table, hours=ORPHANS_H, orphans=True
        )

    # --- segments set aside ------------------------------------------------------------------------------------------

    def _remove_segments(self, *, before: date | None = None, naming: Sequence[bytes] = ()) -> int:
        """Delete damaged segments that are older than a date, or hold a text; their whole records are in the tables."""
        removed = 0
        for path in self._wal.glob(f"*{capture.DAMAGED}"):
            with contextlib.suppress(FileNotFoundError):
                old = before is not None and _newest(path) < before.isoformat()
                if old or (naming and any(name in path.read_bytes() for name in naming)):
                    path.unlink()
                    removed += 1
        return removed

    # --- notes -------------------------------------------------------------------------------------------------------

    def _read_notes(self) -> dict[str, Counts]:
        try:
            return msgspec.json.decode(self._notes.read_bytes(), type=dict[str, Counts])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}

    def _write_notes(self, notes: dict[str, Counts]) -> None:
        kept = dict(list(notes.items())[-NOTES_MAX:])
        staging = self._notes.with_suffix(".new")
        with staging.open("wb") as file:
            file.write(msgspec.json.encode(kept))
            file.flush()
            os.fsync(file.fileno())
        staging.rename(self._notes)


def rows_before(table: DeltaTable, until: date) -> int:
    """Rows of the dates before `until`, by what the log says of its files."""
    listed = pl.DataFrame(table.get_add_actions(flatten=True))
    if not listed.height:
        return 0
    old = listed.filter(pl.col("partition.date") < until.isoformat())
    return int(old["num_records"].fill_null(0).sum())


def _newest(segment: Path) -> str:
    """The newest UTC date of event time in a segment; where nothing in it can be read, of its last write."""
    ats = [
        max([record.at_us] if isinstance(record, Prediction) else record.ats_us)
        for _, record in SegmentReader(segment, closed=True).records()
        if not isinstance(record, Context)
    ]
    return dates_of([max(ats, default=int(segment.stat().st_mtime) * 1_000_000)])[0]
