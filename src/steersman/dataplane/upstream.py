"""The router's own HTTP/1.1 client: pooled keep-alive connections to the workers.

In a Python router the HTTP client is the cost, not the server: a general one takes 2.7 times the CPU of the whole request.
This one does what the data path needs and nothing else: one request at a time on a connection, written in one piece, a
parser in C, one timer. It keeps what decides about retries: whether the request can have been executed.

A replica that refuses, resets or stays silent is *ejected*: others are preferred, and a probe asks it again, later and
later, until it is ready. When all are ejected the least bad one is tried all the same; a wrong guess costs one refused
connection, not an outage.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable, Sequence

import httptools
import msgspec

RESPONSE_BYTES_MAX = 64 * 1024 * 1024
"""A longer answer is a broken worker."""

IDLE_MAX = 64
"""Idle connections kept to one replica."""

CONNECT_S_MAX = 2.0
"""Workers are on this host or in this rack; the kernel refuses at once where nobody listens."""

EJECTED_S = 0.25
EJECTED_S_MAX = 10.0
"""First and longest pause between the probes of an ejected replica; it doubles each time."""

_READY = b"GET /v2/health/ready HTTP/1.1\r\nHost: worker\r\n\r\n"


class UpstreamError(Exception):
    """A replica gave no answer. `executed` is False only when it cannot have seen the request."""

    def __init__(self, because: str, *, executed: bool) -> None:
        super().__init__(because)
        self.executed = executed


class NoReplicaError(Exception):
    """The version has no replica at all, or none that can be reached."""


class DeadlineError(Exception):
    """The time given for the request is over."""


class Response(msgspec.Struct, frozen=True):
    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    __slots__ = ("_parser", "_parts", "_size", "_transport", "_waiter", "closed")

    def __init__(self) -> None:
        self.closed = False
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Response] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._fail(UpstreamError("the connection was closed before the answer", executed=True))

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(UpstreamError(f"the answer is not HTTP: {error}", executed=True))
            self.close()

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > RESPONSE_BYTES_MAX:
            self._fail(UpstreamError(f"the answer is over {RESPONSE_BYTES_MAX // 1024**2} MiB", executed=True))
            self.close()
            return
        self._parts.append(body)

    def on_message_complete(self) -> None:
        parser, waiter = self._parser, self._waiter
        self._parser = self._waiter = None
        if parser is None or waiter is None or waiter.done():
            return
        if not parser.should_keep_alive():
            self.close()
        parts = self._parts
        waiter.set_result(Response(parser.get_status_code(), parts[0] if len(parts) == 1 else b"".join(parts)))

    def _fail(self, error: Exception) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    async def request(self, data: bytes, timeout_s: float) -> Response:
        """Send and wait. Raises UpstreamError, or TimeoutError; after either the connection is closed."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Response] = loop.create_future()
        self._waiter = waiter
        self._parser = httptools.HttpResponseParser(self)
        self._parts = []
        self._size = 0
        self._transport.write(data)
        timer = loop.call_later(timeout_s, self._fail, TimeoutError())
        try:
            return await waiter
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()


class Replica:
    """A worker's address, its idle connections, and what is known of its health."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.address = address
        self.in_flight = 0
        self.ejections = 0
        self.ejected = False
        self._host, self._port = host, int(port)
        self._idle: deque[Connection] = deque()
        self._prober: asyncio.Task[None] | None = None

    async def request(self, data: bytes, timeout_s: float) -> Response:
        """One request on a pooled connection. Raises UpstreamError or TimeoutError."""
        self.in_flight += 1
        try:
            connection = await self._connection(min(timeout_s, CONNECT_S_MAX))
            response = await connection.request(data, timeout_s)
        finally:
            self.in_flight -= 1
        if not connection.closed and len(self._idle) < IDLE_MAX:
            self._idle.append(connection)
        else:
            connection.close()
        return response

    async def _connection(self, timeout_s: float) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(Connection, self._host, self._port)
        except TimeoutError:
            raise UpstreamError(f"no connection within {timeout_s:g} s", executed=False) from None
        except OSError as error:
            raise UpstreamError(f"connection refused ({error.strerror or error})", executed=False) from None
        return connection

    def eject(self) -> None:
        """Prefer others from now on, and ask again in the background until the replica is ready."""
        self.ejected = True
        while self._idle:
            self._idle.pop().close()
        if self._prober is None or self._prober.done():
            self.ejections += 1
            self._prober = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        pause_s = EJECTED_S
        while self.ejected:
            await asyncio.sleep(pause_s)
            with contextlib.suppress(UpstreamError, TimeoutError):
                response = await self.request(_READY, CONNECT_S_MAX)
                self.ejected = response.status != 200
            pause_s = min(2 * pause_s, EJECTED_S_MAX)

    def close(self) -> None:
        if self._prober is not None:
            self._prober.cancel()
        while self._idle:
            self._idle.pop().close()


class Upstreams:
    """Every replica the configuration names, kept across configurations so that connections survive a change."""

    def __init__(self) -> None:
        self._replicas: dict[str, Replica] = {}

    def replica(self, address: str) -> Replica:
        if (found := self._replicas.get(address)) is None:
            found = self._replicas[address] = Replica(address)
        return found

    def keep_only(self, addresses: Iterable[str]) -> None:
        """Forget replicas that no configuration names; what is in flight to them ends by itself."""
        for address in self._replicas.keys() - set(addresses):
            self._replicas.pop(address).close()

    def health(self) -> list[dict[str, str | int | bool]]:
        return [
            {"address": r.address, "ejected": r.ejected, "in_flight": r.in_flight, "ejections": r.ejections}
            for r in self._replicas.values()
        ]

    def close(self) -> None:
        self.keep_only(())


def _choose(replicas: Sequence[Replica], tried: Replica | None) -> Replica:
    """The least busy healthy replica that was not tried yet; an ejected or tried one only where there is no other."""
    return min(replicas, key=lambda replica: (replica is tried, replica.ejected, replica.in_flight))


async def call(replicas: Sequence[Replica], data: bytes, *, deadline_at: float, idempotent: bool) -> Response:
    """Ask one replica, and once more another if the first gave no answer and the request may be repeated.

    It may where the model is idempotent, or where the first cannot have executed it. Half of the time is kept for the
    second attempt. `deadline_at` is the loop's time. Raises NoReplicaError or DeadlineError.
    """
    if not replicas:
        raise NoReplicaError("no replica is running")
    now = asyncio.get_running_loop().time
    tried: Replica | None = None
    because = ""
    for attempt in (1, 2):
        left_s = deadline_at - now()
        if left_s <= 0:
            break
        replica = _choose(replicas, tried)
        share_s = left_s / 2 if attempt == 1 and idempotent and len(replicas) > 1 else left_s
        try:
            return await replica.request(data, share_s)
        except UpstreamError as error:
            because = str(error)
            replica.eject()
            if error.executed and not idempotent:
                break
        except TimeoutError:
            because = f"no answer within {share_s:.3g} s"
            replica.eject()
            if not idempotent:
                break
        tried = replica
    if deadline_at - now() <= 0:
        raise DeadlineError(because or "the deadline passed before the request was sent")
    raise NoReplicaError(because)
