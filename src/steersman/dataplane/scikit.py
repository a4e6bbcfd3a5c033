"""scikit-learn models, and the short way through the common ones.

A linear model is one product of matrix and vector. The estimator's own `predict_proba` spends 50 to 100 times as long on
one row in checks of its parameters, its input and its array library. So linear models, with the scalers and the imputer
that usually stand before them, are compiled: the same operations on the same arrays, without what surrounds them. The
compiled way answers only where every number it sees is finite. Whatever is not (a NaN the estimator would refuse, an
overflow in a scaler) goes to the estimator itself, so that it says what it would have said. Everything else, trees
included, is the estimator's own method.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steersman.dataplane.batches import Batch, Outputs
from steersman.dataplane.configuration import Column
from steersman.dataplane.frames import Frames

Array = npt.NDArray[Any]
Step = Callable[[Array], None]
"""Changes a matrix in place, as the transformer with `copy=False` would."""


class Scikit:
    """One loaded estimator or pipeline. `predict_fn` is the method that MLflow calls on it."""

    def __init__(self, model: Any, signature: Sequence[Column], *, output: str, predict_fn: str) -> None:
        if (sklearn := sys.modules.get("sklearn")) is not None:
            # Parameters were checked when the model was fitted; a request cannot change them.
            sklearn.set_config(skip_parameter_validation=True)
        # The signature orders the columns; a model fitted on a frame would warn on every call that a matrix has no names.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        self.as_matrix = not any(column.type == "BYTES" for column in signature)
        self._model = model
        self._output = output
        self._predict_fn = predict_fn
        self._frames = Frames(signature)
        classes = getattr(model, "classes_", None)
        several = len(classes) if isinstance(classes, np.ndarray) else 0
        self._proba = several > 0 and hasattr(model, "predict_proba")
        self._binary = self._proba and several == 2
        self._linear = Linear.of(model) if self.as_matrix else None
        method = "predict_proba" if self._proba else "predict"
        self._same = predict_fn == method and not self._binary

    def predict(self, batch: Batch, variant: str, mlflow: bool) -> Outputs:
        """The score; for a caller of MLflow's protocol also what its pyfunc returns, where that is something else."""
        table: Any = batch.matrix if self.as_matrix else self._frames.frame(batch.columns)
        scores = self._linear.scores(table) if self._linear is not None else None
        outputs = [(self._output, self._score(table, scores))]
        if mlflow and not self._same:
            outputs.append(("prediction", self._prediction(table, scores)))
        return outputs

    def _score(self, table: Any, scores: Array | None) -> Array:
        if self._linear is not None and scores is not None:
            return self._linear.answer(scores)
        if not self._proba:
            return np.asarray(self._model.predict(table))
        answer = np.asarray(self._model.predict_proba(table))
        return answer[:, 1] if self._binary else answer

    def _prediction(self, table: Any, scores: Array | None) -> Array:
        if self._linear is not None and scores is not None and self._predict_fn == "predict":
            return self._linear.labels(scores)
        return np.asarray(getattr(self._model, self._predict_fn)(table))


class Linear:
    """A fitted linear model with the steps before it, as arrays."""

    def __init__(self, steps: Sequence[Step], final: Any) -> None:
        self._steps = steps
        self._weights = np.ascontiguousarray(final.coef_.T)
        self._intercept = np.asarray(final.intercept_)
        self.features = self._weights.shape[0]
        self._classes: Array | None = getattr(final, "classes_", None)

    @property
    def classifies(self) -> bool:
        return self._classes is not None

    @property
    def tells_two_apart(self) -> bool:
        return self._classes is not None and len(self._classes) == 2 and self._weights.shape[1] == 1

    @classmethod
    def of(cls, model: Any) -> Linear | None:
        """The compiled form, or None for a model this module does not know to the last operation."""
        compiled = cls._compiled(model)
        return compiled if compiled is not None and compiled.agrees_with(model) else None

    @classmethod
    def of_parts(cls, model: Any) -> Linear | None:
        """The same for a stand-in that has a model's names and arrays and none of its methods.

        Nothing can be compared then, so it must be one whose formula never depended on a parameter: a regressor, or a
        classifier of two classes that was not asked for one of scikit-learn's older ways of telling classes apart.
        """
        compiled = cls._compiled(model)
        if compiled is None or not compiled.classifies:
            return compiled
        final = model.steps[-1][1] if hasattr(model, "steps") else model
        plain = getattr(final, "multi_class", "auto") in ("auto", "deprecated")
        return compiled if plain and compiled.tells_two_apart else None

    @classmethod
    def _compiled(cls, model: Any) -> Linear | None:
        final, before = model, []
        if type(model).__module__ == "sklearn.pipeline" and type(model).__name__ == "Pipeline":
            before, final = [step for _, step in model.steps[:-1]], model.steps[-1][1]
        if not _is_linear(final):
            return None
        steps: list[Step] = []
        for one in before:
            step = _step(one)
            if step is None:
                return None
            steps += step
        return cls(steps, final)

    def agrees_with(self, model: Any) -> bool:
        """Whether it gives the model's own numbers on rows of all magnitudes: a safeguard against other versions of it."""
        random = np.random.default_rng(0)
        probe = random.normal(size=(_PROBES, self.features)) * 10.0 ** random.integers(-3, 4, size=(_PROBES, 1))
        scores = self.scores(probe)
        if scores is None:
            return False
        if self._classes is None:
            return bool(np.allclose(scores, model.predict(probe), rtol=_ROUNDING, atol=_ROUNDING))
        whole = model.predict_proba(probe)
        mine = self.answer(scores)
        return bool(np.allclose(mine, whole[:, 1] if mine.ndim == 1 else whole, rtol=0, atol=_ROUNDING))

    def scores(self, matrix: Array) -> Array | None:
        """The decision function, shape (rows,) or (rows, k), or None where the estimator itself must be asked."""
        if matrix.shape[1] != self.features:
            return None
        if self._steps:
            matrix = matrix.copy()
            with np.errstate(all="ignore"):
                for step in self._steps:
                    step(matrix)
        # One NaN or infinity shows in the sum, for a fraction of the cost; a sum may also overflow by itself.
        if not math.isfinite(matrix.sum()) and not np.isfinite(matrix).all():
            return None
        scores: Array = matrix @ self._weights + self._intercept
        return scores[:, 0] if scores.ndim == 2 and scores.shape[1] == 1 and self._classes is not None else scores

    def answer(self, scores: Array) -> Array:
        """The probability of class 1, the probabilities of several classes, or the value."""
        if self._classes is None:
            return scores
        if scores.ndim == 1:
            return np.asarray(np.exp(-np.logaddexp(0.0, -scores)))  # the logistic function, exact in both tails
        shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))

    def labels(self, scores: Array) -> Array:
        if self._classes is None:
            return scores
        chosen = (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)
        return np.asarray(self._classes.take(chosen))


_PROBES = 64
"""Rows of the comparison at load: enough to see every class and both signs, under a millisecond."""

_ROUNDING = 1e-12
"""What two orders of summing 64-bit floats may differ by; another formula differs by far more."""

_CLASSIFIERS = frozenset({"LogisticRegression", "LogisticRegressionCV", "SGDClassifier"})
_REGRESSORS = frozenset(
    {"LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "SGDRegressor"}
)
_SQUARED = ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive")
"""Losses of `SGDRegressor`, which say nothing of how it predicts. Those of `SGDClassifier` do."""


def _is_linear(final: Any) -> bool:
    name = type(final).__name__
    return (
        type(final).__module__.startswith("sklearn.linear_model.")
        and (name in _REGRESSORS or name in _CLASSIFIERS)
        and getattr(final, "loss", "log_loss") in ("log_loss", *_SQUARED)
        and isinstance(getattr(final, "coef_", None), np.ndarray)
    )


def _step(one: Any) -> list[Step] | None:
    """The in-place operations of a fitted transformer, or None for one that is not known."""
    if isinstance(one, str):
        return [] if one == "passthrough" else None
    module, name = type(one).__module__, type(one).__name__
    if module == "sklearn.preprocessing._data" and name == "StandardScaler":
        centre = [_subtract(one.mean_)] if one.with_mean else []
        return centre + ([_divide(one.scale_)] if one.with_std else [])
    if module == "sklearn.preprocessing._data" and name == "MinMaxScaler" and not one.clip:
        return [_multiply(one.scale_), _add(one.min_)]
    if module == "sklearn.impute._base" and name == "SimpleImputer":
        fill = np.asarray(one.statistics_)
        missing = isinstance(one.missing_values, float) and np.isnan(one.missing_values)
        if missing and not one.add_indicator and fill.dtype.kind == "f" and np.isfinite(fill).all():
            return [_fill(fill)]
    return None


def _subtract(values: Array) -> Step:
    def step(matrix: Array) -> None:
        matrix -= values.astype(matrix.dtype, copy=False)

    return step


def _add(values: Array) -> Step:
    def step(matrix: Array) -> None:
        matrix += values

    return step


def _multiply(values: Array) -> Step:
    def step(matrix: Array) -> None:
        matrix *= values

    return step


def _divide(values: Array) -> Step:
    def step(matrix: Array) -> None:
        matrix /= values.astype(matrix.dtype, copy=False)

    return step


def _fill(values: Array) -> Step:
    def step(matrix: Array) -> None:
        np.copyto(matrix, values, where=np.isnan(matrix), casting="same_kind")

    return step
