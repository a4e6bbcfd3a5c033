"""The server's side of a connection: bounded in every direction, and drained without failing a request.

An `asyncio.Protocol` on httptools, made for a data plane:

- Everything that comes from outside has a bound before it is parsed: a head may not be too large or too slow, a body nobody
  reads is not read from the socket, and a connection that brings no request is closed like an idle one.
- A caller who does not read its answer is closed after a while, because the answer takes memory meanwhile.
- More connections than the bound are answered 503 with `Retry-After`, in JSON like every other refusal.
- Requests of one connection are answered one after the other; pipelined ones wait, and so does the socket.
- When the process is asked to end, kept-alive connections are not slammed shut under a request that is on its way: for a
  grace each further request is answered and told `Connection: close`; only then are the idle ones closed (`listening`).
- A caller that leaves cancels its request, where the app asks for that: the kernel tells the transport, the transport calls
  `connection_lost`, and that cancels. The app sees `CancelledError` where it waits; what must not be cut short it shields.
- A request begins in the call that brought its last bytes and is answered in the call that brought the worker's (`running`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import urllib.parse
from collections import deque
from collections.abc import Callable
from time import monotonic

import httptools
import msgspec

from steersman.dataplane.exchange import JSON, App, Exchange, Headers, head_of, header_lines
from steersman.dataplane.running import Arrival, Run

HEAD_BYTES_MAX = 32 * 1024
"""Request line and headers, and so what may stand behind the chunks of a body; nginx and others stop between 8 and 64 kB."""

RECURRING_BYTES_MAX = 256
"""Targets up to here are looked up, 1,024 of them at most: most callers ask for one model again and again."""

HEAD_S_MAX = 10.0
"""Seconds a client may take to send a head."""

WRITE_S_MAX = 10.0
WRITE_BYTES_MIN = 64 * 1024
"""A client must read this much of what waits for it within that time, or it is closed."""

RETRY_AFTER_S = 1
"""What callers are told to wait when too many are connected: a connection may be free any moment."""

_TOO_LARGE_TRAILER_BODY = b'{"error": "over 32 kB beside the body\'s data", "next_step": "send no trailers"}'
_TOO_LARGE_BODY = b'{"error": "request head over 32 kB", "next_step": "send fewer or shorter headers"}'
_MALFORMED_BODY = (
    b'{"error": "the request is not HTTP/1.1", "next_step": "use an HTTP client; TLS ends before this port"}'
)
_TOO_MANY_BODY = (
    b'{"error": "too many connections are open", "next_step": "try again later, and keep connections alive"}'
)
_BROKEN_BODY = b'{"error": "the server failed at this request", "next_step": "see the log of the process"}'

_log = logging.getLogger(__name__)


class EdgeCounts(msgspec.Struct):
    """What one listener's callers did since the process started."""

    connections_refused: int = 0
    slow_readers: int = 0
    clients_left: int = 0
    """Callers who closed before their answer."""


class EdgeState:
    """What the connections of one listener share."""

    def __init__(
        self, app: App, counts: EdgeCounts, *, keep_alive_s: float, connections_max: int, cancel_on_leave: bool
    ) -> None:
        self.app = app
        self.counts = counts
        self.keep_alive_s = keep_alive_s
        self.connections_max = connections_max
        self.cancel_on_leave = cancel_on_leave
        self.connections: set[EdgeProtocol] = set()
        self.runs: set[Run] = set()
        """Requests under way, also those whose caller has left."""
        self.draining = False


class EdgeProtocol(asyncio.Protocol):
    """One connection of a caller."""

    __slots__ = (
        "_body_came",
        "_exchange",
        "_fields",
        "_head_bytes",
        "_head_timer",
        "_idle_since",
        "_idle_timer",
        "_in_head",
        "_parser",
        "_queue",
        "_reading",
        "_receiving",
        "_run",
        "_state",
        "_unread",
        "_url",
        "_writable",
        "_write_paused",
        "_write_timer",
        "loop",
        "transport",
        "write",
    )

    def __init__(self, state: EdgeState) -> None:
        self.loop = asyncio.get_running_loop()
        self._state = state
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # what follows a goodbye is not looked at
        self._url = b""
        self._fields: Headers = []
        self._exchange: Exchange | None = None
        """The one being answered."""
        self._receiving: Exchange | None = None
        """The one whose body the parser is at; the same unless requests are pipelined."""
        self._queue: deque[Exchange] = deque()
        self._run: Run | None = None
        self._reading = True
        self._write_paused = False
        self._writable: Arrival[None] | None = None
        self._head_bytes = 0
        self._in_head = False
        self._body_came = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._idle_since = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.write: Callable[[bytes], None] = self.transport.write
        self._state.connections.add(self)
        self._idle_since = monotonic()
        self._idle_timer = self.loop.call_later(self._state.keep_alive_s, self._close_when_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._write_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = self._idle_timer = None
        state = self._state
        state.connections.discard(self)
        self._queue.clear()
        exchange, run = self._exchange, self._run
        if exchange is not None and not exchange.complete:
            exchange.left = True
            if run is not None:
                state.counts.clients_left += 1
                if state.cancel_on_leave:
                    run.cancel()
            exchange.wake()
        self.resume_writing()
        del self._parser  # it holds this connection's methods, so neither would go without a search for circles
        if self._run is None:
            self._exchange = None

    # --- requests ----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # nothing else is spoken here: the request is answered as it is
            pass
        except httptools.HttpParserError:
            self._last_words(400, _MALFORMED_BODY)
            return
        if self._queue and self._run is None:
            self._start_next()
        if self._in_head:
            self._bound_head(len(data))
        elif self._receiving is not None:
            self._bound_trailer(self._receiving, len(data))

    def _bound_trailer(self, exchange: Exchange, size: int) -> None:
        """A chunk may have extensions, and trailers may follow the last: nobody reads either, so only data may go on for long."""
        if self._body_came:
            self._body_came = False
            self._head_bytes = 0
            return
        self._head_bytes += size
        if self._head_bytes <= HEAD_BYTES_MAX:
            return
        self._receiving = None
        if exchange.complete:
            self.transport.close()
        else:
            self._last_words(431, _TOO_LARGE_TRAILER_BODY)

    def _bound_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            self._in_head = False
            self._last_words(431, _TOO_LARGE_BODY)
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S_MAX, self._close_slow_head)

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._url = b""
        self._fields = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        parser = self._parser
        version_1_0 = parser.get_http_version() == "1.0"
        self._receiving = Exchange(
            self,
            parser.get_method().decode("ascii"),
            (_recurring_path if len(self._url) <= RECURRING_BYTES_MAX else _path_of)(self._url),
            self._fields,
            keep_alive=not version_1_0 and parser.should_keep_alive() and not self._state.draining,
            version_1_0=version_1_0,
        )
        self._queue.append(self._receiving)
        if len(self._queue) > 1 or self._run is not None:  # pipelined: it has to wait
            self._pause_reading()

    def on_chunk_header(self) -> None:
        self._fields = []  # what comes from here on are trailers, no headers of the request

    def on_body(self, body: bytes) -> None:
        self._body_came = True
        exchange = self._receiving
        if exchange is not None and not exchange.arrived(body):
            self._pause_reading()

    def on_message_complete(self) -> None:
        exchange, self._receiving = self._receiving, None
        if exchange is not None:
            exchange.ended()

    def _last_words(self, status: int, body: bytes) -> None:
        """Answer what cannot be read on, and close."""
        if self._exchange is None or self._exchange.complete or not self._exchange.begun:
            self.transport.write(b"%b%d\r\nconnection: close\r\n\r\n%b" % (head_of(status, JSON), len(body), body))
        self.transport.close()

    def _close_slow_head(self) -> None:
        self._head_timer = None
        self.transport.close()

    def _start_next(self) -> None:
        """Begin the request that waits longest, once the last one is over and what was answered is being read."""
        while self._queue and self._run is None and not self._write_paused and not self.transport.is_closing():
            exchange = self._exchange = self._queue.popleft()
            state = self._state
            app = state.app
            if len(state.connections) > state.connections_max:
                state.counts.connections_refused += 1
                app = _too_many
            run = self._run = Run(self.loop, app(exchange), self._ended)
            state.runs.add(run)
            run.step()

    def _ended(self, run: Run, error: BaseException | None) -> None:
        """A request is over, one way or the other."""
        self._state.runs.discard(run)
        self._run = None
        exchange = self._exchange
        assert exchange is not None
        if exchange.left:
            self._exchange = None
            return
        if error is not None or not exchange.complete:
            self._broken(exchange, error or RuntimeError("the app ended without an answer"))
        if self._queue:
            self.loop.call_soon(self._start_next)

    def _broken(self, exchange: Exchange, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):  # the time of a drain is over
            self.transport.close()
            return
        _log.error("a request failed", exc_info=error)
        if exchange.begun:
            self.transport.close()
        else:
            exchange.answer(500, _BROKEN_BODY, close=True)

    # --- answers -----------------------------------------------------------------------------------------------------

    def answered(self, exchange: Exchange) -> None:
        """The answer's last byte is written."""
        if not exchange.keep_alive:
            self.transport.close()
        if self.transport.is_closing():
            if self.transport.get_write_buffer_size():
                self._watch_reader()  # closing waits for the reader too
            return
        self._idle_since = monotonic()
        if not self._queue:
            self.resume_reading()

    def _pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()

    # --- the reader's pace -------------------------------------------------------------------------------------------

    async def writable(self) -> None:
        """Return when the caller has read enough of what waits for it, or left."""
        if self._write_paused:
            self._writable = Arrival(self.loop)
            await self._writable

    def pause_writing(self) -> None:
        self._write_paused = True
        self._watch_reader()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._write_timer is not None and not self.transport.is_closing():
            self._write_timer.cancel()
            self._write_timer = None
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.bring(None)
        if self._queue:
            self.loop.call_soon(self._start_next)

    def _watch_reader(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_S_MAX, self._check_reader)

    def _check_reader(self) -> None:
        self._write_timer = None
        unread = self.transport.get_write_buffer_size()
        if not unread:
            return
        if self._unread - unread < WRITE_BYTES_MIN:
            self._state.counts.slow_readers += 1
            self.transport.abort()
        else:
            self._watch_reader()

    # --- rest and end ------------------------------------------------------------------------------------------------

    def _close_when_idle(self) -> None:
        """One timer runs as long as the connection and looks how long it idles; a timer a request would cost more."""
        self._idle_timer = None
        left_s = self._idle_since + self._state.keep_alive_s - monotonic()
        if self._is_busy():
            left_s = self._state.keep_alive_s
        if left_s > 0:
            self._idle_timer = self.loop.call_later(left_s, self._close_when_idle)
        elif self.transport.get_write_buffer_size():  # the last answer was never read
            self._state.counts.slow_readers += 1
            self.transport.abort()
        else:
            self.transport.close()

    def _is_busy(self) -> bool:
        return self._in_head or bool(self._queue) or (self._exchange is not None and not self._exchange.complete)

    def last_answer(self) -> None:
        """The process will end: the answer under way, or the next one, is the last on this connection."""
        for exchange in (self._exchange, *self._queue):
            if exchange is not None and not exchange.begun:
                exchange.keep_alive = False

    def close_if_idle(self) -> None:
        if not self._is_busy():
            self.transport.close()


def _path_of(url: bytes) -> str:
    """The path of a request's target, unquoted. An absolute target's is what follows the host."""
    plain = url.startswith(b"/") and not (b"?" in url or b"#" in url)
    path: bytes = url if plain else httptools.parse_url(url).path
    text = path.decode("ascii")
    return urllib.parse.unquote(text) if "%" in text else text


_recurring_path = functools.lru_cache(maxsize=1_024)(_path_of)


async def _too_many(exchange: Exchange) -> None:
    exchange.answer(503, _TOO_MANY_BODY, _RETRY, close=True)


_RETRY = header_lines((b"retry-after", b"%d" % RETRY_AFTER_S))
