"""Real worker processes over trees as MLflow logs them: pyfunc's answers, warm-up with the example, streams."""

from __future__ import annotations

import http.client
import importlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from steersman.dataplane import batches, sockets
from steersman.dataplane.batches import Batch
from steersman.dataplane.configuration import Column
from steersman.dataplane.graphs import Graph
from steersman.dataplane.pyfunc import PyFunc
from steersman.plugins.registries.mlmodel import described
from steersman.testing import onnx_files
from steersman.testing.plane import Plane, tensor

FEATURES = ("a", "b", "c")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane(tmp_path_factory.mktemp("versions")) as running:
        yield running


@pytest.fixture(scope="module")
def training() -> tuple[Any, Any]:
    pandas = importlib.import_module("pandas")
    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(120, 3)), columns=list(FEATURES))
    return frame, (frame.a + 0.5 * frame.b > 0).astype(int)


def classifier() -> Any:
    linear, preprocessing = (
        importlib.import_module("sklearn.linear_model"),
        importlib.import_module("sklearn.preprocessing"),
    )
    pipeline = importlib.import_module("sklearn.pipeline")
    return pipeline.make_pipeline(preprocessing.StandardScaler(), linear.LogisticRegression())


def logged_scikit(folder: Path, training: tuple[Any, Any], serialization: str, predict_fn: str, dtype: str) -> None:
    mlflow = importlib.import_module("mlflow.sklearn")
    frame, wanted = training[0].astype(dtype), training[1]
    signature = importlib.import_module("mlflow.models").infer_signature(frame, wanted.rename("score"))
    mlflow.save_model(
        classifier().fit(*training),
        folder,
        serialization_format=serialization,
        pyfunc_predict_fn=predict_fn,
        signature=signature,
        input_example=frame.head(3),
        pip_requirements=[],
    )


def logged_lightgbm(folder: Path, training: tuple[Any, Any], wrapped: bool) -> None:
    lgb = importlib.import_module("lightgbm")
    settings = {"objective": "binary", "num_threads": 1, "verbose": -1}
    model = lgb.train(settings, lgb.Dataset(*training), 10)
    if wrapped:
        model = lgb.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1).fit(*training)
    importlib.import_module("mlflow.lightgbm").save_model(
        model, folder, input_example=training[0].head(3), pip_requirements=[]
    )


def logged_xgboost(folder: Path, training: tuple[Any, Any], wrapped: bool) -> None:
    xgb = importlib.import_module("xgboost")
    model = xgb.train({"objective": "binary:logistic", "nthread": 1}, xgb.DMatrix(*training), 10)
    if wrapped:
        model = xgb.XGBClassifier(n_estimators=10, n_jobs=1).fit(*training)
    importlib.import_module("mlflow.xgboost").save_model(
        model, folder, input_example=training[0].head(3), pip_requirements=[]
    )


def logged_graph(folder: Path, training: tuple[Any, Any], content: bytes) -> None:
    """What `mlflow.onnx.save_model` writes; it would need a library that makes such files."""
    models = importlib.import_module("mlflow.models")
    signature = models.infer_signature(training[0].astype("float32"), training[1].rename("score").astype("float32"))
    meta = models.Model(signature=signature)
    meta.add_flavor("python_function", loader_module="mlflow.onnx", data="model.onnx")
    meta.add_flavor("onnx", data="model.onnx", providers=["CPUExecutionProvider"])
    folder.mkdir()
    (folder / "model.onnx").write_bytes(content)
    meta.save(str(folder / "MLmodel"))


WEIGHTS = (2.0, -1.0, 0.5)

LOGGED = {
    "skops": lambda folder, data: logged_scikit(folder, data, "skops", "predict", "float64"),
    "skops-proba": lambda folder, data: logged_scikit(folder, data, "skops", "predict_proba", "float64"),
    "skops-32-bit": lambda folder, data: logged_scikit(folder, data, "skops", "predict_proba", "float32"),
    "pickle": lambda folder, data: logged_scikit(folder, data, "cloudpickle", "predict", "float64"),
    "lightgbm": lambda folder, data: logged_lightgbm(folder, data, False),
    "lightgbm-classifier": lambda folder, data: logged_lightgbm(folder, data, True),
    "xgboost": lambda folder, data: logged_xgboost(folder, data, False),
    "xgboost-classifier": lambda folder, data: logged_xgboost(folder, data, True),
}


def start(plane: Plane, tree: Path, **settings: Any) -> str:
    """The name of a worker for a tree with an `MLmodel`, told what its registry would tell."""
    said = described((tree / "MLmodel").read_bytes(), params={})
    return plane.start_worker(
        plane.store(tree),
        format=said.format.value,
        file=said.file,
        output=said.output,
        signature=[{"name": column.name, "type": column.type} for column in said.signature],
        code_allowed=True,
        **settings,
    )


def ask(address: str, columns: dict[str, Sequence[Any]], *, mlflow: bool = False) -> Any:
    connection = sockets.connection_to(address, timeout_s=60)
    body = msgspec.json.encode({"inputs": [tensor(name, values) for name, values in columns.items()]})
    connection.request("POST", "/v2/models/m/infer", body, {"X-Steersman-Prediction": "1"} if mlflow else {})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    assert response.status == 200, content
    return [(one["name"], one["shape"], one["data"]) for one in msgspec.json.decode(content)["outputs"]]


def prediction(outputs: list[tuple[str, list[int], list[Any]]]) -> Any:
    """What a caller of MLflow's protocol is given: the output added for it, else the first one."""
    _, shape, data = next((one for one in outputs[1:] if one[0] == "prediction"), outputs[0])
    return np.array(data).reshape(shape)


@pytest.mark.parametrize("kind", LOGGED)
def test_a_caller_of_mlflows_protocol_is_given_what_pyfunc_says(
    plane: Plane, tmp_path: Path, training: tuple[Any, Any], kind: str
) -> None:
    tree = tmp_path / "model"
    LOGGED[kind](tree, training)
    model = importlib.import_module("mlflow.pyfunc").load_model(str(tree))
    rows = training[0].tail(20)
    if "32-bit" in kind:
        rows = rows.astype("float32")
    expected = np.asarray(model.predict(rows))
    address = plane.address(start(plane, tree))
    columns = {name: rows[name].astype(float).tolist() for name in FEATURES}
    answered = prediction(ask(address, columns, mlflow=True))
    assert answered.shape == expected.shape
    np.testing.assert_allclose(answered, expected, rtol=0, atol=1e-12 if "xgboost" not in kind else 1e-7)
    ((_, shape, scores),) = ask(address, columns)
    assert shape == [20]
    assert all(0 < one < 1 for one in scores)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (onnx_files.logistic(WEIGHTS, 0.25), ["score"]),
        (onnx_files.logistic_of_columns(FEATURES, WEIGHTS, 0.25, flat=True), ["score", "raw"]),
    ],
)
def test_a_caller_of_mlflows_protocol_is_given_the_table_that_pyfunc_makes_of_a_graphs_outputs(
    plane: Plane, tmp_path: Path, training: tuple[Any, Any], content: bytes, names: list[str]
) -> None:
    logged_graph(tmp_path / "model", training, content)
    rows = training[0].tail(20).astype("float32")
    expected = importlib.import_module("mlflow.pyfunc").load_model(str(tmp_path / "model")).predict(rows)
    address = plane.address(start(plane, tmp_path / "model"))
    scores, *table = ask(address, {name: rows[name].astype(float).tolist() for name in FEATURES}, mlflow=True)
    assert list(expected.columns) == names
    assert [(name, shape) for name, shape, _ in table] == [(f"prediction.{name}", [20]) for name in names]
    for _, _, data in table:
        np.testing.assert_allclose(data, expected[names.pop(0)], rtol=0, atol=1e-6)
    assert scores[2] == table[0][2]


def test_a_graphs_inputs_have_the_rank_it_says(tmp_path: Path) -> None:
    """Converted scikit-learn pipelines take columns of [n, 1], which MLflow's pyfunc does not give them."""
    signature = tuple(Column(name=name, type="FP64") for name in FEATURES)
    batch = Batch(2, None, {name: [0.5, -1.0] for name in FEATURES})
    scores = []
    for flat in (True, False):
        (tmp_path / "model.onnx").write_bytes(onnx_files.logistic_of_columns(FEATURES, WEIGHTS, 0.25, flat=flat))
        graph = Graph(tmp_path / "model.onnx", signature, output="score", threads=1)
        scores.append(graph.predict(batch, "stable", False)[0][1].ravel().tolist())
    assert scores[0] == scores[1]
    assert scores[0] == pytest.approx([1 / (1 + math.exp(-(1.5 * x + 0.25))) for x in (0.5, -1.0)], abs=1e-6)


def test_a_graphs_only_input_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_files.logistic([2.0], 0.0))
    graph = Graph(tmp_path / "model.onnx", (Column(name="x", type="FP64"),), output="score", threads=1)
    ((_, scores),) = graph.predict(Batch(2, None, {"x": [0.0, 1.0]}), "stable", False)
    assert scores.ravel().tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-2.0))], abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "score", "added"),
    [
        ("matrix", ("score", [2], [0.75, 0.75]), [("prediction", [2, 2], [0.25, 0.75, 0.25, 0.75])]),
        ("column", ("score", [2], [1.0, 2.0]), []),
        ("table", ("a", [2], [1.0, 2.0]), [("prediction.a", [2], [1.0, 2.0]), ("prediction.b", [2], ["u", "v"])]),
    ],
)
def test_a_pyfuncs_whole_answer_stands_beside_the_score_where_it_is_more(
    tmp_path: Path, answer: str, score: Any, added: list[Any]
) -> None:
    pyfunc, pandas = importlib.import_module("mlflow.pyfunc"), importlib.import_module("pandas")

    class Answers(pyfunc.PythonModel):  # type: ignore[misc, name-defined]
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            if answer == "matrix":
                return np.tile([0.25, 0.75], (len(model_input), 1))
            table = pandas.DataFrame({"a": model_input["x"], "b": ["u", "v"]})
            return table if answer == "table" else table["a"].to_numpy()

    pyfunc.save_model(tmp_path / "model", python_model=Answers(), pip_requirements=[])
    model = PyFunc(tmp_path / "model", (Column(name="x", type="FP64"),), output="score")
    batch = Batch(2, None, {"x": [1.0, 2.0]})

    def told(mlflow: bool) -> list[tuple[str, list[int], list[Any]]]:
        tensors = [batches.tensor(name, values) for name, values in model.predict(batch, "stable", mlflow)]
        return [(one.name, one.shape, one.data) for one in tensors]

    assert told(mlflow=False)[0] == score
    assert told(mlflow=True) == told(mlflow=False) + added


# --- warm-up ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pickle that refuses rows of zeros, and prints what it is given."""
    cloudpickle = importlib.import_module("cloudpickle")

    class Picky:
        def predict(self, rows: Any) -> Any:
            print("given", rows.tolist(), flush=True)
            if not rows.any():
                raise ValueError("zeros are not my data")
            return rows[:, 0]

    tree = tmp_path_factory.mktemp("picky")
    (tree / "model.pkl").write_bytes(cloudpickle.dumps(Picky()))
    return tree


def tree_with_example(picky: Path, folder: Path, example: str, name: str = "example: rows.json") -> Path:
    tree = folder / "model"
    tree.mkdir()
    (tree / "model.pkl").write_bytes((picky / "model.pkl").read_bytes())
    (tree / "version.yaml").write_text(f"format: pickle\nfile: model.pkl\n{name}\n")
    (tree / "rows.json").write_text(example)
    return tree


PICKY: dict[str, Any] = {
    "format": "pickle",
    "file": "model.pkl",
    "signature": [{"name": "x", "type": "FP64"}, {"name": "n", "type": "INT64"}],
    "code_allowed": True,
}


def test_a_worker_warms_up_with_the_versions_own_example_before_it_is_ready(
    plane: Plane, picky: Path, tmp_path: Path
) -> None:
    name = plane.start_worker(plane.store(tree_with_example(picky, tmp_path, '{"x": [1.5], "n": [2]}')), **PICKY)
    plane.address(name)
    assert "given [[1.5, 2.0]]" in plane.said(name)


@pytest.mark.parametrize(
    ("example", "says"),
    [
        ('{"x": [0.0], "n": [0]}', "zeros are not my data"),
        ('{"x": ["a"], "n": [0]}', "column 'x' is declared BYTES"),
        ('{"x": [1.0]}', "column 'n' is missing"),
    ],
)
def test_a_version_that_fails_on_its_own_example_is_refused_with_the_reason(
    plane: Plane, picky: Path, tmp_path: Path, example: str, says: str
) -> None:
    name = plane.start_worker(plane.store(tree_with_example(picky, tmp_path, example)), **PICKY)
    assert plane.processes[name].wait(60) == 2
    said = plane.said(name)
    assert "refused: the version fails on its own input example rows.json" in said
    assert says in said


@pytest.mark.parametrize(
    ("example", "named", "says"),
    [
        ("[[", "example: rows.json", "no warm-up with the input example: rows.json"),
        ("", "example: ../../control.db", "no such file in the version"),
        ("", "metadata: {}", "warm-up row refused: the model raised ValueError: zeros are not my data"),
    ],
)
def test_without_a_readable_example_one_neutral_row_is_tried_and_decides_nothing(
    plane: Plane, picky: Path, tmp_path: Path, example: str, named: str, says: str
) -> None:
    name = plane.start_worker(plane.store(tree_with_example(picky, tmp_path, example, named)), **PICKY)
    plane.address(name)
    assert says in plane.said(name)
    assert "given [[0.0, 0.0]]" in plane.said(name)


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teller(plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Name and address of a worker whose model streams: as many words as `text` says, or it raises at one."""
    pyfunc = importlib.import_module("mlflow.pyfunc")
    models, types = importlib.import_module("mlflow.models"), importlib.import_module("mlflow.types")

    class Teller(pyfunc.PythonModel):  # type: ignore[misc, name-defined]
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return ["whole"] * len(model_input)

        def predict_stream(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            import time

            wish = model_input["text"]
            try:
                for number in range(500):
                    if wish == f"raise at {number}":
                        raise ValueError("out of words")
                    if wish == f"stop at {number}":
                        return
                    print("told", number, flush=True)
                    time.sleep(0.01)
                    yield {"word": f"w{number}", "n": number} if wish.startswith("stop at 2") else f"w{number} "
            finally:
                print("the teller stopped", flush=True)

    tree = tmp_path_factory.mktemp("teller") / "model"
    signature = models.ModelSignature(inputs=types.Schema([types.ColSpec("string", "text")]))
    pyfunc.save_model(tree, python_model=Teller(), pip_requirements=[], signature=signature)
    name = start(plane, tree)
    return name, plane.address(name)


def stream(address: str, body: bytes) -> http.client.HTTPResponse:
    connection = sockets.connection_to(address, timeout_s=30)
    connection.request("POST", "/v2/models/m/generate_stream", body)
    return connection.getresponse()


def events(response: http.client.HTTPResponse) -> list[Any]:
    content = response.read()
    assert content.endswith(b"\n\n")
    return [msgspec.json.decode(one.removeprefix(b"data: ")) for one in content[:-2].split(b"\n\n")]


def test_a_model_that_streams_is_answered_in_events(teller: tuple[str, str]) -> None:
    response = stream(teller[1], b'{"text_input": "stop at 3", "id": "me", "parameters": {"max_tokens": 3}}')
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/event-stream")
    told = events(response)
    assert [one["text_output"] for one in told] == ["w0 ", "w1 ", "w2 "]
    assert [told[0][key] for key in ("id", "model_name", "model_version")] == ["me", "m", "1"]


def test_pieces_that_are_no_text_are_outputs(teller: tuple[str, str]) -> None:
    body = msgspec.json.encode({"inputs": [tensor("text", ["stop at 2"])]})
    told = events(stream(teller[1], body))
    assert [[(out["name"], out["data"]) for out in one["outputs"]] for one in told] == [
        [("word", ["w0"]), ("n", [0])],
        [("word", ["w1"]), ("n", [1])],
    ]


def test_a_stream_that_fails_says_so_in_its_status_or_in_its_last_event(teller: tuple[str, str]) -> None:
    response = stream(teller[1], b'{"text_input": "raise at 0"}')
    assert response.status == 500
    assert b"out of words" in response.read()
    told = events(stream(teller[1], b'{"text_input": "raise at 1"}'))
    assert [list(one)[-1] for one in told] == ["text_output", "error"]
    assert "out of words" in told[1]["error"]
    assert stream(teller[1], b'{"text_input": 5}').status == 400
    assert stream(teller[1], msgspec.json.encode({"inputs": [tensor("text", ["a", "b"])]})).status == 422
    assert stream(teller[1], msgspec.json.encode({"inputs": [tensor("text", [5])]})).status == 422


def test_a_generator_stops_when_its_caller_leaves_and_predictions_go_on_meanwhile(
    plane: Plane, teller: tuple[str, str]
) -> None:
    name, address = teller
    stops = plane.said(name).count("the teller stopped")
    response = stream(address, b'{"text_input": "for ever"}')
    assert response.read(30).startswith(b"data: ")
    assert ask(address, {"text": ["a"]}) == [("score", [1], ["whole"])]
    response.close()
    deadline = time.monotonic() + 10
    while plane.said(name).count("the teller stopped") == stops:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_model_without_streams_has_no_such_path(plane: Plane, picky: Path, tmp_path: Path) -> None:
    example = '{"x": [1.5], "n": [2]}'
    address = plane.worker(plane.store(tree_with_example(picky, tmp_path, example)), **PICKY)
    assert stream(address, b'{"text_input": "a"}').status == 404
