"""Real worker processes: every format gives its library's own answer, and hostile files find closed doors."""

from __future__ import annotations

import importlib
import math
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from steersman.dataplane import sockets
from steersman.dataplane.batches import Batch
from steersman.dataplane.configuration import Column
from steersman.dataplane.graphs import Graph
from steersman.dataplane.handles import read_handle
from steersman.testing import onnx_files
from steersman.testing.plane import STUMP, Plane, stump, tensor

NUMBERS = [{"name": "x", "type": "FP64"}, {"name": "z", "type": "FP64"}]
ROWS = {"x": [-1.0, 0.5, None, 2.0], "z": [0.0, 1.0, 2.0, None]}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane(tmp_path_factory.mktemp("workers")) as running:
        yield running


def ask(address: str, columns: dict[str, Sequence[Any]], variant: str = "stable") -> tuple[int, Any]:
    connection = sockets.connection_to(address, timeout_s=30)
    body = msgspec.json.encode({"inputs": [tensor(name, values) for name, values in columns.items()]})
    connection.request("POST", "/v2/models/m/infer", body, {"X-Steersman-Variant": variant})
    response = connection.getresponse()
    answer = msgspec.json.decode(response.read())
    connection.close()
    return response.status, answer


def score(address: str, columns: dict[str, Sequence[Any]]) -> list[Any]:
    status, answer = ask(address, columns)
    assert status == 200, answer
    return list(answer["outputs"][0]["data"])


def matrix(columns: dict[str, Sequence[Any]]) -> Any:
    return np.array(list(columns.values()), dtype=float).T


def refusal(plane: Plane, digest: str, **spec: Any) -> tuple[int, str]:
    name = plane.start_worker(digest, **spec)
    code = plane.processes[name].wait(30)
    return code, plane.said(name)


@pytest.fixture(scope="module")
def labelled() -> tuple[Any, Any]:
    random = np.random.default_rng(7)
    features = random.normal(size=(300, 2))
    return features, (features[:, 0] + 0.5 * random.normal(size=300) > 0).astype(int)


def test_a_stump_answers_and_is_ready_within_the_bounds_on_cpu_and_memory(plane: Plane, tmp_path: Path) -> None:
    address = plane.worker(plane.store(stump(tmp_path)), **STUMP)
    assert score(address, {"x": [-1.0, 1.0], "z": [0.0, 0.0]}) == [0.25, 0.75]
    name = max(plane.processes, key=lambda one: int(one.partition("-")[2] or 0))
    handle = read_handle(plane.state / "run" / f"{name}.json")
    assert handle is not None
    assert handle.alive()
    assert handle.ready_cpu_s is not None
    assert handle.ready_cpu_s < 0.6
    status = Path(f"/proc/{handle.pid}/status").read_text()
    peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak_kb < 120_000
    assert os.getsid(handle.pid) == handle.pid


def test_lightgbm_gives_its_packages_answer(plane: Plane, tmp_path: Path, labelled: tuple[Any, Any]) -> None:
    lgb = importlib.import_module("lightgbm")
    parameters = {"objective": "binary", "num_threads": 1, "verbose": -1}
    booster = lgb.train(parameters, lgb.Dataset(*labelled), 20)
    booster.save_model(tmp_path / "model.txt")
    address = plane.worker(plane.store(tmp_path), format="lightgbm", file="model.txt", signature=NUMBERS)
    assert score(address, ROWS) == booster.predict(matrix(ROWS)).tolist()


@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_xgboost_gives_its_packages_answer(
    plane: Plane, tmp_path: Path, labelled: tuple[Any, Any], suffix: str
) -> None:
    xgb = importlib.import_module("xgboost")
    booster = xgb.train({"objective": "binary:logistic", "nthread": 1}, xgb.DMatrix(*labelled), 20)
    booster.save_model(tmp_path / f"model.{suffix}")
    address = plane.worker(plane.store(tmp_path), format="xgboost", file=f"model.{suffix}", signature=NUMBERS)
    assert score(address, ROWS) == pytest.approx(booster.predict(xgb.DMatrix(matrix(ROWS))).tolist(), abs=1e-7)


def test_a_skops_pipeline_with_text_columns_gives_scikit_learns_answer(plane: Plane, tmp_path: Path) -> None:
    pd, skio = importlib.import_module("pandas"), importlib.import_module("skops.io")
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame = pd.DataFrame({"origin": ["JFK", "EWR", "LGA", "JFK"] * 30, "hour": list(range(120))})
    encode = ColumnTransformer([("o", OneHotEncoder(sparse_output=False), ["origin"])], remainder="passthrough")
    model = make_pipeline(encode, HistGradientBoostingClassifier(max_iter=5)).fit(frame, [0, 1, 1, 0] * 30)
    skio.dump(model, tmp_path / "model.skops")
    address = plane.worker(
        plane.store(tmp_path),
        format="skops",
        file="model.skops",
        signature=[{"name": "origin", "type": "BYTES"}, {"name": "hour", "type": "INT64"}],
    )
    asked = {"origin": ["JFK", "EWR"], "hour": [5, 6]}
    assert score(address, asked) == pytest.approx(model.predict_proba(pd.DataFrame(asked))[:, 1].tolist())


def test_a_skops_file_with_a_type_nobody_trusts_is_refused_by_its_name(plane: Plane, tmp_path: Path) -> None:
    skio = importlib.import_module("skops.io")
    from http.cookies import Morsel

    skio.dump({"model": Morsel}, tmp_path / "model.skops")
    code, said = refusal(plane, plane.store(tmp_path), format="skops", file="model.skops")
    assert code == 2
    assert "http.cookies.Morsel" in said


def test_onnx_computes_what_the_file_says(plane: Plane, tmp_path: Path) -> None:
    importlib.import_module("onnxruntime")
    (tmp_path / "model.onnx").write_bytes(onnx_files.logistic([2.0, -1.0], 0.5))
    address = plane.worker(plane.store(tmp_path), format="onnx", file="model.onnx", signature=NUMBERS)
    expected = [1 / (1 + math.exp(-(2 * x - z + 0.5))) for x, z in ((1.0, 2.0), (-1.0, 0.0))]
    assert score(address, {"x": [1.0, -1.0], "z": [2.0, 0.0]}) == pytest.approx(expected, abs=1e-6)


def test_for_a_caller_of_mlflows_protocol_every_output_of_a_graph_stands_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_files.logistic([2.0, -1.0], 0.5))
    signature = (Column(name="x", type="FP64"), Column(name="z", type="FP64"))
    graph = Graph(tmp_path / "model.onnx", signature, output="probability", threads=1)
    batch = Batch(1, np.array([[1.0, 2.0]]))
    assert [name for name, _ in graph.predict(batch, "stable", False)] == ["probability"]
    outputs = graph.predict(batch, "stable", True)
    assert [name for name, _ in outputs] == ["probability", "prediction.score"]
    assert outputs[0][1].ravel().tolist() == outputs[1][1].tolist()


@pytest.fixture(scope="module")
def curious(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pickle whose model reads the file named in its first column, or raises, or answers too short."""
    cloudpickle = importlib.import_module("cloudpickle")

    class Curious:
        def predict(self, frame: Any) -> Any:
            import os

            import numpy

            wish = frame["wish"][0]
            if wish == "environment":
                return numpy.array([",".join(sorted(os.environ))])
            if wish == "raise":
                raise ValueError("the model does not like this")
            if wish == "short":
                return numpy.array([])
            if wish:
                with open(wish) as file:
                    file.read()
            return numpy.array([0.5] * len(frame))

    tree = tmp_path_factory.mktemp("curious")
    (tree / "model.pkl").write_bytes(cloudpickle.dumps(Curious()))
    return tree


CURIOUS: dict[str, Any] = {
    "format": "pickle",
    "file": "model.pkl",
    "signature": [{"name": "wish", "type": "BYTES"}],
}


def test_a_model_that_is_code_is_refused_unless_the_installation_names_it(plane: Plane, curious: Path) -> None:
    code, said = refusal(plane, plane.store(curious), **CURIOUS)
    assert code == 2
    assert "run their own code" in said
    assert "skops, ONNX" in said


def test_a_models_code_sees_neither_the_state_directory_nor_the_environment(
    plane: Plane, curious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = plane.state / "control.db"
    secret.write_text("secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    address = plane.worker(plane.store(curious), **CURIOUS, code_allowed=True)
    status, answer = ask(address, {"wish": [str(secret)]})
    card = read_handle(plane.state / "run" / f"{list(plane.processes)[-1]}.json")
    assert card is not None
    if card.sandbox == "none":
        pytest.skip("this kernel offers no Landlock")
    assert status == 500
    assert "PermissionError" in answer["error"]
    names = score(address, {"wish": ["environment"]})[0].split(",")
    assert "AWS_SECRET_ACCESS_KEY" not in names
    assert "OMP_NUM_THREADS" in names


def test_a_model_that_raises_or_answers_short_is_500_and_the_process_stays(plane: Plane, curious: Path) -> None:
    address = plane.worker(plane.store(curious), **CURIOUS, code_allowed=True)
    status, answer = ask(address, {"wish": ["raise"]})
    assert (status, "the model does not like this" in answer["error"]) == (500, True)
    status, answer = ask(address, {"wish": ["short"]})
    assert (status, "for 1 rows" in answer["error"]) == (500, True)
    assert score(address, {"wish": [""]}) == [0.5]


def test_a_pyfunc_model_learns_which_variant_it_answers_as_if_it_asks(plane: Plane, tmp_path: Path) -> None:
    pyfunc = importlib.import_module("mlflow.pyfunc")
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    class Moody(pyfunc.PythonModel):  # type: ignore[misc, name-defined]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            if params["variant"] == "candidate":
                raise RuntimeError("fails in service")
            return model_input["x"] * 2

    pyfunc.save_model(
        tmp_path / "model",
        python_model=Moody(),
        pip_requirements=[],
        signature=ModelSignature(
            inputs=Schema([ColSpec("double", "x"), ColSpec("string", "s")]),
            params=ParamSchema([ParamSpec("variant", "string", "stable")]),
        ),
    )
    address = plane.worker(
        plane.store(tmp_path / "model"),
        format="pyfunc",
        file=".",
        signature=[{"name": "x", "type": "FP64"}, {"name": "s", "type": "BYTES"}],
        code_allowed=True,
    )
    assert ask(address, {"x": [1.0], "s": ["a"]}, "mirror")[1]["outputs"][0]["data"] == [2.0]
    status, answer = ask(address, {"x": [1.0], "s": ["a"]}, "candidate")
    assert (status, "fails in service" in answer["error"]) == (500, True)


def test_bytes_that_changed_after_registration_are_not_loaded(plane: Plane, tmp_path: Path) -> None:
    digest = plane.store(stump(tmp_path))
    stored = plane._store.path(digest) / "model.lgb"
    stored.chmod(0o644)
    content = stored.read_text()
    stored.write_text(content.replace("0.25", "0.99"))
    try:
        code, said = refusal(plane, digest, **STUMP)
    finally:
        stored.write_text(content)
    assert code == 2
    assert "changed, added or removed after registration" in said


def test_a_signature_the_model_does_not_have_is_found_at_the_start(plane: Plane, tmp_path: Path) -> None:
    code, said = refusal(plane, plane.store(stump(tmp_path)), **{**STUMP, "signature": NUMBERS[:1]})
    assert code == 1
    assert "the signature has 1 columns, the model takes 2" in said


def test_a_batch_that_does_not_fit_is_422_and_names_the_column(plane: Plane, tmp_path: Path) -> None:
    address = plane.worker(plane.store(stump(tmp_path)), **STUMP)
    status, answer = ask(address, {"x": ["text"], "z": [1.0]})
    assert (status, "'x'" in answer["error"]) == (422, True)
    status, answer = ask(address, {"x": [1.0], "z": [1.0], "who": ["p"], "more": [1.0]})
    assert (status, "unknown column 'more'" in answer["error"]) == (422, True)


def test_a_worker_asked_to_end_finishes_and_ends_well(plane: Plane, tmp_path: Path) -> None:
    name = plane.start_worker(plane.store(stump(tmp_path)), **STUMP)
    address = plane.address(name)
    assert score(address, {"x": [1.0], "z": [0.0]}) == [0.75]
    assert plane.stop(name, signal.SIGTERM) == 0
