"""The page about continuous integration, run as it stands: a real installation, real workers, real tests of a model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
import yaml

from steersman.testing.installed import Installed

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "continuous-integration.md").read_text()

TEST_OF_THE_MODEL = """\
import json, os, urllib.request

def ask(x):
    inputs = [{"name": n, "datatype": "FP64", "shape": [1], "data": [v]} for n, v in (("x", x), ("z", 0.0))]
    body = json.dumps({"inputs": inputs}).encode()
    request = urllib.request.Request(os.environ["STEERSMAN_MODEL_URL"] + "/infer", body, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))["outputs"][0]["data"][0]

def test_more_is_riskier():
    assert ask(1.0) > ask(-1.0)

def test_the_files_and_the_holdout_are_there_and_credentials_are_not():
    assert "model.lgb" in os.listdir(os.environ["STEERSMAN_MODEL_FILES"])
    assert os.path.getsize(os.environ["STEERSMAN_DATA"]) > 0
    assert not [name for name in os.environ if "TOKEN" in name or "CREDENTIAL" in name]
"""


def documents(folder: Path) -> list[dict[str, Any]]:
    gates = [
        {"metric": "log_loss", "vs": "production", "margin": 0.05, "slices": ["region"]},
        {"metric": "accuracy", "floor": 0.7},
        {"metric": "log_loss", "ceiling": 0.69},
        {"schema": "additive"},
        {"maxSizeMb": 1},
        {"maxLatency": "5s", "requests": 300},
        {"documented": ["MODEL_CARD.md#Intended use"]},
    ]
    model = {
        "versions": {"registry": "directory", "name": "credit-risk"},
        "groundTruth": {"column": "bad", "horizon": "1d"},
        "holdout": {"dataset": "loans", "last": "14d"},
        "tests": {
            "command": ["pytest", "-q", "-p", "no:cacheprovider"],
            "source": {"directory": str(folder / "tests")},
        },
        "gates": gates,
        "environments": {"production": {"strategy": {"allAtOnce": {}}}},
    }
    loans = {"uri": str(folder / "loans.parquet"), "timeColumn": "at", "labelColumn": "bad", "keyColumn": "loan"}
    head = {"apiVersion": "steersman/v1"}
    return [
        {**head, "kind": "Dataset", "metadata": {"name": "loans"}, "spec": loans},
        {**head, "kind": "Model", "metadata": {"name": "credit-risk"}, "spec": model},
    ]


def holdout(path: Path) -> None:
    """Sixteen days of 300 rows that end now; `bad` is likely where x > 0."""
    rng = np.random.default_rng(1)
    rows = 16 * 300
    now = datetime.now(UTC)
    x = rng.normal(size=rows)
    pl.DataFrame(
        {
            "loan": [f"loan-{n}" for n in range(rows)],
            "at": [now - timedelta(days=17) + timedelta(minutes=4.8 * n) for n in range(rows)],
            "x": x,
            "z": rng.normal(size=rows),
            "region": np.where(np.arange(rows) % 4 == 0, "north", "south"),
            "bad": (rng.random(rows) < np.where(x > 0, 0.8, 0.2)).astype(float),
        }
    ).write_parquet(path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("ci")
    (folder / "tests").mkdir()
    (folder / "tests" / "test_model.py").write_text(TEST_OF_THE_MODEL)
    holdout(folder / "loans.parquet")
    with Installed(folder) as running:
        for number, (low, high) in {1: (0.25, 0.75), 2: (0.22, 0.78), 3: (0.75, 0.25)}.items():
            running.register_stump("credit-risk", number, low=low, high=high)
            card = "# Card\n## Intended use\nTo rank applications.\n"
            (running.registry / "credit-risk" / str(number) / "MODEL_CARD.md").write_text(card)
        running.client.apply(documents(folder))
        yield running


def ci(installed: Installed, *words: str) -> subprocess.CompletedProcess[str]:
    """The page's command, as a CI system runs it: with an address and a token in the environment."""
    credentials = json.loads((installed.state / "credentials.json").read_text())
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEERSMAN_")}
    given = {"STEERSMAN_URL": credentials["url"], "STEERSMAN_TOKEN": credentials["token"]}
    return subprocess.run(
        [sys.executable, "-m", "steersman.cli", *words],
        cwd=installed.folder,
        env=kept | given,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.timeout(400)
def test_a_version_is_proved_against_what_is_live_and_a_bad_one_is_told(installed: Installed) -> None:
    opened = installed.client.release("credit-risk", 1, because="first")
    ended = installed.completion(str(opened["id"]))
    assert ended == "Promoted", installed.client.release_status(str(opened["id"]))["because"]
    line = next(line for line in PAGE.splitlines() if line.startswith("steersman ci "))
    good = ci(installed, *line.split()[1:])
    assert good.returncode == 0, good.stdout + good.stderr
    assert re.search(r"^tests +successful +the model's own tests passed", good.stdout, re.MULTILINE), good.stdout
    suite = ElementTree.parse(installed.folder / "gates.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("8", "0", "0")

    bad = ci(installed, "ci", "credit-risk", "--version", "3", "--output", "json")
    assert bad.returncode == 1, bad.stdout + bad.stderr
    found = {gate["gate"]: gate["outcome"] for gate in json.loads(bad.stdout)["gates"]}
    assert found["tests"] == "failed"
    assert found["log_loss paired, margin 0.05, by region"] == "failed"
    assert found["schema additive"] == "successful"

    recorded = [e for e in installed.client.ledger_entries(limit=1000) if e["action"] == "version.checked"]
    assert [e["object"]["name"] for e in recorded] == ["credit-risk/2", "credit-risk/3"]
    installed.wait_for(
        lambda: {r.environment for r in installed.replicas()} == {"production"}, "checked replicas are gone"
    )


@pytest.mark.timeout(300)
def test_without_an_installation_the_same_check_runs_here(installed: Installed) -> None:
    folder = installed.folder
    for document in documents(folder):
        (folder / f"{document['kind'].lower()}.yaml").write_text(yaml.safe_dump(document))
    line = next(line for line in PAGE.splitlines() if " --here " in line)
    words = [
        *line.removesuffix(" --registry versions").split()[1:],
        "--registry",
        str(installed.registry),
        "--output",
        "json",
    ]
    here = ci(installed, *words)
    assert here.returncode == 0, here.stdout + here.stderr
    found = {gate["gate"]: gate["applies"] for gate in json.loads(here.stdout)["gates"]}
    assert found["tests"]
    assert found["accuracy at least 0.7"]
    assert not found["schema additive"]
    assert {r.environment for r in installed.replicas()} <= {"production"}


@pytest.mark.timeout(120)
def test_what_cannot_be_judged_ends_with_two(installed: Installed) -> None:
    missing = ci(installed, "ci", "credit-risk", "--version", "99")
    assert missing.returncode == 2
    assert "no version 99" in missing.stderr
    nobody = ci(installed, "ci", "credit-risk", "--version", "2", "--url", "http://127.0.0.1:9")
    assert nobody.returncode == 2


@pytest.mark.timeout(120)
def test_a_token_of_the_page_may_check_and_not_release(installed: Installed) -> None:
    line = next(line for line in PAGE.splitlines() if "--scope version:check" in line)
    issued = ci(installed, *line.split()[1:], "--output", "json")
    assert issued.returncode == 0, issued.stderr
    token = json.loads(issued.stdout)["secret"]
    allowed = ci(installed, "versions", "credit-risk", "--token", token)
    assert allowed.returncode == 0, allowed.stderr
    refused = ci(installed, "release", "credit-risk", "2", "--because", "no", "--token", token)
    assert refused.returncode == 1
    assert "release:open" in refused.stderr
