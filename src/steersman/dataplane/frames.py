"""Columns as a pandas frame, for models that want one, with the types MLflow would give it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steersman.dataplane.configuration import Column

_TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "INT8": np.int32,
    "INT16": np.int32,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
    "FP64": np.float64,
}
"""MLflow checks a frame against its own signature and knows 32- and 64-bit integers only."""


class Frames:
    """Frames of one signature; a column that is not in it has the type pandas finds."""

    def __init__(self, signature: Sequence[Column]) -> None:
        self._types = {column.name: _TYPES.get(column.type) for column in signature}

    def frame(self, columns: dict[str, list[Any]]) -> Any:
        import pandas as pd  # heavy, and only for models that take frames

        return pd.DataFrame({name: _typed(values, self._types.get(name)) for name, values in columns.items()})


def _typed(values: list[Any], dtype: Any) -> npt.NDArray[Any] | list[Any]:
    if dtype is None:
        return values
    if None in values:
        return np.asarray(values, dtype=np.float32 if dtype is np.float32 else np.float64)
    return np.asarray(values, dtype=dtype)
