"""MLflow's own client against Steersman's address: everything works, except what would change production by hand."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from steersman.domain.errors import NotFound, Unavailable
from steersman.plugins.registries.mlflow import MlflowRegistry, _OfLoggedModel, _OfRun, _Proxied
from steersman.plugins.registries.mlflow_rest import MlflowRest, bearer
from steersman.testing.registry_contract import Registered, RegistryContract
from steersman_mlflow_guard.identity import HEADER, Access, Caller, Kind, new_key, sign
from steersman_mlflow_guard.protection import Mode, Protection

from .conftest import NOBODY, READER, WRITER, MlflowBehindTheDoor

pytestmark = pytest.mark.xdist_group("mlflow")

MODEL = "flight-delay"
ALIAS = "/api/2.0/mlflow/registered-models/alias"
TO_CHAMPION = json.dumps({"name": MODEL, "alias": "champion", "version": "1"}).encode()


def _register(url: str, seed: int) -> None:
    """What a data scientist writes, with the stock client."""
    import lightgbm
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    rng = np.random.default_rng(seed)
    features = rng.normal(size=(60, 2))
    data = lightgbm.Dataset(features, features[:, 0] > 0, feature_name=["x", "n"])
    booster = lightgbm.train({"objective": "binary", "num_threads": 1, "verbose": -1}, data, num_boost_round=2)
    signature = ModelSignature(
        inputs=Schema([ColSpec("double", "x"), ColSpec("long", "n")]),
        outputs=Schema([ColSpec("double", "probability")]),
    )
    mlflow.set_tracking_uri(url)
    mlflow.set_experiment("delays")
    with mlflow.start_run():
        mlflow.log_params({"learning_rate": 0.1, "seed": seed})
        mlflow.log_metric("auc", 0.7)
        mlflow.lightgbm.log_model(
            booster, name="model", signature=signature, pip_requirements=["lightgbm"], registered_model_name=MODEL
        )


@pytest.fixture(scope="module")
def stock_client(behind_the_door: MlflowBehindTheDoor) -> Iterator[None]:
    """The environment of a data scientist's shell."""
    settings = {
        "MLFLOW_TRACKING_URI": behind_the_door.url,
        "MLFLOW_TRACKING_TOKEN": WRITER,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    yield
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def two_versions(behind_the_door: MlflowBehindTheDoor, stock_client: None) -> None:
    _register(behind_the_door.url, seed=1)
    _register(behind_the_door.url, seed=2)


def _artifact_path(server: MlflowBehindTheDoor, number: int = 1) -> str:
    """Where version `number`'s model file lies, below the artifact proxy."""
    answer = server.ask("GET", f"/api/2.0/mlflow/model-versions/get-download-uri?name={MODEL}&version={number}")
    root = json.loads(answer.body)["artifact_uri"].removeprefix("mlflow-artifacts:/").strip("/")
    return f"/api/2.0/mlflow-artifacts/artifacts/{root}/model.lgb"


@pytest.mark.usefixtures("two_versions")
class TestTheMlflowRegistry(RegistryContract):
    @pytest.fixture
    def registered(self, behind_the_door: MlflowBehindTheDoor) -> Registered:
        return Registered(registry=behind_the_door.registry, name=MODEL, numbers=(1, 2))


@pytest.mark.usefixtures("two_versions")
class TestAStockClient:
    def test_loads_what_it_registered(self, mlflow_server: MlflowBehindTheDoor) -> None:
        import mlflow

        model = mlflow.lightgbm.load_model(f"models:/{MODEL}/1")
        assert model.predict(np.zeros((1, 2))).shape == (1,)

    def test_cannot_move_champion_and_reads_which_command_to_use(self, mlflow_server: MlflowBehindTheDoor) -> None:
        import mlflow

        with pytest.raises(mlflow.MlflowException, match=f"steersman release {MODEL} 1.*steersman rollback {MODEL}"):
            mlflow.MlflowClient().set_registered_model_alias(MODEL, "champion", 1)
        (refusal,) = mlflow_server.refusals
        assert (refusal.subject, refusal.reason, refusal.about, refusal.let_through) == (
            "ada@example.com",
            "protected-alias",
            f"models:/{MODEL}@champion",
            False,
        )
        assert "champion" not in mlflow_server.registry.aliases(MODEL)

    def test_moves_aliases_that_mean_nothing_to_production(self, mlflow_server: MlflowBehindTheDoor) -> None:
        import mlflow

        mlflow.MlflowClient().set_registered_model_alias(MODEL, "favourite", 2)
        assert mlflow_server.registry.aliases(MODEL)["favourite"] == 2
        mlflow.MlflowClient().delete_registered_model_alias(MODEL, "favourite")
        assert mlflow_server.refusals == []

    def test_cannot_take_champion_away(self, mlflow_server: MlflowBehindTheDoor) -> None:
        import mlflow

        mlflow_server.registry.set_alias(MODEL, "champion", 1)
        with pytest.raises(mlflow.MlflowException, match="steersman rollback"):
            mlflow.MlflowClient().delete_registered_model_alias(MODEL, "champion")
        assert mlflow_server.registry.aliases(MODEL) == {"champion": 1}
        mlflow_server.registry.set_alias(MODEL, "champion", None)

    def test_cannot_use_stages_as_a_back_door(self, mlflow_server: MlflowBehindTheDoor) -> None:
        import mlflow

        with pytest.warns(FutureWarning), pytest.raises(mlflow.MlflowException, match="steersman release"):
            mlflow.MlflowClient().transition_model_version_stage(MODEL, "1", "Production")
        assert mlflow_server.refusals[-1].reason == "stage"

    def test_cannot_delete_or_rename_what_is_released(self, mlflow_server: MlflowBehindTheDoor) -> None:
        import mlflow

        mlflow_server.protect(Protection(released={MODEL: frozenset({1})}))
        client = mlflow.MlflowClient()
        run = client.get_model_version(MODEL, "1").run_id
        for forbidden in (
            lambda: client.delete_model_version(MODEL, "1"),
            lambda: client.delete_registered_model(MODEL),
            lambda: client.rename_registered_model(MODEL, "mine"),
            lambda: client.delete_run(run),
            lambda: client.delete_experiment(client.get_run(run).info.experiment_id),
        ):
            with pytest.raises(mlflow.MlflowException, match="steersman retire"):
                forbidden()
        assert [version.number for version in mlflow_server.registry.versions(MODEL)] == [1, 2]

    def test_cannot_write_our_tags_nor_those_of_a_new_version(self, mlflow_server: MlflowBehindTheDoor) -> None:
        import mlflow

        client = mlflow.MlflowClient()
        source = client.get_model_version(MODEL, "1").source
        for forbidden in (
            lambda: client.set_model_version_tag(MODEL, "1", "steersman.registered_by", "nobody"),
            lambda: client.delete_model_version_tag(MODEL, "1", "Steersman.registered_by"),
            lambda: client.set_registered_model_tag(MODEL, "steersman.x", "1"),
            lambda: client.create_model_version(MODEL, source, tags={"steersman.registered_by": "nobody"}),
        ):
            with pytest.raises(mlflow.MlflowException, match="written by Steersman only"):
                forbidden()
        client.set_model_version_tag(MODEL, "1", "colour", "blue")

    def test_is_named_as_the_one_who_registered(self, mlflow_server: MlflowBehindTheDoor) -> None:
        assert {version.created_by for version in mlflow_server.registry.versions(MODEL)} == {"ada@example.com"}

    def test_is_described_with_its_training_and_its_output(self, mlflow_server: MlflowBehindTheDoor) -> None:
        description = mlflow_server.registry.describe(MODEL, 2)
        assert description.params == {"learning_rate": "0.1", "seed": "2"}
        assert (description.file, description.output) == ("model.lgb", "probability")


@pytest.mark.usefixtures("two_versions")
class TestMovingChampionInDisguise:
    @pytest.mark.parametrize(
        "path",
        [
            "//api/2.0/mlflow/registered-models/alias",
            "/api//2.0/mlflow/registered-models/alias",
            "/api/2.0/mlflow/registered-models%2Falias",
            "/api/2.0/mlflow/registered-models/%61lias",
            "/api/2.0/mlflow/registered-models/%2561lias",
            "/api/2.0/mlflow/runs/../registered-models/alias",
            "/api/2.0/mlflow/runs/%2e%2e/registered-models/alias",
            "/api/2.0/mlflow/registered-models/alias;x",
            "/api/2.0/mlflow/registered-models\\alias",
            "/api/2.0/mlflow/registered-models/alias/",
            "/API/2.0/mlflow/registered-models/alias",
            "/api/2.0/mlflow/registered-models/alias%00",
            "/ajax-api/2.0/mlflow/registered-models/alias",
            "/api/2.0/mlflow/registered-models/alias?alias=harmless",
        ],
    )
    def test_by_another_spelling_of_the_path(self, mlflow_server: MlflowBehindTheDoor, path: str) -> None:
        reply = mlflow_server.ask("POST", path, TO_CHAMPION)
        assert reply.status in (400, 403, 404)
        assert reply.reason in ("bad-path", "unknown-route", "protected-alias")
        assert "champion" not in mlflow_server.registry.aliases(MODEL)

    @pytest.mark.parametrize(
        "body",
        [
            b'{"name": "flight-delay", "alias": "harmless", "version": "1", "alias": "champion"}',
            json.dumps(TO_CHAMPION.decode()).encode(),
            b'{"name": "flight-delay", "alias": "\\u0063hampion", "version": "1"}',
            b'{"name": "flight-delay", "alias": "Champion", "version": "1"}',
            b'{"name": "flight-delay", "alias": "champion", "version": 1}',
            b'{"name": ["flight-delay"], "alias": ["champion"], "version": "1"}',
            b'{"name": "flight-delay"}',
            b"not json",
            b"",
        ],
    )
    def test_by_another_spelling_of_the_body(self, mlflow_server: MlflowBehindTheDoor, body: bytes) -> None:
        reply = mlflow_server.ask("POST", ALIAS, body)
        assert reply.status in (400, 403)
        assert not {"champion", "Champion"} & set(mlflow_server.registry.aliases(MODEL))

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE"])
    def test_by_another_method(self, mlflow_server: MlflowBehindTheDoor, method: str) -> None:
        reply = mlflow_server.ask(method, ALIAS, TO_CHAMPION, headers={"X-HTTP-Method-Override": "POST"})
        assert reply.reason in ("bad-path", "unknown-route")

    @pytest.mark.parametrize("name", ["X-Steersman-Identity", "X_Steersman_Identity", "x-steersman_identity"])
    def test_by_an_identity_of_ones_own(self, mlflow_server: MlflowBehindTheDoor, name: str) -> None:
        system = Caller(subject="steersman", kind=Kind.SYSTEM, access=Access.WRITE)
        forged = sign(system, key=new_key(), method="POST", target=ALIAS, now_s=time.time())
        through = mlflow_server.ask("POST", ALIAS, TO_CHAMPION, headers={name: forged})
        assert (through.status, through.reason) == (403, "protected-alias")
        past = mlflow_server.ask("POST", ALIAS, TO_CHAMPION, headers={name: forged}, direct=True)
        assert (past.status, past.reason) == (401, "no-identity")

    def test_past_the_proxy(self, mlflow_server: MlflowBehindTheDoor) -> None:
        for method, path in (("POST", ALIAS), ("GET", "/"), ("GET", "/health"), ("GET", "/no-such-route")):
            reply = mlflow_server.ask(method, path, TO_CHAMPION if method == "POST" else None, direct=True)
            assert (reply.status, reply.reason) == (401, "no-identity")

    def test_with_a_signature_for_another_request(self, mlflow_server: MlflowBehindTheDoor) -> None:
        system = Caller(subject="steersman", kind=Kind.SYSTEM, access=Access.WRITE)
        key, now_s = mlflow_server.child.key, time.time()
        for method, target, at_s in (("GET", ALIAS, now_s), ("POST", "/", now_s), ("POST", ALIAS, now_s - 3600)):
            signed = sign(system, key=key, method=method, target=target, now_s=at_s)
            reply = mlflow_server.ask("POST", ALIAS, TO_CHAMPION, headers={HEADER: signed}, direct=True)
            assert (reply.status, reply.reason) == (401, "no-identity")


@pytest.mark.usefixtures("two_versions")
class TestFilesOfARegisteredVersion:
    def test_are_not_overwritten(self, mlflow_server: MlflowBehindTheDoor) -> None:
        path = _artifact_path(mlflow_server)
        for spelling in (path, path.replace("/api/", "/ajax-api/"), path.replace("/models/", "/Models/")):
            reply = mlflow_server.ask("PUT", spelling, b"other bytes")
            assert (reply.status, reply.reason) == (403, "immutable-artifact")
        assert mlflow_server.ask("GET", path).body.startswith(b"tree\n")

    def test_are_not_overwritten_by_an_upload_larger_than_any_buffer(self, mlflow_server: MlflowBehindTheDoor) -> None:
        reply = mlflow_server.ask("PUT", _artifact_path(mlflow_server), bytes(20_000_000))
        assert (reply.status, reply.reason) == (403, "immutable-artifact")

    def test_are_not_deleted_by_themselves_nor_with_what_is_above_them(
        self, mlflow_server: MlflowBehindTheDoor
    ) -> None:
        path = _artifact_path(mlflow_server)
        above = [path.rsplit("/", levels)[0] for levels in (1, 2, 3, 4)]
        for asked in (path, *above):
            reply = mlflow_server.ask("DELETE", asked)
            assert (reply.status, reply.reason) == (403, "immutable-artifact"), asked
        assert mlflow_server.ask("GET", path).status == 200

    def test_are_not_deleted_with_their_logged_model(self, mlflow_server: MlflowBehindTheDoor) -> None:
        model_id = _artifact_path(mlflow_server).split("/")[-3]
        assert model_id.startswith("m-")
        reply = mlflow_server.ask("DELETE", f"/api/2.0/mlflow/logged-models/{model_id}")
        assert (reply.status, reply.reason) == (403, "immutable-artifact")

    def test_leave_other_files_writable_in_any_size(self, mlflow_server: MlflowBehindTheDoor) -> None:
        path = "/api/2.0/mlflow-artifacts/artifacts/1/notes/a%20plain%20note.bin"
        content = os.urandom(5_000_000)
        assert mlflow_server.ask("PUT", path, content).status == 200
        assert mlflow_server.ask("GET", path).body == content
        assert mlflow_server.ask("DELETE", path).status == 200


@pytest.mark.usefixtures("two_versions")
class TestTheDoor:
    def test_asks_who_is_there(self, mlflow_server: MlflowBehindTheDoor) -> None:
        for token in (None, "guessed"):
            reply = mlflow_server.ask("GET", "/version", token=token)
            assert (reply.status, reply.reason) == (401, "no-identity")

    def test_lets_readers_read_and_search_but_not_write(self, mlflow_server: MlflowBehindTheDoor) -> None:
        search = json.dumps({"experiment_ids": ["1"]}).encode()
        assert mlflow_server.ask("POST", "/api/2.0/mlflow/runs/search", search, token=READER).status == 200
        reply = mlflow_server.ask("POST", "/api/2.0/mlflow/runs/create", b"{}", token=READER)
        assert (reply.status, reply.reason) == (403, "read-only")
        note = "/api/2.0/mlflow-artifacts/artifacts/1/notes/b"
        assert mlflow_server.ask("PUT", note, b"x", token=READER).reason == "read-only"
        assert mlflow_server.ask("GET", "/version", token=NOBODY).reason == "read-only"

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/gateway/mlflow/v1/chat/completions"),
            ("POST", "/ajax-api/3.0/jobs/"),
            ("GET", "/ajax-api/3.0/mlflow/assistant/config"),
            ("POST", "/api/2.0/mlflow/webhooks"),
            ("POST", "/ajax-api/2.0/mlflow/upload-artifact"),
            ("GET", "/api/3.0/mlflow/mcp-servers"),
            ("POST", "/api/2.0/mlflow/artifacts/presigned-upload-url"),
            ("GET", "/api/4.0/mlflow/whatever-comes-next"),
            ("DELETE", "/version"),
        ],
    )
    def test_offers_no_route_that_was_not_decided(
        self, mlflow_server: MlflowBehindTheDoor, method: str, path: str
    ) -> None:
        reply = mlflow_server.ask(method, path, b"{}" if method == "POST" else None)
        assert reply.status == 403
        assert reply.reason in ("not-offered", "unknown-route")

    @pytest.mark.parametrize(
        "location", ["file:///etc", "/etc", "../state", "FILE:/etc", "http://127.0.0.1:1/x", "\\\\host\\share"]
    )
    def test_lets_nobody_point_mlflow_at_files_of_the_machine(
        self, mlflow_server: MlflowBehindTheDoor, location: str
    ) -> None:
        experiment = json.dumps({"name": "mine", "artifact_location": location}).encode()
        version = json.dumps({"name": MODEL, "source": location}).encode()
        for path, body in (("experiments/create", experiment), ("model-versions/create", version)):
            reply = mlflow_server.ask("POST", f"/api/2.0/mlflow/{path}", body)
            assert (reply.status, reply.reason) == (403, "foreign-location")

    def test_protects_everything_while_it_does_not_know_what_is_released(
        self, mlflow_server: MlflowBehindTheDoor
    ) -> None:
        mlflow_server.forget_protection()
        body = json.dumps({"name": MODEL, "version": "2"}).encode()
        reply = mlflow_server.ask("DELETE", "/api/2.0/mlflow/model-versions/delete", body)
        assert (reply.status, reply.reason) == (403, "released-version")

    def test_in_warn_mode_lets_the_change_through_and_records_it(self, mlflow_server: MlflowBehindTheDoor) -> None:
        mlflow_server.protect(Protection(mode=Mode.WARN))
        assert mlflow_server.ask("POST", ALIAS, TO_CHAMPION).status == 200
        (refusal,) = mlflow_server.refusals
        assert (refusal.reason, refusal.let_through) == ("protected-alias", True)
        assert mlflow_server.registry.aliases(MODEL)["champion"] == 1
        mlflow_server.registry.set_alias(MODEL, "champion", None)
        unknown = mlflow_server.ask("GET", "/api/4.0/mlflow/whatever-comes-next")
        assert unknown.status == 403

    def test_serves_a_registry_plugin_with_an_ordinary_token_as_well(
        self, mlflow_server: MlflowBehindTheDoor, tmp_path: Path
    ) -> None:
        registry = MlflowRegistry(MlflowRest(mlflow_server.url, headers=bearer(READER)))
        assert registry.fetch(MODEL, 1, tmp_path / "tree") == mlflow_server.registry.describe(MODEL, 1)


@pytest.mark.usefixtures("two_versions")
class TestAServerThatDoesNotProxyItsFiles:
    """Such a server keeps the files in a bucket and hands them out by other routes; here they are asked for the same."""

    def test_hands_out_the_files_of_a_logged_model(self, mlflow_server: MlflowBehindTheDoor) -> None:
        rest = MlflowRest(mlflow_server.url, headers=bearer(READER))
        root = _artifact_path(mlflow_server).removeprefix("/api/2.0/mlflow-artifacts/artifacts/").rpartition("/")[0]
        proxied, mediated = _Proxied(rest, root), _OfLoggedModel(rest, root.split("/")[2])
        assert sorted(proxied.list("")) == sorted(mediated.list(""))
        assert b"".join(proxied.read("model.lgb")) == b"".join(mediated.read("model.lgb"))

    def test_hands_out_the_files_of_a_run(self, mlflow_server: MlflowBehindTheDoor) -> None:
        import mlflow

        with mlflow.start_run() as run:
            mlflow.log_text("flavors: {}", "model/MLmodel")
            mlflow.log_text("tree", "model/data/model.lgb")
        files = _OfRun(MlflowRest(mlflow_server.url, headers=bearer(READER)), run.info.run_id, "model")
        assert sorted(files.list("")) == [("MLmodel", False, 11), ("data", True, None)]
        assert list(files.list("data")) == [("data/model.lgb", False, 4)]
        assert b"".join(files.read("data/model.lgb")) == b"tree"


class TestAnAddressThatIsNoMlflow:
    def test_is_said_to_be_unreachable_without_hanging(self) -> None:
        registry = MlflowRegistry(MlflowRest("http://127.0.0.1:9", timeout_s=2))
        with pytest.raises(Unavailable, match="does not answer"):
            registry.check()

    def test_names_the_address_when_the_prefix_is_wrong(self, mlflow_server: MlflowBehindTheDoor) -> None:
        wrong = mlflow_server.url.removesuffix("/mlflow")
        with pytest.raises(NotFound, match=wrong):
            MlflowRegistry(MlflowRest(wrong, headers=bearer(WRITER))).check()
