"""A real MLflow, started once, behind the real proxy; only who holds which token is made up."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection as Wire
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Mount

from steersman.server.embedded_mlflow import (
    READY_TIMEOUT_S,
    EmbeddedMlflow,
    answers,
    free_loopback_port,
    prepare,
    protection_file,
    registry,
)
from steersman.server.guard_proxy import GuardProxy, Principal, Refusal
from steersman_mlflow_guard.protection import Protection, write

WRITER = "token-of-ada"
READER = "token-of-bob"
NOBODY = "token-of-eve"

_PRINCIPALS = {
    WRITER: Principal(subject="ada@example.com", registry_read=True, registry_write=True),
    READER: Principal(subject="bob@example.com", registry_read=True, registry_write=False),
    NOBODY: Principal(subject="eve@example.com", registry_read=False, registry_write=False),
}


async def _known(connection: HTTPConnection) -> Principal | None:
    return _PRINCIPALS.get(connection.headers.get("authorization", "").removeprefix("Bearer "))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def reason(self) -> str | None:
        return self.headers.get("x-steersman-refused")


class MlflowBehindTheDoor:
    """What the tests act on: the address, the protection file, what was recorded, and raw requests."""

    def __init__(self, child: EmbeddedMlflow, port: int, state: Path, refusals: list[Refusal]) -> None:
        self.child = child
        self.port = port
        self.url = f"http://127.0.0.1:{port}/mlflow"
        self.refusals = refusals
        self.registry = registry(child)
        self._protection = protection_file(state)

    def protect(self, protection: Protection) -> None:
        write(self._protection, protection)

    def forget_protection(self) -> None:
        self._protection.unlink()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        token: str | None = WRITER,
        headers: dict[str, str] | None = None,
        direct: bool = False,
    ) -> Reply:
        """One request, byte for byte as given; `direct` goes to the child, past the proxy."""
        given = {"Authorization": f"Bearer {token}"} if token else {}
        if body is not None:
            given["Content-Type"] = "application/json"
        wire = Wire("127.0.0.1", self.child.port if direct else self.port, timeout=30)
        try:
            wire.request(method, path if direct else f"/mlflow{path}", body=body, headers={**given, **(headers or {})})
            answer = wire.getresponse()
            return Reply(
                status=answer.status,
                headers={name.lower(): value for name, value in answer.getheaders()},
                body=answer.read(),
            )
        finally:
            wire.close()


@pytest.fixture(scope="session")
def mlflow_child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedMlflow, Path]]:
    state = tmp_path_factory.mktemp("state")
    child = prepare(state)
    write(protection_file(state), Protection())
    log = (state / "mlflow.log").open("wb")
    process = subprocess.Popen(
        child.argv, env=child.environment, cwd=child.directory, stdout=log, stderr=log, start_new_session=True
    )
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not answers(child):
            assert process.poll() is None, (state / "mlflow.log").read_text()
            assert time.monotonic() < deadline, (state / "mlflow.log").read_text()
            time.sleep(0.2)
        yield child, state
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


@pytest.fixture(scope="session")
def behind_the_door(mlflow_child: tuple[EmbeddedMlflow, Path]) -> Iterator[MlflowBehindTheDoor]:
    child, state = mlflow_child
    refusals: list[Refusal] = []

    async def recorded(refusal: Refusal) -> None:
        refusals.append(refusal)

    proxy = GuardProxy(port=child.port, key=child.key, authenticate=_known, on_refused=recorded)
    application = Starlette(routes=[Mount("/mlflow", app=proxy)])
    port = free_loopback_port()
    server = uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield MlflowBehindTheDoor(child, port, state, refusals)
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def mlflow_server(behind_the_door: MlflowBehindTheDoor) -> Iterator[MlflowBehindTheDoor]:
    """With the protection of an installation that has released nothing, and no refusals recorded yet."""
    behind_the_door.protect(Protection())
    behind_the_door.refusals.clear()
    yield behind_the_door
    behind_the_door.protect(Protection())
