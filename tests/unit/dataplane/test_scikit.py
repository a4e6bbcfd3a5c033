"""The compiled way through a linear model gives the estimator's numbers, and hands over what it must not answer."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from steersman.dataplane.batches import Batch
from steersman.dataplane.configuration import Column
from steersman.dataplane.scikit import Linear, Scikit

FEATURES = 6
linear: Any = importlib.import_module("sklearn.linear_model")
preprocessing: Any = importlib.import_module("sklearn.preprocessing")
impute: Any = importlib.import_module("sklearn.impute")
make_pipeline: Callable[..., Any] = importlib.import_module("sklearn.pipeline").make_pipeline

SIGNATURE = tuple(Column(name=f"f{index}", type="FP64") for index in range(FEATURES))


def training(classes: int) -> tuple[Any, Any]:
    random = np.random.default_rng(3)
    features = random.normal(size=(400, FEATURES)) * [1, 10, 0.1, 1, 1, 1] + [0, 5, 0, 0, 0, 0]
    raw = features[:, 0] + 0.1 * features[:, 1] + 0.3 * random.normal(size=400)
    return features, (np.digitize(raw, np.quantile(raw, np.linspace(0, 1, classes + 1)[1:-1])) if classes else raw)


def probe() -> Any:
    random = np.random.default_rng(5)
    return random.normal(size=(500, FEATURES)) * 10.0 ** random.integers(-4, 5, size=(500, 1))


def holes(features: Any) -> Any:
    holed = features.copy()
    holed[::7, 1] = np.nan
    return holed


CLASSIFIERS = [
    (linear.LogisticRegression(), 2),
    (linear.LogisticRegression(fit_intercept=False), 2),
    (linear.LogisticRegression(solver="liblinear"), 2),
    (linear.LogisticRegression(max_iter=1000), 4),
    (linear.SGDClassifier(loss="log_loss", random_state=0), 2),
    (make_pipeline(preprocessing.StandardScaler(), linear.LogisticRegression()), 2),
    (make_pipeline(preprocessing.StandardScaler(with_mean=False), linear.LogisticRegression()), 3),
    (make_pipeline(preprocessing.MinMaxScaler(), "passthrough", linear.LogisticRegression()), 2),
    (make_pipeline(impute.SimpleImputer(), preprocessing.StandardScaler(), linear.LogisticRegression()), 2),
    (make_pipeline(preprocessing.StandardScaler(), impute.SimpleImputer(strategy="median"), linear.Ridge()), 0),
    (linear.LinearRegression(), 0),
    (linear.Ridge(), 0),
    (linear.Lasso(alpha=0.01), 0),
    (linear.ElasticNet(alpha=0.01), 0),
    (linear.SGDRegressor(random_state=0), 0),
]


@pytest.mark.parametrize(("model", "classes"), CLASSIFIERS, ids=lambda value: str(value).replace("\n", "")[:60])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_compiled_model_gives_the_estimators_numbers_and_labels(model: Any, classes: int, dtype: Any) -> None:
    features, wanted = training(classes)
    model.fit(holes(features) if "SimpleImputer" in str(model) else features, wanted)
    compiled = Linear.of(model)
    assert compiled is not None
    rows = (holes(probe()) if "SimpleImputer" in str(model) else probe()).astype(dtype)
    scores = compiled.scores(rows)
    assert scores is not None
    rounding = 1e-12 if dtype is np.float64 else 1e-6
    if classes == 0:
        np.testing.assert_allclose(compiled.answer(scores), model.predict(rows), rtol=rounding, atol=rounding)
    else:
        whole = model.predict_proba(rows)
        expected = whole[:, 1] if classes == 2 else whole
        np.testing.assert_allclose(compiled.answer(scores), expected, rtol=0, atol=rounding)
        assert compiled.labels(scores).tolist() == model.predict(rows).tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_goes_to_the_estimator(value: float) -> None:
    features, wanted = training(2)
    model = linear.LogisticRegression(max_iter=1000).fit(features, wanted)
    rows = features[:3].copy()
    rows[1, 2] = value
    scikit = Scikit(model, SIGNATURE, output="score", predict_fn="predict")
    with pytest.raises(ValueError, match="Input X contains") as mine:
        scikit.predict(Batch(3, rows), "stable", False)
    with pytest.raises(ValueError, match="Input X contains") as its:
        model.predict_proba(rows)
    assert str(mine.value) == str(its.value)


def test_an_overflow_on_the_way_goes_to_the_estimator() -> None:
    features, wanted = training(2)
    model = make_pipeline(preprocessing.StandardScaler(), linear.LogisticRegression()).fit(features * 1e-8, wanted)
    compiled = Linear.of(model)
    assert compiled is not None
    assert compiled.scores(np.full((1, FEATURES), 1e305)) is None


def models_with_ways_of_their_own() -> list[Any]:
    one_against_rest = importlib.import_module("sklearn.multiclass").OneVsRestClassifier

    class Unusual(linear.LogisticRegression):  # type: ignore[misc]
        def predict_proba(self, features: Any) -> Any:
            return super().predict_proba(features) ** 2

    return [
        linear.SGDClassifier(loss="modified_huber", random_state=0),
        linear.SGDClassifier(loss="hinge", random_state=0),
        linear.RidgeClassifier(),
        Unusual(),
        one_against_rest(linear.LogisticRegression()),
        make_pipeline(preprocessing.MinMaxScaler(clip=True), linear.LogisticRegression()),
        make_pipeline(preprocessing.PolynomialFeatures(), linear.LogisticRegression(max_iter=2000)),
        make_pipeline(impute.SimpleImputer(add_indicator=True), linear.LogisticRegression()),
    ]


@pytest.mark.parametrize("model", models_with_ways_of_their_own(), ids=lambda model: str(model)[:60])
def test_a_model_with_ways_of_its_own_is_not_compiled(model: Any) -> None:
    features, wanted = training(2)
    model.fit(holes(features) if "SimpleImputer" in str(model) else features, wanted)
    assert Linear.of(model) is None


def test_a_formula_that_another_version_changed_is_noticed_when_the_model_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, wanted = training(3)
    model = linear.LogisticRegression(max_iter=1000).fit(features, wanted)
    assert Linear.of(model) is not None
    monkeypatch.setattr(type(model), "predict_proba", lambda self, rows: np.full((len(rows), 3), 1 / 3))
    assert Linear.of(model) is None


def test_a_caller_of_mlflows_protocol_gets_what_pyfunc_says_besides_the_score() -> None:
    features, wanted = training(2)
    names = np.array(["late", "on time"])[wanted]
    model = linear.LogisticRegression(max_iter=1000).fit(features, names)

    def answer(predict_fn: str, mlflow: bool = True) -> dict[str, Any]:
        scikit = Scikit(model, SIGNATURE, output="score", predict_fn=predict_fn)
        return {name: values.tolist() for name, values in scikit.predict(Batch(2, features[:2]), "stable", mlflow)}

    whole = model.predict_proba(features[:2])
    assert answer("predict", mlflow=False) == {"score": pytest.approx(whole[:, 1].tolist())}
    assert answer("predict")["prediction"] == model.predict(features[:2]).tolist()
    np.testing.assert_allclose(answer("predict_proba")["prediction"], whole)
    np.testing.assert_allclose(answer("predict_log_proba")["prediction"], model.predict_log_proba(features[:2]))


def test_where_pyfunc_says_the_score_it_is_said_once() -> None:
    features, wanted = training(0)
    scikit = Scikit(linear.Ridge().fit(features, wanted), SIGNATURE, output="score", predict_fn="predict")
    assert [name for name, _ in scikit.predict(Batch(2, features[:2]), "stable", True)] == ["score"]
    features, wanted = training(3)
    several = linear.LogisticRegression(max_iter=1000).fit(features, wanted)
    scikit = Scikit(several, SIGNATURE, output="score", predict_fn="predict_proba")
    assert [name for name, _ in scikit.predict(Batch(2, features[:2]), "stable", True)] == ["score"]
