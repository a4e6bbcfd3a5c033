"""Whatever is wrong is said at once, in words that name the next step; nothing acknowledged is lost, nothing hangs.

Told as a person meets it: real commands against a real installation, each within its time limit. A full disk under the
write-ahead log is told in `tests/crash/test_data_plane.py`, with a real full file system.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lightgbm
import numpy as np
import polars as pl
import pytest

from steersman.domain.errors import BadRequest
from steersman.loop.clock import open_clock
from steersman.store.database import Store
from steersman.testing.terminal import Installed, command, free_port, installed

pytestmark = pytest.mark.xdist_group("bad-input")

BEGIN = datetime(2013, 3, 1, tzinfo=UTC)

MODEL = """\
apiVersion: steersman/v1
kind: Model
metadata: {name: credit-risk}
spec:
  versions: {registry: directory, name: credit-risk}
  groundTruth: {column: label, horizon: 1d}
  environments:
    production: {strategy: {canary: {steps: [{setWeight: 100}, {promote: {}}, {bake: {duration: 1h}}]}}}
"""

TRAINED = """\
apiVersion: steersman/v1
kind: Dataset
metadata: {name: rows}
spec: {uri: rows.parquet, timeColumn: at, labelColumn: label}
---
apiVersion: steersman/v1
kind: Model
metadata: {name: NAME}
spec:
  versions: {registry: directory, name: credit-risk}
  groundTruth: {column: label, horizon: 1d}
  train: {source: {directory: NAME}, command: [python, train.py], data: {dataset: rows}, timeout: 2s}
  environments:
    production: {strategy: {canary: {steps: [{setWeight: 100}, {promote: {}}, {bake: {duration: 1h}}]}}}
  monitors:
  - {name: freshness, kind: challenger, metric: roc_auc, margin: 0.02, refresh: 2d}
"""

VERSION = "format: lightgbm\nfile: model.txt\nsignature:\n- {name: income, type: FP64}\n- {name: age, type: INT64}\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """A replayed installation in which version 1 of credit-risk answers; its port was taken when it started."""
    folder = tmp_path_factory.mktemp("installation")
    _register(folder / "versions" / "credit-risk" / "1")
    days = [BEGIN - timedelta(days=day) for day in range(10)]
    columns = {"event_id": [f"e{day}" for day in range(10)], "at": days, "label": [0.0, 1.0] * 5}
    pl.DataFrame({**columns, "income": [1.0] * 10, "age": [40] * 10}).write_parquet(folder / "rows.parquet")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        words = ["--no-mlflow", "--registry", "versions", "--replay-from", BEGIN.isoformat()]
        with installed(folder, [*words, "--port", port, "--router-port", str(free_port())]) as found:
            (folder / "model.yaml").write_text(MODEL)
            assert found.steersman("apply", "model.yaml").code == 0
            assert found.steersman("release", "credit-risk", "1", "--because", "first").code == 0
            found.client.advance(BEGIN + timedelta(hours=2))
            yield found


def _register(folder: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(200, 2))
    data = lightgbm.Dataset(rows, (rows[:, 0] > 0).astype(float), feature_name=["income", "age"])
    booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 2)
    folder.mkdir(parents=True)
    booster.save_model(str(folder / "model.txt"))
    (folder / "version.yaml").write_text(VERSION)


def answers(running: Installed, model: str) -> bool:
    at = datetime.fromisoformat(running.client.clock()["at"])
    return bool(running.client.predict(model, {"income": [1.0], "age": [40]}, at=at).event_ids)


# --- documents


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        pytest.param("spec:\n", "spec: [\n", ": line ", id="malformed YAML"),
        pytest.param(
            "setWeight: 100",
            "setWeight: 120",
            "spec.environments.production.strategy.canary.steps[0]: setWeight must be within 0..100, got 120",
            id="a value out of range",
        ),
        pytest.param(
            "  environments:",
            "  monitors: [{name: quality, kind: performance, metric: acuracy}]\n  environments:",
            'spec.monitors[0]: metric: unknown metric "acuracy", did you mean "accuracy"?',
            id="unknown metric",
        ),
        pytest.param(
            "registry: directory",
            "registry: mlflow",
            "spec.versions.registry: this installation has no registry 'mlflow'; it has: directory",
            id="unknown registry",
        ),
    ],
)
def test_a_document_that_cannot_be_is_refused_before_anything_changes(
    running: Installed, was: str, becomes: str, said: str
) -> None:
    (running.folder / "bad.yaml").write_text(MODEL.replace(was, becomes))
    before = running.client.ledger_verify()["entries"]

    refused = running.steersman("apply", "bad.yaml")

    assert refused.code == 1
    assert said in refused.err
    assert "\nnext:  " in refused.err
    assert running.client.ledger_verify()["entries"] == before


def test_a_plan_says_the_same_as_apply(running: Installed) -> None:
    (running.folder / "bad.yaml").write_text(MODEL.replace("registry: directory", "registry: hub"))
    refused = running.steersman("plan", "bad.yaml")
    assert refused.code == 1
    assert "this installation has no registry 'hub'; it has: directory" in refused.err


# --- starting


def test_a_port_in_use_is_replaced_and_named(running: Installed) -> None:
    first = running.said.splitlines()[0]
    words = first.split()
    assert first == f"port {words[1]} is taken, using {words[-1]}"
    assert f"http://127.0.0.1:{words[-1]}/" in running.said
    assert running.client.health()["url"] == f"http://127.0.0.1:{words[-1]}"


@pytest.mark.parametrize("port", ["0", "70000"])
def test_what_is_no_port_is_refused(tmp_path: Path, port: str) -> None:
    refused = command(tmp_path, "up", "--no-mlflow", "--port", port)
    assert refused.code == 1
    assert f"error: a port is a number from 1 to 65535, got {port}\nnext:  " in refused.err


def test_a_second_up_leaves_the_first_alone(running: Installed) -> None:
    refused = running.steersman("up", "--no-mlflow")
    assert refused.code == 1
    assert f"error: `steersman up` runs already with the state directory {running.state}" in refused.err
    assert "\nnext:  Use that one" in refused.err
    assert answers(running, "credit-risk")


def test_without_the_mlflow_package_up_says_how_to_go_on(tmp_path: Path) -> None:
    _hide("mlflow", tmp_path / "hidden")
    refused = command(tmp_path, "up", environment={"PYTHONPATH": str(tmp_path / "hidden")})
    assert refused.code == 1
    assert "error: The embedded MLflow cannot start: the package mlflow is not installed.\nnext:  " in refused.err
    assert "steersman up --no-mlflow --registry DIR" in refused.err
    assert "Traceback" not in refused.err


def test_without_the_servers_packages_up_says_what_to_install(tmp_path: Path) -> None:
    _hide("uvicorn", tmp_path / "hidden")
    _hide("psutil", tmp_path / "hidden")
    refused = command(tmp_path, "up", "--no-mlflow", environment={"PYTHONPATH": str(tmp_path / "hidden")})
    assert refused.code == 1
    assert "error: the server's package psutil is not installed\nnext:  " in refused.err


def _hide(package: str, folder: Path) -> None:
    """As in an environment where it was never installed: nobody finds it, `find_spec` included."""
    folder.mkdir(exist_ok=True)
    with (folder / "sitecustomize.py").open("a") as file:
        file.write(
            "from importlib.machinery import PathFinder\n"
            "def _hidden(found, package):\n"
            "    return classmethod(lambda cls, name, *rest: None if name.split('.')[0] == package else found(name, *rest))\n"
            f"PathFinder.find_spec = _hidden(PathFinder.find_spec, {package!r})\n"
        )


def test_a_state_directory_of_the_other_clock_stays_what_it_is(tmp_path: Path) -> None:
    state = tmp_path / ".steersman"
    open_clock(Store.at(state), replay_from=None)

    refused = command(tmp_path, "up", "--no-mlflow", "--replay-from", "2013-01-01")

    assert refused.code == 1
    assert "error: this state directory belongs to a wall installation and cannot become a replay one" in refused.err
    assert "\nnext:  Start with another --state directory." in refused.err
    assert not (state / "installation.json").exists()


def test_a_database_of_a_newer_steersman_is_left_as_it_is(tmp_path: Path) -> None:
    state = tmp_path / ".steersman"
    with Store.at(state).write() as tx:
        tx.put_setting("schema", "999")
    before = _tables(state)

    refused = command(tmp_path, "up", "--no-mlflow")

    assert refused.code == 1
    assert "was written by a newer Steersman (schema 999; this one knows " in refused.err
    assert "\nnext:  Start that newer Steersman" in refused.err
    assert _tables(state) == before


def _tables(state: Path) -> list[tuple[str, ...]]:
    with sqlite3.connect(state / "control.db") as database:
        return database.execute("select name, sql from sqlite_master order by name").fetchall()


def test_a_database_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / ".steersman").mkdir()
    (tmp_path / ".steersman" / "control.db").write_bytes(b"these are not the bytes of a database" * 100)
    refused = command(tmp_path, "up", "--no-mlflow")
    assert refused.code == 1
    assert "control.db cannot be opened: file is not a database\nnext:  " in refused.err


def test_a_state_directory_that_cannot_be_one_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    refused = command(tmp_path, "up", "--no-mlflow", "--state", "state")
    assert refused.code == 1
    assert f"error: the state directory {tmp_path / 'state'} cannot be used: " in refused.err
    assert "choose another with --state" in refused.err


# --- asking


@pytest.mark.parametrize(
    ("mode", "content", "said"),
    [
        (0o644, '{"url": "http://127.0.0.1:9", "token": "sm_x"}', "can be read by others\nnext:  Run `chmod 600 "),
        (0o600, "{", "cannot be read: JSONDecodeError\nnext:  Give --url and STEERSMAN_TOKEN instead."),
    ],
)
def test_credentials_that_cannot_be_used_are_named_and_never_shown(
    tmp_path: Path, mode: int, content: str, said: str
) -> None:
    (tmp_path / ".steersman").mkdir()
    path = tmp_path / ".steersman" / "credentials.json"
    path.write_text(content)
    os.chmod(path, mode)
    refused = command(tmp_path, "status")
    assert refused.code == 1
    assert said in refused.err
    assert "sm_x" not in refused.err


def test_nobody_there_and_nobody_known_are_different_answers(running: Installed, tmp_path: Path) -> None:
    nobody = command(tmp_path, "status", "--url", f"http://127.0.0.1:{free_port()}")
    assert "error: nothing listens at " in nobody.err
    assert "`steersman up`" in nobody.err
    url = running.client.health()["url"]
    stranger = command(tmp_path, "status", "--url", url, environment={"STEERSMAN_TOKEN": "sm_0_wrong"})
    assert stranger.code == 1
    assert "\nnext:  Give a valid token" in stranger.err


def test_a_request_the_router_refuses_is_answered_in_its_words(running: Installed) -> None:
    with pytest.raises(BadRequest, match="the event time is missing"):
        running.client.predict("credit-risk", {"income": [1.0], "age": [40]})
    at = datetime.fromisoformat(running.client.clock()["at"])
    with pytest.raises(BadRequest, match="income"):
        running.client.predict("credit-risk", {"income": ["much"], "age": [40]}, at=at)


def test_a_version_or_model_that_is_not_there_is_answered_with_what_is(running: Installed) -> None:
    missing = running.steersman("release", "credit-risk", "7", "--because", "typing error")
    assert missing.code == 1
    assert "'credit-risk' has no version 7" in missing.err or "no version 7" in missing.err
    assert "\nnext:  " in missing.err
    unknown = running.steersman("status", "credit-rsik")
    assert unknown.code == 1
    assert "no model 'credit-rsik'" in unknown.err


# --- training


@pytest.mark.parametrize(
    ("name", "code", "because"),
    [
        ("crashing", "print('no rows for spring'); raise SystemExit(3)", "the training run exited with code 3"),
        (
            "hanging",
            "import time; print('waiting'); time.sleep(600)",
            "the training run still ran after its time-out of 2 s",
        ),
    ],
)
def test_a_training_that_crashes_or_hangs_ends_and_says_how(
    running: Installed, name: str, code: str, because: str
) -> None:
    (running.folder / name).mkdir()
    (running.folder / name / "train.py").write_text(code)
    (running.folder / f"{name}.yaml").write_text(TRAINED.replace("NAME", name))
    assert running.steersman("apply", f"{name}.yaml").code == 0
    assert running.steersman("release", name, "1", "--because", "first").code == 0
    at = datetime.fromisoformat(running.client.clock()["at"])
    for days in (0.1, 3, 3.1):
        running.client.advance(at + timedelta(days=days))

    (run,) = running.client.trainings(name)
    assert run["outcome"] == "failed"
    assert because in run["record"]["because"]
    shown = running.steersman("trainings", name)
    assert because in shown.out
    assert f"{name}: " not in shown.err
    assert answers(running, name)


def test_after_all_that_what_was_acknowledged_is_there(running: Installed) -> None:
    running.client.advance(datetime.fromisoformat(running.client.clock()["at"]) + timedelta(days=1))
    assert running.steersman("ledger", "verify").code == 0
    assert answers(running, "credit-risk")
