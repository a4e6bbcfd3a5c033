"""Tensors as raw bytes: the binary tensor extension of the Open Inference Protocol.

A body is a JSON object of `json_bytes` bytes, then the data of each tensor that has a `binary_data_size`, in order: little
endian, row-major, without padding; BYTES elements each with their length (u32) before them, BOOL one byte an element.
Written with `array` and `struct`: the router reads these too, and it does not import NumPy.
"""

from __future__ import annotations

import array
import struct
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from steersman.dataplane import protocol
from steersman.dataplane.protocol import Envelope, EnvelopeError, Tensor, TensorParameters

_CODES: dict[str, str] = {
    "INT8": "b",
    "UINT8": "B",
    "INT16": "h",
    "UINT16": "H",
    "INT32": "i",
    "UINT32": "I",
    "INT64": "q",
    "UINT64": "Q",
    "FP32": "f",
    "FP64": "d",
}
"""Datatypes and `array`'s code for each; FP16 is left out, which no column of a signature can be."""

_LENGTH = struct.Struct("<I")


def decode_request(body: bytes, json_bytes: int | None) -> list[Tensor]:
    """The tensors of a request with their data as flat lists. Raises EnvelopeError."""
    if json_bytes is None:
        return protocol.decode_request(body).inputs
    envelope, _rows = protocol.decode_envelope(body, json_bytes)
    return [
        Tensor(
            one.name,
            one.datatype,
            one.shape,
            protocol.decode_values(one.data) if part is None else unpack(one.datatype, part, name=one.name),
        )
        for one, part in parts(envelope.inputs, body, json_bytes)
    ]


def parts(inputs: Sequence[Envelope], body: bytes, json_bytes: int) -> Iterable[tuple[Envelope, memoryview | None]]:
    """Each tensor with its bytes behind the JSON, or with None where its data is in the JSON. Raises EnvelopeError."""
    whole = memoryview(body)
    at = json_bytes
    found: list[tuple[Envelope, memoryview | None]] = []
    for one in inputs:
        size = one.parameters.binary_data_size if one.parameters is not None else None
        if size is None:
            found.append((one, None))
            continue
        if size < 0 or at + size > len(body):
            raise EnvelopeError(f"inputs: {one.name}: binary_data_size {size}, {len(body) - at} bytes are left")
        found.append((one, whole[at : at + size]))
        at += size
    if at != len(body):
        raise EnvelopeError(f"{len(body) - at} bytes behind the last tensor")
    return found


def unpack(datatype: str, data: memoryview, *, name: str = "") -> list[Any]:
    """The elements of a tensor's bytes. Raises EnvelopeError."""
    if datatype == "BYTES":
        return list(_texts(data, name))
    if datatype == "BOOL":
        return [value != 0 for value in data]
    code = _CODES.get(datatype)
    if code is None:
        raise EnvelopeError(f"inputs: {name}: {datatype} has no binary form here; send it as FP32 or FP64")
    values = array.array(code)
    if len(data) % values.itemsize:
        raise EnvelopeError(f"inputs: {name}: {len(data)} bytes are no whole number of {datatype}")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    if code in "fd":
        return [value if value == value else None for value in values]  # NaN is a missing value, as null in JSON
    return values.tolist()


def _texts(data: memoryview, name: str) -> Iterable[str]:
    at = 0
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise EnvelopeError(f"inputs: {name}: the last text has no length")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > len(data):
            raise EnvelopeError(f"inputs: {name}: a text of {length} bytes, {len(data) - at} are left")
        try:
            yield str(data[at : at + length], "utf-8")
        except UnicodeDecodeError:
            raise EnvelopeError(f"inputs: {name}: a text is not UTF-8") from None
        at += length


def pack(tensor: Tensor) -> bytes:
    """A tensor's elements as bytes; a missing number becomes NaN, a missing text is empty. Raises EnvelopeError."""
    if tensor.datatype == "BYTES":
        texts = [b"" if value is None else str(value).encode() for value in tensor.data]
        return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
    if tensor.datatype == "BOOL":
        return bytes(bool(value) for value in tensor.data)
    code = _CODES.get(tensor.datatype)
    if code is None:
        raise EnvelopeError(f"outputs: {tensor.name}: {tensor.datatype} has no binary form here; ask for it as JSON")
    try:
        if code in "fd":
            values = array.array(code, [float("nan") if value is None else value for value in tensor.data])
        else:
            values = array.array(code, tensor.data)
    except (TypeError, OverflowError):
        raise EnvelopeError(f"outputs: {tensor.name}: an element is no {tensor.datatype}; ask for it as JSON") from None
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def packed(tensor: Tensor) -> tuple[Envelope, bytes]:
    """A tensor as its JSON part and its bytes."""
    data = pack(tensor)
    parameters = TensorParameters(binary_data_size=len(data))
    return Envelope(tensor.name, tensor.datatype, tensor.shape, parameters=parameters), data
