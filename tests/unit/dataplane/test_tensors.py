"""The binary extension: what is sent raw arrives as the numbers and texts that were meant, or is refused by name."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.dataplane import tensors
from steersman.dataplane.protocol import EnvelopeError, Tensor


def sent(outputs: list[Tensor]) -> tuple[bytes, int]:
    """A request made of an answer's tensors: the extension writes both alike."""
    described, behind = tensors.encode_binary(outputs)
    head = b'{"inputs": %s}' % described
    return head + behind, len(head)


def bad(body: bytes, json_bytes: int | None) -> str:
    with pytest.raises(EnvelopeError) as refused:
        tensors.decode_request(body, json_bytes)
    return str(refused.value)


@given(
    st.lists(st.floats(allow_nan=False) | st.none(), max_size=20),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20),
    st.lists(st.text(max_size=5), max_size=20),
)
def test_what_is_written_raw_is_read_back(numbers: list[float | None], whole: list[int], texts: list[str]) -> None:
    given = [
        Tensor("n", "FP64", [len(numbers)], numbers),
        Tensor("w", "INT64", [len(whole)], whole),
        Tensor("t", "BYTES", [len(texts)], texts),
        Tensor("b", "BOOL", [2], [True, False]),
    ]
    assert tensors.decode_request(*sent(given)) == given


def test_the_layout_is_the_one_of_the_extension() -> None:
    described, behind = tensors.encode_binary(
        [Tensor("t", "BYTES", [2], ["ab", ""]), Tensor("x", "FP32", [1, 2], [1.0, -2.0])]
    )
    assert behind == b"\x02\0\0\0ab\0\0\0\0" + struct.pack("<2f", 1.0, -2.0)
    assert msgspec.json.decode(described)[1] == {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, 2],
        "parameters": {"binary_data_size": 8},
    }


def test_numbers_stay_raw_for_those_who_want_a_matrix() -> None:
    body, json_bytes = sent([Tensor("x", "FP64", [2, 1], [1.0, 2.0])])
    (raw,) = tensors.read_request(body, json_bytes).inputs
    assert isinstance(raw, tensors.Raw)
    assert bytes(raw.content) == struct.pack("<2d", 1.0, 2.0)


def test_json_may_nest_values_as_the_shape_does() -> None:
    one = {"name": "x", "datatype": "FP64", "shape": [2, 2], "data": [[1, 2], [3, None]]}
    assert tensors.decode_request(msgspec.json.encode({"inputs": [one]}))[0].data == [1, 2, 3, None]


def test_json_and_raw_tensors_may_stand_side_by_side() -> None:
    described = [
        {"name": "j", "datatype": "INT64", "shape": [1], "data": [7]},
        {"name": "r", "datatype": "UINT8", "shape": [1], "parameters": {"binary_data_size": 1}},
    ]
    head = msgspec.json.encode({"id": "me", "inputs": described})
    assert [one.data for one in tensors.decode_request(head + b"\xff", len(head))] == [[7], [255]]
    assert tensors.read_request(head + b"\xff", len(head)).id == "me"


def test_a_missing_whole_number_cannot_be_written() -> None:
    with pytest.raises(EnvelopeError, match="outputs: n"):
        tensors.encode_binary([Tensor("n", "INT64", [1], [None])])


@pytest.mark.parametrize(
    ("one", "behind", "says"),
    [
        ({"shape": [2], "parameters": {"binary_data_size": 8}}, b"12345678", "x: 8 bytes for FP64 of shape [2]"),
        ({"shape": [-1, -1], "parameters": {"binary_data_size": 8}}, b"12345678", "x: 8 bytes for FP64"),
        ({"parameters": {"binary_data_size": 9}}, b"12345678", "x: 9 bytes announced, 8 are left"),
        ({"parameters": {"binary_data_size": 8}}, b"123456789", "1 bytes follow the last tensor"),
        ({}, b"", "x: has neither data nor binary_data_size"),
        ({"data": [1.0], "parameters": {"binary_data_size": 8}}, b"12345678", "x: has both"),
        ({"datatype": "FP16", "parameters": {"binary_data_size": 2}}, b"12", "x: datatype FP16"),
        ({"datatype": "BYTES", "parameters": {"binary_data_size": 2}}, b"12", "x: text 0 has no length"),
        ({"datatype": "BYTES", "parameters": {"binary_data_size": 5}}, b"\x09\0\0\0a", "x: text 0 ends behind"),
        ({"datatype": "BYTES", "parameters": {"binary_data_size": 5}}, b"\x01\0\0\0\xff", "x: text 0 is not UTF-8"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused_by_the_name_of_the_input(
    one: dict[str, Any], behind: bytes, says: str
) -> None:
    head = msgspec.json.encode({"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], **one}]})
    assert says in bad(head + behind, len(head))


@pytest.mark.parametrize("json_bytes", [0, -1, 10_000])
def test_a_length_outside_the_body_is_refused(json_bytes: int) -> None:
    assert "Inference-Header-Content-Length" in bad(b'{"inputs": []}', json_bytes)
