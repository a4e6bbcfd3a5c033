"""The inference log as questions: who answered what, what turned out true, and which files are new.

The committer writes two Delta tables a model (`steersman.dataplane.tables`); monitors, verdicts and data sets read them
here. Every question names a span of event time and opens the files of the dates it touches, never the rest. Which files
those are is kept in memory and brought up to date from the log's newest entries, so that a question over one day costs
milliseconds, however long the table has lived.

Three rules hold for all answers. A label counts from the moment it arrived: `as_of` decides, and of several labels of one
event the latest by then; `steersman.plugins.tables.labels` says which event a label about an entity belongs to. An event
that was sent twice (a caller's retry) counts once, as it was first. Order is that of time, then of the log, and never that
of files, which a compaction changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import polars as pl

from steersman.dataplane import privacy, sockets, tables
from steersman.dataplane.capture import GIVEN_UP
from steersman.dataplane.storage import LocalStorage, Storage
from steersman.plugins.tables import comparing
from steersman.plugins.tables import labels as joining
from steersman.plugins.tables.files import CommittedFile, TableFiles
from steersman.plugins.tables.labels import INSTANT
from steersman.ports import AnsweredRows, ArmCount, Comparison, LogError, PairedRows, Removed, Scope, Span, SplitRows

FLUSH_S_MAX = 60.0
DAYS_MAX = 3_660
"""Days one question may span."""

LABELS_EARLY_MAX = timedelta(days=31)

ANSWERING = ("stable", "candidate")
"""Variants whose answers callers got; `shadow` and `challenger` are copies."""

_POLARS_TYPES: dict[str, pl.DataType] = {
    "boolean": pl.Boolean(),
    "string": pl.String(),
    "double": pl.Float64(),
    "long": pl.Int64(),
}
_PREDICTIONS: dict[str, pl.DataType] = {
    "event_id": pl.String(),
    "at": INSTANT,
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
    "trace_id": pl.String(),
    "position": pl.Int64(),
}


EntityHorizon = Callable[[str, str], timedelta | None]
"""By workspace and model: how long after a prediction a label about its entity may be; None where labels name events only."""


def events_only(_workspace: str, _model: str) -> timedelta | None:
    return None


class DeltaInferenceLog:
    """Reads the tables of a state directory, and asks router and committer for what only they can do. Thread-safe."""

    def __init__(
        self,
        state: Path,
        storage: Storage | None = None,
        *,
        entity_horizon: EntityHorizon = events_only,
        flush_timeout_s: float = FLUSH_S_MAX,
    ) -> None:
        """Without `storage` the tables are in the state directory."""
        self._storage = storage or LocalStorage(state / "tables")
        self._state = state
        self._run = state / "run"
        self._entity_horizon = entity_horizon
        self._flush_timeout_s = flush_timeout_s
        self._files: dict[str, TableFiles] = {}
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

    def _post(self, socket: str, target: str = "/flush", body: bytes = b"") -> bytes:
        status, answer = sockets.call_unix(self._run / socket, "POST", target, body, timeout_s=self._flush_timeout_s)
        if status != 200:
            raise LogError(f"{socket}: {target} answered {status}: {answer.decode(errors='replace')[:500]}")
        return answer

    # --- taking rows away --------------------------------------------------------------------------------------------

    def expire(self, key: str, workspace: str, model: str, *, until: date) -> Removed:
        """Delete the model's rows of all dates before `until`, predictions and labels; see the port."""
        return self._removed("/expire", {"key": key, "workspace": workspace, "model": model, "until": str(until)})

    def erase(self, workspace: str, model: str, *, column: str, entity: str) -> Removed:
        """Delete every row of one entity of the model; see the port."""
        self.flush()
        entities = [entity]
        if privacy.key_path(self._state).exists():  # whether or not the column is hashed now, it may have been
            key = privacy.load_key(self._state)
            entities.append(privacy.hashed(key, f"{workspace}/{model}", column, entity))
        return self._removed("/erase", {"workspace": workspace, "model": model, "entities": entities})

    def _removed(self, target: str, wanted: Mapping[str, object]) -> Removed:
        try:
            answer = self._post("committer.sock", target, msgspec.json.encode(wanted))
        except sockets.SocketUnavailableError as error:
            raise LogError(f"the committer does not answer: {error}") from error
        return msgspec.json.decode(answer, type=Removed)

    # --- the port's questions ----------------------------------------------------------------------------------------

    def paired(self, scope: Scope, span: Span, asked: Comparison, *, as_of: datetime) -> PairedRows:
        """Events of the span that both digests were asked, with the labels that had arrived by `as_of`; see the port."""
        rows = self._predictions(
            scope,
            span,
            columns=comparing.COLUMNS,
            with_inputs=asked.needs_inputs,
            keep=pl.col("digest").is_in([asked.reference, asked.compared]) & (pl.col("status") != GIVEN_UP),
        )
        labels = self._labels(scope, span, as_of=as_of)
        return comparing.paired_rows(rows, labels, asked)

    def split(
        self, scope: Scope, span: Span, asked: Comparison, *, as_of: datetime, drawn_since: datetime
    ) -> SplitRows:
        """Events that one of the digests was given by lot, each unit where it was first drawn; see the port."""
        given = pl.col("digest").is_in([asked.reference, asked.compared]) & pl.col("variant").is_in(ANSWERING)
        earlier = self._predictions(
            scope,
            Span(drawn_since, span.since),
            columns=("entity",),
            with_inputs=False,
            keep=given & comparing.drawn() & pl.col("entity").is_not_null(),
        )
        rows = self._predictions(scope, span, columns=comparing.COLUMNS, with_inputs=asked.needs_inputs, keep=given)
        labels = self._labels(scope, span, as_of=as_of)
        return comparing.split_rows(rows, labels, asked, drawn_before=earlier["entity"].unique())

    def refuse_measure(self, expression: str) -> str | None:
        """Why a declared metric's expression is refused, if it is."""
        return comparing.refuse_measure(expression)

    def answered(self, scope: Scope, span: Span, *, as_of: datetime, digest: str) -> AnsweredRows:
        """What callers got from a digest (variants stable and candidate; copies are not answers)."""
        frame = self.scored_rows(scope, span, as_of=as_of, variants=ANSWERING, digests=(digest,), inputs=True)
        inputs = frame["inputs"].struct.unnest() if frame["inputs"].dtype.fields else pl.DataFrame()  # type: ignore[attr-defined]
        return AnsweredRows(
            rows=frame.height,
            columns={column.name: _as_array(column) for column in inputs.iter_columns()},
            scores=frame["score"].to_numpy(),
            labels=frame["label"].fill_null(float("nan")).to_numpy(),
        )

    def latencies(
        self, scope: Scope, span: Span, *, digest: str, variants: Collection[str]
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Milliseconds of each request a digest answered as one of `variants`, or that was given up before it did; wall
        time, one a request, not a row."""
        rows = self._predictions(
            scope,
            span,
            columns=("request_id", "latency_ms"),
            with_inputs=False,
            keep=(pl.col("digest") == digest)
            & pl.col("variant").is_in(variants)
            & pl.col("status").is_in((200, GIVEN_UP)),
        )
        return rows.unique("request_id", keep="first", maintain_order=True)["latency_ms"].to_numpy()

    def counts(self, scope: Scope, span: Span) -> list[ArmCount]:
        """Events each version answered as each variant; an event is an error if its answer was 500 or above. One that was
        given up was neither answered nor failed: it says something about the latency only."""
        rows = self._predictions(
            scope,
            span,
            columns=("event_id", "digest", "release", "variant", "status"),
            with_inputs=False,
            keep=pl.col("status") != GIVEN_UP,
        )
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
        scope: Scope,
        span: Span,
        *,
        as_of: datetime,
        variants: Collection[str] | None = None,
        digests: Collection[str] | None = None,
        inputs: bool = False,
    ) -> pl.DataFrame:
        """Answered events of the span with their label as known at `as_of` (`label` and `label_at`, null where none).

        One row an (event, digest), in order of time and id; columns event_id, at, version, digest, release, variant,
        probability, entity, score, label, label_at, and `inputs` (a struct) where asked for.
        """
        scored = self._scored(scope, span, digests=digests, variants=variants, with_inputs=inputs)
        labels = self._labels(scope, span, as_of=as_of)
        return scored.join(labels, on="event_id", how="left").sort("at", "event_id", "digest")

    def matured(
        self,
        scope: Scope,
        span: Span,
        *,
        as_of: datetime,
        horizon: timedelta,
        variants: Collection[str] | None = ANSWERING,
        digests: Collection[str] | None = None,
        inputs: bool = False,
    ) -> pl.DataFrame:
        """Like `scored_rows`, of events whose horizon is over at `as_of` and whose label had arrived by then."""
        rows = self.scored_rows(
            scope,
            Span(span.since, min(span.until, as_of - horizon)),
            as_of=as_of,
            variants=variants,
            digests=digests,
            inputs=inputs,
        )
        return rows.filter(pl.col("label").is_not_null())

    def known_events(self, scope: Scope, span: Span, *, as_of: datetime) -> pl.DataFrame:
        """Events callers got an answer to and whose label had arrived by `as_of`, each once: rows to learn from.

        Columns event_id, at, label, label_at and `inputs` (a struct); in order of time. A label may arrive before
        its event (two systems, two clocks), but not by more than `LABELS_EARLY_MAX`.
        """
        rows = self._predictions(
            scope,
            span,
            columns=("event_id", "at"),
            with_inputs=True,
            keep=(pl.col("status") == 200) & pl.col("score").is_not_null() & pl.col("variant").is_in(ANSWERING),
        )
        labels = self._labels(scope, span, as_of=as_of, early=LABELS_EARLY_MAX)
        return (
            rows.filter(pl.col("event_id").is_first_distinct())
            .join(labels, on="event_id", how="left", maintain_order="left")
            .filter(pl.col("label").is_not_null())
        )

    def labels(self, workspace: str, model: str, *, since: datetime, as_of: datetime) -> pl.DataFrame:
        """The latest label of each event id among those that arrived from `since` to `as_of`: event_id, label, label_at."""
        return joining.of_events(self._truth(workspace, model, since, as_of))

    def _truth(self, workspace: str, model: str, since: datetime, as_of: datetime) -> pl.DataFrame:
        table = tables.labels_table(workspace, model)

        def read() -> pl.DataFrame:
            files = self._of_dates(table, since, as_of + timedelta(microseconds=1))
            rows = self._scan(files, joining.LABELS) if files else pl.LazyFrame(schema=joining.LABELS)
            return joining.truth(rows, as_of).collect()

        return _again_where_files_went(read)

    def _labels(self, scope: Scope, span: Span, *, as_of: datetime, early: timedelta = timedelta()) -> pl.DataFrame:
        """Labels of the events of a span: those that name them, and those about their entities."""
        arrived = self._truth(scope.workspace, scope.model, span.since - early, as_of)
        by_event = joining.of_events(arrived)
        horizon = self._entity_horizon(scope.workspace, scope.model)
        if horizon is None or arrived["entity"].null_count() == arrived.height:
            return by_event
        answered = self._predictions(
            scope,
            Span(span.since, min(span.until + horizon, as_of) + timedelta(microseconds=1)),
            columns=("event_id", "at", "entity"),
            with_inputs=False,
            keep=(pl.col("status") == 200) & pl.col("score").is_not_null() & pl.col("variant").is_in(ANSWERING),
        )
        return joining.united(by_event, joining.of_entities(arrived, answered, horizon))

    def _scored(
        self,
        scope: Scope,
        span: Span,
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
        rows = self._predictions(scope, span, columns=columns, with_inputs=with_inputs, keep=keep)
        return rows.unique(["event_id", "digest"], keep="first", maintain_order=True)

    def _predictions(
        self, scope: Scope, span: Span, *, columns: Sequence[str], with_inputs: bool, keep: pl.Expr | None
    ) -> pl.DataFrame:
        """Rows of the span, in order of time and of the log, from every table of the model."""
        folder = tables.predictions_folder(*scope)
        inside = (pl.col("at") >= span.since) & (pl.col("at") < span.until)
        chosen = [*columns, *(["inputs"] if with_inputs else [])]

        def read() -> pl.DataFrame:
            known = tables.read_catalogue(self._storage, folder).tables
            inputs: dict[str, str] = {}
            for table in known:
                inputs |= table.inputs
            schema = {**_PREDICTIONS, "inputs": _struct(inputs)}
            parts = [pl.LazyFrame(schema=schema)]
            for table in known:
                files = self._of_dates(f"{folder}/{table.name}", *span)
                if files:
                    part = self._scan(files, {**_PREDICTIONS, "inputs": _struct(table.inputs)})
                    parts.append(_widened(part, table.inputs, inputs) if with_inputs else part)
            wanted = [*chosen, *(name for name in ("at", "position") if name not in chosen)]
            rows = [part.filter(inside if keep is None else inside & keep).select(wanted) for part in parts]
            return pl.concat(rows).sort("at", "position", nulls_last=False).select(chosen).collect()

        return _again_where_files_went(read)

    # --- files -------------------------------------------------------------------------------------------------------

    def committed_files(self, scope: Scope, since_versions: dict[str, int]) -> list[CommittedFile]:
        """Prediction files committed after a version, oldest first: what a monitor has not folded yet.

        `since_versions` is the last folded version by table name (`predictions`, …); a table it lacks is new.
        """
        folder = tables.predictions_folder(*scope)
        found = []
        for table in tables.read_catalogue(self._storage, folder).tables:
            with self._lock:
                files = self._up_to_date(f"{folder}/{table.name}")
                found += files.since(since_versions.get(table.name, -1))
        return found

    def read_files(self, files: Sequence[CommittedFile]) -> pl.DataFrame:
        """All columns of committed files of one table. Raises LogError where one was compacted away too long ago."""
        if not files:
            return pl.DataFrame(schema=_PREDICTIONS)
        folder, _, name = files[0].table.rpartition("/")
        table = tables.read_catalogue(self._storage, folder).table(name)
        schema = {**_PREDICTIONS, "inputs": _struct(table.inputs)}
        try:
            return self._scan([file.path for file in files], schema).collect()
        except _GONE as error:
            raise LogError(f"{files[0].table}: files to fold are gone; fold the table anew: {error}") from error

    def _of_dates(self, table: str, since: datetime, until: datetime) -> list[str]:
        days = _days(since, until)
        with self._lock:
            return self._up_to_date(table).of_dates(days)

    def _up_to_date(self, table: str) -> TableFiles:
        files = self._files.get(table)
        if files is None:
            files = self._files[table] = TableFiles(self._storage, table)
        files.refresh()
        return files

    def _scan(self, files: Sequence[str], schema: dict[str, pl.DataType]) -> pl.LazyFrame:
        """Files of one table; a column or field that was added later is null in older files."""
        return pl.scan_parquet(
            list(files),
            schema=schema,
            missing_columns="insert",
            extra_columns="ignore",
            cast_options=pl.ScanCastOptions(missing_struct_fields="insert", extra_struct_fields="ignore"),
            hive_partitioning=False,
            glob=False,
            storage_options=self._storage.scan_options,
        )


_GONE = (FileNotFoundError, pl.exceptions.ComputeError)
"""What Polars raises for a file that is not there, on a disk and on an object store."""

T = TypeVar("T")


def _again_where_files_went(read: Callable[[], T]) -> T:
    """Read, and once more from the newest list: an erasure leaves no time between a list and the end of its files."""
    try:
        return read()
    except _GONE:
        return read()


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
