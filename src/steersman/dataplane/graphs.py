"""ONNX models, through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steersman.dataplane.batches import Batch, Outputs
from steersman.dataplane.configuration import Column

_ERRORS = 3
"""Log severity; below it, the runtime reports hardware it may not look for in the sandbox."""

_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


class Graph:
    """One loaded graph. A single input node takes all columns, else one node is one column, [n] or [n, 1] as it says."""

    def __init__(self, path: Path, signature: Sequence[Column], *, output: str, threads: int) -> None:
        import onnxruntime as ort

        ort.disable_telemetry_events()
        ort.set_default_logger_severity(_ERRORS)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        nodes = self._session.get_inputs()
        self._inputs = [(node.name, _TYPES.get(node.type, np.float32)) for node in nodes]
        self._flat = {node.name for node in nodes if len(node.shape) == 1}
        self._names = [node.name for node in self._session.get_outputs()]
        self._output = output
        self.as_matrix = len(self._inputs) == 1 and len(signature) != 1 and self._inputs[0][1] is not np.object_

    def predict(self, batch: Batch, variant: str, mlflow: bool) -> Outputs:
        """The score; for a caller of MLflow's protocol also every output by its name, as its pyfunc has them."""
        name, dtype = self._inputs[0]
        if batch.matrix is not None:
            feed = {name: batch.matrix.astype(dtype)}
        elif len(self._inputs) == 1:  # whatever the node is called, as in pyfunc
            stacked = np.column_stack([_column(values, dtype) for values in batch.columns.values()])
            feed = {name: stacked[:, 0] if name in self._flat else stacked}
        else:
            feed = {name: _column(batch.columns[name], dtype) for name, dtype in self._inputs}
            feed = {name: values if name in self._flat else values[:, None] for name, values in feed.items()}
        results = [_array(one) for one in self._session.run(None, feed)]
        outputs = [(self._output, self._score(results))]
        if mlflow:
            named = zip(self._names, results, strict=True)
            outputs += [(f"prediction.{name}", np.ravel(one) if one.size == batch.rows else one) for name, one in named]
        return outputs

    def _score(self, results: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """The output named in the version; else the probabilities a classifier gives, else the last output."""
        named = self._output in self._names
        values = results[self._names.index(self._output)] if named else results[-1]
        return values[:, 1] if values.ndim == 2 and values.shape[1] == 2 and not named else values


def _array(result: Any) -> npt.NDArray[Any]:
    if isinstance(result, list) and result and isinstance(result[0], dict):  # ZipMap of converted classifiers
        result = [list(row.values()) for row in result]
    return np.asarray(result)


def _column(values: list[Any], dtype: Any) -> npt.NDArray[Any]:
    if dtype is np.object_:
        return np.array(["" if value is None else value for value in values], dtype=np.object_)
    return np.asarray(values, dtype=np.float64).astype(dtype)
