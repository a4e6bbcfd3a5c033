"""Models that only MLflow knows how to load: its pyfunc interface, with all it brings.

It costs milliseconds a call and hundreds of megabytes; a version comes here only when its tree has nothing more direct.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steersman.dataplane.batches import Batch, Outputs
from steersman.dataplane.configuration import Column
from steersman.dataplane.frames import Frames


class PyFunc:
    """One loaded pyfunc. It learns the variant it answers as where its signature has a parameter of that name."""

    def __init__(self, root: Path, signature: Sequence[Column], *, output: str) -> None:
        import mlflow.pyfunc

        self._model = mlflow.pyfunc.load_model(str(root))
        self._frames = Frames(signature)
        self._output = output
        own = self._model.metadata.signature
        self.variant_matters = bool(own and own.params) and "variant" in {one.name for one in own.params.params}
        self.streams = getattr(self._model, "_predict_stream_fn", None) is not None

    def predict(self, batch: Batch, variant: str, mlflow: bool) -> Outputs:
        answer = self._model.predict(self._frames.frame(batch.columns), params=self._params(variant))
        outputs = self._outputs(answer)
        if mlflow:
            outputs += _of_mlflow(answer, outputs)
        return outputs

    def stream(self, batch: Batch, variant: str) -> Iterator[Any]:
        """For a batch of one row what the model yields: text, or outputs. MLflow streams for one record at a time."""
        record = {name: values[0] for name, values in batch.columns.items()}
        for piece in self._model.predict_stream(record, params=self._params(variant)):
            yield piece if isinstance(piece, str) else self._outputs(piece)

    def _params(self, variant: str) -> dict[str, str] | None:
        return {"variant": variant} if self.variant_matters else None

    def _outputs(self, answer: Any) -> Outputs:
        if _is_table(answer):
            return _table(answer)
        values = np.atleast_1d(np.asarray(answer))
        if values.ndim == 2 and values.shape[1] == 2 and values.dtype.kind == "f":
            values = values[:, 1]
        return [(self._output, values)]


def _is_table(answer: Any) -> bool:
    return isinstance(answer, dict) or (hasattr(answer, "columns") and hasattr(answer, "to_numpy"))


def _table(answer: Any) -> Outputs:
    return [
        (str(column), np.atleast_1d(answer[column]))
        for column in (answer if isinstance(answer, dict) else answer.columns)
    ]


def _of_mlflow(answer: Any, outputs: Outputs) -> Outputs:
    """What MLflow's own scoring server would say, where `outputs` is something else."""
    if _is_table(answer):
        return [(f"prediction.{name}", values) for name, values in outputs]
    whole = np.atleast_1d(np.asarray(answer))
    return [] if whole.shape == outputs[0][1].shape else [("prediction", whole)]
