"""Stock MLflow clients and whole installations: the embedded MLflow behind its guard, and a server of one's own beside us.

Both are real: `steersman up` as a process, MLflow's own server, its stock client in a process of its own as on a data
scientist's machine.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import Request, urlopen

import pytest

from steersman.testing.terminal import Installed, clean_environment, command, free_port, installed

pytestmark = pytest.mark.xdist_group("mlflow")

TOKEN = "a-token-of-the-team"
START_S = 120.0

REGISTER = """
import lightgbm, mlflow, numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
def log(seed):
    rows = np.random.default_rng(seed).normal(size=(200, 2))
    data = lightgbm.Dataset(rows, rows[:, 0] > 0, feature_name=["income", "age"])
    booster = lightgbm.train({"objective": "binary", "num_threads": 1, "verbose": -1}, data, 2)
    signature = ModelSignature(inputs=Schema([ColSpec("double", "income"), ColSpec("double", "age")]),
                               outputs=Schema([ColSpec("double", "probability")]))
    with mlflow.start_run():
        mlflow.log_metric("auc", 0.7)
        mlflow.lightgbm.log_model(booster, name="model", signature=signature, pip_requirements=["lightgbm"],
                                  registered_model_name="credit-risk")
"""

MODEL = """\
apiVersion: steersman/v1
kind: Model
metadata: {name: credit-risk}
spec:
  versions: {registry: mlflow, name: credit-risk}
  environments:
    production: {strategy: {canary: {steps: [{setWeight: 100}, {promote: {}}, {bake: {duration: 1h}}]}}}
"""


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A data scientist's script, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=clean_environment(
            MLFLOW_DISABLE_TELEMETRY="true",
            GIT_PYTHON_REFRESH="quiet",
            MLFLOW_HTTP_REQUEST_MAX_RETRIES="1",
            **environment,
        ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def until(look: Callable[[], Any], *, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.2)
    return found


# --- the embedded one


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    with installed(tmp_path_factory.mktemp("embedded"), []) as found:
        yield found


@pytest.mark.timeout(300)
def test_a_stock_client_logs_registers_and_loads_and_may_not_move_champion(embedded: Installed) -> None:
    issued = embedded.steersman(
        *("token", "issue", "notebook", "--service", "--role", "operator", "--life", "1d", "--output", "json"),
        *("--scope", "registry:read", "--scope", "registry:write"),
    )
    uri = re.search(r"^  MLflow +(\S+)", embedded.said, re.MULTILINE)
    assert uri is not None
    code = f"""{REGISTER}
log(1)
assert mlflow.lightgbm.load_model("models:/credit-risk/1").predict(np.zeros((1, 2))).shape == (1,)
try:
    mlflow.MlflowClient().set_registered_model_alias("credit-risk", "champion", 1)
except mlflow.MlflowException as refused:
    print(refused)
"""
    ran = python(code, embedded.folder, MLFLOW_TRACKING_URI=uri[1], MLFLOW_TRACKING_TOKEN=issued.json["secret"])

    assert ran.returncode == 0, ran.stderr
    assert "steersman release credit-risk 1" in ran.stdout
    (embedded.folder / "model.yaml").write_text(MODEL)
    assert embedded.steersman("apply", "model.yaml").code == 0
    released = embedded.steersman("release", "credit-risk", "1", "--because", "first", "--wait")
    assert released.code == 0, released.err
    entries = embedded.client.ledger_entries()
    refused = [entry for entry in entries if entry["action"] == "manual_change.refused"]
    assert len(refused) == 1
    assert refused[0]["actor"]["subject"] == "service:notebook"
    until(lambda: champion(uri[1], issued.json["secret"]) == 1)


def champion(url: str, token: str) -> int | None:
    request = Request(
        f"{url}/api/2.0/mlflow/registered-models/get?name=credit-risk", headers={"Authorization": f"Bearer {token}"}
    )
    with urlopen(request, timeout=30) as answer:
        aliases = json.load(answer)["registered_model"].get("aliases", [])
    return next((int(a["version"]) for a in aliases if a["alias"] == "champion"), None)


# --- one's own


class _Door(BaseHTTPRequestHandler):
    """What stands before a team's MLflow: it lets in whoever brings the token, and passes everything on."""

    protocol_version = "HTTP/1.1"
    mlflow = ""

    def log_message(self, *_words: object) -> None:
        return

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, b'{"error_code": "UNAUTHENTICATED", "message": "who are you?"}')
        kept = {k: v for k, v in self.headers.items() if k.lower() in ("content-type", "accept")}
        request = Request(self.mlflow + self.path, data=body or None, headers=kept, method=self.command)
        try:
            with urlopen(request, timeout=60) as answer:
                self._answer(answer.status, answer.read())
        except OSError as error:
            status, said = getattr(error, "code", 502), getattr(error, "read", lambda: b"{}")()
            self._answer(status, said)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815 - http.server's names


@pytest.fixture(scope="module")
def own_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A plain MLflow server, no guard of ours in it, behind a door that wants a token; the door's address."""
    folder, port = tmp_path_factory.mktemp("own-mlflow"), free_port()
    argv = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    argv += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--serve-artifacts"]
    argv += ["--artifacts-destination", (folder / "artifacts").as_uri()]
    environment = clean_environment(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(argv, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    door = ThreadingHTTPServer(("127.0.0.1", 0), type("Door", (_Door,), {"mlflow": f"http://127.0.0.1:{port}"}))
    Thread(target=door.serve_forever, daemon=True).start()
    try:

        def answers() -> bool:
            assert server.poll() is None, (folder / "server.log").read_text()
            try:
                return bool(urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200)
            except OSError:
                return False

        until(answers, seconds=START_S)
        yield f"http://127.0.0.1:{door.server_address[1]}"
    finally:
        door.shutdown()
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@pytest.mark.timeout(300)
def test_ones_own_server_is_read_with_its_token_and_its_champion_follows_the_release(
    own_mlflow: str, tmp_path: Path
) -> None:
    code = f"{REGISTER}\nlog(1)\nlog(2)"
    assert python(code, tmp_path, MLFLOW_TRACKING_URI=own_mlflow, MLFLOW_TRACKING_TOKEN=TOKEN).returncode == 0
    words = ["--mlflow-uri", own_mlflow, "--mlflow-token", "env:TEAM_TOKEN"]
    with installed(tmp_path, words, TEAM_TOKEN=TOKEN) as found:
        assert f"registry mlflow: MLflow 3.17.2 at {own_mlflow}" in found.said
        (tmp_path / "model.yaml").write_text(MODEL)
        assert found.steersman("apply", "model.yaml").code == 0
        released = found.steersman("release", "credit-risk", "1", "--because", "first", "--wait")
        assert released.code == 0, released.err
        until(lambda: champion(own_mlflow, TOKEN) == 1)

        move_champion(own_mlflow, 2)
        until(lambda: champion(own_mlflow, TOKEN) == 1)
        observed = [e for e in found.client.ledger_entries() if e["action"] == "manual_change.observed"]
        assert [e["because"] for e in observed] == [
            "champion pointed to 2 instead of version 1; serving never followed it"
        ]
        answer = found.client.predict("credit-risk", {"income": [1.0], "age": [40.0]})
        assert answer.event_ids
        assert not _anywhere(TOKEN, found.state)
    assert "env:TEAM_TOKEN" in (found.state / "installation.json").read_text()


def move_champion(url: str, number: int) -> None:
    """By hand, past everything of ours."""
    body = json.dumps({"name": "credit-risk", "alias": "champion", "version": str(number)}).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    urlopen(Request(f"{url}/api/2.0/mlflow/registered-models/alias", data=body, headers=headers), timeout=30).close()


def _anywhere(secret: str, folder: Path) -> list[Path]:
    """Files below `folder` that hold the secret."""
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_a_training_run_is_told_where_to_log_and_as_whom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from steersman.server.installation import Installation
    from steersman.server.wiring import TrainerTokens
    from steersman.store.database import Store

    monkeypatch.setenv("TEAM_TOKEN", TOKEN)
    tokens = {"mlflow": "env:TEAM_TOKEN"}
    theirs = {"mlflow": "https://mlflow.example.com"}
    with_token = Installation(registries=theirs, registry_tokens=tokens)
    with_user = Installation(registries=theirs, registry_tokens=tokens, registry_users={"mlflow": "steersman"})
    open_to_all = Installation(registries=theirs)
    without = Installation(registries={"directory": "directory:/somewhere"})

    def told(installation: Installation) -> dict[str, str]:
        given = TrainerTokens(Store.at(tmp_path), installation).environment("default", "credit-risk")
        return {name.removeprefix("MLFLOW_TRACKING_"): value for name, value in given.items() if "TRACKING" in name}

    assert told(with_token) == {"URI": "https://mlflow.example.com", "TOKEN": TOKEN}
    assert told(with_user) == {"URI": "https://mlflow.example.com", "USERNAME": "steersman", "PASSWORD": TOKEN}
    assert told(open_to_all) == {"URI": "https://mlflow.example.com"}
    assert told(without) == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mlflow-token", "env:TEAM_TOKEN"], "error: --mlflow-token and --mlflow-user belong to your own server\n"),
        (["--mlflow-uri", "http://127.0.0.1:9", "--mlflow-token", "sm_secret"], "a secret is given by reference, and"),
        (["--mlflow-uri", "http://127.0.0.1:9", "--mlflow-token", "env:NOBODY_SET_IT"], "env:NOBODY_SET_IT is empty"),
        (["--mlflow-uri", "http://127.0.0.1:9", "--mlflow-user", "ann"], "--mlflow-user needs the password"),
        (["--mlflow-uri", "http://ann:pw@127.0.0.1:9"], "without user and password in it"),
        (["--mlflow-uri", "mlflow.internal"], "address must be http(s)://host[:port]"),
    ],
)
def test_an_address_or_token_that_cannot_be_is_refused_before_anything_starts(
    tmp_path: Path, words: list[str], said: str
) -> None:
    refused = command(tmp_path, "up", *words)
    assert refused.code == 1
    assert said in refused.err
    assert "\nnext:  " in refused.err
    assert "sm_secret" not in refused.err
    assert not (tmp_path / ".steersman").exists()


def test_a_server_that_does_not_answer_is_said_and_holds_nothing_up(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with installed(tmp_path, ["--mlflow-uri", nowhere]) as found:
        assert f"registry mlflow: MLflow at {nowhere} does not answer" in found.said
        doctor = found.steersman("doctor")
        assert doctor.code == 1
        assert re.search(r"failed +registry mlflow: MLflow at .* does not answer", doctor.out)
