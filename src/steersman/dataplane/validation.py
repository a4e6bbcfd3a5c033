"""A version's signature, compiled once into a check of every batch that arrives.

The general machinery for signatures costs milliseconds a call; the rule itself is small: every column of the signature is
there once, holds one value a row of the right kind, and nothing unknown came along. A refusal names the column.

What a well-behaved caller sends (the columns in order, or one tensor for all of them) is checked in one pass and becomes
a matrix at once. Whatever that pass does not recognise goes through the column-by-column check, which finds the fault.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steersman.dataplane import protocol
from steersman.dataplane.batches import Batch
from steersman.dataplane.configuration import Column, ColumnType
from steersman.dataplane.protocol import Tensor
from steersman.dataplane.tensors import Raw

Array = npt.NDArray[Any]

_INTEGERS: frozenset[str] = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"})
_FLOATS: frozenset[str] = frozenset({"FP32", "FP64"})
_RANGES: dict[str, tuple[int, int]] = {
    f"{prefix}{bits}": ((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if prefix == "INT" else (0, 2**bits - 1))
    for prefix in ("INT", "UINT")
    for bits in (8, 16, 32, 64)
}
_NONE = type(None)
_REAL: frozenset[type] = frozenset({float, int, _NONE})

_DTYPES: dict[str, str] = {
    "BOOL": "?",
    "FP32": "<f4",
    "FP64": "<f8",
    **{f"{prefix}{bits}": f"<{letter}{bits // 8}" for prefix, letter in (("INT", "i"), ("UINT", "u"))
       for bits in (8, 16, 32, 64)},
}  # fmt: skip


class InvalidInputError(ValueError):
    """The batch does not fit the signature; the message names the column."""


def _kinds(column: ColumnType) -> tuple[frozenset[str], frozenset[type]]:
    """Datatypes a request may declare for a column, and Python types its JSON values may have."""
    if column in _FLOATS:
        return _FLOATS | _INTEGERS, _REAL
    if column in _INTEGERS:
        return _INTEGERS, frozenset({int, _NONE})
    if column == "BOOL":
        return frozenset({"BOOL"}), frozenset({bool, _NONE})
    return frozenset({"BYTES"}), frozenset({str, _NONE})


class Validator:
    """Checks batches against `signature`; `extra` names columns that may come along and are ignored.

    With `as_matrix` the batch comes out as one matrix: of 32-bit floats where every column is FP32, else of 64-bit ones.
    """

    def __init__(self, signature: Sequence[Column], extra: Collection[str] = (), *, as_matrix: bool = False) -> None:
        self._columns = [(column.name, column.type, *_kinds(column.type)) for column in signature]
        self._names = frozenset(column.name for column in signature)
        self._extra = frozenset(extra) - self._names
        self._as_matrix = as_matrix
        self._whole = [index for index, column in enumerate(signature) if column.type in _INTEGERS]
        self._bounds = np.array([_RANGES[signature[index].type] for index in self._whole], dtype=np.float64).T
        self._numeric = all(column.type in _FLOATS or column.type in _INTEGERS for column in signature)
        self._single = [index for index, column in enumerate(signature) if column.type == "FP32"]
        self._dtype = np.float32 if signature and len(self._single) == len(signature) else np.float64

    def batch(self, inputs: Sequence[Tensor | Raw]) -> Batch:
        """The rows in the signature's order. Raises InvalidInputError.

        Without a signature every column is taken as it comes.
        """
        if self._as_matrix and self._numeric and (matrix := self._in_order(inputs)) is not None:
            return Batch(len(matrix), self._rounded(matrix))
        wide = self._wide(inputs)
        if wide is not None:
            matrix = self._from_wide(wide)
            if self._as_matrix:
                return Batch(len(matrix), self._rounded(matrix))
            names = [name for name, *_ in self._columns]
            return Batch(len(matrix), None, {name: self._as_list(matrix, i) for i, name in enumerate(names)})
        columns, rows = self.columns(inputs)
        if not self._as_matrix:
            return Batch(rows, None, columns)
        matrix = np.empty((rows, len(columns)), dtype=np.float64)
        for index, (name, values) in enumerate(columns.items()):
            matrix[:, index] = _numbers(name, values)
        return Batch(rows, self._rounded(matrix))

    def _in_order(self, inputs: Sequence[Tensor | Raw]) -> Array | None:
        """The matrix where all is as the signature has it, else None: then the long way finds out what is wrong."""
        if len(inputs) > len(self._columns) and self._extra:
            inputs = [one for one in inputs if one.name not in self._extra]
        if len(inputs) != len(self._columns) or not inputs:
            return None
        shape = inputs[0].shape
        if not shape or not 1 <= shape[0] <= protocol.ROWS_MAX or (len(shape) > 1 and shape[1:] != [1]):
            return None
        rows = shape[0]
        if type(inputs[0]) is Raw:
            return self._raw_in_order(inputs, rows)
        flat: list[Any] = []
        for tensor, (name, _, datatypes, types) in zip(inputs, self._columns, strict=True):
            if type(tensor) is not Tensor or tensor.name != name or tensor.datatype not in datatypes:
                return None
            data = tensor.data
            if tensor.shape != shape or len(data) != rows:
                return None
            if types is not _REAL and not types.issuperset(map(type, data)):
                return None
            flat += data
        if not _REAL.issuperset(map(type, flat)):
            return None
        try:
            numbers = np.array(flat, dtype=np.float64)
        except OverflowError:
            return None
        matrix = numbers.reshape(1, -1) if rows == 1 else np.ascontiguousarray(numbers.reshape(-1, rows).T)
        return matrix if self._in_range(matrix) else None

    def _in_range(self, matrix: Array) -> bool:
        if not self._whole:
            return True
        values = matrix[:, self._whole]
        low, high = self._bounds
        return not bool(((values < low) | (values > high)).any())

    def _raw_in_order(self, inputs: Sequence[Tensor | Raw], rows: int) -> Array | None:
        matrix = np.empty((rows, len(inputs)), dtype=np.float64)
        for index, (tensor, (name, _, datatypes, _)) in enumerate(zip(inputs, self._columns, strict=True)):
            if not isinstance(tensor, Raw) or tensor.name != name or tensor.datatype not in datatypes:
                return None
            if tensor.shape != inputs[0].shape:
                return None
            matrix[:, index] = np.frombuffer(tensor.content, dtype=_DTYPES[tensor.datatype])
        return matrix if self._in_range(matrix) else None

    def _wide(self, inputs: Sequence[Tensor | Raw]) -> Tensor | Raw | None:
        """The one tensor that holds all columns, where the request has such a one."""
        taken = [one for one in inputs if one.name not in self._extra]
        if len(taken) != 1 or len(taken[0].shape) != 2:
            return None
        alone = taken[0]
        return alone if alone.shape[1] != 1 or alone.name not in self._names else None

    def _from_wide(self, given: Tensor | Raw) -> Array:
        rows, width = given.shape
        if self._columns and (width != len(self._columns) or not self._numeric):
            why = "" if self._numeric else ", and not all of them are numbers"
            raise InvalidInputError(
                f"input {given.name!r} has {width} columns, the signature {len(self._columns)}{why}: {self._listed()}"
            )
        if not self._columns and not self._as_matrix:
            raise InvalidInputError(f"input {given.name!r}: the version has no signature to name its columns by")
        if not 1 <= rows <= protocol.ROWS_MAX:
            raise InvalidInputError(f"inputs: {rows} rows, expected 1 to {protocol.ROWS_MAX}")
        if given.datatype not in _FLOATS | _INTEGERS:
            raise InvalidInputError(f"input {given.name!r} is declared {given.datatype}, expected numbers")
        if isinstance(given, Raw):
            matrix = np.frombuffer(given.content, dtype=_DTYPES[given.datatype]).reshape(rows, width)
        else:
            if len(given.data) != rows * width:
                raise InvalidInputError(f"input {given.name!r}: {len(given.data)} values for {rows} x {width}")
            if not _REAL.issuperset(map(type, given.data)):
                at = next(i for i, value in enumerate(given.data) if type(value) not in _REAL)
                found = type(given.data[at]).__name__
                raise InvalidInputError(f"{self._place(at // width, at % width)} is {found}, expected a number or null")
            matrix = _numbers(given.name, given.data).reshape(rows, width)
        matrix = matrix.astype(np.float64)
        self._check_whole(matrix)
        return matrix

    def _check_whole(self, matrix: Array) -> None:
        """Whole-number columns of a matrix of floats hold whole numbers in their range, or NaN."""
        for index, (_, kind, _, _) in enumerate(self._columns):
            if kind not in _INTEGERS:
                continue
            low, high = _RANGES[kind]
            values = matrix[:, index]
            wrong = ~(np.isnan(values) | ((values == np.floor(values)) & (values >= low) & (values <= high)))
            if wrong.any():
                row = int(wrong.argmax())
                raise InvalidInputError(f"{self._place(row, index)} is {values[row]:g}, expected {kind} or null")

    def _place(self, row: int, index: int) -> str:
        name = repr(self._columns[index][0]) if self._columns else str(index)
        return f"column {name}: row {row}"

    def _rounded(self, matrix: Array) -> Array:
        """Columns of 32-bit floats hold what such a float can hold, as they would in a frame of that type."""
        if not self._single:
            return matrix
        with np.errstate(over="ignore"):
            if self._dtype is np.float32:
                return matrix.astype(np.float32)
            matrix[:, self._single] = matrix[:, self._single].astype(np.float32)
        return matrix

    def _as_list(self, matrix: Array, index: int) -> list[Any]:
        values: list[Any] = matrix[:, index].tolist()
        if self._columns[index][1] in _INTEGERS:
            return [None if value != value else int(value) for value in values]
        return [None if value != value else value for value in values]

    def columns(self, inputs: Sequence[Tensor | Raw]) -> tuple[dict[str, list[Any]], int]:
        """The signature's columns by name, and the rows. Raises InvalidInputError."""
        given = {one.name: _unpacked(one) for one in inputs}
        if len(given) != len(inputs):
            raise InvalidInputError("a column occurs twice")
        try:
            rows = protocol.rows_of(list(given.values()))
        except protocol.EnvelopeError as error:
            raise InvalidInputError(str(error)) from None
        if not self._columns:
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

    def not_finite(self, batch: Batch) -> str | None:
        """Where the first missing or infinite number lies, in words, if there is one."""
        if batch.matrix is None:
            for name, values in batch.columns.items():
                if None in values:
                    return f"column {name!r}: row {values.index(None)} is missing (null)"
            return None
        wrong = ~np.isfinite(batch.matrix)
        if not wrong.any():
            return None
        row, index = (int(one) for one in np.argwhere(wrong)[0])
        value = batch.matrix[row, index]
        return f"{self._place(row, index)} is {'missing (null or NaN)' if np.isnan(value) else 'infinite'}"

    def _listed(self) -> str:
        names = [name for name, *_ in self._columns]
        return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _unpacked(one: Tensor | Raw) -> Tensor:
    if isinstance(one, Tensor):
        return one
    values: list[Any] = np.frombuffer(one.content, dtype=_DTYPES[one.datatype]).tolist()
    if one.datatype in _FLOATS:
        values = [None if value != value else value for value in values]
    return Tensor(one.name, one.datatype, one.shape, values)


def _numbers(name: str, values: list[Any]) -> Array:
    """Null becomes NaN. Raises InvalidInputError for what no float holds."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (OverflowError, TypeError, ValueError):
        raise InvalidInputError(f"column {name!r}: a value is no 64-bit float") from None


def _check_length(tensor: Tensor, rows: int) -> None:
    if len(tensor.data) != rows:
        raise InvalidInputError(f"column {tensor.name!r}: {len(tensor.data)} values for {rows} rows")


def _check_values(tensor: Tensor, kind: ColumnType, types: frozenset[type]) -> None:
    if not types.issuperset(map(type, tensor.data)):
        row, value = next((i, v) for i, v in enumerate(tensor.data) if type(v) not in types)
        raise InvalidInputError(f"column {tensor.name!r}: row {row} is {type(value).__name__}, expected {kind} or null")
    bounds = _RANGES.get(kind)
    if bounds is not None:
        low, high = bounds
        present = [value for value in tensor.data if value is not None]
        if not present or (low <= min(present) and max(present) <= high):
            return
        for row, value in enumerate(tensor.data):
            if value is not None and not low <= value <= high:
                raise InvalidInputError(f"column {tensor.name!r}: row {row} is {value}, outside {kind}")
