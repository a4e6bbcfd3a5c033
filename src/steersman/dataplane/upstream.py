"""The router's own HTTP/1.1 client: pooled connections to the workers, and the choice between replicas.

In a Python router the HTTP client is the cost, not the server: a general one takes 2.7 times the CPU of the whole request.
This one does what the data path needs and nothing else (`connection`), and keeps what decides about retries: whether the
request can have been executed.

A replica that refuses, resets, stays silent or answers only with errors is *ejected*: others are preferred, and a probe
asks it again, later and later, until it is ready. When all are ejected the least bad one is tried all the same; a wrong
guess costs one refused connection, not an outage. Retries cost the replicas work, so they come out of a budget: when many
requests fail at once, most of them fail once instead of all of them twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import msgspec

from steersman.dataplane import sockets
from steersman.dataplane.connection import (
    SILENCE_S_MAX,
    Connection,
    Response,
    Stream,
    UpstreamError,
)
from steersman.dataplane.deadlines import Deadlines

IDLE_MAX = 64
"""Idle connections kept to one replica."""

CONNECT_S_MAX = 2.0
"""Workers are on this host or in this rack; the kernel refuses at once where nobody listens."""

EJECTED_S = 0.25
EJECTED_S_MAX = 10.0
"""First and longest pause between the probes of an ejected replica; it doubles each time."""

ERRORS_IN_ROW_MAX = 5
"""Answers of 5xx one after the other that eject a replica while another is healthy; Envoy's default."""

OUTLIER_S = 5.0
OUTLIER_S_MAX = 60.0
"""First and longest rest of one ejected for its answers; it doubles with each such ejection. A probe cannot see what is
wrong with it, as it calls itself ready, so only time brings it back; Envoy begins with 30 s, but has more replicas."""

OVERLOADED = 503
"""A replica that says it is full is not broken: ejecting it would push its share onto the others."""

RETRY_SHARE = 0.2
RETRIES_PER_S = 25.0
RETRIES_BANKED_MAX = 250.0
"""Retries one replica may cause: 20 % of the requests sent to it and 25 a second (Finagle: 20 % and 10 a second), of which
ten seconds' worth may be saved up. A replica that dies takes no more than what is in flight to it, and that must fit."""

_READY = b"GET /v2/health/ready HTTP/1.1\r\nHost: worker\r\n\r\n"

_next_turn = itertools.count(1).__next__
"""Numbers the choices of this process, so that among equals the one chosen longest ago comes next."""

Answer = TypeVar("Answer", Response, Stream)


class NoReplicaError(Exception):
    """The version has no replica at all, or none that can be reached."""


class DeadlineError(Exception):
    """The time given for the request is over."""


class UpstreamCounts(msgspec.Struct):
    """What happened between router and workers since the process started, over all replicas that ever were."""

    ejections: int = 0
    outliers: int = 0
    """Those of the ejections that came from answers of 5xx."""
    retries: int = 0
    retries_refused: int = 0
    """The request could have been repeated, but the budget was spent."""
    connect_failures: int = 0
    stale_connections: int = 0
    timeouts: int = 0
    cancelled: int = 0
    """The caller left before the answer."""


class Replica:
    """A worker's address, its idle connections, and what is known of its health."""

    def __init__(self, address: str, counts: UpstreamCounts | None = None) -> None:
        self.address = address
        self.in_flight = 0
        self.ejections = 0
        self.ejected = False
        self.errors_in_row = 0
        self.turn = 0
        self.tokens = RETRIES_BANKED_MAX
        self.counts = counts or UpstreamCounts()
        self._idle: deque[Connection] = deque()
        self._deadlines = Deadlines()
        self._prober: asyncio.Task[None] | None = None
        self._outlier_s = OUTLIER_S
        self._back_at = 0.0
        self._refilled_at = 0.0
        self._forgotten = False

    async def request(self, data: bytes, timeout_s: float) -> Response:
        """One request on a pooled connection. Raises UpstreamError or TimeoutError."""
        self.in_flight += 1
        connection: Connection | None = None
        try:
            connection = self._pooled() or await self._connect(min(timeout_s, CONNECT_S_MAX))
            response = await connection.ask(data, timeout_s)
        except BaseException as error:
            self.counts.cancelled += isinstance(error, asyncio.CancelledError)
            if connection is not None:
                connection.close()
            raise
        finally:
            self.in_flight -= 1
        self._give_back(connection)
        return response

    async def stream(
        self, head: bytes, body: AsyncIterable[bytes] | None, timeout_s: float, silence_s: float
    ) -> Stream:
        """Send, and return when the answer's head is there; in flight until the stream is closed."""
        self.in_flight += 1
        connection: Connection | None = None
        try:
            connection = self._pooled() or await self._connect(min(timeout_s, CONNECT_S_MAX))
            stream = Stream(connection, silence_s, functools.partial(self._streamed, connection))
        except BaseException:
            self.in_flight -= 1
            raise
        try:
            await stream.open(head, body, timeout_s)
        except asyncio.CancelledError:
            self.counts.cancelled += 1
            raise
        return stream

    def _streamed(self, connection: Connection) -> None:
        self.in_flight -= 1
        self._give_back(connection)

    def _give_back(self, connection: Connection) -> None:
        if connection.closed:
            return
        if self._forgotten or len(self._idle) >= IDLE_MAX:
            connection.close()
            return
        connection.rest()
        self._idle.append(connection)

    def _pooled(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                return connection
        return None

    async def _connect(self, timeout_s: float) -> Connection:
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._connected()
        except TimeoutError:
            self.counts.connect_failures += 1
            raise UpstreamError(f"no connection within {timeout_s:g} s", executed=False) from None
        except OSError as error:
            self.counts.connect_failures += 1
            raise UpstreamError(f"connection refused ({error.strerror or error})", executed=False) from None
        return connection

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self.address.startswith(sockets.UNIX):
            connected = sockets.connect_unix(Path(self.address.removeprefix(sockets.UNIX)), timeout_s=0.0)
            _, connection = await loop.create_unix_connection(lambda: Connection(self._deadlines), sock=connected)
        else:
            host, _, port = self.address.rpartition(":")
            _, connection = await loop.create_connection(lambda: Connection(self._deadlines), host, int(port))
        return connection

    # --- health ------------------------------------------------------------------------------------------------------

    def failed(self, status: int, others: Sequence[Replica]) -> None:
        """Judge an answer of 5xx: too many of them in a row eject the replica, where another of `others` is healthy."""
        if status == OVERLOADED:
            return
        self.errors_in_row += 1
        if self.errors_in_row < ERRORS_IN_ROW_MAX or self.ejected:
            return
        if any(other is not self and not other.ejected for other in others):
            self._eject_outlier()

    def _eject_outlier(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._back_at > OUTLIER_S_MAX:
            self._outlier_s = OUTLIER_S
        self.counts.outliers += 1
        self.errors_in_row = 0
        self.eject(self._outlier_s)
        self._outlier_s = min(2 * self._outlier_s, OUTLIER_S_MAX)

    def eject(self, rest_s: float = EJECTED_S) -> None:
        """Prefer others from now on, and ask again in the background, first after `rest_s`, until it is ready."""
        if self._forgotten:
            return
        self.ejected = True
        while self._idle:
            self._idle.pop().close()
        if self._prober is None or self._prober.done():
            self.ejections += 1
            self.counts.ejections += 1
            self._prober = asyncio.create_task(self._probe(rest_s))

    async def _probe(self, rest_s: float) -> None:
        await asyncio.sleep(rest_s)
        pause_s = EJECTED_S
        while self.ejected:
            with contextlib.suppress(UpstreamError, TimeoutError):
                response = await self.request(_READY, CONNECT_S_MAX)
                self.ejected = response.status != 200
            if self.ejected:
                pause_s = min(2 * pause_s, EJECTED_S_MAX)
                await asyncio.sleep(pause_s)
        self.errors_in_row = 0
        self._back_at = asyncio.get_running_loop().time()

    def may_cause_retry(self) -> bool:
        """Take one retry out of the budget of this replica, if there is one left."""
        now = asyncio.get_running_loop().time()
        tokens = self.tokens + (now - self._refilled_at) * RETRIES_PER_S
        self._refilled_at = now
        self.tokens = min(tokens, RETRIES_BANKED_MAX)
        if self.tokens < 1:
            self.counts.retries_refused += 1
            return False
        self.tokens -= 1
        return True

    def close(self) -> None:
        """Forget the replica: idle connections are closed now, those at work when their request ends."""
        self._forgotten = True
        if self._prober is not None:
            self._prober.cancel()
        while self._idle:
            self._idle.pop().close()


class Upstreams:
    """Every replica the configuration names, kept across configurations so that connections survive a change."""

    def __init__(self) -> None:
        self.counts = UpstreamCounts()
        self._replicas: dict[str, Replica] = {}

    def replica(self, address: str) -> Replica:
        if (found := self._replicas.get(address)) is None:
            found = self._replicas[address] = Replica(address, self.counts)
        return found

    def keep_only(self, addresses: Iterable[str]) -> None:
        """Forget replicas that no configuration names; what is in flight to them ends by itself."""
        for address in self._replicas.keys() - set(addresses):
            self._replicas.pop(address).close()

    def health(self) -> list[dict[str, str | int | bool]]:
        return [
            {
                "address": r.address,
                "ejected": r.ejected,
                "in_flight": r.in_flight,
                "ejections": r.ejections,
                "errors_in_row": r.errors_in_row,
                "retries_left": int(r.tokens),
            }
            for r in self._replicas.values()
        ]

    def close(self) -> None:
        self.keep_only(())


def _choose(replicas: Sequence[Replica], tried: Replica | None) -> Replica:
    """The least busy healthy replica that was not tried yet; an ejected or tried one only where there is no other.

    Among equals the one chosen longest ago, so that at a low load each has its turn.
    """
    best = replicas[0]
    for replica in replicas:
        if replica is best:
            continue
        worse = (replica is tried) - (best is tried) or replica.ejected - best.ejected
        if worse < 0 or (
            worse == 0
            and (
                replica.in_flight < best.in_flight or (replica.in_flight == best.in_flight and replica.turn < best.turn)
            )
        ):
            best = replica
    best.turn = _next_turn()
    return best


def call(
    replicas: Sequence[Replica], data: bytes, *, deadline_at: float, idempotent: bool
) -> Coroutine[Any, Any, Response]:
    """Ask one replica, and once more another if the first gave no answer and the request may be repeated.

    It may where the model is idempotent and the first replica's budget of retries is not spent, or where the first
    cannot have executed it. Half of the time is kept for the second attempt. `deadline_at` is the loop's time. Raises
    NoReplicaError or DeadlineError. When the caller's task is cancelled the connection is closed and the worker hears it.
    """
    return _ask(replicas, Replica.request, data, deadline_at, idempotent)


def stream(
    replicas: Sequence[Replica],
    head: bytes,
    *,
    body: AsyncIterable[bytes] | None = None,
    deadline_at: float,
    idempotent: bool,
    silence_s: float = SILENCE_S_MAX,
) -> Coroutine[Any, Any, Stream]:
    """Like `call`, but returns with the answer's head; use it as `async with await stream(…) as answer`.

    `head` is the whole request, or with a `body` only its head, which must say `Transfer-Encoding: chunked`. `deadline_at`
    bounds the time to the answer's head, `silence_s` each pause after it. A `body` that was begun cannot be sent again.
    What `body` raises is raised here.
    """
    return _ask(
        replicas,
        lambda replica, head, left_s: replica.stream(head, body, left_s, silence_s),
        head,
        deadline_at,
        idempotent and body is None,
    )


async def _ask(
    replicas: Sequence[Replica],
    ask: Callable[[Replica, bytes, float], Awaitable[Answer]],
    data: bytes,
    deadline_at: float,
    repeatable: bool,
) -> Answer:
    if not replicas:
        raise NoReplicaError("no replica is running")
    tried: Replica | None = None
    because = ""
    for attempt in (1, 2):
        left_s = deadline_at - monotonic()
        if left_s <= 0:
            break
        replica = replicas[0] if len(replicas) == 1 else _choose(replicas, tried)
        if tried is None:
            replica.tokens += RETRY_SHARE
        else:
            replica.counts.retries += 1
        share_s = left_s / 2 if attempt == 1 and repeatable and len(replicas) > 1 else left_s
        try:
            answer = await ask(replica, data, share_s)
        except UpstreamError as error:
            because = str(error)
            if error.stale:
                replica.counts.stale_connections += 1
            else:
                replica.eject()
            executed = error.executed
        except TimeoutError:
            because = f"no answer within {share_s:.3g} s"
            replica.counts.timeouts += 1
            replica.eject()
            executed = True
        else:
            if answer.status < 500:
                replica.errors_in_row = 0
            else:
                replica.failed(answer.status, replicas)
            return answer
        if executed and (attempt == 2 or not repeatable or not replica.may_cause_retry()):
            break
        tried = replica
    if deadline_at <= monotonic():
        raise DeadlineError(because or "the deadline passed before the request was sent")
    raise NoReplicaError(because)
