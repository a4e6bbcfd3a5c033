"""From the log to the tables: what a caller or a model sends never stops the committer, whatever column it stands in."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest

from steersman.dataplane.capture import Context, Prediction
from steersman.dataplane.configuration import Column
from steersman.dataplane.expansion import prediction_rows
from steersman.dataplane.tables import PredictionsTable

FAR = 10**400
INFINITE, NO_NUMBER = float("inf"), float("nan")


def rows(kind: str, datatype: str, value: Any, output: Any = 0.5) -> dict[str, Any]:
    """The one row of a request with `value` in a column that the table has as `kind`."""
    context = Context(b"c", "ops", "production", "m", None, (Column(name="x", type=datatype),))
    tensor: dict[str, Any] = {"name": "x", "datatype": datatype, "shape": [1]}
    behind, json_bytes = b"", None
    if isinstance(value, float):  # JSON has neither infinities nor what is no number; raw bytes have both
        behind = struct.pack("<d", value)
        request = msgspec.json.encode(
            {"inputs": [{**tensor, "datatype": "FP64", "parameters": {"binary_data_size": 8}}]}
        )
        json_bytes = len(request)
    else:
        request = msgspec.json.encode({"inputs": [{**tensor, "data": [value]}]})
    outputs = msgspec.json.encode([{"name": "score", "datatype": "FP64", "shape": [1], "data": [output]}])
    record = Prediction(
        b"c", 0, "1", "d", "r", "stable", 1.0, "q", ["e"], request + behind, outputs, 200, None, 1.0, json_bytes
    )
    table = PredictionsTable(name="predictions", inputs={"x": kind})
    [row] = prediction_rows(table, [(100, (context, record))]).rows(named=True)
    return row


@pytest.mark.parametrize(
    ("kind", "datatype", "value", "kept"),
    [
        ("double", "FP64", FAR, None),
        ("double", "FP64", -FAR, None),
        ("double", "FP64", 10**30, 1e30),
        ("double", "FP64", INFINITE, INFINITE),
        ("long", "INT64", FAR, None),
        ("long", "INT64", 2**63, None),
        ("long", "INT64", INFINITE, None),
        ("long", "INT64", NO_NUMBER, None),
        ("long", "INT64", 0.5, None),
        ("long", "INT64", 7.0, 7),
        ("boolean", "BOOL", FAR, None),
        ("string", "BYTES", FAR, str(FAR)),
    ],
)
def test_a_number_its_column_cannot_hold_becomes_null(kind: str, datatype: str, value: float, kept: object) -> None:
    assert rows(kind, datatype, value)["inputs"] == {"x": kept}


def test_a_score_no_float_holds_becomes_null() -> None:
    assert rows("double", "FP64", 1, output=FAR)["score"] is None
