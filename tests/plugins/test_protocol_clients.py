"""Clients that others wrote call a real router and a real worker, and nothing of them is changed but the address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import tritonclient.http as triton
from mlflow.deployments import get_deploy_client
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from tritonclient.utils import InferenceServerException

from steersman.testing.plane import STUMP, STUMP_SIGNATURE, TOKEN, Plane, stump

BEARER = {"Authorization": f"Bearer {TOKEN}"}
"""The client writes into the headers it is given, so each call gets its own."""
ROWS = pd.DataFrame({"x": [-1.0, 1.0, 2.0], "z": [0.0, 0.0, 0.0]})
SCORES = [0.25, 0.75, 0.75]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    folder = tmp_path_factory.mktemp("clients")
    with Plane(folder / "state", workspace="default") as running:
        digest = running.store(stump(folder / "tree"))
        better = running.store(stump(folder / "better", low=0.5, high=1.0))
        stable = running.variant("stable", digest, [running.worker(digest, **STUMP)])
        candidate = running.variant(
            "candidate", better, [running.worker(better, **STUMP)], weight_pct=0.0, version="2", release="r2"
        )
        running.router()
        running.committer()
        running.route(stable, candidate, signature=STUMP_SIGNATURE)
        yield running


@pytest.fixture
def client(plane: Plane) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{plane.port}") as connected:
        yield connected


def tensors(*, binary: bool) -> list[triton.InferInput]:
    found = []
    for name in ROWS:
        one = triton.InferInput(name, [len(ROWS)], "FP64")
        one.set_data_from_numpy(ROWS[name].to_numpy(), binary_data=binary)
        found.append(one)
    return found


def test_a_protocol_client_reads_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m", headers=dict(BEARER))
    assert client.is_model_ready("m", model_version="2", headers=dict(BEARER))
    assert not client.is_model_ready("other", headers=dict(BEARER))
    assert "binary_tensor_data" in client.get_server_metadata(headers=dict(BEARER))["extensions"]
    metadata = client.get_model_metadata("m", headers=dict(BEARER))
    assert metadata["versions"] == ["1", "2"]
    assert metadata["inputs"] == [
        {"name": "x", "datatype": "FP64", "shape": [-1]},
        {"name": "z", "datatype": "FP64", "shape": [-1]},
    ]
    assert metadata["outputs"] == [{"name": "score", "datatype": "FP64", "shape": [-1]}]


@pytest.mark.parametrize("binary", [False, True])
def test_a_protocol_client_infers_with_json_and_with_binary_tensors(
    client: triton.InferenceServerClient, binary: bool
) -> None:
    wanted = [triton.InferRequestedOutput("score", binary_data=binary)]
    answer = client.infer("m", tensors(binary=binary), outputs=wanted, headers=dict(BEARER), request_id="mine")
    assert answer.as_numpy("score").tolist() == SCORES
    assert answer.get_response()["id"] == "mine"
    assert client.infer("m", tensors(binary=binary), headers=dict(BEARER)).as_numpy("score").tolist() == SCORES


def test_a_version_is_asked_for_by_number_with_the_permission(client: triton.InferenceServerClient) -> None:
    answer = client.infer("m", tensors(binary=True), model_version="2", headers=dict(BEARER))
    assert answer.as_numpy("score").tolist() == [0.5, 1.0, 1.0]
    with pytest.raises(InferenceServerException, match="nothing is served at"):
        client.infer("m", tensors(binary=True), model_version="7", headers=dict(BEARER))


def test_an_output_nobody_has_is_refused_by_name(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="no output 'label'; there are score"):
        client.infer("m", tensors(binary=False), outputs=[triton.InferRequestedOutput("label")], headers=dict(BEARER))


def test_a_matrix_of_all_columns_is_taken_in_the_signatures_order(client: triton.InferenceServerClient) -> None:
    matrix = triton.InferInput("rows", [3, 2], "FP32")
    matrix.set_data_from_numpy(ROWS.to_numpy(dtype=np.float32))
    assert client.infer("m", [matrix], headers=dict(BEARER)).as_numpy("score").tolist() == SCORES


def test_mlflows_deployment_client_calls_it_unchanged(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    deployed = get_deploy_client(f"http://127.0.0.1:{plane.port}/default/production")
    request: dict[str, Any] = {"dataframe_split": ROWS.to_dict(orient="split")}
    assert deployed.predict(endpoint="m", inputs=request) == {"predictions": SCORES}
    assert deployed.get_endpoint("m").name == "m"


def test_mlflows_scoring_client_calls_it_unchanged(
    plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login steersman password {TOKEN}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    client = ScoringServerClient("127.0.0.1", plane.port)
    client.wait_server_ready(timeout=5)
    assert client.invoke(ROWS).get_predictions()[0].tolist() == SCORES
    assert client.get_version()


FORMS: dict[str, Any] = {
    "dataframe_split": {"columns": ["z", "x"], "data": [[0, -1], [0, 1], [0, 2]]},
    "dataframe_records": [{"x": -1, "z": 0}, {"x": 1, "z": 0}, {"x": 2, "z": 0}],
    "instances": [{"x": -1, "z": 0}, {"x": 1, "z": 0}, {"x": 2, "z": 0}],
    "inputs": {"x": [-1, 1, 2], "z": [[0], [0], [0]]},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ["/invocations", "/default/production/invocations", "/endpoints/m/invocations"])
def test_the_four_forms_of_mlflows_protocol_mean_the_same(plane: Plane, form: str, path: str) -> None:
    status, body = plane.request("POST", path, msgspec.json.encode({form: FORMS[form]}))
    assert (status, msgspec.json.decode(body)) == (200, {"predictions": SCORES})


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "truncated"),
        (b'{"rows": [[1, 2]]}', "one of dataframe_split, dataframe_records, instances, inputs is needed, got none"),
        (b'{"inputs": {"x": [1]}, "instances": [1]}', "got instances, inputs"),
        (b'{"inputs": {"x": [1, 2], "z": [1]}}', "different numbers of values"),
        (b'{"dataframe_split": {"columns": ["x"], "data": [[1, 2]]}}', "row 0 has 2 values for 1 columns"),
        (b'{"dataframe_records": []}', "no rows"),
        (b'{"inputs": {"x": [[1, 2]], "z": [1]}}', "x: more than one value a row"),
        (b'{"inputs": {"x": ["a"], "z": [1]}}', "column 'x'"),
        (b'{"inputs": {"x": [1]}}', "column 'z' is missing"),
        (b'{"dataframe_split": {"columns": ["x", "z"], "data": [["a", 1]]}}', "column 'x'"),
        (b'{"inputs": [[1, 2, 3]]}', "row 0 has 3 values for 2 columns"),
    ],
)
def test_a_request_that_is_none_is_answered_in_mlflows_form(plane: Plane, body: bytes, says: str) -> None:
    status, answer = plane.request("POST", "/invocations", body)
    said = msgspec.json.decode(answer)
    assert status in (400, 422)
    assert said["error_code"] == "BAD_REQUEST"
    assert says in said["message"]
    assert said["next_step"]


def test_two_models_of_one_place_have_no_bare_path(plane: Plane) -> None:
    configuration = plane.admin("GET", "/configuration")[1]
    second = {**configuration["routes"][0], "model": "n"}
    body = msgspec.json.encode(
        {**configuration, "generation": configuration["generation"] + 1, "routes": [configuration["routes"][0], second]}
    )
    assert plane.admin("PUT", "/configuration", body)[0] == 200
    assert plane.request("POST", "/invocations", b"{}")[0] == 404
    body = msgspec.json.encode({**configuration, "generation": configuration["generation"] + 2})
    assert plane.admin("PUT", "/configuration", body)[0] == 200
