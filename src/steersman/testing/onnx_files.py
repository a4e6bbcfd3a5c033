"""ONNX model files written byte by byte, so that tests need no library that makes them (protocol buffers, `onnx.proto`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FLOAT, _INT_ATTRIBUTE = 1, b"\xa0\x01\x02"  # element type; field 20 of an attribute: its value is an integer
_IR_VERSION, _OPERATORS = 8, 13


def logistic(weights: Sequence[float], bias: float) -> bytes:
    """Sigmoid(Gemm(features)), 32 bits: input `features` [n, k], output `score` [n, 1]."""
    nodes = [_node("Gemm", ["features", "weights", "bias"], "raw"), _node("Sigmoid", ["raw"], "score")]
    return _model(
        nodes, weights, bias, inputs=[_value("features", "n", len(weights))], outputs=[_value("score", "n", 1)]
    )


def logistic_of_columns(names: Sequence[str], weights: Sequence[float], bias: float, *, flat: bool) -> bytes:
    """The same with an input for each column, [n] if `flat`, else [n, 1]; two outputs: `score` [n, 1] and `raw` [n, 1]."""
    nodes, inputs = [], [_value(name, "n", *([] if flat else [1])) for name in names]
    columns = list(names)
    if flat:
        columns = [f"{name}_column" for name in names]
        nodes = [_node("Unsqueeze", [name, "one"], column) for name, column in zip(names, columns, strict=True)]
    axis = _field(5, _field(1, "axis") + _field(3, 1) + _INT_ATTRIBUTE)
    nodes += [
        _node("Concat", columns, "features") + axis,
        _node("Gemm", ["features", "weights", "bias"], "raw"),
        _node("Sigmoid", ["raw"], "score"),
    ]
    return _model(nodes, weights, bias, inputs=inputs, outputs=[_value("score", "n", 1), _value("raw", "n", 1)])


def _model(
    nodes: Sequence[bytes], weights: Sequence[float], bias: float, *, inputs: Sequence[bytes], outputs: Sequence[bytes]
) -> bytes:
    one = _field(1, 1) + _field(2, 7) + _field(8, "one") + _field(9, np.array([1], dtype="<i8").tobytes())
    graph = (
        b"".join(_field(1, node) for node in nodes)
        + _field(2, "logistic")
        + _field(5, _floats("weights", weights, [len(weights), 1]))
        + _field(5, _floats("bias", [bias], [1]))
        + _field(5, one)
        + b"".join(_field(11, one) for one in inputs)
        + b"".join(_field(12, one) for one in outputs)
    )
    return _field(1, _IR_VERSION) + _field(7, graph) + _field(8, _field(2, _OPERATORS))


def _field(number: int, value: bytes | str | int) -> bytes:
    """One field of a message: numbers below 16 and integers below 128 take a byte each."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    content = value.encode() if isinstance(value, str) else value
    size, length = b"", len(content)
    while length >= 128:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def _floats(name: str, values: Sequence[float], dims: Sequence[int]) -> bytes:
    data = np.array(values, dtype="<f4").tobytes()
    return b"".join(_field(1, dim) for dim in dims) + _field(2, _FLOAT) + _field(8, name) + _field(9, data)


def _value(name: str, *dims: str | int) -> bytes:
    shape = b"".join(_field(1, _field(2 if isinstance(dim, str) else 1, dim)) for dim in dims)
    return _field(1, name) + _field(2, _field(1, _field(1, _FLOAT) + _field(2, shape)))


def _node(kind: str, inputs: Sequence[str], output: str) -> bytes:
    return b"".join(_field(1, one) for one in inputs) + _field(2, output) + _field(4, kind)
