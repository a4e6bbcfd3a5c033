"""The ten lines of the README are run as they stand, on a real installation; only the ports are chosen free."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import lightgbm
import numpy as np
import pytest

from steersman.client import Steersman

README = (Path(__file__).parents[2] / "README.md").read_text()
VERSION_FILE = """\
format: lightgbm
file: model.txt
signature:
- {name: income, type: FP64}
- {name: age, type: INT64}
"""


def quickstart() -> list[str]:
    block = next(
        b for b in re.findall(r"^```shell\n(.*?)^```$", README, re.MULTILINE | re.DOTALL) if "pip install" in b
    )
    return [line for line in block.splitlines() if line]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEERSMAN_")}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def two_versions(folder: Path) -> None:
    """A directory registry with two small LightGBM models that take an income and an age."""
    for number in (1, 2):
        rng = np.random.default_rng(number)
        rows = rng.normal(size=(400, 2))
        data = lightgbm.Dataset(rows, (rows[:, 0] > 0).astype(float), feature_name=["income", "age"])
        booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 3)
        version = folder / "versions" / "credit-risk" / str(number)
        version.mkdir(parents=True)
        booster.save_model(str(version / "model.txt"))
        (version / "version.yaml").write_text(VERSION_FILE)


@contextlib.contextmanager
def running(up: str, folder: Path) -> Iterator[None]:
    words = [*up.removesuffix("&").split(), "--port", str(free_port()), "--router-port", str(free_port())]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(words, cwd=folder, env=environment(), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 90
        while "token " not in (folder / "up.log").read_text():
            assert process.poll() is None, (folder / "up.log").read_text()
            assert time.monotonic() < deadline, "the installation does not come up"
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@pytest.mark.timeout(240)
def test_the_quickstart_of_the_readme_runs_to_its_end(tmp_path: Path) -> None:
    install, up, *lines = quickstart()
    assert install.startswith("pip install")
    two_versions(tmp_path)
    with running(up, tmp_path):
        said = {}
        for line in lines:
            ran = subprocess.run(
                ["bash", "-c", line], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200, check=False
            )  # fmt: skip
            assert ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}"
            said[line.split()[1]] = ran.stdout
        assert re.search(r"^version +1$", said["rollback"], re.MULTILINE)
        assert re.search(r"verified +yes", said["ledger"])

        known = json.loads((tmp_path / ".steersman" / "credentials.json").read_text())
        steersman = Steersman(known["url"], token=known["token"])
        answer = steersman.predict("credit-risk", {"income": [41_000.0], "age": [37]})
        assert steersman.log_labels("credit-risk", {answer.event_ids[0]: 0.0}) == 1
