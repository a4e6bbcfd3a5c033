"""LightGBM and XGBoost through their C libraries.

The Python packages of both import data-frame and machine-learning libraries on sight: up to three seconds of CPU and
200 MB for a worker that only predicts. The C interface beneath (documented and stable) needs a pointer to a matrix. The
packages stay the dependency: they bring the library file; only their Python is not imported.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from steersman.dataplane.batches import ModelError

Matrix = npt.NDArray[np.float64]

_FLOAT64, _ROW_MAJOR, _PREDICT_NORMAL = 1, 1, 0


def _library(package: str, name: str) -> ctypes.CDLL:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"{package} is not installed; install steersman[worker]")
    for folder in spec.submodule_search_locations:
        path = Path(folder) / "lib" / name
        if path.is_file():
            return ctypes.CDLL(str(path))
    raise ModelError(f"{package} has no lib/{name}; reinstall it")


class LightGBM:
    """A booster from LightGBM's text format."""

    def __init__(self, path: Path, *, threads: int) -> None:
        self._lib = _library("lightgbm", "lib_lightgbm.so")
        self._lib.LGBM_GetLastError.restype = ctypes.c_char_p
        self._booster = ctypes.c_void_p()
        self._parameters = f"num_threads={threads} predict_disable_shape_check=false".encode()
        iterations = ctypes.c_int()
        self._check(
            self._lib.LGBM_BoosterCreateFromModelfile(
                str(path).encode(), ctypes.byref(iterations), ctypes.byref(self._booster)
            )
        )
        classes, features = ctypes.c_int(), ctypes.c_int()
        self._check(self._lib.LGBM_BoosterGetNumClasses(self._booster, ctypes.byref(classes)))
        self._check(self._lib.LGBM_BoosterGetNumFeature(self._booster, ctypes.byref(features)))
        self.classes, self.features = classes.value, features.value

    def _check(self, code: int) -> None:
        if code != 0:
            raise ModelError(self._lib.LGBM_GetLastError().decode(errors="replace"))

    def predict(self, matrix: Matrix) -> Matrix:
        """Probabilities (binary, multiclass) or values, shape (rows, classes)."""
        rows, columns = matrix.shape
        result = np.empty(rows * self.classes, dtype=np.float64)
        length = ctypes.c_int64()
        self._check(
            self._lib.LGBM_BoosterPredictForMat(
                self._booster,
                ctypes.c_void_p(matrix.ctypes.data),
                ctypes.c_int(_FLOAT64),
                ctypes.c_int32(rows),
                ctypes.c_int32(columns),
                ctypes.c_int(_ROW_MAJOR),
                ctypes.c_int(_PREDICT_NORMAL),
                ctypes.c_int(0),
                ctypes.c_int(-1),
                self._parameters,
                ctypes.byref(length),
                result.ctypes.data_as(ctypes.POINTER(ctypes.c_double)),
            )
        )
        return result.reshape(rows, self.classes)


class XGBoost:
    """A booster from XGBoost's JSON or UBJSON format."""

    def __init__(self, path: Path, *, threads: int) -> None:
        self._lib = _library("xgboost", "libxgboost.so")
        self._lib.XGBGetLastError.restype = ctypes.c_char_p
        self._booster = ctypes.c_void_p()
        self._check(self._lib.XGBoosterCreate(None, ctypes.c_uint64(0), ctypes.byref(self._booster)))
        self._check(self._lib.XGBoosterLoadModel(self._booster, str(path).encode()))
        self._check(self._lib.XGBoosterSetParam(self._booster, b"nthread", str(threads).encode()))
        features = ctypes.c_uint64()
        self._check(self._lib.XGBoosterGetNumFeature(self._booster, ctypes.byref(features)))
        self.features = features.value
        # The best iteration, where training stopped early, is what the package itself predicts with.
        self._config = msgspec.json.encode(
            {
                "type": 0,
                "training": False,
                "iteration_begin": 0,
                "iteration_end": self._best_iteration() + 1,
                "strict_shape": True,
                "missing": float("nan"),
                "cache_id": 0,
            }
        ).replace(b'"missing":null', b'"missing":NaN')

    def _check(self, code: int) -> None:
        if code != 0:
            raise ModelError(self._lib.XGBGetLastError().decode(errors="replace"))

    def _best_iteration(self) -> int:
        value, found = ctypes.c_char_p(), ctypes.c_int()
        self._check(
            self._lib.XGBoosterGetAttr(self._booster, b"best_iteration", ctypes.byref(value), ctypes.byref(found))
        )
        return int(value.value) if found.value and value.value else -1

    def predict(self, matrix: Matrix) -> Matrix:
        """Probabilities (binary:logistic, multi:softprob) or values, shape (rows, outputs)."""
        interface: dict[str, Any] = {
            "data": [matrix.ctypes.data, True],
            "shape": list(matrix.shape),
            "typestr": "<f8",
            "version": 3,
        }
        shape = ctypes.POINTER(ctypes.c_uint64)()
        dimensions = ctypes.c_uint64()
        values = ctypes.POINTER(ctypes.c_float)()
        self._check(
            self._lib.XGBoosterPredictFromDense(
                self._booster,
                msgspec.json.encode(interface),
                self._config,
                None,
                ctypes.byref(shape),
                ctypes.byref(dimensions),
                ctypes.byref(values),
            )
        )
        sizes = [shape[index] for index in range(dimensions.value)]
        total = int(np.prod(sizes))
        flat = np.ctypeslib.as_array(values, shape=(total,)).astype(np.float64)
        return flat.reshape(matrix.shape[0], total // matrix.shape[0])
