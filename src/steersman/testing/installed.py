"""A whole installation as real processes, for tests: `steersman up` over a state directory of its own.

with Installed(folder) as installed:
    installed.register_stump("delay", 1, low=0.2)
    installed.client.apply([...])
    installed.kill("router-0")

Everything listens on 127.0.0.1 at free ports. What was started is ended by its pid: the supervisor is asked first, and
whatever is left of its children (they live in sessions of their own) is found by the handles in the state directory.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import yaml

from steersman.client.credentials import Credentials, read_credentials
from steersman.client.steersman import Steersman
from steersman.dataplane.configuration import RouterConfiguration
from steersman.dataplane.handles import read_handle
from steersman.plugins.targets.local import LocalTarget
from steersman.ports import RunningReplica
from steersman.testing.plane import stump, tensor

READY_S_MAX = 90.0
"""A quiet machine needs 5 s; one that runs a whole test suite at once needs much longer."""

STOP_S_MAX = 30.0

PROCESSES = ("control", "router-0", "committer")


@dataclass
class Installed:
    """One installation, from `__enter__` to `__exit__`. `replay_from` makes it a replay."""

    folder: Path
    replay_from: datetime | None = None
    _process: subprocess.Popen[bytes] | None = None
    _credentials: Credentials | None = None

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def registry(self) -> Path:
        return self.folder / "registry"

    def __enter__(self) -> Self:
        self.registry.mkdir(parents=True, exist_ok=True)
        arguments = ["--no-mlflow", "--registry", str(self.registry), "--state", str(self.state)]
        arguments += ["--port", str(_free_port()), "--router-port", str(_free_port())]
        if self.replay_from is not None:
            arguments += ["--replay-from", self.replay_from.isoformat()]
        log = (self.folder / "up.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "steersman.cli", "up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.folder,
            start_new_session=True,
        )
        log.close()
        try:
            self.wait_for(self._answers, "the control server answers", READY_S_MAX)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process is not None
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S_MAX)
        left = [self.pid(name) for name in PROCESSES] + [replica.pid for replica in self.replicas()]
        for pid in [self._process.pid, *left]:
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait(STOP_S_MAX)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError((self.folder / "up.log").read_text())
        credentials = read_credentials(self.state)
        if credentials is None or self.pid("control") is None or self.pid("router-0") is None:
            return False
        self._credentials = credentials
        with contextlib.suppress(Exception):
            return bool(self.client.health())
        return False

    def wait_for(self, holds: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Look until it holds. Raises AssertionError with the end of the logs when it does not in time."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:.0f} s: {what}\n{self.last_words()}")
            time.sleep(0.05)

    def last_words(self) -> str:
        logs = [self.folder / "up.log", *sorted((self.state / "logs").glob("*.log"))]
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in logs if log.exists())

    # --- who is there

    @property
    def client(self) -> Steersman:
        """A new client of the first admin."""
        assert self._credentials is not None
        return Steersman(
            self._credentials.url, self._credentials.token, router_url=self._credentials.router_url, timeout_s=20.0
        )

    def pid(self, name: str) -> int | None:
        """The live process of that name: control, router-0 or committer."""
        handle = read_handle(self.state / "run" / f"{name}.json")
        return handle.pid if handle is not None and handle.alive() else None

    def replicas(self) -> list[RunningReplica]:
        return LocalTarget(self.state).observe()

    def routed(self) -> RouterConfiguration | None:
        """The configuration the router serves, as it keeps it on disk."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            body = (self.state / "router" / "config.json").read_bytes()
            return msgspec.json.decode(body, type=RouterConfiguration)
        return None

    def kill(self, name: str) -> int | None:
        """kill -9 a process by name, or one `worker`; returns the pid, None when there was nobody to kill."""
        pids = [r.pid for r in self.replicas()] if name == "worker" else [self.pid(name)]
        pid = pids[0] if pids else None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pid

    # --- what is asked of it

    def register_stump(self, name: str, number: int, *, low: float = 0.25, high: float = 0.75) -> None:
        """Put a tiny LightGBM model into the directory registry: `low` where x <= 0, else `high`."""
        folder = stump(self.registry / name / str(number), low=low, high=high)
        said = {
            "format": "lightgbm",
            "file": "model.lgb",
            "signature": [{"name": "x", "type": "FP64"}, {"name": "z", "type": "FP64"}],
        }
        (folder / "version.yaml").write_text(yaml.safe_dump(said))

    def completion(self, release: str, seconds: float = 90.0) -> str:
        """How a release ended, once it has."""
        found: list[str] = []

        def ended() -> bool:
            answer = self.client.wait(release, timeout_s=seconds)
            found[:] = [str(answer["completion"])] if answer["completion"] else []
            return bool(found)

        self.wait_for(ended, f"release {release} ends", seconds)
        return found[0]

    def infer(
        self, model: str, columns: Mapping[str, Sequence[Any]], *, event_ids: Sequence[str], timeout_s: float = 10.0
    ) -> tuple[int, dict[str, Any]]:
        """One request, sent once and never again by itself. Raises OSError when the router is not there."""
        assert self._credentials is not None
        inputs = [tensor(name, values) for name, values in columns.items()]
        body = json.dumps({"parameters": {"event_ids": list(event_ids)}, "inputs": inputs})
        address = self._credentials.router_url or ""
        host, _, port = address.removeprefix("http://").rstrip("/").partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
        try:
            headers = {"Authorization": f"Bearer {self._credentials.token}", "Content-Type": "application/json"}
            connection.request("POST", f"/default/production/v2/models/{model}/infer", body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        finally:
            connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
