"""The HTTP edge that router, worker and committer share: bounded input, JSON errors that name the next step.

Raw ASGI on uvicorn, uvloop and httptools; no framework stands between a request and its route. Everything that comes from
outside has a bound before it is parsed: heads, bodies, and the time either may take.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterable, Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
import uvicorn

from steersman.dataplane.edge import (
    IDLE_GRACE_S,
    JSON,
    EdgeCounts,
    EdgeCycle,
    EdgeProtocol,
    EdgeServer,
    EdgeState,
    Headers,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CONNECTIONS_MAX = 2_048
"""Open connections of callers; further ones are answered 503."""

BACKLOG = 2_048
"""Connections the kernel keeps for a process that starts or is busy, up to its own limit (net.core.somaxconn, 4,096)."""


class Refusal(Exception):
    """A request is answered with `status` and a JSON body that says what to do next."""

    def __init__(self, status: int, error: str, next_step: str, retry_after_s: int | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.next_step = next_step
        self.retry_after_s = retry_after_s


async def read_body(scope: Scope, receive: Receive, *, bytes_max: int, timeout_s: float) -> bytes:
    """The whole body, or a Refusal: 413 over `bytes_max` (before reading where the length is declared), 408 too slow."""
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > bytes_max:
            raise _body_too_large(bytes_max)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise _client_left()
    body: bytes = message.get("body", b"")
    if len(body) > bytes_max:
        raise _body_too_large(bytes_max)
    if not message.get("more_body"):
        return body
    return await _read_rest(receive, body, bytes_max, timeout_s)


async def _read_rest(receive: Receive, body: bytes, bytes_max: int, timeout_s: float) -> bytes:
    parts = [body]
    size = len(body)
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _client_left()
                part = message.get("body", b"")
                size += len(part)
                if size > bytes_max:
                    raise _body_too_large(bytes_max)
                parts.append(part)
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise Refusal(
            408, f"the body did not arrive within {timeout_s:g} s", "send the body faster or in smaller batches"
        ) from None


def _body_too_large(bytes_max: int) -> Refusal:
    return Refusal(413, f"body over {bytes_max / 1024**2:g} MiB", "send fewer rows a request")


def _client_left() -> Refusal:
    return Refusal(499, "the client left", "")


async def reply(
    send: Send,
    status: int,
    body: bytes,
    headers: Headers = (),
    *,
    content_type: bytes = JSON,
    close: bool = False,
) -> None:
    """Answer with a whole body; `headers` are further ones, with lower-case names."""
    assert isinstance(send, EdgeCycle)
    await send.answer(status, body, headers, content_type=content_type, close=close)


async def reply_stream(send: Send, status: int, pieces: AsyncIterable[bytes], headers: Headers) -> None:
    """Answer with pieces as they come, no faster than the caller reads; `headers` must say the content type."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def refuse(send: Send, refusal: Refusal, body: bytes | None = None) -> None:
    """Answer with a Refusal, in the words of `body` where a protocol has its own.

    Where the request's body was left unread the connection closes, so that it is not parsed on.
    """
    if refusal.status == 499:
        return
    headers: Headers = ()
    if refusal.retry_after_s is not None:
        headers = ((b"retry-after", b"%d" % refusal.retry_after_s),)
    if body is None:
        body = msgspec.json.encode({"error": refusal.error, "next_step": refusal.next_step})
    await reply(send, refusal.status, body, headers, close=refusal.status in (408, 413))


def edge(
    app: App,
    *,
    keep_alive_s: int = 75,
    drain_s: int = 30,
    idle_grace_s: float = IDLE_GRACE_S,
    connections_max: int = CONNECTIONS_MAX,
    cancel_on_leave: bool = False,
    counts: EdgeCounts | None = None,
) -> EdgeServer:
    """A server for `app`, quiet, without access log; run it with `serve(sockets=[…])`.

    To end it set `should_exit`: it stops accepting, answers what still comes on open connections for `idle_grace_s`, and
    waits `drain_s` for what is under way. With `cancel_on_leave` a caller that leaves cancels the task of its request. It adds
    to `counts` what its callers do.
    """
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=EdgeProtocol,
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        date_header=False,
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=drain_s,
    )
    state = EdgeState(counts or EdgeCounts(), connections_max=connections_max, cancel_on_leave=cancel_on_leave)
    return EdgeServer(config, state, idle_grace_s=idle_grace_s)


def listen_tcp(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError when the port is in use.

    With `shared` other sockets of this user may listen on the same port, and the kernel deals connections out.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
