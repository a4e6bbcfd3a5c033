"""What a tree holds is told by its bytes, not by its names."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest

from steersman.dataplane.formats import UnknownFormatError, classify
from steersman.testing.plane import stump


def skops_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("schema.json", "{}")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("model.json", b'{"learner":{"attributes":{}},"version":[3,0,0]}', "xgboost"),
        ("model.ubj", b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner{", "xgboost"),
        ("model.skops", skops_file(), "skops"),
        ("model.onnx", b"\x08\x09\x12\x04test", "onnx"),
        ("model.pkl", pickle.dumps({"a": 1}), "pickle"),
        ("renamed.onnx", pickle.dumps({"a": 1}), "pickle"),
        ("model.txt", pickle.dumps({"a": 1}), "pickle"),
    ],
)
def test_the_bytes_decide(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    found = classify(tmp_path)
    assert (found.format, found.file) == (expected, name)
    assert found.code_bearing is (expected == "pickle")


def test_a_text_model_is_data_only(tmp_path: Path) -> None:
    found = classify(stump(tmp_path / "tree"))
    assert (found.format, found.file, found.code_bearing) == ("lightgbm", "model.lgb", False)


def test_a_pickle_that_claims_to_be_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.lgb").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UnknownFormatError, match="claimed to be lightgbm, but its bytes are pickle"):
        classify(tmp_path, format_claimed="lightgbm", file_claimed="model.lgb")


def test_a_claimed_file_lies_inside_the_tree(tmp_path: Path) -> None:
    stump(tmp_path)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "README").write_text("")
    with pytest.raises(UnknownFormatError, match="no such file"):
        classify(tmp_path / "tree", format_claimed="lightgbm", file_claimed="../model.lgb")


def test_pyfunc_is_code_and_lists_what_would_run(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "loader.py").write_text("")
    (tmp_path / "python_model.pkl").write_bytes(pickle.dumps(1))
    found = classify(tmp_path, format_claimed="pyfunc")
    assert found.code_bearing
    assert found.code == ("code/loader.py: Python source", "python_model.pkl: pickle")


def test_a_tree_without_a_model_says_what_would_be_one(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("hello")
    with pytest.raises(UnknownFormatError, match="LightGBM text, XGBoost JSON or UBJ, ONNX, skops"):
        classify(tmp_path)
