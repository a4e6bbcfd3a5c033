"""Linear scikit-learn models straight from their skops file, without scikit-learn.

Importing scikit-learn and skops takes two to three seconds of CPU and 120 MB; a linear model is a few arrays in a zip file
beside a JSON tree that names them. So a worker first looks whether the file holds nothing but a binary classifier or a
regressor that `scikit.Linear` knows to the last operation, with the steps it knows before it. If so it takes the arrays and
is ready. Anything else, a type, a parameter or a version of the format that is not known here, is left to skops and the
estimator itself. No type named in the file is ever constructed, so there is none to trust.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from steersman.dataplane.batches import Batch, Outputs
from steersman.dataplane.configuration import Column
from steersman.dataplane.scikit import Array, Linear

PROTOCOL = 2
"""The version of skops' tree that is read here (skops 0.12 to 0.16)."""

BYTES_MAX = 64 * 1024 * 1024
"""Of one member of the file, unpacked: a linear model over a million columns has 8 MB."""

_READ = frozenset(
    {
        "steps",
        "coef_",
        "intercept_",
        "classes_",
        "loss",
        "multi_class",
        "mean_",
        "scale_",
        "min_",
        "with_mean",
        "with_std",
    }
    | {"clip", "statistics_", "missing_values", "add_indicator"}
)
"""Attributes that decide what a known estimator answers; the others are how it was fitted."""

_METHODS = frozenset({"predict", "predict_proba"})


class _UnknownError(Exception):
    """The file holds something that is not read here."""


class LinearFile:
    """A linear model that answers as its estimator would. `predict_fn` is the method that MLflow calls on it."""

    as_matrix = True

    def __init__(self, linear: Linear, name: str, *, output: str, predict_fn: str) -> None:
        self._linear = linear
        self._name = name
        self._output = output
        self._predict_fn = predict_fn
        self._same = predict_fn == "predict" and not linear.classifies

    @classmethod
    def read(cls, path: Path, signature: Sequence[Column], *, output: str, predict_fn: str) -> LinearFile | None:
        """The model, or None where it must be loaded by skops."""
        if any(column.type == "BYTES" for column in signature):
            return None
        try:
            with zipfile.ZipFile(path) as archive:
                stand_in = _tree(archive)
        except (_UnknownError, zipfile.BadZipFile, OSError, msgspec.DecodeError, ValueError, KeyError):
            return None  # whoever loads it next says what is wrong with it
        linear = Linear.of_parts(stand_in)
        if linear is None or predict_fn not in _METHODS or (predict_fn == "predict_proba" and not linear.classifies):
            return None
        final = stand_in.steps[-1][1] if hasattr(stand_in, "steps") else stand_in
        return cls(linear, type(final).__name__, output=output, predict_fn=predict_fn)

    def predict(self, batch: Batch, variant: str, mlflow: bool) -> Outputs:
        """The score; for a caller of MLflow's protocol also what its pyfunc returns, where that is something else.

        Raises ValueError with the estimator's own words for what it refuses.
        """
        assert batch.matrix is not None
        scores = self._linear.scores(batch.matrix)
        if scores is None:
            raise ValueError(self._refusal(batch.matrix))
        answer = self._linear.answer(scores)
        outputs = [(self._output, answer)]
        if mlflow and not self._same:
            labels = self._predict_fn == "predict"
            outputs.append(
                ("prediction", self._linear.labels(scores) if labels else np.column_stack([1 - answer, answer]))
            )
        return outputs

    def _refusal(self, matrix: Array) -> str:
        if matrix.shape[1] != self._linear.features:
            return f"X has {matrix.shape[1]} features, but {self._name} is expecting {self._linear.features} features"
        kind = "NaN" if np.isnan(matrix).any() else "infinity or a value too large for dtype('float64')"
        return f"Input X contains {kind}."


def _tree(archive: zipfile.ZipFile) -> Any:
    root = msgspec.json.decode(_member(archive, "schema.json"))
    if root.get("protocol") != PROTOCOL:
        raise _UnknownError
    return _object(root, archive)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > BYTES_MAX:
        raise _UnknownError
    return archive.read(name)


def _object(node: dict[str, Any], archive: zipfile.ZipFile) -> Any:
    """A stand-in for an estimator: an object of a type with the same name and module, and the attributes that matter."""
    content = node["content"]
    if not node["__module__"].startswith("sklearn.") or content.get("__loader__") != "DictNode":
        raise _UnknownError
    stand_in = type(node["__class__"], (), {"__module__": node["__module__"]})()
    for name, child in content["content"].items():
        if name in _READ:
            setattr(stand_in, name, _value(child, archive))
    return stand_in


def _value(node: dict[str, Any], archive: zipfile.ZipFile) -> Any:
    content: Any = node.get("content")
    match node["__loader__"]:
        case "JsonNode":
            return float("nan") if content == "NaN" else msgspec.json.decode(content)
        case "NdArrayNode" if node.get("type") == "numpy":
            array = np.load(io.BytesIO(_member(archive, node["file"])), allow_pickle=False)
            return array if node["__class__"] == "ndarray" else array[()]
        case "ListNode":
            return [_value(one, archive) for one in content or ()]
        case "TupleNode":
            return tuple(_value(one, archive) for one in content or ())
        case "ObjectNode":
            return _object(node, archive)
        case _:
            raise _UnknownError
