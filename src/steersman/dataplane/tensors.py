"""Tensors on the wire: JSON, and the binary extension of the Open Inference Protocol.

A numeric batch in JSON is mostly digits that somebody has to print and somebody else to parse; the extension sends the
description in JSON and the values raw behind it (little-endian, row-major, in the order of the inputs; texts each with
their length in four bytes). The header `Inference-Header-Content-Length` says where the JSON ends. Router, worker and
committer read requests here, so this module needs nothing but `struct`; the worker alone turns raw values into matrices.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from steersman.dataplane.protocol import EnvelopeError, Tensor, TensorParameters

_FORMATS: dict[str, str] = {
    "BOOL": "?",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP32": "f",
    "FP64": "d",
}
"""The letter by which `struct` knows a fixed-size datatype."""

ITEM_BYTES: dict[str, int] = {datatype: struct.calcsize(f"<{letter}") for datatype, letter in _FORMATS.items()}
"""Bytes of one value of a fixed-size datatype."""

_LENGTH = struct.Struct("<I")


class Given(msgspec.Struct, frozen=True, gc=False):
    """One input as its JSON describes it: with `data` (flat or nested), or with the size of what lies behind."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: TensorParameters | None = None


class Raw(msgspec.Struct, frozen=True):
    """One fixed-size input of the binary extension, not unpacked; `content` holds what its shape says."""

    name: str
    datatype: str
    shape: list[int]
    content: memoryview


class Request(msgspec.Struct, frozen=True):
    """A request with its data where it lay: JSON and texts as lists, fixed-size binary tensors untouched."""

    inputs: Sequence[Tensor | Raw]
    id: str | None = None


class _Envelope(msgspec.Struct, frozen=True):
    inputs: list[Given]
    id: str | None = None


class _JsonRequest(msgspec.Struct, frozen=True):
    inputs: list[Tensor]
    id: str | None = None


_envelopes = msgspec.json.Decoder(_Envelope)
_json_requests = msgspec.json.Decoder(_JsonRequest)
_encoder = msgspec.json.Encoder()


def read_request(body: bytes, json_bytes: int | None = None) -> Request:
    """A request of `json_bytes` bytes of JSON and raw tensors behind them; None where all of it is JSON.

    Raises EnvelopeError, which names the input. That values fit their column is the validator's to say.
    """
    try:
        if json_bytes is None:
            request = _json_requests.decode(body)
            if any(len(one.shape) > 1 for one in request.inputs):
                return Request([_flattened(one) for one in request.inputs], request.id)
            return Request(request.inputs, request.id)
        if not 0 < json_bytes <= len(body):
            raise EnvelopeError(f"Inference-Header-Content-Length is {json_bytes}, the body has {len(body)} bytes")
        envelope = _envelopes.decode(memoryview(body)[:json_bytes])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EnvelopeError(str(error)) from None
    return Request(_beside_their_bytes(envelope.inputs, memoryview(body)[json_bytes:]), envelope.id)


def decode_request(body: bytes, json_bytes: int | None = None) -> list[Tensor]:
    """The inputs with all values as lists, whichever way they came. Raises EnvelopeError."""
    return [_unpacked(one) if isinstance(one, Raw) else one for one in read_request(body, json_bytes).inputs]


def encode_binary(outputs: Sequence[Tensor]) -> tuple[bytes, bytes]:
    """The outputs' JSON (a list, to stand under `outputs` of an answer) and the bytes that follow the whole answer.

    A missing number becomes NaN, a missing text an empty one: the extension has no null. Raises EnvelopeError for a
    missing whole number or truth value, which it cannot write at all.
    """
    described, contents = [], []
    for tensor in outputs:
        content = _packed(tensor)
        contents.append(content)
        described.append(
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": tensor.shape,
                "parameters": {"binary_data_size": len(content)},
            }
        )
    return _encoder.encode(described), b"".join(contents)


def _beside_their_bytes(given: Sequence[Given], behind: memoryview) -> list[Tensor | Raw]:
    taken = 0
    inputs: list[Tensor | Raw] = []
    for one in given:
        if one.data is not None:
            if one.parameters is not None and one.parameters.binary_data_size is not None:
                raise EnvelopeError(f"inputs: {one.name}: has both data and binary_data_size")
            inputs.append(_flattened(Tensor(one.name, one.datatype, one.shape, one.data)))
            continue
        size = one.parameters.binary_data_size if one.parameters is not None else None
        if size is None:
            raise EnvelopeError(f"inputs: {one.name}: has neither data nor binary_data_size")
        if not 0 <= size <= len(behind) - taken:
            raise EnvelopeError(f"inputs: {one.name}: {size} bytes announced, {len(behind) - taken} are left")
        inputs.append(_raw(one, behind[taken : taken + size]))
        taken += size
    if taken != len(behind):
        raise EnvelopeError(f"inputs: {len(behind) - taken} bytes follow the last tensor")
    return inputs


def _flattened(tensor: Tensor) -> Tensor:
    """With row-major values; the protocol lets a sender nest them as the shape does."""
    if len(tensor.shape) < 2 or not tensor.data or type(tensor.data[0]) is not list:
        return tensor
    data = tensor.data
    for _ in tensor.shape[1:]:
        if all(type(row) is list for row in data):
            data = [value for row in data for value in row]
    return Tensor(tensor.name, tensor.datatype, tensor.shape, data)


def _raw(one: Given, content: memoryview) -> Tensor | Raw:
    if one.datatype == "BYTES":
        return Tensor(one.name, "BYTES", one.shape, _texts(one.name, content))
    item_bytes = ITEM_BYTES.get(one.datatype)
    if item_bytes is None:
        raise EnvelopeError(f"inputs: {one.name}: datatype {one.datatype}, expected BYTES, {', '.join(ITEM_BYTES)}")
    if any(size < 0 for size in one.shape) or math.prod(one.shape) * item_bytes != len(content):
        raise EnvelopeError(f"inputs: {one.name}: {len(content)} bytes for {one.datatype} of shape {one.shape}")
    return Raw(one.name, one.datatype, one.shape, content)


def _texts(name: str, content: memoryview) -> list[str]:
    texts: list[str] = []
    at = 0
    while at < len(content):
        start = at + _LENGTH.size
        if start > len(content):
            raise EnvelopeError(f"inputs: {name}: text {len(texts)} has no length")
        at = start + _LENGTH.unpack_from(content, at)[0]
        if at > len(content):
            raise EnvelopeError(f"inputs: {name}: text {len(texts)} ends behind the tensor")
        try:
            texts.append(str(content[start:at], "utf-8"))
        except UnicodeDecodeError:
            raise EnvelopeError(f"inputs: {name}: text {len(texts)} is not UTF-8") from None
    return texts


def _unpacked(raw: Raw) -> Tensor:
    values = list(struct.unpack(f"<{math.prod(raw.shape)}{_FORMATS[raw.datatype]}", raw.content))
    if raw.datatype in ("FP32", "FP64"):  # a missing number has one form in lists
        values = [None if value != value else value for value in values]
    return Tensor(raw.name, raw.datatype, raw.shape, values)


def _packed(tensor: Tensor) -> bytes:
    data = tensor.data
    if tensor.datatype == "BYTES":
        texts = [("" if value is None else str(value)).encode() for value in data]
        return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
    if tensor.datatype in ("FP32", "FP64"):
        data = [math.nan if value is None else value for value in data]
    try:
        return struct.pack(f"<{len(data)}{_FORMATS[tensor.datatype]}", *data)
    except (struct.error, KeyError) as error:
        raise EnvelopeError(f"outputs: {tensor.name}: no binary {tensor.datatype}: {error}") from None
