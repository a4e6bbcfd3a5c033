"""One HTTP/1.1 connection from the router to a worker: whole answers, and answers that come in pieces.

A whole answer is the everyday case and costs as little as Python allows: one write, one parser that lives as long as the
connection, no timer of its own, and whoever waits goes on in the call that brought the answer. A *stream* (server-sent
events, a long generation) gives the head as soon as it is there and the body as it comes; when its reader is slow the socket
is not read either, so that the worker feels it and memory stays bounded.

Whoever stops waiting (its own time is over, or its caller left) closes the connection: that is how a worker hears that
nobody wants the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import AsyncIterable, Callable
from time import monotonic
from types import TracebackType
from typing import Self

import httptools
import msgspec

from steersman.dataplane.deadlines import Deadlines
from steersman.dataplane.running import Arrival

RESPONSE_BYTES_MAX = 64 * 1024 * 1024
"""A longer whole answer, head and all, is a broken worker. A stream has no such bound, because it is never held whole."""

HEAD_BYTES_MAX = 64 * 1024
"""Of a stream: its head, and what stands between or behind its pieces. A worker runs a model's code, which may be hostile."""

STREAM_BYTES_MAX = 256 * 1024
"""Bytes of a stream held for a slow reader. Beyond it the socket is not read; what one read brings may come on top."""

SILENCE_S_MAX = 60.0
"""Seconds a stream may pause between two pieces; comments keep a quiet event stream alive, as browsers expect too."""

IDLE_S_MAX = 30.0
"""An idle connection is not used after this: well below the 75 s after which a worker closes it."""

CHECK_AFTER_S = 0.05
"""One that was idle longer is looked at before use: the worker's goodbye may wait unread in the socket."""

Headers = list[tuple[bytes, bytes]]


class UpstreamError(Exception):
    """A replica gave no answer. `executed` is False only when it cannot have seen the request.

    `stale`: a connection that had served before ended without a byte of this answer. Most likely the worker closed it
    while it was idle, but it may as well have died at work, so `executed` says True.
    """

    def __init__(self, because: str, *, executed: bool, stale: bool = False) -> None:
        super().__init__(because)
        self.executed = executed
        self.stale = stale


class _TooLongError(Exception):
    """A worker sends more than anybody will hold."""


class Response(msgspec.Struct, frozen=True, gc=False):
    """A whole answer. Its headers are not kept: nobody asks for them, and making them objects costs more than the rest."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One request at a time; idle between them."""

    __slots__ = (
        "_answer",
        "_arrival",
        "_deadlines",
        "_gone",
        "_heard",
        "_idle_since",
        "_loop",
        "_parser",
        "_parts",
        "_served",
        "_size",
        "_stream",
        "_transport",
        "_writable",
        "closed",
        "due_at",
    )

    def __init__(self, deadlines: Deadlines) -> None:
        self.closed = False
        self.due_at = 0.0
        self._deadlines = deadlines
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._arrival: Arrival[Response] | None = None
        self._answer: Response | None = None
        """A whole answer that is here and not yet handed over."""
        self._stream: Stream | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._served = 0
        self._heard = False
        self._idle_since = 0.0
        self._writable: asyncio.Future[None] | None = None

    # --- the transport's side ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._gone = select.poll()
        self._gone.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.resume_writing()
        stale = self._served > 0 and not self._heard
        self._fail(UpstreamError("the connection was closed before the answer", executed=True, stale=stale))

    def data_received(self, data: bytes) -> None:
        self._heard = True
        stream = self._stream
        if stream is None and self._arrival is None:  # nobody asked
            self.close()
            return
        try:
            if stream is None:
                self._size += len(data)
                if self._size > RESPONSE_BYTES_MAX:
                    raise _TooLongError(f"the answer is over {RESPONSE_BYTES_MAX // 1024**2} MiB")
                self._parser.feed_data(data)
            else:
                stream.feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(UpstreamError(f"the answer is not HTTP: {error}", executed=True))
            self.close()
            return
        except _TooLongError as error:
            self._fail(UpstreamError(str(error), executed=True))
            self.close()
            return
        answer = self._answer
        if answer is not None:
            self._answer = None
            arrival, self._arrival = self._arrival, None
            if arrival is not None:
                self._deadlines.forget(self)
                arrival.bring(answer)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # --- a whole answer ----------------------------------------------------------------------------------------------

    def ask(self, data: bytes, timeout_s: float) -> Arrival[Response]:
        """Send; the answer arrives, or UpstreamError, or TimeoutError. Whoever stops waiting must `close`."""
        arrival = self._arrival = Arrival(self._loop)
        self._heard = False
        self._transport.write(data)
        self.due_at = monotonic() + timeout_s
        self._deadlines.watch(self)
        return arrival

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        parser, parts = self._parser, self._parts
        self._parts, self._size = [], 0
        status = parser.get_status_code()
        if status < 200 or self._answer is not None:  # "100 Continue" and its like: the answer is still to come
            return
        self._served += 1
        if not parser.should_keep_alive():
            self.close()
        self._answer = Response(status, parts[0] if len(parts) == 1 else b"".join(parts))

    def expire(self) -> None:
        self._fail(TimeoutError())

    def _fail(self, error: Exception) -> None:
        self._answer = None
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            self._deadlines.forget(self)
            arrival.fail(error)
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.fail(error)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._transport.abort()

    # --- between two requests ----------------------------------------------------------------------------------------

    def rest(self) -> None:
        """The request is over; the connection waits for the next."""
        self._idle_since = monotonic()

    def usable(self) -> bool:
        """Whether it may carry another request. A goodbye that waits unread in the socket is seen here."""
        if self.closed:
            return False
        idle_s = monotonic() - self._idle_since
        if idle_s < CHECK_AFTER_S:
            return True
        if idle_s > IDLE_S_MAX or self._gone.poll(0):
            self.close()
            return False
        return True

    # --- streams -----------------------------------------------------------------------------------------------------

    def begin(self, stream: Stream, head: bytes) -> None:
        self._stream = stream
        self._heard = False
        self._transport.write(head)

    async def send_chunks(self, body: AsyncIterable[bytes]) -> None:
        """Send a request's body as it comes, chunked, no faster than the worker reads."""
        async for piece in body:
            if self.closed:
                return
            if piece:
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if self._writable is not None:
                await self._writable
        if not self.closed:
            self._transport.write(b"0\r\n\r\n")

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.closed:
            self._transport.resume_reading()

    def ended(self, *, keep_alive: bool) -> None:
        """The stream's last byte is here."""
        self._stream = None
        self._served += 1
        if not keep_alive:
            self.close()


class Stream:
    """An answer as it comes: `status` and `headers`, then the body by `async for`, in pieces of no particular size.

    async with await upstream.stream(…) as answer:
        async for piece in answer: …

    Iterating raises UpstreamError when the worker breaks off, TimeoutError after `silence_s` without a byte. Leaving the
    block before the end closes the connection.
    """

    def __init__(self, connection: Connection, silence_s: float, release: Callable[[], None]) -> None:
        """`release` is called once, when the connection is free again or closed."""
        self.status = 0
        self.headers: Headers = []
        self.parser = httptools.HttpResponseParser(self)
        self._connection = connection
        self._silence_s = silence_s
        self._release: Callable[[], None] | None = release
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Future[None] = self._loop.create_future()
        self._pieces: list[bytes] = []
        self._held = 0
        self._received = 0
        self._beside_bytes = 0
        self._paused = False
        self._complete = False
        self._error: Exception | None = None
        self._sender: asyncio.Task[None] | None = None

    def header(self, name: bytes) -> bytes | None:
        """The first header of that (lower-case) name."""
        return next((value for given, value in self.headers if given.lower() == name), None)

    async def open(self, head: bytes, body: AsyncIterable[bytes] | None, timeout_s: float) -> None:
        """Send, and wait for the answer's head. Raises UpstreamError, TimeoutError, or what `body` raises."""
        self._connection.begin(self, head)
        if body is not None:
            self._sender = self._loop.create_task(self._connection.send_chunks(body))
            self._sender.add_done_callback(self._sent)
        try:
            while not self.status:
                await self._wait(timeout_s)
                if self._error is not None and not self.status:
                    raise self._error
        except BaseException:
            self.close()
            raise

    def _sent(self, sender: asyncio.Task[None]) -> None:
        if not sender.cancelled() and (error := sender.exception()) is not None:
            self.fail(error if isinstance(error, Exception) else UpstreamError("no body", executed=True))

    async def _wait(self, timeout_s: float) -> None:
        timer = self._loop.call_later(timeout_s, self.fail, TimeoutError())
        try:
            await self._news
        finally:
            timer.cancel()
            self._news = self._loop.create_future()

    def _tell(self) -> None:
        if not self._news.done():
            self._news.set_result(None)

    # --- the parser's side -------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take what came. Raises what the parser raises, or `_TooLongError` where it goes on without a piece of the body."""
        held = self._received
        self.parser.feed_data(data)
        self._beside_bytes = self._beside_bytes + len(data) if self._received == held else 0
        if self._beside_bytes > HEAD_BYTES_MAX:
            raise _TooLongError(f"the answer has over {HEAD_BYTES_MAX // 1024} kB beside its body")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status: int = self.parser.get_status_code()
        if status < 200:
            self.headers = []
            return
        self.status = status
        self._tell()

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._held += len(body)
        self._received += len(body)
        if self._held > STREAM_BYTES_MAX and not self._paused:
            self._paused = True
            self._connection.pause_reading()
        self._tell()

    def on_message_complete(self) -> None:
        if self.status:
            self._complete = True
            self._connection.ended(keep_alive=self.parser.should_keep_alive() and self._body_is_sent())
            self._tell()

    def _body_is_sent(self) -> bool:
        return self._sender is None or self._sender.done()

    def fail(self, error: Exception) -> None:
        if self._error is None and not self._complete:
            self._error = error
        self._tell()

    # --- the reader's side -------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._error is not None:
                self.close()
                raise self._error
            if self._complete:
                self.close()
                raise StopAsyncIteration
            await self._wait(self._silence_s)
        pieces, self._pieces, self._held = self._pieces, [], 0
        if self._paused:
            self._paused = False
            self._connection.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._sender is not None:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._sender

    def close(self) -> None:
        """Give the connection back when the answer was read to its end on the wire, else close it. Harmless twice."""
        release, self._release = self._release, None
        if release is None:
            return
        if self._sender is not None and not self._sender.done():
            self._sender.cancel()
        if not self._complete:
            self._connection.close()
        elif self._paused:
            self._connection.resume_reading()
        release()
