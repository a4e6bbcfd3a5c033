"""From records of the write-ahead log to rows of the tables.

A record holds what passed over the wire: a columnar batch as JSON, once for every version that saw it. Here the batches
of many requests become one Polars frame a table. Columns are concatenated as Python lists, one `extend` a batch, and typed
once at the end: that is what makes a day of traffic cost milliseconds. A value that does not fit its column (a request the
worker refused) becomes null; the row stays, with its status and error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import polars as pl

from steersman.dataplane import protocol, routing, tensors
from steersman.dataplane.capture import Context, Labels, Prediction
from steersman.dataplane.configuration import Column
from steersman.dataplane.tables import UNSIGNED_FIELD, PredictionsTable

_POLARS_TYPES: dict[str, pl.DataType] = {
    "boolean": pl.Boolean(),
    "string": pl.String(),
    "double": pl.Float64(),
    "long": pl.Int64(),
}
_INSTANT = pl.Datetime("us", "UTC")
_DAY_US = 86_400_000_000
_LONG = range(-(2**63), 2**63)


class _Batch(msgspec.Struct):
    """Rows of one record, already columns."""

    record: Prediction
    inputs: dict[str, list[Any]]
    entities: list[str | None]
    scores: list[float | None]
    outputs: list[str | None]


def prediction_rows(table: PredictionsTable, items: Sequence[tuple[int, tuple[Context, Prediction]]]) -> pl.DataFrame:
    """One frame for a table: a row for each (event × variant), in the order of the log, with all of the table's inputs.

    `items` are the records with their positions in the log.
    """
    batches = [_batch(table, context, record) for _, (context, record) in items]
    inputs = pl.DataFrame(
        [
            _series(name, [value for batch in batches for value in batch.inputs[name]], _POLARS_TYPES[kind])
            for name, kind in table.inputs.items()
        ]
    )
    ats = [batch.record.at_us for batch in batches]
    counts = [len(batch.record.event_ids) for batch in batches]

    def per_record(name: str, values: Iterable[Any], dtype: pl.DataType) -> pl.Series:
        spread = [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
        return pl.Series(name, spread, dtype=dtype)

    return pl.DataFrame(
        [
            pl.Series("event_id", [one for b in batches for one in b.record.event_ids], dtype=pl.String()),
            per_record("at", ats, pl.Int64()).cast(_INSTANT),
            per_record("date", dates_of(ats), pl.String()),
            per_record("version", (b.record.version for b in batches), pl.String()),
            per_record("digest", (b.record.digest for b in batches), pl.String()),
            per_record("release", (b.record.release for b in batches), pl.String()),
            per_record("variant", (b.record.variant for b in batches), pl.String()),
            per_record("probability", (b.record.probability for b in batches), pl.Float64()),
            pl.Series("entity", [one for b in batches for one in b.entities], dtype=pl.String()),
            inputs.to_struct("inputs"),
            pl.Series("score", [one for b in batches for one in b.scores], dtype=pl.Float64()),
            pl.Series("outputs", [one for b in batches for one in b.outputs], dtype=pl.String()),
            per_record("status", (b.record.status for b in batches), pl.Int32()),
            per_record("error", (b.record.error for b in batches), pl.String()),
            per_record("latency_ms", (b.record.latency_ms for b in batches), pl.Float64()),
            per_record("request_id", (b.record.request_id for b in batches), pl.String()),
            per_record("trace_id", (b.record.trace_id for b in batches), pl.String()),
            _positions((position for position, _ in items), counts),
        ]
    )


def label_rows(items: Sequence[tuple[int, Labels]]) -> pl.DataFrame:
    """One frame for the labels of one model, in the order of arrival; a label has an event id or an entity and a time."""
    records = [record for _, record in items]
    counts = [len(record.ats_us) for record in records]
    ats = [at for record in records for at in record.ats_us]

    def each(name: str, values: Iterable[list[Any]], dtype: pl.DataType) -> pl.Series:
        """A list of the record, which is empty where no label of it has the property."""
        spread = zip(values, counts, strict=True)
        return pl.Series(name, [one for found, count in spread for one in (found or [None] * count)], dtype=dtype)

    entities = each("entity", (record.entities for record in records), pl.String())
    about_entity = entities.fill_null("") != ""
    event_ids = each("event_id", (record.event_ids for record in records), pl.String())
    abouts = each("about", (record.abouts_us for record in records), pl.Int64())
    names = each("name", (record.names for record in records), pl.String())
    return pl.DataFrame(
        [
            _nullable(event_ids),
            pl.Series("at", ats, dtype=pl.Int64()).cast(_INSTANT),
            pl.Series("date", dates_of(ats), dtype=pl.String()),
            each("value", (record.values for record in records), pl.Float64()),
            each("source", ([record.source] * len(record.ats_us) for record in records), pl.String()),
            _nullable(entities),
            pl.select(pl.when(about_entity).then(abouts).alias("about")).to_series().cast(_INSTANT),
            _nullable(names),
            _positions((position for position, _ in items), counts),
        ]
    )


def _nullable(texts: pl.Series) -> pl.Series:
    """The log's empty text is the table's null."""
    return texts.replace("", None)


def _positions(ends: Iterable[int], counts: Sequence[int]) -> pl.Series:
    """A number for each row that grows along its stream, so that a table says its order whatever a compaction does to it.

    `ends` are the positions behind each record. A record is longer than its rows are many, so that the numbers of two
    records never meet.
    """
    numbers = [
        number
        for end, count in zip(ends, counts, strict=True)
        for number in range(end - count + 1, end + 1)
    ]  # fmt: skip
    return pl.Series("position", numbers, dtype=pl.Int64())


def dates_of(ats_us: Iterable[int]) -> list[str]:
    """The UTC dates of instants, the partitions they belong to; most instants of a commit share one."""
    known: dict[int, str] = {}
    dates = []
    for at_us in ats_us:
        day = at_us // _DAY_US
        if day not in known:
            known[day] = datetime.fromtimestamp(at_us // 1_000_000, UTC).date().isoformat()
        dates.append(known[day])
    return dates


def _batch(table: PredictionsTable, context: Context, record: Prediction) -> _Batch:
    rows = len(record.event_ids)
    given = _given(record, context.signature, rows)
    entities: list[str | None] = [None] * rows
    if context.sticky_by is not None and context.sticky_by in given:
        entities = [None if value is None else routing.entity_text(value) for value in given[context.sticky_by]]
    scores, outputs = _outputs(record.outputs, rows)
    return _Batch(record, _inputs(table, context, given, rows), entities, scores, outputs)


def _given(record: Prediction, signature: Sequence[Column], rows: int) -> dict[str, list[Any]]:
    """The request's columns by name. One matrix `[rows, k]` for k columns is spread over them, in their order."""
    try:
        inputs = tensors.decode_request(record.request, record.json_bytes)
    except protocol.EnvelopeError:
        return {}
    if len(inputs) == 1 and len(signature) > 1 and len(inputs[0].data) == rows * len(signature):
        width = len(signature)
        return {column.name: inputs[0].data[index::width] for index, column in enumerate(signature)}
    return {tensor.name: tensor.data for tensor in inputs if len(tensor.data) == rows}


def _inputs(table: PredictionsTable, context: Context, given: dict[str, list[Any]], rows: int) -> dict[str, list[Any]]:
    if not context.signature:
        names = list(given)
        lines: list[Any] = [
            msgspec.json.encode(dict(zip(names, row, strict=True))).decode()
            for row in zip(*given.values(), strict=True)
        ]
        given = {UNSIGNED_FIELD: lines or [None] * rows}
    missing: list[Any] = [None] * rows
    return {name: given.get(name, missing) for name in table.inputs}


def _outputs(raw: bytes, rows: int) -> tuple[list[float | None], list[str | None]]:
    """Score of each row (first output, where it is one number), and all outputs as JSON where there is more."""
    no_scores: list[float | None] = [None] * rows
    no_lines: list[str | None] = [None] * rows
    if not raw:
        return no_scores, no_lines
    try:
        tensors = protocol.decode_outputs(raw)
    except protocol.EnvelopeError:
        return no_scores, no_lines
    widths = [len(tensor.data) // rows if len(tensor.data) % rows == 0 else 0 for tensor in tensors]
    if not tensors or 0 in widths:
        return no_scores, no_lines
    first = tensors[0].data
    numeric = widths[0] == 1 and {type(value) for value in first} <= {float, int, bool, type(None)}
    scores = [None if value is None else _as_float(value) for value in first] if numeric else no_scores
    if numeric and len(tensors) == 1:
        return scores, no_lines
    lines: list[str | None] = []
    for row in range(rows):
        cell = {
            tensor.name: tensor.data[row] if width == 1 else tensor.data[row * width : (row + 1) * width]
            for tensor, width in zip(tensors, widths, strict=True)
        }
        lines.append(msgspec.json.encode(cell).decode())
    return scores, lines


def _series(name: str, values: list[Any], dtype: pl.DataType) -> pl.Series:
    try:
        return pl.Series(name, values, dtype=dtype, strict=True)
    except (TypeError, pl.exceptions.PolarsError, OverflowError):
        return pl.Series(name, [_fitting(value, dtype) for value in values], dtype=dtype)


def _fitting(value: Any, dtype: pl.DataType) -> Any:
    if dtype == pl.String():
        return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
    if dtype == pl.Boolean():
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if dtype == pl.Float64():
        return _as_float(value)
    if isinstance(value, float) and not value.is_integer():  # neither is what is infinite or no number
        return None
    return int(value) if int(value) in _LONG else None


def _as_float(value: float) -> float | None:
    """None for a whole number beyond what a float holds: JSON may write one of any length."""
    try:
        return float(value)
    except OverflowError:
        return None
