"""The server's side of a connection: bounded in every direction, and drained without failing a request.

uvicorn's protocol for httptools, changed where a data plane needs more of it:

- A head may not be too large or too slow, and a connection that brings no request is closed like an idle one.
- A caller who does not read its answer is closed after a while, because the answer takes memory meanwhile.
- More connections than the bound are answered 503 with `Retry-After`, in JSON like every other refusal.
- When the process is asked to end, kept-alive connections are not slammed shut under a request that is on its way: for a
  grace each further request is answered and told `Connection: close`; only then are the idle ones closed.
- A caller that leaves cancels the task of its request, where the app asks for that. It costs nothing while all stay: the
  kernel tells the transport, the transport calls `connection_lost`, and that cancels. The app sees `CancelledError` where
  it waits; what must not be cut short it shields.
- A whole answer is written in one piece, past the general machinery for answers in parts (`EdgeCycle.answer`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import urllib.parse
from collections.abc import Generator, Sequence
from typing import Any

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

HEAD_BYTES_MAX = 32 * 1024
"""Request line and headers; nginx and uvicorn's h11 stop between 8 and 64 kB."""

HEAD_S_MAX = 10.0
"""Seconds a client may take to send a head."""

WRITE_S_MAX = 10.0
WRITE_BYTES_MIN = 64 * 1024
"""A client must read this much of what waits for it within that time, or it is closed."""

COPIED_BYTES_MAX = 64 * 1024
"""Up to here head and body are joined for one write, which costs less than a second one; above, the copy would."""

RETRY_AFTER_S = 1
"""What callers are told to wait when too many are connected: a connection may be free any moment."""

IDLE_GRACE_S = 3.0
"""Seconds idle connections stay open after SIGTERM. Enough for what is on its way and for callers with a steady load."""

_LOOK_S = 0.05

_TOO_LARGE_BODY = b'{"error": "request head over 32 kB", "next_step": "send fewer or shorter headers"}'
_MALFORMED_BODY = (
    b'{"error": "the request is not HTTP/1.1", "next_step": "use an HTTP client; TLS ends before this port"}'
)
_TOO_MANY_BODY = (
    b'{"error": "too many connections are open", "next_step": "try again later, and keep connections alive"}'
)
_BROKEN_BODY = b'{"error": "the server failed at this request", "next_step": "see the log of the process"}'

JSON = b"application/json"

Headers = Sequence[tuple[bytes, bytes]]

_log = logging.getLogger(__name__)


class EdgeCounts(msgspec.Struct):
    """What one listener's callers did since the process started."""

    connections_refused: int = 0
    slow_readers: int = 0
    clients_left: int = 0
    """Callers who closed before their answer."""


class EdgeState(ServerState):
    """What the connections of one listener share."""

    def __init__(self, counts: EdgeCounts, *, connections_max: int, cancel_on_leave: bool) -> None:
        super().__init__()
        self.counts = counts
        self.connections_max = connections_max
        self.cancel_on_leave = cancel_on_leave
        self.draining = False


class EdgeCycle(RequestResponseCycle):
    """One request and its answer; also what an app gets as `send`."""

    async def __call__(self, message: Any) -> None:
        await self.send(message)

    async def answer(
        self, status: int, body: bytes, headers: Headers = (), *, content_type: bytes = JSON, close: bool = False
    ) -> None:
        """Send a whole answer. `headers` are further ones, with lower-case names.

        Raises ValueError where a header would break out of its line.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_started:
            raise RuntimeError("the answer was begun already")
        self.keep_alive = self.keep_alive and not close
        known = _JSON_HEADS.get(status) if content_type is JSON else None
        head = b"%b%d\r\n" % (known or _head(status, content_type), len(body))
        if headers:
            lines = b"".join([b"%b: %b\r\n" % header for header in headers])
            if not lines.count(b"\n") == lines.count(b"\r") == len(headers) or b"\0" in lines:
                raise ValueError("a header's value holds a line break")
            head += lines
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        head += b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        if self.scope["method"] == "HEAD":
            self.transport.write(head)
        elif len(body) <= COPIED_BYTES_MAX:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def _head(status: int, content_type: bytes) -> bytes:
    return b"%bcontent-type: %b\r\ncontent-length: " % (STATUS_LINE[status], content_type)


def _last_words(status: int, body: bytes) -> bytes:
    return b"%b%d\r\nconnection: close\r\n\r\n%b" % (_head(status, JSON), len(body), body)


_JSON_HEADS = {status: _head(status, JSON) for status in (200, 202, 400, 401, 403, 404, 422, 429, 500, 502, 503, 504)}


class EdgeProtocol(HttpToolsProtocol):
    """One connection of a caller."""

    server_state: EdgeState
    _head_bytes = 0
    _in_head = False
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _unread = 0
    _idle_since = 0.0
    _idle_timer: asyncio.TimerHandle | None = None
    _task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_when_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._write_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = self._idle_timer = None
        super().connection_lost(exc)
        task = self._task
        if task is not None and not task.done() and not self.cycle.response_complete:
            self.server_state.counts.clients_left += 1
            if self.server_state.cancel_on_leave:
                task.cancel()

    # --- requests ----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        parser, scope = self.parser, self.scope
        version = parser.get_http_version()
        if version != "1.1":
            scope["http_version"] = version
        scope["method"] = parser.get_method().decode("ascii")
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        before = self.cycle
        self.cycle = EdgeCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive() and not self.server_state.draining,
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start(self.cycle)
        else:  # pipelined: it has to wait
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES_MAX:
            self._in_head = False
            self.transport.write(_last_words(431, _TOO_LARGE_BODY))
            self.transport.close()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S_MAX, self._close_slow_head)

    def send_400_response(self, msg: str) -> None:
        self.transport.write(_last_words(400, _MALFORMED_BODY))
        self.transport.close()

    def _close_slow_head(self) -> None:
        self._head_timer = None
        self.transport.close()

    def _start(self, cycle: EdgeCycle) -> None:
        app = self.app
        if len(self.connections) > self.server_state.connections_max:
            self.server_state.counts.connections_refused += 1
            app = _too_many
        task = self._task = self.loop.create_task(self._run(cycle, app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    async def _run(self, cycle: EdgeCycle, app: Any) -> None:
        try:
            await app(cycle.scope, cycle.receive, cycle)
            if not cycle.response_complete and not cycle.disconnected:
                raise RuntimeError("the app ended without an answer")
        except asyncio.CancelledError:  # the caller left, or the time of a drain is over
            self.transport.close()
        except Exception:
            _log.exception("a request failed")
            if cycle.response_started:
                self.transport.close()
            else:
                await cycle.answer(500, _BROKEN_BODY, close=True)
        finally:
            cycle.on_response = _nothing

    def on_response_complete(self) -> None:
        if self.transport.is_closing():
            if self.transport.get_write_buffer_size():
                self._watch_reader()  # closing waits for the reader too
            return
        self._idle_since = self.loop.time()
        self.flow.resume_reading()
        if self.pipeline:
            cycle, _ = self.pipeline.pop()
            assert isinstance(cycle, EdgeCycle)
            self._start(cycle)

    # --- the reader's pace -------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None and not self.transport.is_closing():
            self._write_timer.cancel()
            self._write_timer = None

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
            self.server_state.counts.slow_readers += 1
            self.transport.abort()
        else:
            self._watch_reader()

    # --- rest and end ------------------------------------------------------------------------------------------------

    def _unset_keepalive_if_required(self) -> None:
        """uvicorn sets and cancels a timer a request; here one runs as long as the connection and looks how long it idles."""

    def _close_when_idle(self) -> None:
        self._idle_timer = None
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if self._is_busy():
            left_s = self.timeout_keep_alive
        if left_s > 0:
            self._idle_timer = self.loop.call_later(left_s, self._close_when_idle)
        elif self.transport.get_write_buffer_size():  # the last answer was never read
            self.server_state.counts.slow_readers += 1
            self.transport.abort()
        else:
            self.transport.close()

    def _is_busy(self) -> bool:
        return self._in_head or (self.cycle is not None and not self.cycle.response_complete)

    def shutdown(self) -> None:
        """The process will end: the answer under way, or the next one, is the last on this connection."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def close_if_idle(self) -> None:
        if not self._is_busy():
            self.transport.close()


def _nothing() -> None:
    """What follows an answer whose request is over."""


async def _too_many(_scope: Any, _receive: Any, send: EdgeCycle) -> None:
    await send.answer(503, _TOO_MANY_BODY, ((b"retry-after", b"%d" % RETRY_AFTER_S),), close=True)


class EdgeServer(uvicorn.Server):
    """uvicorn's server without its signal handlers (a process with two listeners stops both itself), and with our drain."""

    def __init__(self, config: uvicorn.Config, state: EdgeState, *, idle_grace_s: float) -> None:
        super().__init__(config)
        self.server_state: EdgeState = state
        self._idle_grace_s = idle_grace_s

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting; answer what comes on open connections for the grace; end what is idle; wait for the rest.

        A request that takes longer than the config's `timeout_graceful_shutdown` is cancelled and its connection closed.
        """
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        state = self.server_state
        state.draining = True
        for connection in list(state.connections):
            connection.shutdown()
        if await self._connections_end(self._idle_grace_s):
            return
        for connection in list(state.connections):
            assert isinstance(connection, EdgeProtocol)
            connection.close_if_idle()
        if await self._connections_end(self.config.timeout_graceful_shutdown or 0):
            return
        for task in list(state.tasks):
            task.cancel()
        if not await self._connections_end(1.0):
            for connection in list(state.connections):
                connection.transport.abort()

    async def _connections_end(self, seconds: float) -> bool:
        """Wait until no connection and no request is left; False when some are after that time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        state = self.server_state
        while state.connections or state.tasks:
            if loop.time() >= until or self.force_exit:
                return False
            await asyncio.sleep(_LOOK_S)
        return True
