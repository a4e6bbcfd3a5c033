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
_NUMERIC = {float, int, bool, type(None)}

_OF_A_RECORD: dict[str, pl.DataType] = {
    "version": pl.String(),
    "digest": pl.String(),
    "release": pl.String(),
    "variant": pl.String(),
    "probability": pl.Float64(),
    "status": pl.Int32(),
    "error": pl.String(),
    "latency_ms": pl.Float64(),
    "request_id": pl.String(),
    "trace_id": pl.String(),
}
"""Fields of a record that are columns of the table, under the same name."""

_COLUMNS = [
    "event_id",
    "at",
    "date",
    "version",
    "digest",
    "release",
    "variant",
    "probability",
    "entity",
    "inputs",
    "score",
    "outputs",
    "status",
    "error",
    "latency_ms",
    "request_id",
    "trace_id",
    "position",
]
"""In the order in which the table has them."""


def prediction_rows(table: PredictionsTable, items: Sequence[tuple[int, tuple[Context, Prediction]]]) -> pl.DataFrame:
    """One frame for a table: a row for each (event × variant), in the order of the log, with all of the table's inputs.

    `items` are the records with their positions in the log.
    """
    counts = [len(record.event_ids) for _, (_, record) in items]
    records = _records([record for _, (_, record) in items])
    if any(count != 1 for count in counts):
        records = records[[index for index, count in enumerate(counts) for _ in range(count)]]
    event_ids = [one for _, (_, record) in items for one in record.event_ids]
    return records.with_columns(
        pl.Series("event_id", event_ids, dtype=pl.String()),
        *_contents(table, items),
        _positions((position for position, _ in items), counts),
    ).select(_COLUMNS)


def _records(records: Sequence[Prediction]) -> pl.DataFrame:
    """What all rows of a record share, a row a record."""
    ats = [record.at_us for record in records]
    return pl.DataFrame(
        [
            pl.Series("at", ats, dtype=pl.Int64()).cast(_INSTANT),
            pl.Series("date", dates_of(ats), dtype=pl.String()),
            *(
                pl.Series(name, [getattr(record, name) for record in records], dtype=dtype)
                for name, dtype in _OF_A_RECORD.items()
            ),
        ]
    )


def _contents(table: PredictionsTable, items: Sequence[tuple[int, tuple[Context, Prediction]]]) -> list[pl.Series]:
    """What the rows of a record do not share: inputs, entity, and what the version answered.

    What was decoded of a record is let go of before the next one is: thirty lists each of ten thousand requests cost more
    to keep, and to look through for garbage, than to decode.
    """
    inputs: dict[str, list[Any]] = {name: [] for name in table.inputs}
    entities: list[str | None] = []
    scores: list[float | None] = []
    outputs: list[str | None] = []
    for _, (context, record) in items:
        rows = len(record.event_ids)
        missing: list[Any] = [None] * rows
        given = _given(record, context.signature, rows)
        sticky = given.get(context.sticky_by) if context.sticky_by is not None else None
        if sticky is None:
            entities += missing
        else:
            entities += [None if value is None else routing.entity_text(value) for value in sticky]
        if not context.signature:
            given = {UNSIGNED_FIELD: _lines(given) or missing}
        for name, column in inputs.items():
            column += given.get(name, missing)
        found_scores, found_outputs = _outputs(record.outputs, rows)
        scores += found_scores or missing
        outputs += found_outputs or missing
    columns = [_series(name, inputs[name], _POLARS_TYPES[kind]) for name, kind in table.inputs.items()]
    return [
        pl.Series("entity", entities, dtype=pl.String()),
        pl.DataFrame(columns).to_struct("inputs"),
        pl.Series("score", scores, dtype=pl.Float64()),
        pl.Series("outputs", outputs, dtype=pl.String()),
    ]


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


def _lines(given: dict[str, list[Any]]) -> list[str]:
    """Each row as JSON, for a version without a signature."""
    names = list(given)
    return [
        msgspec.json.encode(dict(zip(names, row, strict=True))).decode() for row in zip(*given.values(), strict=True)
    ]


def _outputs(raw: bytes, rows: int) -> tuple[list[float | None], list[str | None]]:
    """Score of each row (first output, where it is one number), and all outputs as JSON where there is more.

    Either is empty where there is none.
    """
    if not raw:
        return [], []
    try:
        tensors = protocol.decode_outputs(raw)
    except protocol.EnvelopeError:
        return [], []
    widths = [len(tensor.data) // rows if len(tensor.data) % rows == 0 else 0 for tensor in tensors]
    if not tensors or 0 in widths:
        return [], []
    first = tensors[0].data
    scores: list[float | None] = []
    if widths[0] == 1 and {type(value) for value in first} <= _NUMERIC:
        scores = [None if value is None else _as_float(value) for value in first]
        if len(tensors) == 1:
            return scores, []
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
