"""From a version's files to something that predicts, one short path a format.

A loaded model takes columns and gives outputs; between them stands as little as possible. Numeric models get one matrix.
A binary classifier answers with the probability of class 1, under the name the version gives its output (`score` if
none). Which formats may load at all is decided here as well: code-bearing ones only where the installation names the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from steersman.dataplane import formats, native
from steersman.dataplane.configuration import Column
from steersman.dataplane.native import Matrix, ModelError
from steersman.dataplane.protocol import Tensor


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker is told at its start: one version, where its bytes lie, and what the router will send.

    `file` is relative to `artifact_dir`. `extra_columns_allowed` are columns that may come along and are ignored
    (`stickyBy`, the label's key). `port` 0 takes a free one; the handle file says which.
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
    port: int = 0


Predict = Callable[[dict[str, list[Any]], int, str], list[Tensor]]
"""Columns, rows, and the variant the caller was given → outputs."""


class RefusedModelError(Exception):
    """The version may not be loaded here; the text says which rule, and what would allow it."""


def load(spec: WorkerSpec) -> Predict:
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
            return _matrix_model(spec, booster.predict, booster.features)
        case "xgboost":
            gradient = native.XGBoost(path, threads=spec.threads)
            return _matrix_model(spec, gradient.predict, gradient.features)
        case "onnx":
            return _onnx(spec, path)
        case "skops":
            return _scikit(spec, _load_skops(path))
        case "pickle":
            return _scikit(spec, _load_pickle(path))
        case "pyfunc":
            return _pyfunc(spec, root)


def to_matrix(columns: dict[str, list[Any]], rows: int) -> Matrix:
    """One float matrix, row-major; null becomes NaN."""
    matrix = np.empty((rows, len(columns)), dtype=np.float64)
    for index, values in enumerate(columns.values()):
        matrix[:, index] = np.asarray(values, dtype=np.float64)
    return matrix


def output(name: str, values: npt.NDArray[Any], rows: int) -> Tensor:
    """A tensor for `values` of shape (rows,) or (rows, k); NaN and infinities become null."""
    if values.shape[:1] != (rows,):
        raise ModelError(f"the model answered {values.shape[:1]} values for {rows} rows")
    flat = values.reshape(-1)
    shape = [rows] if flat.size == rows else [rows, flat.size // rows]
    if flat.dtype.kind in "OUS":
        return Tensor(name, "BYTES", shape, [None if value is None else str(value) for value in flat.tolist()])
    if flat.dtype.kind == "b":
        return Tensor(name, "BOOL", shape, flat.tolist())
    if flat.dtype.kind in "iu":
        return Tensor(name, "INT64", shape, flat.tolist())
    data = flat.astype(np.float64)
    finite = np.isfinite(data)
    listed: list[Any] = data.tolist()
    if not finite.all():
        listed = [value if ok else None for value, ok in zip(listed, finite, strict=True)]
    return Tensor(name, "FP64", shape, listed)


def _matrix_model(spec: WorkerSpec, predict: Callable[[Matrix], Matrix], features: int) -> Predict:
    if spec.signature and len(spec.signature) != features:
        raise ModelError(f"the signature has {len(spec.signature)} columns, the model takes {features}")
    strings = [column.name for column in spec.signature if column.type == "BYTES"]
    if strings:
        raise ModelError(f"column {strings[0]!r} is a string; {spec.format} models take numbers, so encode it first")

    def run(columns: dict[str, list[Any]], rows: int, variant: str) -> list[Tensor]:
        return [output(spec.output, predict(to_matrix(columns, rows)), rows)]

    return run


def _scikit(spec: WorkerSpec, model: Any) -> Predict:
    as_frame = any(column.type == "BYTES" for column in spec.signature)
    # The signature orders the columns; a model fitted on a frame would warn on every call that a matrix has no names.
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    classes = getattr(model, "classes_", None)
    binary = classes is not None and len(classes) == 2 and hasattr(model, "predict_proba")
    proba = classes is not None and hasattr(model, "predict_proba")

    def run(columns: dict[str, list[Any]], rows: int, variant: str) -> list[Tensor]:
        table = _frame(columns) if as_frame else to_matrix(columns, rows)
        if not proba:
            return [output(spec.output, np.asarray(model.predict(table)), rows)]
        answer = np.asarray(model.predict_proba(table))
        return [output(spec.output, answer[:, 1] if binary else answer, rows)]

    return run


def _frame(columns: dict[str, list[Any]]) -> Any:
    import pandas as pd  # heavy, and only for models with string columns

    return pd.DataFrame(columns)


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


def _onnx(spec: WorkerSpec, path: Path) -> Predict:
    import onnxruntime as ort

    ort.disable_telemetry_events()
    ort.set_default_logger_severity(_ONNX_ERRORS)
    options = ort.SessionOptions()
    options.intra_op_num_threads = spec.threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = [(node.name, _ONNX_TYPES.get(node.type, np.float32)) for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs()]

    def run(columns: dict[str, list[Any]], rows: int, variant: str) -> list[Tensor]:
        if len(inputs) == 1 and len(columns) != 1:
            name, dtype = inputs[0]
            feed = {name: to_matrix(columns, rows).astype(dtype)}
        else:
            feed = {name: _column(columns[name], dtype).reshape(rows, 1) for name, dtype in inputs}
        return [output(spec.output, _score(session.run(None, feed), outputs, spec.output, rows), rows)]

    return run


_ONNX_ERRORS = 3
"""Log severity; below it, the runtime reports hardware it may not look for in the sandbox."""

_ONNX_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


def _column(values: list[Any], dtype: Any) -> npt.NDArray[Any]:
    if dtype is np.object_:
        return np.array(["" if value is None else value for value in values], dtype=np.object_)
    return np.asarray(values, dtype=np.float64).astype(dtype)


def _score(results: Sequence[Any], names: Sequence[str], wanted: str, rows: int) -> npt.NDArray[Any]:
    """The output named in the version; else the probabilities a classifier gives, else the last output."""
    chosen = results[names.index(wanted)] if wanted in names else results[-1]
    if isinstance(chosen, list) and chosen and isinstance(chosen[0], dict):  # ZipMap of converted classifiers
        chosen = np.array([list(row.values()) for row in chosen])
    values = np.asarray(chosen)
    if values.ndim == 2 and values.shape[1] == 2 and wanted not in names:
        return values[:, 1]
    return values.reshape(rows, -1) if values.ndim > 2 else values


def _pyfunc(spec: WorkerSpec, root: Path) -> Predict:
    import mlflow.pyfunc
    import pandas as pd

    model = mlflow.pyfunc.load_model(str(root))
    signature = model.metadata.signature
    declared = {one.name for one in signature.params.params} if signature and signature.params else set()
    dtypes = {column.name: _PANDAS_TYPES.get(column.type) for column in spec.signature}

    def run(columns: dict[str, list[Any]], rows: int, variant: str) -> list[Tensor]:
        frame = pd.DataFrame({name: _typed(values, dtypes.get(name)) for name, values in columns.items()})
        answer = model.predict(frame, params={"variant": variant} if "variant" in declared else None)
        return _pyfunc_outputs(answer, spec.output, rows)

    return run


_PANDAS_TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "INT8": np.int32,
    "INT16": np.int32,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
    "FP64": np.float64,
}
"""MLflow checks a frame against its own signature and knows 32- and 64-bit integers only."""


def _typed(values: list[Any], dtype: Any) -> npt.NDArray[Any] | list[Any]:
    if dtype is None:
        return values
    if None in values:
        return np.asarray(values, dtype=np.float64)
    return np.asarray(values, dtype=dtype)


def _pyfunc_outputs(answer: Any, name: str, rows: int) -> list[Tensor]:
    if hasattr(answer, "columns") and hasattr(answer, "to_numpy"):
        return [output(str(column), answer[column].to_numpy(), rows) for column in answer.columns]
    if isinstance(answer, dict):
        return [output(str(key), np.asarray(values), rows) for key, values in answer.items()]
    values = np.asarray(answer)
    if values.ndim == 2 and values.shape[1] == 2 and values.dtype.kind == "f":
        values = values[:, 1]
    return [output(name, values, rows)]
