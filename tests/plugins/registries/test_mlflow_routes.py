"""The inventory of MLflow's routes is complete: a route nobody decided about fails here before it is refused there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steersman_mlflow_guard.app import _MESSAGES
from steersman_mlflow_guard.routes import FLASK, NATIVE, Decision

pytestmark = pytest.mark.xdist_group("mlflow")

ENUMERATE = """
import json, warnings
warnings.simplefilter("ignore")
from fastapi.routing import _IncludedRouter
from mlflow.protos import service_pb2, model_registry_pb2
from mlflow.server import app, handlers
from mlflow.server.fastapi_app import app as native

def flat(routes):
    for route in routes:
        if isinstance(route, _IncludedRouter):
            yield from flat(route.effective_candidates())
        else:
            yield route

flask = [[m, r.rule] for r in app.url_map.iter_rules() for m in r.methods - {"HEAD", "OPTIONS"}]
fastapi = [[m, r.path] for r in flat(native.routes) if getattr(r, "methods", None) for m in r.methods]
mounts = [r.path for r in flat(native.routes) if not getattr(r, "methods", None)]
messages = {}
for service in (service_pb2.MlflowService, model_registry_pb2.ModelRegistryService):
    for path, message, methods in handlers.get_service_endpoints(service, lambda message: message):
        for method in methods:
            messages[f"{method} {path}"] = message.__name__
print(json.dumps({"flask": flask, "native": fastapi, "mounts": mounts, "messages": messages}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the installed MLflow serves, asked in a process of its own (importing its server takes seconds)."""
    home: Path = tmp_path_factory.mktemp("home")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{home}/mlflow.db",
    }
    output = subprocess.run(
        [sys.executable, "-c", ENUMERATE],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found: dict[str, Any] = json.loads(output.stdout.splitlines()[-1])
    return found


def test_every_flask_route_has_a_decision_and_every_decision_a_route(installed: dict[str, Any]) -> None:
    served = {(method, rule) for method, rule in installed["flask"]}
    assert served - set(FLASK) == set(), "decide about these in steersman_mlflow_guard/routes.py"
    assert set(FLASK) - served == set(), "these are gone from MLflow"


def test_every_native_route_has_a_decision_and_every_decision_a_route(installed: dict[str, Any]) -> None:
    served = {(method, template) for method, template in installed["native"]}
    assert served - set(NATIVE) == set(), "decide about these in steersman_mlflow_guard/routes.py"
    assert set(NATIVE) - served == set(), "these are gone from MLflow"


def test_flask_is_the_only_application_mounted_below(installed: dict[str, Any]) -> None:
    assert installed["mounts"] == [""]


def test_each_judged_route_is_read_into_the_message_its_handler_reads(installed: dict[str, Any]) -> None:
    judged = {
        f"{method} {rule}": _MESSAGES[decision] for (method, rule), decision in FLASK.items() if decision in _MESSAGES
    }
    assert {route: installed["messages"].get(route) for route in judged} == judged


def test_every_route_that_can_change_a_release_is_judged() -> None:
    dangerous = ("registered-models", "model-versions", "mlflow-artifacts", "runs/delete", "experiments/create")
    harmless = (Decision.READ, Decision.NOT_OFFERED)
    free = {
        rule.replace("/ajax-api/", "/api/")
        for (method, rule), decision in FLASK.items()
        if decision is Decision.WRITE and decision not in harmless and any(word in rule for word in dangerous)
    }
    assert free == {
        "/api/2.0/mlflow/runs/delete-tag",
        "/api/2.0/mlflow/model-versions/update",  # the description
        "/api/2.0/mlflow/registered-models/update",  # the description
    }
