"""A version's signature, compiled once into a check of every batch that arrives.

The general machinery for signatures costs milliseconds a call; the rule itself is small: every column of the signature is
there once, holds one value a row of the right kind, and nothing unknown came along. A refusal names the column.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from steersman.dataplane import protocol
from steersman.dataplane.configuration import Column, ColumnType
from steersman.dataplane.protocol import Tensor

_INTEGERS: frozenset[str] = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"})
_FLOATS: frozenset[str] = frozenset({"FP32", "FP64"})
_RANGES: dict[str, tuple[int, int]] = {
    f"{prefix}{bits}": ((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if prefix == "INT" else (0, 2**bits - 1))
    for prefix in ("INT", "UINT")
    for bits in (8, 16, 32, 64)
}
_NONE = type(None)


class InvalidInputError(ValueError):
    """The batch does not fit the signature; the message names the column."""


def _kinds(column: ColumnType) -> tuple[frozenset[str], frozenset[type]]:
    """Datatypes a request may declare for a column, and Python types its JSON values may have."""
    if column in _FLOATS:
        return _FLOATS | _INTEGERS, frozenset({float, int, _NONE})
    if column in _INTEGERS:
        return _INTEGERS, frozenset({int, _NONE})
    if column == "BOOL":
        return frozenset({"BOOL"}), frozenset({bool, _NONE})
    return frozenset({"BYTES"}), frozenset({str, _NONE})


class Validator:
    """Checks batches against `signature`; `extra` names columns that may come along and are ignored."""

    def __init__(self, signature: Sequence[Column], extra: Collection[str] = ()) -> None:
        self._columns = [(column.name, column.type, *_kinds(column.type)) for column in signature]
        self._names = frozenset(column.name for column in signature)
        self._extra = frozenset(extra) - self._names
        self._any = not signature

    def columns(self, inputs: Sequence[Tensor]) -> tuple[dict[str, list[Any]], int]:
        """The signature's columns by name, and the rows. Raises InvalidInputError.

        Without a signature every column is taken as it comes.
        """
        try:
            rows = protocol.rows_of(inputs)
        except protocol.EnvelopeError as error:
            raise InvalidInputError(str(error)) from None
        given = {tensor.name: tensor for tensor in inputs}
        if len(given) != len(inputs):
            raise InvalidInputError("a column occurs twice")
        if self._any:
            taken = {name: tensor for name, tensor in given.items() if name not in self._extra}
            for tensor in taken.values():
                _check_length(tensor, rows)
            return {name: tensor.data for name, tensor in taken.items()}, rows
        if unknown := given.keys() - self._names - self._extra:
            raise InvalidInputError(f"unknown column {min(unknown)!r}; the signature has {self._listed()}")
        taken_data: dict[str, list[Any]] = {}
        for name, kind, datatypes, types in self._columns:
            found = given.get(name)
            if found is None:
                raise InvalidInputError(f"column {name!r} is missing")
            if found.datatype not in datatypes:
                raise InvalidInputError(f"column {name!r} is declared {found.datatype}, the signature says {kind}")
            _check_length(found, rows)
            _check_values(found, kind, types)
            taken_data[name] = found.data
        return taken_data, rows

    def _listed(self) -> str:
        names = [name for name, *_ in self._columns]
        return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _check_length(tensor: Tensor, rows: int) -> None:
    if len(tensor.data) != rows:
        raise InvalidInputError(f"column {tensor.name!r}: {len(tensor.data)} values for {rows} rows")


def _check_values(tensor: Tensor, kind: ColumnType, types: frozenset[type]) -> None:
    if not set(map(type, tensor.data)) <= types:
        row, value = next((i, v) for i, v in enumerate(tensor.data) if type(v) not in types)
        raise InvalidInputError(f"column {tensor.name!r}: row {row} is {type(value).__name__}, expected {kind} or null")
    bounds = _RANGES.get(kind)
    if bounds is not None and kind != "INT64":
        low, high = bounds
        for row, value in enumerate(tensor.data):
            if value is not None and not low <= value <= high:
                raise InvalidInputError(f"column {tensor.name!r}: row {row} is {value}, outside {kind}")
