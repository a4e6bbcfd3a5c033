"""What a model is given and what it gives: rows on their way through a worker.

Numeric models take one matrix; the others take columns. Answers stay arrays until a caller's share is cut from them, so
that requests can travel together and part again without a value becoming a Python object on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from steersman.dataplane.protocol import Tensor

Outputs = list[tuple[str, npt.NDArray[Any]]]
"""Named arrays of shape (rows,) or (rows, k)."""


class ModelError(Exception):
    """The model cannot be loaded or does not answer as it must; the text comes from its library or says what it did."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that fit the signature: `matrix` (row-major, in the signature's order, NaN for null) or `columns`."""

    rows: int
    matrix: npt.NDArray[Any] | None = None
    columns: dict[str, list[Any]] = field(default_factory=dict)


Chunks = Callable[[Batch, str], Iterator[Any]]
"""What a streaming model answers for a batch and a variant, piece by piece."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A loaded version.

    `predict` takes a batch, the variant the caller was given, and whether the caller speaks MLflow's scoring protocol:
    then, where pyfunc's answer is not the first output, it follows as `prediction`, or as `prediction.<column>` for each
    column where pyfunc answers with a table. `variant_matters` where the answer may depend on the variant.
    """

    as_matrix: bool
    predict: Callable[[Batch, str, bool], Outputs]
    variant_matters: bool = False
    stream: Chunks | None = None


def joined(batches: Sequence[Batch]) -> Batch:
    """All rows in order. The batches are of one form and, without a matrix, have the same columns."""
    rows = sum(batch.rows for batch in batches)
    matrices = [batch.matrix for batch in batches if batch.matrix is not None]
    if matrices:
        return Batch(rows, np.concatenate(matrices))
    columns = {name: [value for batch in batches for value in batch.columns[name]] for name in batches[0].columns}
    return Batch(rows, None, columns)


def share(outputs: Outputs, start: int, stop: int) -> Outputs:
    return [(name, values[start:stop]) for name, values in outputs]


def check_rows(outputs: Outputs, rows: int) -> None:
    """Raises ModelError where an output has not one value (or row of values) for every row."""
    for _, values in outputs:
        if values.shape[:1] != (rows,):
            found = values.shape[0] if values.ndim else "one unshaped value,"
            raise ModelError(f"the model answered {found} values for {rows} rows")


def tensor(name: str, values: npt.NDArray[Any]) -> Tensor:
    """An output as the protocol writes it. NaN and infinities stay: the JSON encoder writes them as null."""
    rows = values.shape[0]
    shape = [rows] if values.size == rows else [rows, values.size // rows]
    kind = values.dtype.kind
    if kind == "f":
        return Tensor(name, "FP64", shape, values.ravel().tolist())
    if kind in "OUS":
        return Tensor(name, "BYTES", shape, [None if one is None else str(one) for one in values.ravel().tolist()])
    if kind == "b":
        return Tensor(name, "BOOL", shape, values.ravel().tolist())
    if kind in "iu":
        return Tensor(name, "INT64", shape, values.ravel().tolist())
    return Tensor(name, "FP64", shape, values.ravel().astype(np.float64).tolist())
