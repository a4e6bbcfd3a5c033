"""A process the supervisor watches: how to start it, whether it runs, how to end it.

Each runs in a session of its own and is known by pid and start time, so it outlives the supervisor and the next one adopts
it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from steersman.dataplane.handles import Handle
from steersman.dataplane.sandbox import COMMITTER_ALLOCATOR

STOP_S = 10.0
"""Wall seconds a process has to end by itself after SIGTERM."""

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "HOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SSL_CERT_FILE")

_PASSED_ON_TO = {"router": ("OTEL_",), "control": ("UV_", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")}
"""By prefix, to the one process that needs them: where traces go, and where packages of a version come from."""


def environment_of(name: str, *, polars_threads: int | None = 1) -> dict[str, str]:
    """What a process of ours gets of this one's environment, with numeric libraries kept to one thread."""
    environment = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    prefixes = _PASSED_ON_TO.get(name, ())
    environment |= {key: value for key, value in os.environ.items() if key.upper().startswith(prefixes)}
    environment |= {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if name == "committer":
        environment |= COMMITTER_ALLOCATOR
    if polars_threads is not None:
        environment["POLARS_MAX_THREADS"] = str(polars_threads)
    return environment


def argv_of(module: str, state: Path, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, "--state", str(state), *arguments)


@dataclass
class Child:
    """One supervised process: how it is started, and what is known of the one that runs.

    A `listener` is inherited by every process that is started, as `--fd`; `listen` makes it where there is none yet.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    handle: Path | None = None
    listen: Callable[[], socket.socket] | None = None
    listener: socket.socket | None = None
    process: subprocess.Popen[bytes] | None = None
    adopted: Handle | None = None
    failures: int = 0
    started_at: float = 0.0
    next_at: float = 0.0

    @property
    def pid(self) -> int | None:
        if self.process is not None:
            return self.process.pid
        return self.adopted.pid if self.adopted is not None else None

    def running(self) -> bool:
        if self.process is not None:
            return self.process.poll() is None
        return self.adopted is not None and self.adopted.alive()

    def start(self) -> None:
        """Raises OSError when it cannot: no file for its log, no socket on its port."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        inherited: tuple[int, ...] = ()
        if self.listen is not None:
            self.listener = self.listener or self.listen()
            inherited = (self.listener.fileno(),)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                (*self.argv, *(f"--fd={descriptor}" for descriptor in inherited)),
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=dict(self.environment),
                start_new_session=True,
            )
        self.adopted = None
        self.started_at = time.monotonic()
        if self.handle is not None:  # a program of others, which writes no handle itself
            started = Handle(pid=self.process.pid, started_at=psutil.Process(self.process.pid).create_time())
            self.handle.parent.mkdir(parents=True, exist_ok=True)
            self.handle.write_bytes(msgspec.json.encode(started))

    def last_words(self) -> str:
        """The end of its log, for a person."""
        with contextlib.suppress(OSError):
            lines = self.log.read_bytes()[-4000:].decode(errors="replace").strip().splitlines()
            return "\n".join(lines[-5:])
        return ""

    def signal(self, number: signal.Signals) -> None:
        """Send it to the process and all it started."""
        if self.pid is not None and self.running():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def stop(self) -> None:
        if not self.running():
            return
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        while self.running() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
