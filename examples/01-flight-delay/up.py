"""Starts and ends a Steersman of the demo's own, and runs commands against it the way a user's shell would."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from steersman.client import Steersman
from steersman.client.credentials import Credentials, read_credentials
from steersman.client.documents import load_yaml

HERE = Path(__file__).parent

START_S = 180.0
"""Wall seconds the whole installation may take to start: MLflow's first start migrates its database."""


@dataclass
class Installation:
    """One `steersman up` in replay mode. `lines` is what it said, its addresses among it."""

    state: Path
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    up: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def begin(cls, state: Path, *, replay_from: datetime, port: int, allow_code: str) -> "Installation":
        """Start it; returns at once, `ready` waits."""
        command = [
            *(sys.executable, "-m", "steersman.cli", "--state", str(state), "up"),
            *("--replay-from", replay_from.isoformat(), "--port", str(port), "--router-port", str(port + 1)),
            *("--allow-code", allow_code),
        ]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        installation = cls(state=state, process=process)
        threading.Thread(target=installation._listen, daemon=True).start()
        return installation

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("  token"):
                self.up.set()
        self.up.set()

    def ready(self) -> Credentials:
        """Wait until everything answers. Raises RuntimeError with what it said otherwise."""
        self.up.wait(START_S)
        credentials = read_credentials(self.state)
        if self.process.poll() is not None or not any(line.startswith("  token") for line in self.lines):
            raise RuntimeError("Steersman did not start:\n" + "\n".join(self.lines))
        assert credentials is not None
        return credentials

    def end(self) -> None:
        """Ctrl-C, as a person would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()


def run_script(script: str, *arguments: str, environment: Mapping[str, str], log: Path) -> None:
    """Run one of this folder's scripts in a process of its own. Raises RuntimeError with the end of what it said."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE") if key in os.environ}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    with log.open("ab") as said:
        done = subprocess.run(
            [sys.executable, str(HERE / script), *arguments],
            env={**kept, **threads, **environment},
            stdout=said,
            stderr=said,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{script} ended with {done.returncode}:\n{log.read_text()[-2000:]}")


def registry_environment(credentials: Credentials) -> dict[str, str]:
    """What the stock MLflow client needs: the address of our door, and a token."""
    return {
        "MLFLOW_TRACKING_URI": f"{credentials.url}/mlflow",
        "MLFLOW_TRACKING_TOKEN": credentials.token,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }


def documents(history: Path) -> list[dict[str, Any]]:
    """This folder's documents as plain data; the dataset's file is where the demo put it."""
    model, dataset = (load_yaml((HERE / name).read_text(), source=name)[0] for name in ("model.yaml", "dataset.yaml"))
    dataset["spec"]["uri"] = str(history)
    model["spec"]["train"]["source"]["directory"] = str(HERE)
    return [dataset, model]


def entries(client: Steersman) -> Sequence[Mapping[str, Any]]:
    """The whole ledger."""
    found: list[Mapping[str, Any]] = []
    while page := client.ledger_entries(start=len(found), limit=1000):
        found.extend(page)
    return found
