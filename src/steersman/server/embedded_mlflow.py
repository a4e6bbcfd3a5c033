"""How the embedded MLflow is started: its command line, its environment, and whether it answers.

MLflow is a child process (its server needs 400 MB and blocks threads; see the decision on MLflow), listens on loopback
only, and refuses whatever lacks the identity our proxy signs under a key made for this start. Jobs, gateway, telemetry
and the loading of pickles are off. The supervisor runs what these functions describe; it should start the command in a
session of its own and end the whole group, because `mlflow server` is a parent that starts the real server.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import socket
import sys
import time
from pathlib import Path

import msgspec

from steersman.domain.errors import Misconfigured, SteersmanError
from steersman.plugins.registries.mlflow import MlflowRegistry
from steersman.plugins.registries.mlflow_rest import TIMEOUT_S, MlflowRest
from steersman_mlflow_guard.identity import HEADER, KEY_VARIABLE, Access, Caller, Kind, new_key, sign
from steersman_mlflow_guard.protection import FILE_VARIABLE

MLFLOW_VERSION = "3.17.2"
"""The one version whose routes the guard knows (`steersman_mlflow_guard.routes`)."""

READY_TIMEOUT_S = 120
"""How long the supervisor waits for the first start: 69 database migrations and imports, up to 60 s on a busy machine."""

SYSTEM = Caller(subject="steersman", kind=Kind.SYSTEM, access=Access.WRITE)
"""The control server's own identity towards MLflow: it alone writes protected aliases and tags."""

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT", "VIRTUAL_ENV")


class EmbeddedMlflow(msgspec.Struct, frozen=True, kw_only=True):
    """One start of the child: everything needed to run it, and to talk to it. Never log or print it: it holds the key."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    directory: Path
    """Its working directory, made by `prepare`; nothing of the caller's is on its import path."""
    port: int
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __repr__(self) -> str:
        return f"EmbeddedMlflow(port={self.port})"


def require_mlflow() -> None:
    """Raises `Misconfigured` when the package is not installed, or in another version than the guard knows."""
    next_step = (
        "Install it with `pip install 'steersman[mlflow]'`, name your own server in the settings, "
        "or start with `steersman up --no-mlflow --registry DIR`."
    )
    if importlib.util.find_spec("mlflow") is None:
        raise Misconfigured(
            "The embedded MLflow cannot start: the package mlflow is not installed.", next_step=next_step
        )
    installed = importlib.metadata.version("mlflow")
    if installed != MLFLOW_VERSION:
        raise Misconfigured(
            f"The embedded MLflow cannot start: mlflow {installed} is installed, and the guard knows the routes of "
            f"{MLFLOW_VERSION} only.",
            next_step=next_step,
        )


def free_loopback_port() -> int:
    """A port that is free now. Another process may take it before MLflow does; the supervisor then starts it again."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def prepare(state: Path, *, port: int | None = None) -> EmbeddedMlflow:
    """Make `STATE/mlflow` and describe one start, with a new key. `protection_file(state)` should be written before."""
    require_mlflow()
    directory = (state / "mlflow").resolve()
    artifacts = directory / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    listening = port or free_loopback_port()
    key = new_key()
    return EmbeddedMlflow(
        argv=_argv(directory, artifacts, listening),
        environment=_environment(directory, protection_file(state), key),
        directory=directory,
        port=listening,
        key=key,
    )


def protection_file(state: Path) -> Path:
    """Where the control server tells the guard what is released (`steersman_mlflow_guard.protection.write`)."""
    return (state / "mlflow" / "protection.json").resolve()


def _argv(directory: Path, artifacts: Path, port: int) -> tuple[str, ...]:
    uvicorn_options = ("--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "75")
    return (
        *(sys.executable, "-m", "mlflow", "server"),
        *("--app-name", "steersman-guard"),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}"),
        *("--serve-artifacts", "--artifacts-destination", artifacts.as_uri()),
        *("--uvicorn-opts", shlex.join(uvicorn_options)),
    )


def _environment(directory: Path, protection: Path, key: str) -> dict[str, str]:
    """An allow-list and our own settings: no secret of the caller's environment reaches MLflow."""
    return {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        "HOME": str(directory),
        "PYTHONSAFEPATH": "1",  # nothing is imported from the working directory, in the child's children neither
        "PYTHONUNBUFFERED": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ENABLE_AI_GATEWAY": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "GIT_PYTHON_REFRESH": "quiet",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        FILE_VARIABLE: str(protection),
        KEY_VARIABLE: key,
    }


def registry(child: EmbeddedMlflow) -> MlflowRegistry:
    """The control server's own way into the embedded MLflow: the registry plugin with the system's identity."""
    return MlflowRegistry(_rest(child, timeout_s=TIMEOUT_S))


def answers(child: EmbeddedMlflow, *, timeout_s: float = 5.0) -> bool:
    """Readiness: the registry answers a question that needs the database and passes the guard."""
    rest = _rest(child, timeout_s=timeout_s)
    try:
        MlflowRegistry(rest).check()
    except SteersmanError:
        return False
    finally:
        rest.close()
    return True


def _rest(child: EmbeddedMlflow, *, timeout_s: float) -> MlflowRest:
    def signed(method: str, target: str) -> dict[str, str]:
        return {HEADER: sign(SYSTEM, key=child.key, method=method, target=target, now_s=time.time())}

    return MlflowRest(child.url, headers=signed, timeout_s=timeout_s)


class _Start(msgspec.Struct, frozen=True, kw_only=True):
    """What another process must know of the embedded MLflow; kept in `keys/`, readable by this user only."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    directory: str
    port: int
    key: str


def read_start(state: Path) -> EmbeddedMlflow:
    """The start the supervisor made. Raises Misconfigured when there is none."""
    try:
        found = msgspec.json.decode((state / "keys" / "mlflow.json").read_bytes(), type=_Start)
    except (OSError, msgspec.MsgspecError):
        raise Misconfigured("the embedded MLflow was not started", next_step="Start with `steersman up`.") from None
    return EmbeddedMlflow(
        argv=found.argv,
        environment=found.environment,
        directory=Path(found.directory),
        port=found.port,
        key=found.key,
    )


def write_start(state: Path, child: EmbeddedMlflow) -> None:
    keys = state / "keys"
    keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    started = _Start(
        argv=child.argv,
        environment=child.environment,
        directory=str(child.directory),
        port=child.port,
        key=child.key,
    )
    draft = keys / "mlflow.json.new"
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(started))
    os.replace(draft, keys / "mlflow.json")
