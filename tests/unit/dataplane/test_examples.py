"""Input examples in every form MLflow and people write them, read as data with a bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from steersman.dataplane.configuration import Column
from steersman.dataplane.examples import EXAMPLE_ROWS_MAX, Manifest, UnreadableExampleError, example, manifest
from steersman.dataplane.protocol import Tensor

SIGNATURE = (Column(name="x", type="FP64"), Column(name="n", type="INT64"), Column(name="who", type="BYTES"))
EXPECTED = [
    Tensor("x", "FP64", [2], [1.5, 2]),
    Tensor("n", "INT64", [2], [3, None]),
    Tensor("who", "BYTES", [2], ["a", None]),
]
SPLIT = {"columns": ["x", "n", "who"], "data": [[1.5, 3.0, "a"], [2, None, None]]}
RECORDS = [{"x": 1.5, "n": 3, "who": "a"}, {"x": 2, "n": None, "who": None}]
COLUMNS = {"x": [1.5, 2], "n": [3, None], "who": ["a", None]}


def read(tree: Path, content: Any, signature: tuple[Column, ...] = SIGNATURE) -> list[Tensor]:
    (tree / "example.json").write_bytes(msgspec.json.encode(content))
    return example(tree, "example.json", signature)


@pytest.mark.parametrize(
    "content",
    [
        SPLIT,
        {"dataframe_split": SPLIT},
        RECORDS,
        {"dataframe_records": RECORDS},
        {"instances": RECORDS},
        COLUMNS,
        {"inputs": COLUMNS},
        COLUMNS | {"more": [1, 2]},
        {"inputs": COLUMNS, "params": {"temperature": 1}},
    ],
)
def test_every_form_of_an_example_is_the_same_request(tmp_path: Path, content: Any) -> None:
    assert read(tmp_path, content) == EXPECTED


@pytest.mark.parametrize("content", [[[1, 2], [3, 4.5]], {"inputs": [[1, 2], [3, 4.5]]}])
def test_rows_without_names_are_one_tensor(tmp_path: Path, content: Any) -> None:
    assert read(tmp_path, content, ()) == [Tensor("rows", "FP64", [2, 2], [1, 2, 3, 4.5])]


def test_a_long_example_is_cut(tmp_path: Path) -> None:
    (tensor,) = read(tmp_path, {"x": [1.0] * 10_000})
    assert tensor.shape == [EXAMPLE_ROWS_MAX]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (5, "neither rows nor columns"),
        ([], "neither rows nor columns"),
        ([[1], [1, 2]], "neither rows nor columns"),
        ({"x": [{"deep": 1}]}, "a value is a dict"),
        ({"x": [1, "a"]}, "mixes kinds"),
        ({"columns": ["x", "n"], "data": [[1]]}, "IndexError"),
        ({"columns": 5, "data": 7}, "TypeError"),
        ({"x": "y" * 2**20}, "larger than"),
    ],
)
def test_what_no_request_can_carry_is_said(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(UnreadableExampleError) as refused:
        read(tmp_path, content)
    assert str(refused.value).startswith("example.json: ")
    assert says in str(refused.value)


def test_a_broken_file_and_a_path_out_of_the_tree_are_refused(tmp_path: Path) -> None:
    (tmp_path / "example.json").write_bytes(b"[" * 100_000)
    with pytest.raises(UnreadableExampleError):
        example(tmp_path, "example.json", ())
    for name in ("../secret.json", "/etc/passwd", "absent.json"):
        with pytest.raises(UnreadableExampleError, match="no such file in the version"):
            example(tmp_path, name, ())


def test_a_manifest_says_how_pyfunc_would_call_the_model(tmp_path: Path) -> None:
    assert manifest(tmp_path) == Manifest()
    (tmp_path / "version.yaml").write_text("format: skops\nfile: model.skops\nexample: rows.json\n")
    assert manifest(tmp_path).example == "rows.json"
    (tmp_path / "MLmodel").write_text(
        "flavors:\n  python_function: {predict_fn: predict_proba}\n  xgboost: {model_class: xgboost.sklearn.XGBClassifier}\n"
        "saved_input_example_info: {artifact_path: input_example.json, serving_input_path: serving_input_example.json}\n"
    )
    assert manifest(tmp_path) == Manifest(
        predict_fn="predict_proba", model_class="xgboost.sklearn.XGBClassifier", example="serving_input_example.json"
    )


@pytest.mark.parametrize(
    "text",
    ["flavors: [1]", "- a", "{", "flavors: {python_function: {predict_fn: 5}}", "a: !!python/object:os.system x"],
)
def test_a_manifest_that_makes_no_sense_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "MLmodel").write_text(text)
    assert manifest(tmp_path) == Manifest()
