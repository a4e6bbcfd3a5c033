"""A batch that does not fit the signature is refused by the name of the column."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest

from steersman.dataplane.batches import Batch
from steersman.dataplane.configuration import Column
from steersman.dataplane.protocol import Tensor
from steersman.dataplane.tensors import Raw
from steersman.dataplane.validation import InvalidInputError, Validator

VALIDATOR = Validator(
    (
        Column(name="hour", type="INT64"),
        Column(name="wind", type="FP64"),
        Column(name="origin", type="BYTES"),
        Column(name="rain", type="BOOL"),
        Column(name="small", type="INT8"),
    ),
    extra=("flight_id",),
)
GOOD: dict[str, tuple[str, list[Any]]] = {
    "hour": ("INT64", [5, None]),
    "wind": ("FP64", [1.5, 2]),
    "origin": ("BYTES", ["JFK", None]),
    "rain": ("BOOL", [True, None]),
    "small": ("INT64", [1, -128]),
}


def batch(**changes: tuple[str, list[Any]] | None) -> list[Tensor]:
    columns = {**GOOD, **changes}
    return [Tensor(name, one[0], [2], one[1]) for name, one in columns.items() if one is not None]


def test_a_batch_that_fits_comes_out_in_the_order_of_the_signature() -> None:
    fitted = VALIDATOR.batch(list(reversed(batch(flight_id=("BYTES", ["a", "b"])))))
    assert (list(fitted.columns), fitted.rows) == (["hour", "wind", "origin", "rain", "small"], 2)


def test_whole_numbers_are_welcome_where_real_ones_are_asked_for() -> None:
    assert VALIDATOR.batch(batch(wind=("INT64", [1, 2]))).columns["wind"] == [1, 2]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"wind": None}, "column 'wind' is missing"),
        ({"extra": ("FP64", [1.0, 2.0])}, "unknown column 'extra'"),
        ({"hour": ("FP64", [1.0, 2.0])}, "column 'hour' is declared FP64, the signature says INT64"),
        ({"hour": ("INT64", [1.5, 2])}, "column 'hour': row 0 is float, expected INT64 or null"),
        ({"hour": ("INT64", [1, True])}, "column 'hour': row 1 is bool"),
        ({"wind": ("FP64", [1.0, "2"])}, "column 'wind': row 1 is str"),
        ({"origin": ("BYTES", ["JFK", 1])}, "column 'origin': row 1 is int"),
        ({"rain": ("BOOL", [0, 1])}, "column 'rain': row 0 is int"),
        ({"small": ("INT64", [1, 128])}, "column 'small': row 1 is 128, outside INT8"),
        ({"wind": ("FP64", [1.0])}, "column 'wind': 1 values for 2 rows"),
        ({"wind": ("FP64", [[1.0], [2.0]])}, "column 'wind': row 0 is list"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        VALIDATOR.batch(batch(**changes))
    assert says in str(refused.value)


def test_a_column_that_comes_twice_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="twice"):
        VALIDATOR.batch([*batch(), batch()[0]])


# --- matrices ---------------------------------------------------------------------------------------------------------

NUMBERS = Validator(
    (Column(name="x", type="FP64"), Column(name="n", type="INT8"), Column(name="s", type="FP32")),
    extra=("who",),
    as_matrix=True,
)
COLUMNS: dict[str, tuple[str, list[Any]]] = {
    "x": ("FP64", [1.5, None]),
    "n": ("INT64", [1, -128]),
    "s": ("FP32", [0.1, 2]),
}
ROWS = [[1.5, 1.0, float(np.float32(0.1))], [math.nan, -128.0, 2.0]]


def numeric(**changes: tuple[str, list[Any]] | None) -> list[Tensor | Raw]:
    columns = {**COLUMNS, **changes}
    return [Tensor(name, one[0], [2], one[1]) for name, one in columns.items() if one is not None]


def raw(name: str, datatype: str, shape: list[int], layout: str, *values: float) -> Raw:
    return Raw(name, datatype, shape, memoryview(struct.pack(layout, *values)))


@pytest.mark.parametrize(
    "inputs",
    [
        numeric(),
        numeric()[::-1],
        numeric(who=("BYTES", ["a", "b"])),
        [Tensor("any", "FP64", [2, 3], [1.5, 1, 0.1, None, -128, 2])],
        [Tensor("any", "FP64", [2, 3], [1.5, 1, 0.1, None, -128, 2]), Tensor("who", "BYTES", [2], ["a", "b"])],
        [raw("any", "FP64", [2, 3], "<6d", 1.5, 1, 0.1, math.nan, -128, 2)],
        [
            raw("x", "FP64", [2], "<2d", 1.5, math.nan),
            raw("n", "INT8", [2], "<2b", 1, -128),
            raw("s", "FP32", [2], "<2f", 0.1, 2),
        ],
        [*numeric()[1:], raw("x", "FP64", [2], "<2d", 1.5, math.nan)],
    ],
)
def test_every_way_to_send_numbers_gives_the_same_matrix(inputs: list[Tensor | Raw]) -> None:
    matrix = NUMBERS.batch(inputs).matrix
    assert matrix is not None
    np.testing.assert_array_equal(matrix, ROWS)
    assert matrix.flags.c_contiguous


def test_a_signature_of_32_bit_floats_gives_a_matrix_of_them() -> None:
    single = Validator((Column(name="x", type="FP32"),), as_matrix=True)
    matrix = single.batch([Tensor("x", "FP64", [1], [0.1])]).matrix
    assert matrix is not None
    assert matrix.dtype == np.float32


def test_a_model_of_columns_takes_one_tensor_for_all_of_them_too() -> None:
    columns = Validator((Column(name="x", type="FP64"), Column(name="n", type="INT64")))
    fitted = columns.batch([raw("any", "FP64", [2, 2], "<4d", 1.5, 1, math.nan, 2)])
    assert fitted.columns == {"x": [1.5, None], "n": [1, 2]}
    assert [type(value) for value in fitted.columns["n"]] == [int, int]


def test_a_matrix_model_without_signature_takes_the_matrix_as_it_is() -> None:
    fitted = Validator((), as_matrix=True).batch([Tensor("any", "FP64", [1, 2], [1.0, 2.0])])
    assert fitted.matrix is not None
    assert fitted.matrix.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (numeric(x=("FP64", [1.0, "2"])), "column 'x': row 1 is str"),
        (numeric(n=("FP64", [1.0, 2.0])), "column 'n' is declared FP64, the signature says INT8"),
        (numeric(n=("INT64", [1, 128])), "column 'n': row 1 is 128, outside INT8"),
        (numeric(n=("INT64", [1, 2.0])), "column 'n': row 1 is float, expected INT8"),
        (numeric(x=("FP64", [1.0, 10**400])), "column 'x': a value is no 64-bit float"),
        (numeric(s=None), "column 's' is missing"),
        (numeric(t=("FP64", [1.0, 2.0])), "unknown column 't'"),
        ([Tensor("any", "FP64", [2, 2], [1.0] * 4)], "input 'any' has 2 columns, the signature 3: x, n, s"),
        ([Tensor("any", "FP64", [2, 3], [1.0] * 5)], "input 'any': 5 values for 2 x 3"),
        ([Tensor("any", "FP64", [0, 3], [])], "0 rows"),
        ([Tensor("any", "FP64", [1, 3], [1.0, 1.5, 1.0])], "column 'n': row 0 is 1.5, expected INT8"),
        ([Tensor("any", "FP64", [1, 3], [1.0, 128, 1.0])], "column 'n': row 0 is 128, expected INT8"),
        ([Tensor("any", "FP64", [1, 3], [1.0, 1, True])], "column 's': row 0 is bool, expected a number"),
        ([Tensor("any", "BYTES", [1, 3], ["1", "2", "3"])], "input 'any' is declared BYTES, expected numbers"),
        ([raw("x", "FP64", [2], "<2d", 1, 2), *numeric()[1:], numeric()[1]], "a column occurs twice"),
        ([], "no tensors"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused_by_the_name_of_the_column(inputs: list[Tensor | Raw], says: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        NUMBERS.batch(inputs)
    assert says in str(refused.value)


def test_a_matrix_is_refused_where_a_column_is_text() -> None:
    with pytest.raises(InvalidInputError, match="not all of them are numbers"):
        VALIDATOR.batch([Tensor("any", "FP64", [1, 5], [1.0] * 5)])


def test_the_first_value_that_is_not_finite_is_named() -> None:
    assert NUMBERS.not_finite(Batch(1, np.array([[1.0, 2.0, 3.0]]))) is None
    assert NUMBERS.not_finite(Batch(2, np.array(ROWS))) == "column 'x': row 1 is missing (null or NaN)"
    assert NUMBERS.not_finite(Batch(1, np.array([[1.0, math.inf, 3.0]]))) == "column 'n': row 0 is infinite"
    assert VALIDATOR.not_finite(VALIDATOR.batch(batch())) == "column 'hour': row 1 is missing (null)"
