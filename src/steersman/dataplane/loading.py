"""From a version's files to something that predicts, one short path a format.

A loaded model takes a batch and gives outputs; between them stands as little as possible. Numeric models get one matrix.
A binary classifier answers with the probability of class 1, under the name the version gives its output (`score` if
none). Which formats may load at all is decided here as well: code-bearing ones only where the installation names the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from steersman.dataplane import examples, formats, native
from steersman.dataplane.batches import Batch, Model, ModelError, Outputs
from steersman.dataplane.configuration import Column
from steersman.dataplane.native import Matrix


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker is told at its start: one version, where its bytes lie, and what the router will send.

    `file` is relative to `artifact_dir`. `extra_columns_allowed` are columns that may come along and are ignored
    (`stickyBy`, the label's key). `handle_file` says where it answers, once it does: on a Unix socket, or with `local_port`
    on a port of the loopback interface. `batch_rows_max` 1 switches micro-batching off. `hang_s` is how long the worker may
    be stuck before it ends itself, see `watch`.
    """

    artifact_dir: str
    digest: str
    format: Literal["lightgbm", "xgboost", "onnx", "skops", "pyfunc", "pickle"]
    file: str
    model: str
    version: str
    handle_file: str
    signature: tuple[Column, ...] = ()
    output: str = "score"
    threads: int = 1
    extra_columns_allowed: tuple[str, ...] = ()
    code_allowed: bool = False
    batch_rows_max: int = 1
    batch_wait_ms: float = 0.0
    memory_mb: int | None = None
    hang_s: float = 60.0
    local_port: bool = False


class RefusedModelError(Exception):
    """The version may not be loaded here; the text says which rule, and what would allow it."""


def load(spec: WorkerSpec) -> Model:
    """Load the version. Raises RefusedModelError or ModelError."""
    root = Path(spec.artifact_dir)
    if spec.format in formats.CODE_FORMATS and not spec.code_allowed:
        raise RefusedModelError(
            f"{spec.format} models run their own code when loaded; start with --allow-code WORKSPACE/{spec.model} "
            "to allow it, or save the model as skops, ONNX, LightGBM text or XGBoost JSON"
        )
    if spec.format != "pyfunc":
        formats.classify(root, format_claimed=spec.format, file_claimed=spec.file)
    path = root / spec.file
    match spec.format:
        case "lightgbm":
            booster = native.LightGBM(path, threads=spec.threads)
            return _boosted(spec, booster.predict, booster.features, None)
        case "xgboost":
            gradient = native.XGBoost(path, threads=spec.threads)
            classifies = examples.manifest(root).model_class.endswith("Classifier")
            return _boosted(spec, gradient.predict, gradient.features, _labels if classifies else None)
        case "onnx":
            from steersman.dataplane.graphs import Graph

            graph = Graph(path, spec.signature, output=spec.output, threads=spec.threads)
            return Model(as_matrix=graph.as_matrix, predict=graph.predict)
        case "skops" | "pickle":
            from steersman.dataplane.linear_files import LinearFile
            from steersman.dataplane.scikit import Scikit

            predict_fn = examples.manifest(root).predict_fn
            if spec.format == "skops":
                linear = LinearFile.read(path, spec.signature, output=spec.output, predict_fn=predict_fn)
                if linear is not None:
                    return Model(as_matrix=linear.as_matrix, predict=linear.predict)
            fitted = _load_skops(path) if spec.format == "skops" else _load_pickle(path)
            scikit = Scikit(fitted, spec.signature, output=spec.output, predict_fn=predict_fn)
            return Model(as_matrix=scikit.as_matrix, predict=scikit.predict)
        case "pyfunc":
            from steersman.dataplane.pyfunc import PyFunc

            pyfunc = PyFunc(root, spec.signature, output=spec.output)
            return Model(
                as_matrix=False,
                predict=pyfunc.predict,
                variant_matters=pyfunc.variant_matters,
                stream=pyfunc.stream if pyfunc.streams else None,
            )


def _boosted(
    spec: WorkerSpec,
    predict: Callable[[Matrix], Matrix],
    features: int,
    labels: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None,
) -> Model:
    if spec.signature and len(spec.signature) != features:
        raise ModelError(f"the signature has {len(spec.signature)} columns, the model takes {features}")
    strings = [column.name for column in spec.signature if column.type == "BYTES"]
    if strings:
        raise ModelError(f"column {strings[0]!r} is a string; {spec.format} models take numbers, so encode it first")

    def run(batch: Batch, variant: str, mlflow: bool) -> Outputs:
        assert batch.matrix is not None
        if batch.matrix.shape[1] != features:
            raise ModelError(f"{batch.matrix.shape[1]} columns came, the model takes {features}")
        scores = predict(np.ascontiguousarray(batch.matrix, dtype=np.float64))
        if scores.shape[1] == 1:
            scores = scores[:, 0]
        outputs = [(spec.output, scores)]
        if mlflow and labels is not None:
            outputs.append(("prediction", labels(scores)))
        return outputs

    return Model(as_matrix=True, predict=run)


def _labels(probabilities: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The class XGBoost's classifier names: its classes are 0, 1, ... in the order of the probabilities."""
    return (probabilities > _HALF).astype(np.int64) if probabilities.ndim == 1 else probabilities.argmax(axis=1)


_HALF = 0.5
"""The threshold of `XGBClassifier.predict`."""


def _load_skops(path: Path) -> Any:
    from skops.io import get_untrusted_types, load

    from steersman.dataplane.trusted import TRUSTED_TYPES

    found = set(get_untrusted_types(file=path))
    if unknown := sorted(found - TRUSTED_TYPES):
        raise RefusedModelError(f"the skops file holds types that are not trusted: {', '.join(unknown[:10])}")
    return load(path, trusted=sorted(found))


def _load_pickle(path: Path) -> Any:
    import joblib

    return joblib.load(path)
