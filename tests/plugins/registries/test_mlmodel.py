"""What an MLmodel file says, and what is made of it."""

from __future__ import annotations

import json

import pytest

from steersman.domain.errors import BadRequest, NotSupported
from steersman.domain.version import Column, Format
from steersman.plugins.registries.mlmodel import described


def _mlmodel(flavors: dict[str, object], **rest: object) -> bytes:
    return json.dumps({"flavors": flavors, "mlflow_version": "3.17.2", **rest}).encode()


@pytest.mark.parametrize(
    ("flavors", "format_", "file"),
    [
        ({"lightgbm": {"data": "model.lgb", "serialization_format": "skops"}}, Format.LIGHTGBM, "model.lgb"),
        ({"lightgbm": {"data": "model.skops"}}, Format.SKOPS, "model.skops"),
        ({"lightgbm": {"data": "model.pkl"}}, Format.PICKLE, "model.pkl"),
        ({"xgboost": {"data": "model.ubj", "model_format": "ubj"}}, Format.XGBOOST, "model.ubj"),
        ({"onnx": {"data": "model.onnx"}}, Format.ONNX, "model.onnx"),
        ({"sklearn": {"pickled_model": "model.skops"}}, Format.SKOPS, "model.skops"),
        ({"sklearn": {"pickled_model": "model.pkl"}}, Format.PICKLE, "model.pkl"),
        ({"python_function": {"data": "model.lgb"}, "lightgbm": {"data": "model.lgb"}}, Format.LIGHTGBM, "model.lgb"),
        ({"python_function": {"python_model": "python_model.pkl"}}, Format.PYFUNC, "."),
    ],
)
def test_the_format_follows_the_file_that_is_loaded(flavors: dict[str, object], format_: Format, file: str) -> None:
    description = described(_mlmodel(flavors), params={})
    assert (description.format, description.file) == (format_, file)


def test_columns_get_the_words_of_the_inference_protocol() -> None:
    inputs = [
        {"name": "a", "type": "double"},
        {"name": "b", "type": "string", "required": False},
        {"name": "c", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1]}},
    ]
    outputs = [{"name": "probability", "type": "double"}]
    signature = {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None}
    description = described(_mlmodel({"lightgbm": {"data": "m.lgb"}}, signature=signature), params={"depth": "3"})
    assert description.signature == (
        Column(name="a", type="FP64"),
        Column(name="b", type="BYTES", required=False),
        Column(name="c", type="FP32"),
    )
    assert (description.output, description.params) == ("probability", {"depth": "3"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"{", "not YAML"),
        (b"just text", "no flavour"),
        (_mlmodel({}), "no flavour"),
        (_mlmodel({"lightgbm": {"data": "../../../etc/passwd"}}), "unsafe"),
        (_mlmodel({"lightgbm": {"data": "m"}}, signature={"inputs": "not json"}), "cannot be read"),
        (_mlmodel({"lightgbm": {"data": "m"}}, signature={"inputs": '[{"name": "a", "type": "map"}]'}), "'map'"),
        (b"flavors: !!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_is_wrong(text: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        described(text, params={})


def test_a_flavour_nobody_loads_is_not_supported() -> None:
    with pytest.raises(NotSupported, match="prophet"):
        described(_mlmodel({"prophet": {"data": "model.pr"}}), params={})
