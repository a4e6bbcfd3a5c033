"""Reading an `MLmodel` file: what a version says of itself, translated into the words workers understand.

MLflow names flavours; what matters to us is whether the file that is loaded is data or code. So the format follows the
file, not the flavour alone: scikit-learn saved by skops is `skops`, saved by cloudpickle it is `pickle`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from steersman.domain.errors import BadRequest, NotSupported
from steersman.domain.version import Column, Format
from steersman.plugins.registries.trees import relative
from steersman.ports import Description

MLMODEL_BYTES_MAX = 4 * 2**20
"""An input schema of 10,000 columns takes 1 MB."""

DATATYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "binary": "BYTES",
    "datetime": "BYTES",
}
"""MLflow's column types in the words of the Open Inference Protocol."""

_NUMPY = {
    "bool": "BOOL",
    "int32": "INT32",
    "int64": "INT64",
    "float32": "FP32",
    "float64": "FP64",
    "str": "BYTES",
    "object": "BYTES",
}

_PICKLES = (".pkl", ".pickle", ".joblib", ".cloudpickle")
_FILE_KEYS = ("data", "pickled_model", "model_data", "model_path")


def described(text: bytes, *, params: Mapping[str, str]) -> Description:
    """Translate an `MLmodel` file. Raises `BadRequest` when it is none, `NotSupported` for a flavour nobody here loads."""
    if len(text) > MLMODEL_BYTES_MAX:
        raise BadRequest(f"The MLmodel file is larger than {MLMODEL_BYTES_MAX >> 20} MiB.")
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadRequest(f"The MLmodel file is not YAML: {error}"[:300]) from error
    flavors = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavors, dict) or not flavors:
        raise BadRequest(
            "The MLmodel file names no flavour.", next_step="Log the model with an mlflow.*.log_model function."
        )
    flavor, format_, file = _chosen(flavors)
    signature = document.get("signature")
    inputs, outputs = _schema(signature, "inputs"), _schema(signature, "outputs")
    metadata = {"flavor": flavor} | {
        key: str(value)[:500]
        for key, value in document.items()
        if key in ("mlflow_version", "model_id", "model_uuid", "run_id", "utc_time_created", "model_size_bytes")
    }
    return Description(
        format=format_,
        file=file,
        signature=tuple(inputs),
        output=outputs[0].name if outputs and outputs[0].name else "score",
        params=dict(params),
        metadata=metadata,
    )


def _chosen(flavors: Mapping[str, Any]) -> tuple[str, Format, str]:
    """The most harmless way in: the library's own data format, else a pickle, else pyfunc."""
    for flavor, content in flavors.items():
        if not isinstance(content, dict) or flavor == "python_function":
            continue
        file = next((str(content[key]) for key in _FILE_KEYS if isinstance(content.get(key), str)), "")
        found = _format_of(flavor, file)
        if found is not None:
            return flavor, found, str(relative(file))
    if "python_function" in flavors:
        return "python_function", Format.PYFUNC, "."
    raise NotSupported(
        f"No worker loads the flavours {', '.join(sorted(map(str, flavors)))[:200]}.",
        next_step="Log the model as LightGBM, XGBoost, ONNX or scikit-learn with skops.",
    )


def _format_of(flavor: str, file: str) -> Format | None:
    """By the file's suffix first: what MLflow writes into `serialization_format` is meant for other files as well."""
    if not file:
        return None
    if file.endswith(".skops"):
        return Format.SKOPS
    if file.endswith(_PICKLES):
        return Format.PICKLE
    known = {"lightgbm": Format.LIGHTGBM, "xgboost": Format.XGBOOST, "onnx": Format.ONNX, "sklearn": Format.PICKLE}
    return known.get(flavor)


def _schema(signature: object, part: str) -> list[Column]:
    """Columns of one side of the signature; unnamed tensors have none, because a request names its columns."""
    text = signature.get(part) if isinstance(signature, dict) else None
    if not text:
        return []
    try:
        entries = json.loads(text) if isinstance(text, str) else text
        return [column for entry in entries if (column := _column(entry)) is not None]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise BadRequest(f"The signature's {part} cannot be read ({type(error).__name__}).") from error


def _column(entry: Mapping[str, Any]) -> Column | None:
    name, declared = entry.get("name"), str(entry["type"])
    tensor = declared == "tensor"
    kind = _NUMPY.get(str(entry["tensor-spec"]["dtype"])) if tensor else DATATYPES.get(declared)
    if not kind:
        raise BadRequest(
            f"The signature's column {name!r} has the type {declared!r}, which no request can carry.",
            next_step=f"Use one of {', '.join(sorted(DATATYPES))}.",
        )
    if not name:
        return None
    return Column(name=str(name), type=kind, required=bool(entry.get("required", True)))
