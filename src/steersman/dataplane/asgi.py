"""The HTTP edge that router, worker and committer share: bounded input, JSON errors that name the next step.

Raw ASGI on uvicorn, uvloop and httptools; no framework stands between a request and its route. Everything that comes from
outside has a bound before it is parsed: heads, bodies, and the time either may take.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from typing import Any

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEAD_BYTES_MAX = 32 * 1024
"""Request line and headers; nginx and uvicorn's h11 stop between 8 and 64 kB."""

HEAD_S_MAX = 10.0
"""Seconds a client may take to send a head."""

CONNECTIONS_MAX = 2_048

_TOO_LARGE_BODY = b'{"error": "request head over 32 kB", "next_step": "send fewer or shorter headers"}'
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_TOO_LARGE_BODY), _TOO_LARGE_BODY)
)
_JSON = (b"content-type", b"application/json")


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
    send: Send, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = (), *, close: bool = False
) -> None:
    head = [(b"content-length", b"%d" % len(body)), *headers]
    if not any(name == b"content-type" for name, _ in headers):
        head.append(_JSON)
    if close:
        head.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, refusal: Refusal, body: bytes | None = None) -> None:
    """Answer with a Refusal, in the words of `body` where a protocol has its own.

    Where the request's body was left unread the connection closes, so that it is not parsed on.
    """
    if refusal.status == 499:
        return
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if refusal.retry_after_s is not None:
        headers = ((b"retry-after", b"%d" % refusal.retry_after_s),)
    if body is None:
        body = msgspec.json.encode({"error": refusal.error, "next_step": refusal.next_step})
    await reply(send, refusal.status, body, headers, close=refusal.status in (408, 413))


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a bound on the size of a head and on the time it may take."""

    _head_bytes = 0
    _in_head = False
    _head_timer: asyncio.TimerHandle | None = None

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES_MAX:
            self._in_head = False
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S_MAX, self._close_slow_head)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().connection_lost(exc)

    def _close_slow_head(self) -> None:
        self._head_timer = None
        self.transport.close()


class EdgeServer(uvicorn.Server):
    """uvicorn's server without its signal handlers: a process with two listeners stops both itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def edge(app: App, *, keep_alive_s: int = 75, drain_s: int = 30) -> EdgeServer:
    """A server for `app`, quiet, without access log; run it with `serve(sockets=[…])`."""
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=BoundedHttpProtocol,
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        date_header=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=drain_s,
    )
    return EdgeServer(config)


def listen_tcp(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError when the port is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind((host, port))
    listener.listen(1024)
    listener.setblocking(False)
    return listener
