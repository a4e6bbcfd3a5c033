"""The Open Inference Protocol (v2, REST) as this router and its workers speak it: columnar batches of rows.

One tensor a column, all of one length, or one matrix for all columns in the signature's order; `null` in the data is a
missing value. Tensors may come behind the JSON as raw bytes (the protocol's binary tensor extension): then `json_bytes`
says where the JSON ends. The router reads the envelope only: data stays raw unless rows must be told apart, so that a
batch for one version passes through as it came.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

ROWS_MAX = 100_000
"""Rows of one request: at 25 columns about 20 MB of JSON, more than an online call should carry."""

LABELS_MAX = 100_000
"""Labels of one call."""

ID_CHARS_MAX = 200
"""Length of an event id or a request id."""


PREDICTION = "prediction"
PREDICTION_TABLE = "prediction."
"""Outputs that a worker adds where MLflow's own scoring would answer something else than the score; of a table one a column."""


class EnvelopeError(ValueError):
    """The body is JSON but no request of this protocol; the message names the field."""


class TensorParameters(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    binary_data_size: int | None = None


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One input or output tensor with its data left undecoded; empty where it lies behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: msgspec.Raw = msgspec.Raw()
    parameters: TensorParameters | None = None


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """One input or output tensor, decoded; flat data in row-major order."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class RequestParameters(msgspec.Struct, frozen=True):
    event_ids: list[str] | None = None
    binary_data_output: bool = False


class OutputParameters(msgspec.Struct, frozen=True):
    binary_data: bool | None = None


class RequestedOutput(msgspec.Struct, frozen=True):
    """An output the caller wants; without any, all are sent."""

    name: str
    parameters: OutputParameters | None = None


class InferEnvelope(msgspec.Struct, frozen=True, gc=False):
    """A request as the router reads it: which inputs there are is read only where rows or columns must be told apart."""

    inputs: list[msgspec.Raw]
    id: str | None = None
    parameters: RequestParameters | None = None
    outputs: list[RequestedOutput] | None = None

    def columns(self) -> list[Envelope]:
        """The inputs, their data left undecoded. Raises EnvelopeError."""
        try:
            return [_columns.decode(one) for one in self.inputs]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EnvelopeError(f"inputs: {error}") from None


class InferAnswer(msgspec.Struct, frozen=True, gc=False):
    """A worker's answer; `outputs` stays raw."""

    outputs: msgspec.Raw


class Failure(msgspec.Struct, frozen=True):
    error: str = ""
    next_step: str = ""


class Label(msgspec.Struct, frozen=True):
    """What turned out to be true of an event, or of an entity at a time; with a `name` it is feedback, not the truth."""

    value: float | bool
    event_id: str = ""
    entity: str | int | None = None
    time: str | None = None
    name: str = ""
    at: str | None = None


class LabelsRequest(msgspec.Struct, frozen=True):
    labels: list[Label]
    source: str = "api"


_envelopes = msgspec.json.Decoder(InferEnvelope)
_columns = msgspec.json.Decoder(Envelope)
_answers = msgspec.json.Decoder(InferAnswer)
_labels = msgspec.json.Decoder(LabelsRequest)
_failures = msgspec.json.Decoder(Failure)
_tensors = msgspec.json.Decoder(list[Tensor])
_lists = msgspec.json.Decoder(list[Any])
_encoder = msgspec.json.Encoder()


def decode_envelope(body: bytes, json_bytes: int | None = None) -> tuple[InferEnvelope, int]:
    """The envelope and its number of rows, as the first input has it. Raises EnvelopeError.

    That the others agree with the first, and the data with the signature, is the worker's to say: reading thirty columns
    here would take longer than asking the worker.
    """
    try:
        request = _envelopes.decode(body if json_bytes is None else memoryview(body)[:json_bytes])
        first = [_columns.decode(request.inputs[0])] if request.inputs else []
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EnvelopeError(str(error)) from None
    if len(request.inputs) > 1 and len(first[0].shape) == 2 and first[0].shape[1] != 1:
        raise EnvelopeError(f"inputs: {first[0].name}: shape {first[0].shape}, expected [rows]")
    return request, rows_of(first)


def rows_of(inputs: Sequence[Envelope | Tensor]) -> int:
    """Rows of a batch: the first dimension, which every input shares.

    Columns are `[n]` or `[n, 1]`; one tensor alone may be `[n, k]`, a matrix of all columns.
    """
    if not inputs:
        raise EnvelopeError("inputs: no tensors")
    rows = -1
    for tensor in inputs:
        shape = tensor.shape
        if not shape or len(shape) > 2 or (len(shape) == 2 and shape[1] != 1 and (len(inputs) > 1 or shape[1] < 1)):
            raise EnvelopeError(f"inputs: {tensor.name}: shape {shape}, expected [rows]")
        if rows == -1:
            rows = shape[0]
        elif shape[0] != rows:
            raise EnvelopeError(f"inputs: {tensor.name}: {shape[0]} rows, the first input has {rows}")
    if not 1 <= rows <= ROWS_MAX:
        raise EnvelopeError(f"inputs: {rows} rows, expected 1 to {ROWS_MAX}")
    return rows


def event_ids_of(request: InferEnvelope, rows: int) -> list[str]:
    """The caller's event ids, checked, or fresh ones, one a row."""
    given = request.parameters.event_ids if request.parameters is not None else None
    if given is None:
        return uuid7s(rows)
    if len(given) != rows:
        raise EnvelopeError(f"parameters.event_ids: {len(given)} ids for {rows} rows")
    if len(set(given)) != rows:
        raise EnvelopeError("parameters.event_ids: an id occurs twice in one batch")
    for event_id in given:
        if not 1 <= len(event_id) <= ID_CHARS_MAX:
            raise EnvelopeError(f"parameters.event_ids: an id must have 1 to {ID_CHARS_MAX} characters")
    return given


def decode_labels(body: bytes) -> LabelsRequest:
    try:
        request = _labels.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EnvelopeError(str(error)) from None
    if not 1 <= len(request.labels) <= LABELS_MAX:
        raise EnvelopeError(f"labels: {len(request.labels)} labels, expected 1 to {LABELS_MAX}")
    if len(request.source) > ID_CHARS_MAX:
        raise EnvelopeError(f"source: more than {ID_CHARS_MAX} characters")
    for label in request.labels:
        _check_label(label)
    return request


def _check_label(label: Label) -> None:
    if max(len(label.event_id), len(label.name), len(str(label.entity or ""))) > ID_CHARS_MAX:
        raise EnvelopeError(f"labels: event_id, entity and name have at most {ID_CHARS_MAX} characters")
    about_entity = label.entity is not None and label.entity != "" and label.time is not None
    if bool(label.event_id) == about_entity:
        raise EnvelopeError("labels: a label is about an event_id, or about an entity and a time")


def decode_outputs(raw: bytes) -> list[Tensor]:
    try:
        return _tensors.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EnvelopeError(f"outputs: {error}") from None


def decode_answer(body: bytes) -> bytes:
    """The raw `outputs` of a worker's answer."""
    try:
        return bytes(_answers.decode(body).outputs)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EnvelopeError(str(error)) from None


def decode_failure(body: bytes) -> Failure:
    """What a worker said of a request it did not answer; empty where it said nothing readable."""
    try:
        return _failures.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Failure()


def decode_values(raw: msgspec.Raw) -> list[Any]:
    try:
        return _lists.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EnvelopeError(f"inputs: data: {error}") from None


def without_predictions(outputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs without what was added for MLflow's protocol, as any other call would have got them."""
    return [
        one
        for index, one in enumerate(outputs)
        if index == 0 or not (one.name == PREDICTION or one.name.startswith(PREDICTION_TABLE))
    ]


def encode_outputs(outputs: Sequence[Tensor]) -> bytes:
    return _encoder.encode(outputs)


def encode_request(inputs: Sequence[Tensor]) -> bytes:
    return _encoder.encode({"inputs": inputs})


def encode_answer(
    *,
    request_id: str | None,
    model: str,
    version: str,
    event_ids: Sequence[str],
    variants: Sequence[str],
    outputs: bytes | Sequence[Tensor | msgspec.Raw],
) -> bytes:
    """The router's answer. Raw outputs are placed as they are."""
    return _encoder.encode(
        {
            "id": request_id,
            "model_name": model,
            "model_version": version,
            "parameters": {"event_ids": event_ids, "variants": variants},
            "outputs": msgspec.Raw(outputs) if isinstance(outputs, bytes) else outputs,
        }
    )


class _Ids:
    """The random ends of ids to come, of the kernel's randomness, some hundred at a time: a read for each costs more than the
    id, and so does putting each together alone. What all ids of one millisecond begin with is kept as well."""

    ENDS = 400

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """A process that forks must not give the same ids twice."""
        self.ends: list[str] = []
        self._at_ms = -1
        self._prefix = ""

    def take(self, count: int) -> list[str]:
        """`count` UUIDs of version 7 (RFC 9562): sortable by time, random beyond the millisecond."""
        at_ms = time.time_ns() // 1_000_000
        if at_ms != self._at_ms:
            self._at_ms = at_ms
            stamp = at_ms & (2**48 - 1)
            self._prefix = f"{stamp >> 16:08x}-{stamp & 0xFFFF:04x}-7"
        prefix, ends = self._prefix, self.ends
        if len(ends) < count:
            self.refill(count)
        if count == 1:
            return [prefix + ends.pop()]
        taken = ends[-count:]
        del ends[-count:]
        return [prefix + end for end in taken]

    def refill(self, count: int) -> None:
        count = max(self.ENDS, count)
        noise = os.urandom(10 * count).hex()
        for at in range(0, 20 * count, 20):
            self.ends.append(
                f"{noise[at : at + 3]}-{_VARIANT[noise[at + 3]]}{noise[at + 4 : at + 7]}-{noise[at + 7 : at + 19]}"
            )


_ids = _Ids()
os.register_at_fork(after_in_child=_ids.forget)
uuid7s = _ids.take


_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The two variant bits of RFC 9562 over the fourth random digit."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_instant(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 time, which must be UTC. Raises EnvelopeError."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise EnvelopeError(f"{text[:40]!r} is no RFC 3339 time") from None
    offset = instant.utcoffset()
    if offset is None or offset.total_seconds() != 0:
        raise EnvelopeError(f"{text[:40]!r} is not UTC; write it with Z")
    delta = instant - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
