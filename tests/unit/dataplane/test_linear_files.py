"""A linear model read from its skops file answers as the estimator does, without scikit-learn in the process."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skops.io import dump

from steersman.dataplane.batches import Batch
from steersman.dataplane.configuration import Column
from steersman.dataplane.linear_files import LinearFile

FEATURES = 5
linear: Any = importlib.import_module("sklearn.linear_model")
preprocessing: Any = importlib.import_module("sklearn.preprocessing")
impute: Any = importlib.import_module("sklearn.impute")
trees: Any = importlib.import_module("sklearn.tree")
make_pipeline: Callable[..., Any] = importlib.import_module("sklearn.pipeline").make_pipeline

SIGNATURE = tuple(Column(name=f"f{index}", type="FP64") for index in range(FEATURES))
RANDOM = np.random.default_rng(11)
X = RANDOM.normal(size=(300, FEATURES)) * [1, 10, 0.1, 1, 100]
VALUES = X @ [1.0, -0.2, 3.0, 0.0, 0.01] + 0.3 * RANDOM.normal(size=300)
TWO = (VALUES > 0).astype(int)
PROBE = RANDOM.normal(size=(400, FEATURES)) * 10.0 ** RANDOM.integers(-4, 5, size=(400, 1))


def saved(model: Any, target: Any, folder: Path) -> tuple[Any, Path]:
    fitted = model.fit(X, target)
    path = folder / "model.skops"
    dump(fitted, path)
    return fitted, path


def read(path: Path, *, predict_fn: str = "predict", signature: tuple[Column, ...] = SIGNATURE) -> LinearFile | None:
    return LinearFile.read(path, signature, output="score", predict_fn=predict_fn)


def outputs(model: LinearFile, matrix: Any, *, mlflow: bool = False) -> dict[str, Any]:
    return dict(model.predict(Batch(rows=len(matrix), matrix=matrix), "stable", mlflow))


READ = [
    (linear.LogisticRegression(), TWO),
    (linear.LogisticRegression(), TWO + 5),
    (linear.LogisticRegression(solver="liblinear", fit_intercept=False), TWO),
    (linear.SGDClassifier(loss="log_loss", random_state=0), TWO),
    (make_pipeline(preprocessing.StandardScaler(), linear.LogisticRegression()), TWO),
    (make_pipeline(impute.SimpleImputer(), preprocessing.MinMaxScaler(), linear.LogisticRegression()), TWO),
    (make_pipeline(preprocessing.StandardScaler(), linear.Ridge()), VALUES),
    (linear.LinearRegression(), VALUES),
    (linear.ElasticNet(alpha=0.01), VALUES),
]


@pytest.mark.parametrize(("model", "target"), READ, ids=lambda one: type(one).__name__)
def test_it_gives_the_estimators_numbers_and_labels(model: Any, target: Any, tmp_path: Path) -> None:
    fitted, path = saved(model, target, tmp_path)
    found = read(path)
    assert found is not None
    classifies = hasattr(fitted, "predict_proba")
    expected = fitted.predict_proba(PROBE)[:, 1] if classifies else fitted.predict(PROBE)
    given = outputs(found, PROBE, mlflow=True)
    np.testing.assert_allclose(given["score"], expected, rtol=1e-9, atol=1e-300)
    if classifies:
        assert given["prediction"].tolist() == fitted.predict(PROBE).tolist()
        both = read(path, predict_fn="predict_proba")
        assert both is not None
        matrix = outputs(both, PROBE, mlflow=True)["prediction"]
        np.testing.assert_allclose(matrix, fitted.predict_proba(PROBE), rtol=0, atol=1e-12)


LEFT_TO_SKOPS = [
    (linear.LogisticRegression(max_iter=500), np.digitize(VALUES, [-1, 1])),
    (linear.LogisticRegression(), np.where(TWO == 1, "yes", "no").astype(object)),
    (linear.SGDClassifier(loss="modified_huber", random_state=0), TWO),
    (make_pipeline(preprocessing.PolynomialFeatures(2), linear.LogisticRegression(max_iter=5000)), TWO),
    (make_pipeline(preprocessing.MinMaxScaler(clip=True), linear.LogisticRegression()), TWO),
    (make_pipeline(impute.SimpleImputer(add_indicator=True), linear.LogisticRegression()), TWO),
    (trees.DecisionTreeClassifier(max_depth=2), TWO),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model", "target"), LEFT_TO_SKOPS, ids=lambda one: type(one).__name__)
def test_what_is_not_known_to_the_last_operation_is_left_to_skops(model: Any, target: Any, tmp_path: Path) -> None:
    assert read(saved(model, target, tmp_path)[1]) is None


def test_another_method_or_text_columns_are_left_to_skops(tmp_path: Path) -> None:
    _, path = saved(linear.LogisticRegression(), TWO, tmp_path)
    assert read(path, predict_fn="predict_log_proba") is None
    assert read(path, signature=(Column(name="f", type="BYTES"),)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.update(protocol=3),
        lambda tree: tree.update(__module__="os"),
        lambda tree: tree["content"]["content"].update(
            multi_class={"__loader__": "JsonNode", "content": '"multinomial"'}
        ),
        lambda tree: tree["content"]["content"].update(coef_={"__loader__": "MethodNode", "content": {}}),
        lambda tree: tree["content"]["content"]["coef_"].update(file="gone.npy"),
        lambda tree: tree.pop("content"),
    ],
)
def test_a_file_that_says_something_else_is_left_to_skops(change: Callable[[Any], Any], tmp_path: Path) -> None:
    _, path = saved(linear.LogisticRegression(), TWO, tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    tree = json.loads(members["schema.json"])
    change(tree)
    members["schema.json"] = json.dumps(tree).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert read(path) is None


@pytest.mark.parametrize(
    ("value", "says"), [(np.nan, "Input X contains NaN"), (np.inf, "Input X contains infinity"), (-np.inf, "infinity")]
)
def test_it_refuses_what_the_estimator_refuses_in_its_words(value: float, says: str, tmp_path: Path) -> None:
    fitted, path = saved(make_pipeline(preprocessing.StandardScaler(), linear.LogisticRegression()), TWO, tmp_path)
    found = read(path)
    assert found is not None
    holed = PROBE.copy()
    holed[3, 1] = value
    for predict in (fitted.predict_proba, lambda matrix: outputs(found, matrix)):
        with pytest.raises(ValueError, match=says):
            predict(holed)


def test_numbers_whose_sum_overflows_are_numbers(tmp_path: Path) -> None:
    fitted, path = saved(linear.LinearRegression(), VALUES, tmp_path)
    found = read(path)
    assert found is not None
    huge = np.full((2, FEATURES), 1.7e307)
    huge[1] *= -1
    huge[:, 0] = 1.7e308 * np.array([1, -1])
    assert outputs(found, huge)["score"].tolist() == pytest.approx(fitted.predict(huge).tolist())


def test_another_number_of_columns_is_said(tmp_path: Path) -> None:
    found = read(saved(linear.LogisticRegression(), TWO, tmp_path)[1])
    assert found is not None
    with pytest.raises(ValueError, match="X has 4 features, but LogisticRegression is expecting 5"):
        outputs(found, PROBE[:, :4])


def test_scikit_learn_is_not_imported(tmp_path: Path) -> None:
    _, path = saved(linear.LogisticRegression(), TWO, tmp_path)
    program = (
        "import sys; from pathlib import Path; from steersman.dataplane.linear_files import LinearFile;"
        f"found = LinearFile.read(Path({str(path)!r}), (), output='score', predict_fn='predict');"
        "assert found is not None; print(sorted({'sklearn', 'skops', 'scipy', 'pandas'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "[]"
