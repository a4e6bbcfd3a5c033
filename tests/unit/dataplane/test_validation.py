"""A batch that does not fit the signature is refused by the name of the column."""

from __future__ import annotations

from typing import Any

import pytest

from steersman.dataplane.configuration import Column
from steersman.dataplane.protocol import Tensor
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
    columns, rows = VALIDATOR.columns(list(reversed(batch(flight_id=("BYTES", ["a", "b"])))))
    assert (list(columns), rows) == (["hour", "wind", "origin", "rain", "small"], 2)


def test_whole_numbers_are_welcome_where_real_ones_are_asked_for() -> None:
    assert VALIDATOR.columns(batch(wind=("INT64", [1, 2])))[1] == 2


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
        VALIDATOR.columns(batch(**changes))
    assert says in str(refused.value)


def test_a_column_that_comes_twice_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="twice"):
        VALIDATOR.columns([*batch(), batch()[0]])
