"""Many requests at once, cheaply: a fixed number of connections, each with one request in flight.

An evaluation or a replay sends hundreds of thousands of predictions from the machine that also runs the models, so what
matters is CPU a request, not latency. One thread, asyncio's protocols directly, and a parser for the one form of answer
the router gives (a length, no chunks) cost about a tenth of a general HTTP client. Order of answers is order of
requests; how many are in flight is bounded by the connections.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from urllib.parse import urlsplit

from steersman.domain.errors import BadRequest
from steersman.domain.numbers import number_within

HEAD_BYTES_MAX = 64 * 1024
"""Longest head of an answer: 64 KiB."""

REQUEST_TIMEOUT_S = 30.0
"""Longest wait for one answer; then its connection is closed and the reply says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request ready to be sent to the router: path, JSON body, and event time in a replay."""

    path: str
    body: bytes
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back: the HTTP status, or 0 with `error` when nothing did."""

    status: int
    body: bytes
    latency_s: float
    error: str = ""


class _Line(asyncio.Protocol):
    """One connection with one request in flight."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self._buffer = bytearray()
        self._body_at = -1
        self._body_end = 0
        self._status = 0
        self._closes = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: bytes, loop: asyncio.AbstractEventLoop) -> asyncio.Future[tuple[int, bytes]]:
        assert self.transport is not None
        self.waiting = loop.create_future()
        self.transport.write(request)
        return self.waiting

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._body_at < 0 and not self._read_head():
            return
        if len(self._buffer) >= self._body_end:
            body = bytes(self._buffer[self._body_at : self._body_end])
            del self._buffer[: self._body_end]
            self._body_at = -1
            waiting, self.waiting = self.waiting, None
            if waiting is not None and not waiting.done():
                waiting.set_result((self._status, body))
            if self._closes and self.transport is not None:
                self.transport.close()

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                self._fail("the head of the answer is too long")
            return False
        head = bytes(self._buffer[:end]).lower()
        status = number_within(head[9:12], 100, 599)
        length = number_within(_header(head, b"content-length"), 0, sys.maxsize)
        if not head.startswith(b"http/1.") or status is None or length is None:
            self._fail("the answer is not one the router gives")
            return False
        self._status = status
        self._closes = _header(head, b"connection") == b"close"
        self._body_at = end + 4
        self._body_end = self._body_at + length
        return True

    def _fail(self, reason: str) -> None:
        waiting, self.waiting = self.waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(ConnectionError(reason))
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._fail("the connection was closed before the answer" if exc is None else str(exc))


class Traffic:
    """Connections to one router. Use as a context manager; not from several threads.

    `retries` repeats a request whose connection broke before the answer, on a fresh connection: give it only where
    asking twice does no harm, as for a prediction with event ids.
    """

    def __init__(self, url: str, token: str | None = None, *, connections: int = 16, retries: int = 0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise BadRequest(f"{url!r} is not the address of a router", next_step="Give http://HOST:PORT.")
        if not 1 <= connections <= 1024:
            raise BadRequest(f"connections must be within 1..1024, got {connections}")
        self._host, self._port = parts.hostname, parts.port or 80
        self._connections = connections
        self._retries = retries
        self._head = f"host: {parts.netloc}\r\ncontent-type: application/json\r\n".encode()
        if token is not None:
            self._head += f"authorization: Bearer {token}\r\n".encode()
        self._loop = asyncio.new_event_loop()
        self._lines: list[_Line] = []

    def __enter__(self) -> Traffic:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and the loop."""
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._hang_up())
            self._loop.close()

    def send(self, requests: Iterable[Prepared]) -> list[Reply]:
        """Send all, at most `connections` at a time; one reply a request, in the same order. Never raises for one."""
        return self._loop.run_until_complete(self._send(list(requests)))

    async def _send(self, requests: list[Prepared]) -> list[Reply]:
        replies: list[Reply | None] = [None] * len(requests)
        pending = iter(enumerate(requests))
        lines = min(self._connections, len(requests))
        while len(self._lines) < lines:
            self._lines.append(_Line())
        await asyncio.gather(*(self._drain(index, pending, replies) for index in range(lines)))
        return [reply for reply in replies if reply is not None]

    async def _drain(self, index: int, pending: Iterator[tuple[int, Prepared]], replies: list[Reply | None]) -> None:
        for number, request in pending:
            for _ in range(self._retries + 1):
                replies[number] = reply = await self._one(index, request)
                if reply.status:
                    break

    async def _one(self, index: int, request: Prepared) -> Reply:
        began = time.perf_counter()
        watchdog: asyncio.TimerHandle | None = None
        try:
            line = self._lines[index]
            if line.transport is None or line.transport.is_closing():
                connecting = self._loop.create_connection(_Line, self._host, self._port)
                _, line = await asyncio.wait_for(connecting, REQUEST_TIMEOUT_S)
                self._lines[index] = line
            answer = line.ask(self._bytes(request), self._loop)
            watchdog = self._loop.call_later(REQUEST_TIMEOUT_S, line._fail, "no answer in time")  # noqa: SLF001
            status, body = await answer
        except OSError as error:
            latency_s = time.perf_counter() - began
            return Reply(status=0, body=b"", latency_s=latency_s, error=str(error) or type(error).__name__)
        finally:
            if watchdog is not None:
                watchdog.cancel()
        return Reply(status=status, body=body, latency_s=time.perf_counter() - began)

    def _bytes(self, request: Prepared) -> bytes:
        event_time = b""
        if request.at is not None:
            text = request.at.astimezone(UTC).isoformat().replace("+00:00", "Z")
            event_time = f"x-event-time: {text}\r\n".encode()
        start = f"POST {request.path} HTTP/1.1\r\ncontent-length: {len(request.body)}\r\n".encode()
        return b"".join((start, self._head, event_time, b"\r\n", request.body))

    async def _hang_up(self) -> None:
        for line in self._lines:
            if line.transport is not None:
                line.transport.close()
        await asyncio.sleep(0)


def _header(head: bytes, name: bytes) -> bytes:
    start = head.find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()
