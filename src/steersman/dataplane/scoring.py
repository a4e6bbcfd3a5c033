"""MLflow's scoring protocol: what `mlflow models serve` answers, spoken by the router, so that a client changes its address.

A request is a JSON object with one of `dataframe_split`, `dataframe_records`, `instances` and `inputs`; an answer is
`{"predictions": …}`. Both are translated here into columns and back: behind the router everybody speaks one protocol. A
value that JSON writes alike (5 for 5.0) takes the type the signature says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from steersman.dataplane import protocol
from steersman.dataplane.exchange import Refusal
from steersman.dataplane.protocol import PREDICTION, PREDICTION_TABLE, EnvelopeError, RequestParameters, Tensor
from steersman.dataplane.request import Asked

EVENT_IDS = b"x-steersman-event-ids"
"""The protocol has no place for event ids: a request may bring its own in this header, divided by commas."""

FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")


class Split(msgspec.Struct, frozen=True):
    data: list[list[Any]]
    columns: list[str | int] | None = None


class ScoringRequest(msgspec.Struct, frozen=True):
    """The four forms; exactly one is given. `params` are the model's, and no column is made of them."""

    dataframe_split: Split | None = None
    dataframe_records: list[dict[str, Any]] | None = None
    instances: list[Any] | None = None
    inputs: dict[str, Any] | list[Any] | None = None
    params: dict[str, Any] | None = None


_requests = msgspec.json.Decoder(ScoringRequest)

MATRIX = "inputs"
"""The name of the one tensor that a whole frame of numbers becomes."""


def to_inputs(body: bytes, types: Mapping[str, str]) -> list[Tensor]:
    """The request's columns. `types` are the datatypes of the signature's columns, in its order.

    Raises EnvelopeError with what is wrong and what is expected.
    """
    try:
        request = _requests.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EnvelopeError(f"{error}; send one of {', '.join(FORMATS)}") from None
    given = [name for name in FORMATS if getattr(request, name) is not None]
    if len(given) != 1:
        raise EnvelopeError(f"one of {', '.join(FORMATS)} is needed, got {', '.join(given) or 'none'}")
    if request.params:
        raise EnvelopeError("params: this model takes none; leave them out")
    if request.dataframe_split is not None:
        split = request.dataframe_split
        return _rows(split.data, None if split.columns is None else [str(name) for name in split.columns], types)
    if request.dataframe_records is not None:
        return _records(request.dataframe_records, types)
    if request.instances is not None:
        instances = request.instances
        if instances and all(isinstance(one, dict) for one in instances):
            return _records(instances, types)
        return _rows(instances, None, types)
    inputs = request.inputs
    if isinstance(inputs, dict):
        return _columns(inputs, types)
    return _rows(inputs or [], None, types)


def _records(records: Sequence[dict[str, Any]], types: Mapping[str, str]) -> list[Tensor]:
    if not records:
        raise EnvelopeError("no rows")
    names: dict[str, None] = {}
    for record in records:
        names |= dict.fromkeys(record)
    return [_tensor(name, [record.get(name) for record in records], types) for name in names]


def _rows(rows: Sequence[Any], names: Sequence[str] | None, types: Mapping[str, str]) -> list[Tensor]:
    """Rows of values, named, or in the signature's order; a row that is one number is a row of one column."""
    if not rows:
        raise EnvelopeError("no rows")
    lists = [row if isinstance(row, list) else [row] for row in rows]
    width = len(lists[0])
    if names is None:
        names = list(types) or [str(index) for index in range(width)]
    for index, row in enumerate(lists):
        if len(row) != len(names):
            raise EnvelopeError(f"row {index} has {len(row)} values for {len(names)} columns")
    if width > 1 and names == list(types) and _FLOATS.issuperset(types.values()):
        # Numbers in the signature's order are a matrix as they are: no column has to be gathered here, or apart there.
        return [Tensor(MATRIX, "FP64", [len(lists), width], [value for row in lists for value in row])]
    return [_tensor(name, list(values), types) for name, values in zip(names, zip(*lists, strict=True), strict=True)]


def _columns(columns: dict[str, Any], types: Mapping[str, str]) -> list[Tensor]:
    if not columns:
        raise EnvelopeError("inputs: no columns")
    lists = {name: value if isinstance(value, list) else [value] for name, value in columns.items()}
    return [_tensor(name, _flat(name, values), types) for name, values in lists.items()]


def _flat(name: str, values: list[Any]) -> list[Any]:
    """A column given as `[[1], [2]]`, as arrays of shape (n, 1) are written, is `[1, 2]`."""
    if values and isinstance(values[0], list):
        if any(not isinstance(value, list) or len(value) != 1 for value in values):
            raise EnvelopeError(f"inputs: {name}: more than one value a row")
        return [value[0] for value in values]
    return values


_FLOATS = frozenset({"FP32", "FP64"})


def _tensor(name: str, values: list[Any], types: Mapping[str, str]) -> Tensor:
    kind = types.get(name) or _guessed(values)
    if kind in _FLOATS:
        # What a frame of whole numbers writes as 5 is meant as 5.0; a text stays one, and the worker names the column.
        try:
            values = [float(value) if type(value) is int else value for value in values]
        except OverflowError:
            raise EnvelopeError(f"column {name!r}: a number is beyond what a float holds") from None
    return Tensor(name, kind, [len(values)], values)


def _guessed(values: Sequence[Any]) -> str:
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {bool}:
        return "BOOL"
    if kinds == {int}:
        return "INT64"
    return "FP64" if kinds <= {int, float} else "BYTES"


def predictions(outputs: Sequence[Tensor], rows: int) -> bytes:
    """The answer's body: what MLflow answers for these outputs.

    A worker that was asked for it adds what MLflow's own scoring would answer, where that is not the score: a `prediction`,
    or, where that is a table, a `prediction.COLUMN` for each of its columns.
    """
    added = [one for one in outputs[1:] if one.name.startswith(PREDICTION_TABLE)]
    table = {one.name.removeprefix(PREDICTION_TABLE): _per_row(one, rows) for one in added}
    if table:
        return _answer([dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)])
    chosen = next((one for one in reversed(outputs) if one.name == PREDICTION), None) or next(iter(outputs), None)
    if chosen is None:
        raise EnvelopeError("outputs: the worker sent none")
    return _answer(_per_row(chosen, rows))


def _per_row(tensor: Tensor, rows: int) -> list[Any]:
    width = len(tensor.data) // rows if rows else 0
    if width * rows != len(tensor.data):
        raise EnvelopeError(f"outputs: {tensor.name}: {len(tensor.data)} values for {rows} rows")
    if width == 1 and len(tensor.shape) < 2:
        return tensor.data
    return [tensor.data[start : start + width] for start in range(0, len(tensor.data), width)]


def _answer(values: list[Any]) -> bytes:
    return msgspec.json.encode({"predictions": values})


def asked(body: bytes, headers: Mapping[bytes, bytes], at_us: int, types: Mapping[str, str]) -> Asked:
    """Read a request. Raises EnvelopeError, or a Refusal for another content type than JSON."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise Refusal(
            415,
            f"content-type {kind.decode('latin-1')[:60]!r} is not read here",
            f"send application/json with one of {', '.join(FORMATS)}",
        )
    columns = to_inputs(body, types)
    rows = columns[0].shape[0]
    if any(column.shape[0] != rows for column in columns):
        raise EnvelopeError("the columns have different numbers of values")
    canonical = protocol.encode_request(columns)
    envelope, rows = protocol.decode_envelope(canonical)
    given = headers.get(EVENT_IDS)
    if given is not None:
        ids = [one.strip() for one in given.decode("latin-1").split(",")]
        envelope = msgspec.structs.replace(envelope, parameters=RequestParameters(event_ids=ids))
    return Asked(
        body=canonical,
        envelope=envelope,
        event_ids=protocol.event_ids_of(envelope, rows),
        at_us=at_us,
        prediction=True,
    )


def refusal(refused: Refusal) -> bytes:
    """MLflow's form of an error, with our next step in it."""
    code = "BAD_REQUEST" if refused.status < 500 else "INTERNAL_ERROR"
    return msgspec.json.encode(
        {"error_code": code, "message": f"{refused.error}. Next: {refused.next_step}", "next_step": refused.next_step}
    )


def endpoint_description(model: str, url_path: str) -> bytes:
    """What MLflow's deployment client reads about an endpoint."""
    return msgspec.json.encode(
        {
            "name": model,
            "endpoint_type": "predictor",
            "model": {"name": model, "provider": "steersman"},
            "endpoint_url": url_path,
            "limit": None,
        }
    )
