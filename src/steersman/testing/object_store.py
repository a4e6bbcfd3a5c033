"""A real S3 server for tests: SeaweedFS on free ports of 127.0.0.1, ended by its pid.

with ObjectStore(folder) as store:
    storage = store.storage("bucket", "prefix")
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from steersman.dataplane.sandbox import allowed_environment
from steersman.dataplane.storage import LOCATION, ObjectStorage

ACCESS_KEY = "tests"
SECRET_KEY = "secret-of-the-tests"  # noqa: S105 - a test's own, no secret
READY_S_MAX = 60.0

_PORTS = ("master", "volume", "filer", "s3")


class ObjectStore:
    """One server with one identity that may do everything; `stop` and `start` keep what it holds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        ports = _free_ports(2 * len(_PORTS))
        self._ports = dict(zip(_PORTS, ports, strict=False))
        self._grpc = dict(zip(_PORTS, ports[len(_PORTS) :], strict=False))
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(signal.SIGKILL)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    def variables(self, bucket: str, prefix: str) -> dict[str, str]:
        """What the environment of a process says that keeps its tables there."""
        return {
            LOCATION: f"s3://{bucket}/{prefix}",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    def storage(self, bucket: str, prefix: str) -> ObjectStorage:
        variables = self.variables(bucket, prefix)
        return ObjectStorage(variables[LOCATION], variables)

    def start(self) -> None:
        arguments = ["-dir", str(self._folder), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-s3", "-s3.config"]
        arguments += [str(self._folder / "s3.json"), "-volume.max", "50", "-master.volumeSizeLimitMB", "64"]
        arguments += ["-master.telemetry=false", "-s3.port.iceberg", "0", "-s3.port.lance", "0"]
        for name in _PORTS:
            arguments += [f"-{name}.port", str(self._ports[name]), f"-{name}.port.grpc", str(self._grpc[name])]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(Path(sys.executable).with_name("weed")), "server", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=allowed_environment(os.environ, threads=1),
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_S_MAX
        while not self._writes():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self._folder / "server.log").read_text(errors="replace")[-2000:]
                raise AssertionError(f"the object store does not start: {said}")
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def _writes(self) -> bool:
        """Whether it takes an object; it listens some seconds before it does."""
        connection = http.client.HTTPConnection("127.0.0.1", self._ports["s3"], timeout=5)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
            self.storage("probe", "ready").write("object", b"")
        except OSError:
            return False
        finally:
            connection.close()
        return True


def _free_ports(count: int) -> Sequence[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
