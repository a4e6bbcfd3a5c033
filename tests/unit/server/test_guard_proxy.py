"""The proxy to MLflow, against an upstream that says what it was sent."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from steersman.domain.access import EVERY_WORKSPACE, Access, Grant, Kind, Principal, Role, Secret
from steersman.domain.errors import NotAuthenticated
from steersman.server.guard_proxy import GuardProxy, Refusal
from steersman.server.security import Door, Middleware
from steersman.testing.routes import Answer, call
from steersman_mlflow_guard.identity import Access as MlflowAccess
from steersman_mlflow_guard.identity import verify

KEY = "ab" * 32


class _Tokens:
    """Two people; the real thing reads the database."""

    def token(self, presented: Secret) -> Access:
        roles = {"ada": Role.OPERATOR, "bob": Role.VIEWER}
        if presented.reveal() not in roles:
            raise NotAuthenticated("unknown token")
        subject = presented.reveal()
        principal = Principal(issuer="steersman", subject=subject, kind=Kind.HUMAN)
        return Access(principal=principal, grants=(Grant(role=roles[subject], workspace=EVERY_WORKSPACE),))

    def session(self, presented: Secret) -> Access:
        raise NotAuthenticated("no sessions here")


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    body = json.dumps(head[:-2]).encode()
    extra = b"Server: upstream\r\nSet-Cookie: a=b\r\nLocation: /elsewhere\r\nAccess-Control-Allow-Origin: *\r\n"
    writer.write(b"HTTP/1.1 200 OK\r\n" + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()


def _with_proxy(
    act: Callable[[Starlette], Awaitable[Any]], *, refusals: list[Refusal], broken: bool = False, listening: bool = True
) -> Any:
    async def recorded(refusal: Refusal) -> None:
        if broken:
            raise RuntimeError("the ledger is away")
        refusals.append(refusal)

    async def run() -> Any:
        server = await asyncio.start_server(_echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        if not listening:
            server.close()
        proxy = GuardProxy(port=port, key=KEY, on_refused=recorded)
        application = Starlette(routes=[Mount("/mlflow", app=proxy)])
        application.add_middleware(Middleware, door=Door.loopback(7700), authenticator=_Tokens())
        try:
            return await act(application)
        finally:
            proxy.close()
            server.close()

    return asyncio.run(run())


def _ask(
    token: str | None,
    path: str = "/mlflow/api/2.0/x",
    *,
    method: str = "GET",
    headers: tuple[tuple[str, str], ...] = (),
) -> Callable[[Starlette], Awaitable[Answer]]:
    async def act(application: Starlette) -> Answer:
        bearer = (("authorization", f"Bearer {token}"),) if token else ()
        return await call(application, method, path, headers=(*bearer, *headers))

    return act


def test_who_the_door_let_in_is_told_to_mlflow_under_our_signature() -> None:
    for token, access in (("ada", MlflowAccess.WRITE), ("bob", MlflowAccess.READ)):
        answer = _with_proxy(_ask(token), refusals=[])
        line, *headers = json.loads(answer.body)
        assert line == "GET /api/2.0/x HTTP/1.1"
        pairs = [(name.encode(), value.encode()) for name, _, value in (header.partition(": ") for header in headers)]
        caller = verify(pairs, key=KEY, method="GET", target="/api/2.0/x", now_s=time.time())
        assert (caller.subject, caller.access) == (token, access)


def test_nobody_passes_without_the_door() -> None:
    refusals: list[Refusal] = []
    answer = _with_proxy(_ask(None), refusals=refusals)
    assert answer.status == 401
    assert "MLFLOW_TRACKING_TOKEN" in json.loads(answer.body)["message"]
    assert refusals == []


def test_neither_our_secrets_nor_the_callers_travel_on() -> None:
    answer = _with_proxy(
        _ask(
            "ada",
            headers=(
                ("X-Steersman-Identity", "forged"),
                ("X_Steersman_Identity", "forged"),
                ("X-Under_Score", "1"),
                ("Cookie", "steersman_other=1"),
                ("X-Forwarded-For", "1.2.3.4"),
                ("X-Request-Id", "kept"),
            ),
        ),
        refusals=[],
    )
    sent = answer.body.decode()
    assert "kept" in sent
    assert sent.lower().count("steersman") == 1
    for hidden in ("forged", "Bearer", "cookie", "1.2.3.4", "score"):
        assert hidden not in sent
    assert {"set-cookie", "access-control-allow-origin"}.isdisjoint(answer.headers)
    assert answer.headers["location"] == "/mlflow/elsewhere"


def test_a_second_spelling_of_a_path_is_refused_and_recorded_even_when_recording_fails() -> None:
    refusals: list[Refusal] = []
    answer = _with_proxy(_ask("ada", "/mlflow//api/2.0/x"), refusals=refusals)
    assert answer.status == 400
    assert [(refusal.subject, refusal.reason, refusal.path) for refusal in refusals] == [
        ("ada", "bad-path", "//api/2.0/x")
    ]
    assert _with_proxy(_ask("ada", "/mlflow//api/2.0/x"), refusals=[], broken=True).status == 400


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "CONNECT"])
def test_only_the_methods_mlflow_needs_are_offered(method: str) -> None:
    assert _with_proxy(_ask("ada", method=method), refusals=[]).status == 400


def test_an_mlflow_that_is_away_is_said_so() -> None:
    answer = _with_proxy(_ask("ada"), refusals=[], listening=False)
    assert answer.status == 503
    assert "does not answer" in json.loads(answer.body)["message"]
    assert answer.headers["retry-after"]
