"""Real worker processes whose model, or whose caller, behaves badly."""

from __future__ import annotations

import http.client
import importlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from steersman.dataplane import sockets
from steersman.testing.plane import STUMP, Plane, stump, tensor

WISH: dict[str, Any] = {
    "format": "pickle",
    "file": "model.pkl",
    "signature": [{"name": "wish", "type": "BYTES"}, {"name": "size", "type": "FP64"}],
    "code_allowed": True,
}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane(tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.fixture(scope="module")
def wishes(plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a pickle whose model does what its first column says, row by row."""
    cloudpickle = importlib.import_module("cloudpickle")

    class Wishes:
        def predict(self, frame: Any) -> Any:
            import threading
            import time

            import numpy

            for wish, size in zip(frame["wish"], frame["size"], strict=True):
                if wish == "raise":
                    raise ValueError("the model does not like this")
                if wish == "short":
                    return numpy.zeros(len(frame) + 1)
                if wish == "hang":
                    threading.Lock().acquire()
                    threading.Event().wait()
                if wish == "hang with the lock":
                    sum(range(10**12))  # one call in C, which never lets another thread run
                if wish == "sleep":
                    time.sleep(size)
                if wish == "leak":
                    globals().setdefault("leaked", []).append(b"x" * int(size * 2**20))
            return frame["size"].to_numpy() * 2

    tree = tmp_path_factory.mktemp("wishes")
    (tree / "model.pkl").write_bytes(cloudpickle.dumps(Wishes()))
    return plane.store(tree)


def post(
    address: str, body: bytes, headers: Mapping[str, str] | None = None, *, timeout_s: float = 30
) -> tuple[int, Any, http.client.HTTPResponse]:
    connection = sockets.connection_to(address, timeout_s=timeout_s)
    try:
        connection.request("POST", "/v2/models/m/infer", body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, msgspec.json.decode(response.read()), response
    finally:
        connection.close()


def wish(address: str, what: str, size: float = 1.0, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    inputs = [tensor("wish", [what]), tensor("size", [size])]
    status, answer, _ = post(address, msgspec.json.encode({"inputs": inputs}), headers)
    return status, answer


@pytest.mark.parametrize("rows_max", [1, 8])
def test_a_model_that_raises_or_answers_short_fails_that_request_only(plane: Plane, wishes: str, rows_max: int) -> None:
    address = plane.worker(wishes, **WISH, batch_rows_max=rows_max)
    with ThreadPoolExecutor(6) as callers:
        asked = ["sleep", "raise", "", "short", ""]
        answers = list(callers.map(lambda what: wish(address, what, 0.2), asked))
    assert [status for status, _ in answers] == [200, 500, 200, 500, 200]
    assert "the model does not like this" in answers[1][1]["error"]
    assert "the model answered 2 values for 1 rows" in answers[3][1]["error"]
    assert answers[4][1]["outputs"][0]["data"] == [0.4]
    assert wish(address, "")[0] == 200


@pytest.mark.parametrize(("what", "rows_max"), [("hang", 1), ("hang", 8), ("hang with the lock", 8)])
def test_a_model_that_hangs_ends_the_process_with_the_stack_in_its_log(
    plane: Plane, wishes: str, what: str, rows_max: int
) -> None:
    name = plane.start_worker(wishes, **WISH, batch_rows_max=rows_max, hang_s=1.5)
    address = plane.address(name)
    started = time.monotonic()
    with pytest.raises((OSError, http.client.HTTPException)):
        wish(address, what)
    assert plane.processes[name].wait(10) == 1
    assert 1.0 < time.monotonic() - started < 10
    said = plane.said(name)
    assert "Timeout" in said
    assert "in predict" in said


def test_a_slow_prediction_within_twice_the_callers_deadline_is_no_hang(plane: Plane, wishes: str) -> None:
    address = plane.worker(wishes, **WISH, hang_s=0.5)
    assert wish(address, "sleep", 2.0, {"X-Steersman-Deadline-Ms": "3000"})[0] == 200


def test_a_model_that_leaks_is_stopped_in_good_order_and_the_log_says_why(plane: Plane, wishes: str) -> None:
    name = plane.start_worker(wishes, **WISH, batch_rows_max=8, memory_mb=400)
    address = plane.address(name)
    assert wish(address, "leak", 400)[0] == 200
    assert wish(address, "sleep", 1.5)[0] == 200  # under way when the memory is looked at
    assert plane.processes[name].wait(20) == 3
    assert "more than the model's memoryMb of 400" in plane.said(name)


def test_a_request_whose_deadline_passed_while_it_waited_is_504_without_a_prediction(plane: Plane, wishes: str) -> None:
    address = plane.worker(wishes, **WISH, batch_rows_max=8)
    first = threading.Thread(target=wish, args=(address, "sleep", 1.0))
    first.start()
    time.sleep(0.3)
    status, answer = wish(address, "raise", headers={"X-Steersman-Deadline-Ms": "100"})
    first.join()
    assert (status, "deadline passed" in answer["error"]) == (504, True)
    for name in ("X-Steersman-Deadline-Ms", "Inference-Header-Content-Length"):
        for text in ("soon", "nan", "-1", "1" * 5_000):
            status, answer = wish(address, "", headers={name: text})
            assert (status, "not a number" in answer["error"]) == (400, True), (name, text)
    assert wish(plane.worker(wishes, **WISH), "raise", headers={"X-Steersman-Deadline-Ms": "0"})[0] == 504


def test_an_answer_tells_where_its_time_went(plane: Plane, wishes: str) -> None:
    address = plane.worker(wishes, **WISH, batch_rows_max=8)
    body = msgspec.json.encode({"inputs": [tensor("wish", ["sleep"]), tensor("size", [0.2])]})
    _, _, response = post(address, body)
    timing = response.headers["Server-Timing"]
    queue, predict = (float(part.partition("dur=")[2]) for part in timing.split(","))
    assert timing.startswith("queue;dur=")
    assert 0 <= queue < 150
    assert 150 < predict < 2_000


def test_requests_under_way_share_calls_and_get_their_own_rows(plane: Plane, tmp_path: Path) -> None:
    address = plane.worker(plane.store(stump(tmp_path)), **STUMP, batch_rows_max=32, batch_wait_ms=20)

    def ask(number: int) -> list[float]:
        values = [float(number % 2 * 2 - 1)] * (number % 3 + 1)
        body = msgspec.json.encode({"inputs": [tensor("x", values), tensor("z", values)]})
        status, answer, _ = post(address, body)
        assert status == 200, answer
        return list(answer["outputs"][0]["data"])

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(ask, range(120)))
    assert answers == [[0.75 if number % 2 else 0.25] * (number % 3 + 1) for number in range(120)]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finite(plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a logistic regression, which takes no NaN."""
    skio = importlib.import_module("skops.io")
    from sklearn.linear_model import LogisticRegression

    features = np.random.default_rng(1).normal(size=(80, 2))
    tree = tmp_path_factory.mktemp("finite")
    skio.dump(LogisticRegression().fit(features, features[:, 0] > 0), tree / "model.skops")
    signature = [{"name": "x", "type": "FP64"}, {"name": "n", "type": "INT64"}]
    return plane.worker(plane.store(tree), format="skops", file="model.skops", signature=signature)


def inputs(**columns: Sequence[Any]) -> bytes:
    return msgspec.json.encode({"inputs": [tensor(name, values) for name, values in columns.items()]})


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (inputs(x=[1.0], y=[1]), 422, "unknown column 'y'"),
        (inputs(x=[1.0]), 422, "column 'n' is missing"),
        (inputs(x=["1"], n=[1]), 422, "column 'x' is declared BYTES"),
        (inputs(x=[1.0], n=[1.5]), 422, "column 'n' is declared FP64"),
        (inputs(x=[1.0, None], n=[1, 2]), 422, "column 'x': row 1 is missing (null or NaN)"),
        (inputs(x=[1.0], n=[1, 2]), 422, "n: 2 rows, the first input has 1"),
        (b'{"inputs": [', 400, "truncated"),
        (b"", 400, "truncated"),
        (b'{"inputs": {}}', 400, "Expected `array`"),
        (b'{"inputs": [{"name": "x"}]}', 400, "missing required field"),
        (b'{"inputs": []}', 422, "no tensors"),
        (b"\xff\xfe", 400, ""),
    ],
)
def test_bad_input_is_refused_by_the_name_of_the_field_and_the_worker_goes_on(
    finite: str, body: bytes, status: int, says: str
) -> None:
    found, answer, _ = post(finite, body)
    assert (found, says in answer["error"]) == (status, True), answer
    assert answer["next_step"]
    assert post(finite, inputs(x=[1.0], n=[1]))[0] == 200


def test_raw_numbers_give_the_same_answer_and_a_raw_nan_the_same_refusal(finite: str) -> None:
    expected = post(finite, inputs(x=[0.3, 0.4], n=[1, -2]))[1]["outputs"][0]["data"]

    def raw(matrix: Any) -> tuple[int, Any]:
        content = np.asarray(matrix, dtype="<f8").tobytes()
        one = {"name": "rows", "datatype": "FP64", "shape": [2, 2], "parameters": {"binary_data_size": len(content)}}
        head = msgspec.json.encode({"inputs": [one]})
        headers = {"Inference-Header-Content-Length": str(len(head))}
        status, answer, _ = post(finite, head + content, headers)
        return status, answer

    status, answer = raw([[0.3, 1], [0.4, -2]])
    assert (status, answer["outputs"][0]["data"]) == (200, expected)
    status, answer = raw([[0.3, 1], [np.nan, 2]])
    assert (status, "column 'x': row 1 is missing" in answer["error"]) == (422, True)
    status, answer = raw([[0.3, 1], [np.inf, 2]])
    assert (status, "column 'x': row 1 is infinite" in answer["error"]) == (422, True)
