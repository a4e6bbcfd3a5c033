"""The inference log as questions: who answered what, what turned out true, and which files are new.

The committer writes two Delta tables a model (`steersman.dataplane.tables`); monitors, verdicts and data sets read them
here. Every question names a span of event time and opens the files of the dates it touches, never the rest. Which files
those are is kept in memory and brought up to date from the log's newest entries, so that a question over one day costs
milliseconds, however long the table has lived.

Two rules hold for all answers. A label counts from the moment it arrived: `as_of` decides, and of several labels of one
event the latest by then. An event that was sent twice (a caller's retry) counts once.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import numpy as np
import polars as pl
from deltalake import DeltaTable

from steersman.dataplane import sockets, tables
from steersman.ports import AnsweredRows, ArmCount, LogError, PairedRows

FLUSH_S_MAX = 60.0
DAYS_MAX = 3_660
"""Days one question may span."""

LABELS_EARLY_MAX = timedelta(days=31)

ANSWERING = ("stable", "candidate")
"""Variants whose answers callers got; `shadow` and `challenger` are copies."""

_INSTANT = pl.Datetime("us", "UTC")
_POLARS_TYPES: dict[str, pl.DataType] = {
    "boolean": pl.Boolean(),
    "string": pl.String(),
    "double": pl.Float64(),
    "long": pl.Int64(),
}
_PREDICTIONS: dict[str, pl.DataType] = {
    "event_id": pl.String(),
    "at": _INSTANT,
    "version": pl.String(),
    "digest": pl.String(),
    "release": pl.String(),
    "variant": pl.String(),
    "probability": pl.Float64(),
    "entity": pl.String(),
    "score": pl.Float64(),
    "outputs": pl.String(),
    "status": pl.Int32(),
    "error": pl.String(),
    "latency_ms": pl.Float64(),
    "request_id": pl.String(),
}
_LABELS: dict[str, pl.DataType] = {
    "event_id": pl.String(),
    "at": _INSTANT,
    "value": pl.Float64(),
    "source": pl.String(),
}


class CommittedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A data file and the table version that added it; what a monitor folds once."""

    table: Path
    version: int
    path: Path
    date: str
    rows: int


class _Files:
    """The live data files of one table by date, kept up to date from the entries of its log."""

    def __init__(self, table: Path) -> None:
        self.table = table
        self.version = -1
        self._by_date: dict[str, dict[Path, CommittedFile]] = {}

    def refresh(self) -> None:
        """Take up entries written since; one `stat` where there are none."""
        if self.version < 0:
            self._load()
        while (entry := self._entry(self.version + 1)).exists():
            self._take(entry.read_bytes(), self.version + 1)
            self.version += 1

    def _entry(self, version: int) -> Path:
        return self.table / "_delta_log" / f"{version:020d}.json"

    def _load(self) -> None:
        """From the first entry where it still exists, else from what Delta's checkpoint lists."""
        if self._entry(0).exists() or not DeltaTable.is_deltatable(str(self.table)):
            return
        table = DeltaTable(str(self.table))
        listed = pl.DataFrame(table.get_add_actions(flatten=True))
        for path, day, rows in listed.select("path", "partition.date", "num_records").iter_rows():
            self._add(unquote(path), day, rows, 0)
        self.version = table.version()

    def _take(self, entry: bytes, version: int) -> None:
        for line in entry.splitlines():
            action = msgspec.json.decode(line)
            if (added := action.get("add")) is not None:
                rows = msgspec.json.decode(added["stats"])["numRecords"] if added.get("stats") else 0
                folded = version if added.get("dataChange", True) else 0  # a compaction brings no new rows
                self._add(unquote(added["path"]), added["partitionValues"]["date"], rows, folded)
            elif (removed := action.get("remove")) is not None:
                path = self.table / unquote(removed["path"])
                for files in self._by_date.values():
                    files.pop(path, None)

    def _add(self, relative: str, day: str, rows: int, version: int) -> None:
        path = self.table / relative
        file = CommittedFile(table=self.table, version=version, path=path, date=day, rows=rows)
        self._by_date.setdefault(day, {})[path] = file

    def of_dates(self, days: Iterable[str]) -> list[Path]:
        return [path for day in days for path in self._by_date.get(day, ())]

    def since(self, version: int) -> list[CommittedFile]:
        new = [file for files in self._by_date.values() for file in files.values() if file.version > version]
        return sorted(new, key=lambda file: (file.version, file.path))


class DeltaInferenceLog:
    """Reads `tables/` of a state directory, and asks router and committer to bring it up to date. Thread-safe."""

    def __init__(self, state: Path, *, flush_timeout_s: float = FLUSH_S_MAX) -> None:
        self._root = state / "tables"
        self._run = state / "run"
        self._flush_timeout_s = flush_timeout_s
        self._files: dict[Path, _Files] = {}
        self._lock = threading.Lock()

    # --- bringing it up to date --------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Return when everything captured before the call can be read: copies under way first, then the log.

        A router that does not run has nothing under way. Raises LogError when the committer does not run or fails.
        """
        for router in sorted(self._run.glob("router-*.sock")):
            try:
                self._post(router.name)
            except sockets.NobodyListensError:
                pass
            except sockets.SocketUnavailableError as error:
                raise LogError(f"the router does not settle: {error}") from error
        try:
            self._post("committer.sock")
        except sockets.SocketUnavailableError as error:
            raise LogError(f"the committer does not answer: {error}") from error

    def _post(self, socket: str) -> None:
        status, body = sockets.call_unix(self._run / socket, "POST", "/flush", timeout_s=self._flush_timeout_s)
        if status != 200:
            raise LogError(f"{socket}: flush answered {status}: {body.decode(errors='replace')[:500]}")

    # --- the port's questions ----------------------------------------------------------------------------------------

    def paired(
        self,
        workspace: str,
        environment: str,
        model: str,
        *,
        since: datetime,
        until: datetime,
        as_of: datetime,
        reference: str,
        compared: str,
    ) -> PairedRows:
        """Events of the span answered by both digests whose label had arrived by `as_of`; in order of time and id."""
        scored = self._scored(workspace, environment, model, since, until, digests=(reference, compared))
        labels = self.labels(workspace, model, since=since, as_of=as_of)
        one = scored.filter(pl.col("digest") == reference).select("event_id", "at", pl.col("score").alias("reference"))
        other = scored.filter(pl.col("digest") == compared).select("event_id", pl.col("score").alias("compared"))
        rows = one.join(other, on="event_id").join(labels, on="event_id").sort("at", "event_id")
        return PairedRows(
            reference=rows["reference"].to_numpy(),
            compared=rows["compared"].to_numpy(),
            labels=rows["label"].to_numpy(),
        )

    def answered(
        self,
        workspace: str,
        environment: str,
        model: str,
        *,
        since: datetime,
        until: datetime,
        as_of: datetime,
        digest: str,
    ) -> AnsweredRows:
        """What callers got from a digest (variants stable and candidate; copies are not answers)."""
        frame = self.scored_rows(
            workspace,
            environment,
            model,
            since=since,
            until=until,
            as_of=as_of,
            variants=ANSWERING,
            digests=(digest,),
            inputs=True,
        )
        inputs = frame["inputs"].struct.unnest() if frame["inputs"].dtype.fields else pl.DataFrame()  # type: ignore[attr-defined]
        return AnsweredRows(
            rows=frame.height,
            columns={column.name: _as_array(column) for column in inputs.iter_columns()},
            scores=frame["score"].to_numpy(),
            labels=frame["label"].fill_null(float("nan")).to_numpy(),
        )

    def latencies(
        self, workspace: str, environment: str, model: str, *, since: datetime, until: datetime, digest: str
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Milliseconds of each request a digest answered to callers, wall time; one a request, not a row."""
        rows = self._predictions(
            workspace, environment, model, since, until, columns=("request_id", "latency_ms"), with_inputs=False,
            keep=(pl.col("digest") == digest) & pl.col("variant").is_in(ANSWERING) & (pl.col("status") == 200),
        )  # fmt: skip
        return rows.unique("request_id", keep="first", maintain_order=True)["latency_ms"].to_numpy()

    def counts(
        self, workspace: str, environment: str, model: str, *, since: datetime, until: datetime
    ) -> list[ArmCount]:
        """Events each version answered as each variant; an event is an error if its answer was 500 or above."""
        rows = self._predictions(
            workspace, environment, model, since, until, columns=("event_id", "digest", "release", "variant", "status"),
            with_inputs=False, keep=None,
        )  # fmt: skip
        grouped = (
            rows.group_by("digest", "release", "variant")
            .agg(
                pl.col("event_id").n_unique().alias("rows"),
                pl.col("event_id").filter(pl.col("status") >= 500).n_unique().alias("errors"),
            )
            .sort("digest", "release", "variant")
        )
        return [
            ArmCount(digest=digest, release=release, variant=variant, rows=count, errors=errors)
            for digest, release, variant, count, errors in grouped.iter_rows()
        ]

    # --- rows as frames ----------------------------------------------------------------------------------------------

    def scored_rows(
        self,
        workspace: str,
        environment: str,
        model: str,
        *,
        since: datetime,
        until: datetime,
        as_of: datetime,
        variants: Collection[str] | None = None,
        digests: Collection[str] | None = None,
        inputs: bool = False,
    ) -> pl.DataFrame:
        """Answered events of the span with their label as known at `as_of` (`label` and `label_at`, null where none).

        One row an (event, digest), in order of time and id; columns event_id, at, version, digest, release, variant,
        probability, entity, score, label, label_at, and `inputs` (a struct) where asked for.
        """
        scored = self._scored(
            workspace, environment, model, since, until, digests=digests, variants=variants, with_inputs=inputs
        )
        labels = self.labels(workspace, model, since=since, as_of=as_of)
        return scored.join(labels, on="event_id", how="left").sort("at", "event_id", "digest")

    def matured(
        self,
        workspace: str,
        environment: str,
        model: str,
        *,
        since: datetime,
        until: datetime,
        as_of: datetime,
        horizon: timedelta,
        variants: Collection[str] | None = ANSWERING,
        digests: Collection[str] | None = None,
        inputs: bool = False,
    ) -> pl.DataFrame:
        """Like `scored_rows`, of events whose horizon is over at `as_of` and whose label had arrived by then."""
        rows = self.scored_rows(
            workspace,
            environment,
            model,
            since=since,
            until=min(until, as_of - horizon),
            as_of=as_of,
            variants=variants,
            digests=digests,
            inputs=inputs,
        )
        return rows.filter(pl.col("label").is_not_null())

    def known_events(
        self, workspace: str, environment: str, model: str, *, since: datetime, until: datetime, as_of: datetime
    ) -> pl.DataFrame:
        """Events callers got an answer to and whose label had arrived by `as_of`, each once: rows to learn from.

        Columns event_id, at, label, label_at and `inputs` (a struct); in the order of commits. A label may arrive before
        its event (two systems, two clocks), but not by more than `LABELS_EARLY_MAX`.
        """
        rows = self._predictions(
            workspace, environment, model, since, until, columns=("event_id", "at"), with_inputs=True,
            keep=(pl.col("status") == 200) & pl.col("score").is_not_null() & pl.col("variant").is_in(ANSWERING),
        )  # fmt: skip
        labels = self.labels(workspace, model, since=since - LABELS_EARLY_MAX, as_of=as_of)
        return (
            rows.filter(pl.col("event_id").is_first_distinct())
            .join(labels, on="event_id", how="left", maintain_order="left")
            .filter(pl.col("label").is_not_null())
        )

    def labels(self, workspace: str, model: str, *, since: datetime, as_of: datetime) -> pl.DataFrame:
        """The latest label of each event among those that arrived from `since` to `as_of`: event_id, label, label_at."""
        table = tables.labels_table(self._root, workspace, model)
        files = self._of_dates(table, since, as_of + timedelta(microseconds=1))
        if not files:
            return pl.DataFrame(schema={"event_id": pl.String(), "label": pl.Float64(), "label_at": _INSTANT})
        return (
            _scan(files, _LABELS)
            .filter(pl.col("at") <= as_of)
            .select("event_id", pl.col("value").alias("label"), pl.col("at").alias("label_at"))
            .sort("label_at", maintain_order=True)
            .filter(pl.col("event_id").is_last_distinct())
            .collect()
        )

    def _scored(
        self,
        workspace: str,
        environment: str,
        model: str,
        since: datetime,
        until: datetime,
        *,
        digests: Collection[str] | None = None,
        variants: Collection[str] | None = None,
        with_inputs: bool = False,
    ) -> pl.DataFrame:
        keep = (pl.col("status") == 200) & pl.col("score").is_not_null()
        if digests is not None:
            keep &= pl.col("digest").is_in(list(digests))
        if variants is not None:
            keep &= pl.col("variant").is_in(list(variants))
        columns = ("event_id", "at", "version", "digest", "release", "variant", "probability", "entity", "score")
        rows = self._predictions(
            workspace, environment, model, since, until, columns=columns, with_inputs=with_inputs, keep=keep
        )
        return rows.unique(["event_id", "digest"], keep="first", maintain_order=True)

    def _predictions(
        self,
        workspace: str,
        environment: str,
        model: str,
        since: datetime,
        until: datetime,
        *,
        columns: Sequence[str],
        with_inputs: bool,
        keep: pl.Expr | None,
    ) -> pl.DataFrame:
        """Rows of the span, in the order they were committed, from every table of the model."""
        folder = tables.predictions_folder(self._root, workspace, environment, model)
        inputs: dict[str, str] = {}
        parts: list[pl.LazyFrame] = []
        known = tables.read_catalogue(folder).tables
        for table in known:
            inputs |= table.inputs
        chosen = [*columns, *(["inputs"] if with_inputs else [])]
        for table in known:
            files = self._of_dates(folder / table.name, since, until)
            if files:
                schema = {**_PREDICTIONS, "inputs": _struct(table.inputs)}
                span = (pl.col("at") >= since) & (pl.col("at") < until)
                part = _scan(files, schema).filter(span if keep is None else span & keep).select(chosen)
                parts.append(_widened(part, table.inputs, inputs) if with_inputs else part)
        if not parts:
            whole = {**_PREDICTIONS, "inputs": _struct(inputs)}
            return pl.DataFrame(schema={name: whole[name] for name in chosen})
        return pl.concat(parts).collect()

    # --- files -------------------------------------------------------------------------------------------------------

    def committed_files(
        self, workspace: str, environment: str, model: str, since_versions: dict[str, int]
    ) -> list[CommittedFile]:
        """Prediction files committed after a version, oldest first: what a monitor has not folded yet.

        `since_versions` is the last folded version by table name (`predictions`, …); a table it lacks is new.
        """
        folder = tables.predictions_folder(self._root, workspace, environment, model)
        found = []
        for table in tables.read_catalogue(folder).tables:
            with self._lock:
                files = self._up_to_date(folder / table.name)
                found += files.since(since_versions.get(table.name, -1))
        return found

    def read_files(self, files: Sequence[CommittedFile]) -> pl.DataFrame:
        """All columns of committed files of one table."""
        if not files:
            return pl.DataFrame(schema=_PREDICTIONS)
        table = tables.read_catalogue(files[0].table.parent).table(files[0].table.name)
        return _scan([file.path for file in files], {**_PREDICTIONS, "inputs": _struct(table.inputs)}).collect()

    def export(self, workspace: str, environment: str, model: str, into: Path) -> list[Path]:
        """Copy the model's tables (predictions of the environment, labels) to `into`; returns the copied tables.

        Files of a Delta table never change and the log is copied first, so the copy is a consistent table.
        """
        folder = tables.predictions_folder(self._root, workspace, environment, model)
        sources = [folder / table.name for table in tables.read_catalogue(folder).tables]
        sources.append(tables.labels_table(self._root, workspace, model))
        copied = []
        for source in sources:
            if DeltaTable.is_deltatable(str(source)):
                target = into / source.relative_to(self._root)
                shutil.copytree(source / "_delta_log", target / "_delta_log")
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("_delta_log"), dirs_exist_ok=True)
                copied.append(target)
        return copied

    def _of_dates(self, table: Path, since: datetime, until: datetime) -> list[Path]:
        days = _days(since, until)
        with self._lock:
            return self._up_to_date(table).of_dates(days)

    def _up_to_date(self, table: Path) -> _Files:
        files = self._files.get(table)
        if files is None:
            files = self._files[table] = _Files(table)
        files.refresh()
        return files


def _days(since: datetime, until: datetime) -> list[str]:
    """UTC dates that a span touches; its end is exclusive."""
    if until <= since:
        return []
    first = since.astimezone(UTC).date()
    last: date = (until.astimezone(UTC) - timedelta(microseconds=1)).date()
    count = (last - first).days + 1
    if count > DAYS_MAX:
        raise LogError(f"a span of {count} days; ask for at most {DAYS_MAX}")
    return [(first + timedelta(days=offset)).isoformat() for offset in range(count)]


def _scan(files: Sequence[Path], schema: dict[str, pl.DataType]) -> pl.LazyFrame:
    """Files of one table; a column or field that was added later is null in older files."""
    return pl.scan_parquet(
        list(files),
        schema=schema,
        missing_columns="insert",
        extra_columns="ignore",
        cast_options=pl.ScanCastOptions(missing_struct_fields="insert", extra_struct_fields="ignore"),
        hive_partitioning=False,
        glob=False,
    )


def _struct(inputs: dict[str, str]) -> pl.DataType:
    return pl.Struct({name: _POLARS_TYPES[kind] for name, kind in inputs.items()})


def _widened(part: pl.LazyFrame, own: dict[str, str], union: dict[str, str]) -> pl.LazyFrame:
    """Inputs with the fields of all tables, in one order; a field whose type changed is text or number as it is now."""
    if own == union and list(own) == list(union):
        return part
    fields = [
        (
            pl.col("inputs").struct.field(name).cast(_POLARS_TYPES[kind], strict=False)
            if name in own
            else pl.lit(None, dtype=_POLARS_TYPES[kind]).alias(name)
        )
        for name, kind in union.items()
    ]
    return part.with_columns(pl.struct(fields).alias("inputs"))


def _as_array(column: pl.Series) -> Any:
    """Numbers and truth values as float64 with NaN for null; text as objects with None."""
    if column.dtype == pl.String():
        return np.array(column.to_list(), dtype=object)
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
