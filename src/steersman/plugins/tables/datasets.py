"""Snapshots: the rows a training or a gate may know, and nothing that was learnt later.

A dataset is history in Parquet files, extended by what production answered. A snapshot pins it at an instant of event
time, `known_until`, under one rule: *a row is in it only if its label had arrived by then*, with the value it had then.
A correction that came later is not seen, and neither is a prediction that still waits for its label. So a retraining in
a replay of last year cannot learn from the future, and the same snapshot can be cut again at any time.

Which labels are early is not chance (a cancelled flight is known at once, a late one later). Whoever wants rows that are
not selected by their label asks for `time_until` = `known_until` minus the label's horizon.

The result is one Parquet file with the history's columns, in order of time and key; the same rows give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from steersman.domain.errors import BadRequest, LimitReached, NotFound
from steersman.plugins.tables.delta import DeltaInferenceLog
from steersman.ports import DatasetSource, Scope, Snapshot, Span

ROWS_MAX = 20_000_000
"""Rows of one snapshot: at 20 columns about 4 GB in memory, what one machine can sort."""

ROW_GROUP_ROWS = 65_536

_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_MOMENT = timedelta(microseconds=1)


class ParquetDatasets:
    """Cuts snapshots from Parquet files and the inference log."""

    def __init__(self, log: DeltaInferenceLog) -> None:
        self._log = log

    def snapshot(
        self,
        source: DatasetSource,
        *,
        known_until: datetime,
        time_from: datetime | None,
        time_until: datetime | None,
        into: Path,
    ) -> Snapshot:
        """Rows with `time_from` <= time < `time_until` whose label was known by `known_until`, written to `into`.

        An event that history and log both have is taken from history. Raises NotFound or BadRequest when the files or
        columns are not what the dataset says.
        """
        begin = time_from or _BEGINNING
        end = min(time_until or known_until + _MOMENT, known_until + _MOMENT)
        history = _history(source)
        schema = history.collect_schema()
        _check_columns(source, schema)
        parts = [history.filter(_known(source, schema, known_until, begin, end))]
        if source.extend_model is not None:
            parts.append(self._answered(source, schema, known_until, begin, end).lazy())
        rows = pl.concat(parts)
        if source.key_column is not None:
            rows = rows.filter(pl.col(source.key_column).is_first_distinct())
        order = [source.time_column, *([source.key_column] if source.key_column is not None else schema)]
        frame = rows.sort(order, maintain_order=True).collect()
        if frame.height > ROWS_MAX:
            raise LimitReached(f"the snapshot has {frame.height} rows, more than {ROWS_MAX}; ask for a shorter span")
        return _write(frame, source.time_column, into)

    def read(self, path: Path, columns: Sequence[str]) -> Mapping[str, Any]:
        """Columns of a snapshot as NumPy arrays, in its order (numbers float64, times datetime64, text object)."""
        frame = pl.read_parquet(path, columns=list(dict.fromkeys(columns)))
        return {column.name: _as_array(column) for column in frame.iter_columns()}

    def _answered(
        self, source: DatasetSource, schema: pl.Schema, known_until: datetime, begin: datetime, end: datetime
    ) -> pl.DataFrame:
        """Events production answered, each once, in the history's columns; what the log does not know is null."""
        assert source.extend_model is not None
        scope = Scope(
            source.extend_workspace or "default", source.extend_environment or "production", source.extend_model
        )
        begin = max(begin, self._first_day(scope) or end)
        known = self._log.known_events(scope, Span(begin, end), as_of=known_until)
        roles = {source.time_column: "at", source.label_column: "label"}
        if source.key_column is not None:
            roles[source.key_column] = "event_id"
        if source.available_column is not None:
            roles[source.available_column] = "label_at"
        inputs = {field.name for field in _fields(known["inputs"].dtype)}
        columns = []
        for name, dtype in schema.items():
            if name in roles:
                value = pl.col(roles[name])
            elif name in inputs:
                value = pl.col("inputs").struct.field(name)
            else:
                value = pl.lit(None)
            columns.append(_cast(value, dtype, known.schema.get(roles.get(name, ""))).alias(name))
        return known.select(columns)

    def _first_day(self, scope: Scope) -> datetime | None:
        """Where the log begins, so that an open span asks for no empty centuries."""
        files = self._log.committed_files(scope, {})
        return min((datetime.fromisoformat(file.date).replace(tzinfo=UTC) for file in files), default=None)


def _history(source: DatasetSource) -> pl.LazyFrame:
    """The dataset's own files, in order of their names."""
    files = sorted(source.uri.rglob("*.parquet")) if source.uri.is_dir() else [source.uri]
    if not files or not files[0].is_file():
        raise NotFound(
            f"the dataset has no Parquet file at {source.uri}",
            next_step="Write the file, or correct spec.uri of the Dataset document; it is relative to that document.",
        )
    try:
        return pl.scan_parquet(files, glob=False, hive_partitioning=False)
    except pl.exceptions.PolarsError as error:
        raise BadRequest(f"{source.uri} cannot be read as Parquet: {error}") from error


def _check_columns(source: DatasetSource, schema: pl.Schema) -> None:
    wanted = (source.time_column, source.label_column, source.key_column, source.available_column)
    for name in wanted:
        if name is not None and name not in schema:
            raise BadRequest(f"the dataset {source.uri} has no column {name}; it has {', '.join(schema)}")
    for name in (source.time_column, source.available_column):
        if name is not None and not isinstance(schema[name], pl.Datetime | pl.Date):
            raise BadRequest(f"column {name} of the dataset {source.uri} is {schema[name]}, must be a time or a date")
    if not (schema[source.label_column].is_numeric() or schema[source.label_column] == pl.Boolean):
        raise BadRequest(f"column {source.label_column} of the dataset {source.uri} must be a number or a truth value")


def _known(source: DatasetSource, schema: pl.Schema, known_until: datetime, begin: datetime, end: datetime) -> pl.Expr:
    """Rows of the span whose label had arrived: by its own column, else by the event's time plus the horizon."""
    at = _instant(source.time_column, schema)
    if source.available_column is not None:
        arrived = _instant(source.available_column, schema) <= known_until
    else:
        arrived = at <= known_until - timedelta(seconds=source.horizon_s)
    return (at >= begin) & (at < end) & arrived & pl.col(source.label_column).is_not_null()


def _instant(name: str, schema: pl.Schema) -> pl.Expr:
    """A time column as UTC microseconds; a time without a zone is UTC, a date is its first moment."""
    dtype = schema[name]
    column = pl.col(name).cast(pl.Datetime("us", getattr(dtype, "time_zone", None)))
    if getattr(dtype, "time_zone", None) is None:
        return column.dt.replace_time_zone("UTC")
    return column.dt.convert_time_zone("UTC")


def _cast(value: pl.Expr, dtype: pl.DataType, given: pl.DataType | None) -> pl.Expr:
    """The log's value in the history's type."""
    if isinstance(given, pl.Datetime) and isinstance(dtype, pl.Datetime | pl.Date):
        zone = getattr(dtype, "time_zone", None)
        value = value.dt.replace_time_zone(None) if zone is None else value.dt.convert_time_zone(zone)
    return value.cast(dtype)


def _as_array(column: pl.Series) -> Any:
    """Times in UTC, numbers and truth values with NaN for a missing one, text with None."""
    if isinstance(column.dtype, pl.Datetime):
        zone = column.dtype.time_zone
        return (column if zone is None else column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)).to_numpy()
    if isinstance(column.dtype, pl.Date):
        return column.to_numpy()
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.array(column.to_list(), dtype=object)


def _fields(dtype: pl.DataType) -> list[pl.Field]:
    return list(dtype.fields) if isinstance(dtype, pl.Struct) else []


def _write(frame: pl.DataFrame, time_column: str, into: Path) -> Snapshot:
    into.parent.mkdir(parents=True, exist_ok=True)
    staging = into.with_name(into.name + ".new")
    frame.write_parquet(staging, compression="lz4", statistics=False, row_group_size=ROW_GROUP_ROWS)
    staging.replace(into)
    with into.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    span = frame.select(_instant(time_column, frame.schema).alias("at"))["at"]
    return Snapshot(
        path=into,
        digest=f"sha256:{digest}",
        rows=frame.height,
        first_at=span[0] if frame.height else None,
        last_at=span[-1] if frame.height else None,
    )
