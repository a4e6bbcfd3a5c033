"""The only door to the embedded MLflow: `/mlflow` of the control server.

Every MLflow client works unchanged against this address, with our identities (`MLFLOW_TRACKING_TOKEN`). The proxy knows
who calls and says so to MLflow in one signed header; what a request may do is decided behind, by the guard that sees
the route MLflow matched. Paths with a second spelling are refused at this edge already, and no header a caller sends
can be taken for ours.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import unquote

import msgspec
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from steersman.domain.access import Access, Permission
from steersman.domain.errors import SteersmanError
from steersman.server.security import PASSED
from steersman.server.streaming import Headers, Response, StreamingClient, UploadEnded
from steersman_mlflow_guard import identity, paths
from steersman_mlflow_guard.app import REFUSED_HEADER, SUBJECT_HEADER, WARNED_HEADER
from steersman_mlflow_guard.judging import Reason

_log = logging.getLogger(__name__)

DRAINED_BYTES_MAX = 64 * 1024 * 1024
"""How much of a refused upload is read and thrown away, so that the caller reads our answer instead of a broken pipe."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, and what they may do in the registry."""

    subject: str
    registry_read: bool
    registry_write: bool


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """One request that was refused, or that warn mode let through: for the ledger."""

    subject: str
    """Who: the principal's subject; empty when nobody was recognised."""
    method: str
    path: str
    """Below `/mlflow`, at most 500 characters."""
    reason: str
    """A `Reason` of the guard, such as `protected-alias`; `is_manual_change` tells those the ledger must keep."""
    about: str
    """What it was about: `models:/flight-delay@champion`; may be empty."""
    message: str
    let_through: bool


Authenticate = Callable[[HTTPConnection], Awaitable[Principal | None]]
"""Who is behind a request; None when nobody is recognised."""
OnRefused = Callable[[Refusal], Awaitable[None]]

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer upgrade expect".split()
)
_NOT_FORWARDED = _HOP_BY_HOP | {b"host", b"authorization", b"cookie", b"origin", b"referer", b"forwarded"}
_NOT_RETURNED = _HOP_BY_HOP | {b"transfer-encoding", b"server", b"date", b"set-cookie"}
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})


async def admitted(connection: HTTPConnection) -> Principal | None:
    """Whom the control server's door (`steersman.server.security.Middleware`) let in: the everyday `Authenticate`."""
    state = connection.scope.get("state", {})
    access: Access | None = state.get("access") if state.get(PASSED) else None
    if access is None:
        return None
    return Principal(
        subject=access.principal.actor,
        registry_read=access.allows_somewhere(Permission.REGISTRY_READ),
        registry_write=access.allows_somewhere(Permission.REGISTRY_WRITE),
    )


class GuardProxy:
    """An ASGI application to mount behind the door: `Mount("/mlflow", app=GuardProxy(...))`.

    `on_refused` is awaited before the answer is sent; when it fails, the refusal still stands and the failure is logged.
    """

    def __init__(
        self,
        *,
        port: int,
        key: str,
        on_refused: OnRefused,
        authenticate: Authenticate = admitted,
        host: str = "127.0.0.1",
    ) -> None:
        self._host = f"{host}:{port}".encode()
        self._key = key
        self._client = StreamingClient(host=host, port=port)
        self._authenticate = authenticate
        self._on_refused = on_refused

    def close(self) -> None:
        self._client.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        raw_path: bytes = scope["raw_path"][len(scope.get("root_path", "")) :] or b"/"
        method: str = scope["method"]
        answer = _Reply(send)
        principal = await self._authenticate(HTTPConnection(scope))
        if principal is None:
            await answer.refuse(401, Reason.NO_IDENTITY, "Give your Steersman token: set MLFLOW_TRACKING_TOKEN.")
        elif (objection := paths.objection(raw_path)) or method not in _METHODS:
            why = f"{objection}; send it in its plain form" if objection else f"{method} is not offered"
            await self._refused(principal, method, raw_path, Reason.BAD_PATH, message=why)
            await answer.refuse(400, Reason.BAD_PATH, why)
        elif not principal.registry_read:
            message = "Your token may not read the registry. Ask an admin for the permission registry:read."
            await self._refused(principal, method, raw_path, Reason.READ_ONLY, message=message)
            await answer.refuse(403, Reason.READ_ONLY, message)
        else:
            try:
                await self._forward(principal, scope, raw_path, receive, answer)
            except UploadEnded:
                return  # nobody is left to answer
            except SteersmanError as error:
                if answer.begun:
                    raise  # the status is out already; ending the connection is what tells the caller
                await answer.fail(error)

    async def _forward(
        self, principal: Principal, scope: Scope, raw_path: bytes, receive: Receive, answer: _Reply
    ) -> None:
        query: bytes = scope["query_string"]
        target = raw_path + b"?" + query if query else raw_path
        body = _Body(receive) if _has_body(scope["headers"]) else None
        headers = [*self._request_headers(scope["headers"]), self._identity(principal, scope["method"], target)]
        async with self._client.send(scope["method"], target, headers, body.chunks() if body else None) as response:
            await self._record(principal, scope["method"], raw_path, response)
            if body is not None and response.status >= 400:
                await response.stop_upload()
                await body.drain()
            await answer.begin(response.status, _returned(response.headers, scope.get("root_path", "").encode()))
            async for chunk in response.body():
                await answer.more(chunk)
        await answer.end()

    def _request_headers(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        named = {name.strip().lower() for key, value in headers if key == b"connection" for name in value.split(b",")}
        kept = [
            (name, value)
            for name, value in headers
            if name not in _NOT_FORWARDED
            and name not in named
            and b"_" not in name  # folds together with `-` somewhere behind
            and not name.startswith(b"x-forwarded")
            and not identity.is_ours(name.decode("latin-1"))
        ]
        return [(b"host", self._host), *kept]

    def _identity(self, principal: Principal, method: str, target: bytes) -> tuple[bytes, bytes]:
        access = identity.Access.WRITE if principal.registry_write else identity.Access.READ
        caller = identity.Caller(subject=principal.subject, kind=identity.Kind.USER, access=access)
        signed = identity.sign(caller, key=self._key, method=method, target=target.decode("latin-1"), now_s=time.time())
        return identity.HEADER.lower().encode(), signed.encode()

    async def _record(self, principal: Principal, method: str, raw_path: bytes, response: Response) -> None:
        headers = dict(response.headers)
        refused = headers.get(REFUSED_HEADER.lower().encode())
        warned = headers.get(WARNED_HEADER.lower().encode()) if response.status < 400 else None
        if refused is None and warned is None:
            return
        await self._refused(
            principal,
            method,
            raw_path,
            Reason((refused or warned or b"").decode("latin-1")),
            about=unquote(headers.get(SUBJECT_HEADER.lower().encode(), b"").decode("latin-1")),
            message="refused by the guard" if refused else "let through in warn mode",
            let_through=refused is None,
        )

    async def _refused(
        self,
        principal: Principal,
        method: str,
        raw_path: bytes,
        reason: Reason,
        *,
        message: str,
        about: str = "",
        let_through: bool = False,
    ) -> None:
        refusal = Refusal(
            subject=principal.subject,
            method=method,
            path=raw_path.decode("latin-1")[:500],
            reason=reason.value,
            about=about[:500],
            message=message,
            let_through=let_through,
        )
        try:
            await self._on_refused(refusal)
        except Exception:
            _log.exception("a refusal could not be recorded: %s %s", refusal.reason, refusal.about)


class _Reply:
    """Our side's answer, sent once."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def begin(self, status: int, headers: Headers) -> None:
        self.begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def more(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, status: int, reason: Reason, message: str) -> None:
        code = "UNAUTHENTICATED" if status == 401 else "PERMISSION_DENIED"
        extra = [(REFUSED_HEADER.lower().encode(), reason.value.encode())]
        if status == 401:
            extra.append((b"www-authenticate", b"Bearer"))
        await self._whole(status, code, message, extra)

    async def fail(self, error: SteersmanError) -> None:
        extra = [(b"retry-after", b"2")] if error.status in (429, 503) else []
        await self._whole(error.status, "TEMPORARILY_UNAVAILABLE", f"{error.message} {error.next_step}", extra)

    async def _whole(self, status: int, code: str, message: str, extra: list[tuple[bytes, bytes]]) -> None:
        """In MLflow's own form of an error, so that its clients raise the message."""
        body = json.dumps({"error_code": code, "message": message}).encode()
        length = str(len(body)).encode()
        await self.begin(status, [(b"content-type", b"application/json"), (b"content-length", length), *extra])
        await self._send({"type": "http.response.body", "body": body})


class _Body:
    """The caller's body as it arrives."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._more = True

    async def chunks(self) -> AsyncIterator[bytes]:
        while self._more:
            message: Message = await self._receive()
            if message["type"] != "http.request":
                raise UploadEnded("the caller left")
            self._more = message.get("more_body", False)
            yield message.get("body", b"")

    async def drain(self) -> None:
        read = 0
        while self._more and read < DRAINED_BYTES_MAX:
            message = await self._receive()
            self._more = message["type"] == "http.request" and message.get("more_body", False)
            read += len(message.get("body", b""))


def _has_body(headers: Headers) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0") for name, value in headers
    )


def _returned(headers: Headers, prefix: bytes) -> list[tuple[bytes, bytes]]:
    """MLflow's headers without those of the hop, and with redirects kept below our path."""
    kept = []
    for name, value in headers:
        if name in _NOT_RETURNED or name.startswith(b"access-control-"):
            continue
        if name == b"location":
            if not value.startswith(b"/") or value.startswith(b"//"):
                continue
            value = prefix + value
        kept.append((name, value))
    return kept
