"""A real installation in processes of its own, for tests that act as a person at a terminal does.

`Installed` runs `steersman up` in a folder, with ports of its own, and ends it by pid; `steersman(...)` runs one command
there and says what it answered. Everything has a time limit: a command that hangs is a test that fails.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersman.client import Steersman
from steersman.client.credentials import read_credentials

COMMAND_S = 60.0
"""Wall seconds one command may take; most take a quarter of one."""

START_S = 120.0
"""Wall seconds an installation may take to come up; MLflow's first start takes most of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a command wrote and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment(**added: str) -> dict[str, str]:
    """This process's environment without anything that names an installation, and with quiet libraries."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STEERSMAN_", "MLFLOW_"))}
    return {**kept, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **added}


def command(folder: Path, *words: str, environment: Mapping[str, str] | None = None) -> Said:
    """Run `steersman WORDS` in `folder`."""
    ran = subprocess.run(
        [sys.executable, "-m", "steersman.cli", *words],
        cwd=folder,
        env=clean_environment(**(environment or {})),
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    return Said(code=ran.returncode, out=ran.stdout, err=ran.stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """An installation that runs, its folder, and the words of its `up`."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def state(self) -> Path:
        return self.folder / ".steersman"

    @property
    def said(self) -> str:
        """What `up` wrote so far."""
        return (self.folder / "up.log").read_text()

    @property
    def client(self) -> Steersman:
        known = read_credentials(self.state)
        assert known is not None
        return Steersman(known.url, known.token, router_url=known.router_url)

    def steersman(self, *words: str, environment: Mapping[str, str] | None = None) -> Said:
        return command(self.folder, *words, environment=environment)


@contextmanager
def installed(folder: Path, words: Sequence[str], **environment: str) -> Iterator[Installed]:
    """`steersman up WORDS` in `folder`, until the block ends. Free ports are chosen unless `words` name them."""
    ports = [] if "--port" in words else ["--port", str(free_port()), "--router-port", str(free_port())]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "steersman.cli", "up", *ports, *words],
            cwd=folder,
            env=clean_environment(**environment),
            stdout=log,
            stderr=log,
        )
    found = Installed(folder=folder, process=process)
    try:
        deadline = time.monotonic() + START_S
        while not re.search(r"^  token ", found.said, re.MULTILINE):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the installation does not come up:\n{found.said}")
            time.sleep(0.1)
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(COMMAND_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
