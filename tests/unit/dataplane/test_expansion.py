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


def test_rows_of_records_of_different_lengths_stay_beside_each_other() -> None:
    """Two rows, one whose body cannot be read, three without a column: a value or null for each in every column."""
    context = Context(
        b"c", "ops", "production", "m", "user", (Column(name="user", type="BYTES"), Column(name="x", type="FP64"))
    )

    def record(number: int, request: bytes, outputs: Any, rows: int) -> tuple[int, tuple[Context, Prediction]]:
        ids = [f"e{number}.{row}" for row in range(rows)]
        status, error = (200, None) if outputs else (400, "no request")
        answered = msgspec.json.encode(outputs) if outputs else b""
        at_us, who = number * 1_000_000, ("d", "r", "stable", 1.0, f"q{number}")
        found = Prediction(b"c", at_us, str(number), *who, ids, request, answered, status, error, 1.0)
        return number * 1000, (context, found)

    def sent(**columns: list[Any]) -> bytes:
        inputs = [{"name": name, "datatype": "BYTES" if name == "user" else "FP64", "shape": [len(data)], "data": data}
                  for name, data in columns.items()]  # fmt: skip
        return msgspec.json.encode({"inputs": inputs})

    score = {"name": "score", "datatype": "FP64", "shape": [2], "data": [0.25, 0.75]}
    pairs = {"name": "proba", "datatype": "FP64", "shape": [3, 2], "data": [0.1, 0.9, 0.2, 0.8, 0.3, 0.7]}
    items = [
        record(1, sent(user=["a", "b"], x=[1.0, 2.0]), [score], 2),
        record(2, b"{", None, 1),
        record(3, sent(user=["c", None, "d"]), [pairs], 3),
    ]
    frame = prediction_rows(
        PredictionsTable(name="p", inputs={"user": "string", "x": "double", "later": "long"}), items
    )
    found = frame.select(
        "event_id", "version", "status", "entity", "score", "outputs", "position", frame["inputs"].struct.field("x")
    ).rows()
    assert found == [
        ("e1.0", "1", 200, "a", 0.25, None, 999, 1.0),
        ("e1.1", "1", 200, "b", 0.75, None, 1000, 2.0),
        ("e2.0", "2", 400, None, None, None, 2000, None),
        ("e3.0", "3", 200, "c", None, '{"proba":[0.1,0.9]}', 2998, None),
        ("e3.1", "3", 200, None, None, '{"proba":[0.2,0.8]}', 2999, None),
        ("e3.2", "3", 200, "d", None, '{"proba":[0.3,0.7]}', 3000, None),
    ]
