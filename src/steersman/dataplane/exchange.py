"""One request and its answer, as router, worker and committer see them: bounded input, errors that name the next step.

No framework stands between a request and its route, and no protocol between application and server either: an app is a
coroutine that gets an `Exchange`, reads the body within its bounds, and answers once.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import AsyncIterable, Callable, Coroutine
from typing import Any, Protocol

import msgspec

from steersman.dataplane.running import Arrival
from steersman.domain.numbers import number_within

JSON = b"application/json"

UNREAD_BYTES_MAX = 64 * 1024
"""Of a body nobody reads yet: beyond it the socket is not read either."""

COPIED_BYTES_MAX = 64 * 1024
"""Up to here head and body are joined for one write, which costs less than a second one; above, the copy would."""

Headers = list[tuple[bytes, bytes]]


class Refusal(Exception):
    """A request is answered with `status` and a JSON body that says what to do next."""

    def __init__(self, status: int, error: str, next_step: str, retry_after_s: int | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.next_step = next_step
        self.retry_after_s = retry_after_s


class Caller(Protocol):
    """The connection an exchange belongs to (`edge.EdgeProtocol`)."""

    loop: asyncio.AbstractEventLoop
    write: Callable[[bytes], None]

    async def writable(self) -> None: ...

    def resume_reading(self) -> None: ...

    def answered(self, exchange: Exchange) -> None:
        """The answer's last byte is written."""


class Exchange:
    """One request and its answer; belongs to one connection. `fields` are the headers as they came, names in lower case.

    Of a header that is repeated, `headers` has the last.
    """

    __slots__ = (
        "_body",
        "_caller",
        "_chunked",
        "_departure",
        "_news",
        "_size",
        "_version_1_0",
        "begun",
        "complete",
        "fields",
        "headers",
        "keep_alive",
        "left",
        "method",
        "path",
        "whole",
    )

    def __init__(
        self, caller: Caller, method: str, path: str, fields: Headers, *, keep_alive: bool, version_1_0: bool
    ) -> None:
        self.method = method
        self.path = path
        self.fields = fields
        self.headers = dict(fields)
        self.keep_alive = keep_alive
        self.whole = False
        """Whether the request has arrived to its last byte."""
        self.begun = False
        self.complete = False
        """Of the answer: whether its head is sent, and whether all of it is."""
        self.left = False
        """Whether the caller has left before that."""
        self._caller = caller
        self._version_1_0 = version_1_0
        self._body: list[bytes] = []
        self._size = 0
        self._news: Arrival[None] | None = None
        self._chunked = False
        self._departure: asyncio.Future[None] | None = None

    # --- the request -------------------------------------------------------------------------------------------------

    async def body(self, *, bytes_max: int, timeout_s: float) -> bytes:
        """The whole body, or a Refusal: 413 over `bytes_max` (before reading where the length is declared), 408 too slow."""
        declared = self.headers.get(b"content-length")
        if declared is not None and number_within(declared, 0, bytes_max) is None:
            raise _body_too_large(bytes_max)
        if not self.whole:
            await self._rest(bytes_max, timeout_s)
        return self.taken(bytes_max)

    def taken(self, bytes_max: int) -> bytes:
        """The body that has arrived (`whole`), or a Refusal: 413 over `bytes_max`."""
        if self._size > bytes_max:
            raise _body_too_large(bytes_max)
        parts, self._body = self._body, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _rest(self, bytes_max: int, timeout_s: float) -> None:
        """Wait until the body is whole, or larger than it may be."""
        caller = self._caller
        if self.headers.get(b"expect", b"").lower() == b"100-continue" and not self.left:
            caller.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        timer = caller.loop.call_later(timeout_s, self._too_slow, timeout_s)
        try:
            while not self.whole and self._size <= bytes_max:
                if self.left:
                    raise _client_left()
                self._news = Arrival(caller.loop)
                caller.resume_reading()
                await self._news
        finally:
            self._news = None
            timer.cancel()

    def _too_slow(self, timeout_s: float) -> None:
        if self._news is not None:
            self._news.fail(
                Refusal(
                    408, f"the body did not arrive within {timeout_s:g} s", "send the body faster or in smaller batches"
                )
            )

    def departure(self) -> asyncio.Future[None]:
        """Done when the caller leaves before its answer is complete."""
        if self._departure is None:
            self._departure = self._caller.loop.create_future()
            if self.left:
                self._departure.set_result(None)
        return self._departure

    # --- the connection's side ---------------------------------------------------------------------------------------

    def arrived(self, part: bytes) -> bool:
        """Take a part of the body; False where no more should be read for now."""
        if self.complete:  # nobody will read it
            return True
        self._body.append(part)
        self._size += len(part)
        if self._news is not None:
            self._news.bring(None)
            return True
        return self._size <= UNREAD_BYTES_MAX

    def ended(self) -> None:
        """The request's last byte is here."""
        self.whole = True
        if self._news is not None:
            self._news.bring(None)

    def wake(self) -> None:
        """The caller left: whoever waits for it hears so."""
        if self._news is not None:
            self._news.bring(None)
        if self._departure is not None and not self._departure.done():
            self._departure.set_result(None)

    # --- the answer --------------------------------------------------------------------------------------------------

    def answer(
        self, status: int, body: bytes, lines: bytes = b"", *, content_type: bytes = JSON, close: bool = False
    ) -> None:
        """Send a whole answer in one piece; `lines` are further headers (`header_lines`)."""
        if self.left:
            return
        if self.begun:
            raise RuntimeError("the answer was begun already")
        if close:
            self.keep_alive = False
        size = len(body)
        copied = body if size <= COPIED_BYTES_MAX and self.method != "HEAD" else b""
        head = _JSON_HEADS[status] if content_type is JSON else head_of(status, content_type)
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        self.begun = self.complete = True
        self._body = []
        caller = self._caller
        caller.write(b"%b%d\r\n%b%b%b" % (head, size, lines, end, copied))
        if size > COPIED_BYTES_MAX and self.method != "HEAD":
            caller.write(body)
        caller.answered(self)

    def refuse(self, refusal: Refusal, body: bytes | None = None) -> None:
        """Answer with a Refusal, in the words of `body` where a protocol has its own.

        Where the request's body was left unread the connection closes, so that it is not parsed on.
        """
        if refusal.status == 499:
            return
        lines = b"" if refusal.retry_after_s is None else b"retry-after: %d\r\n" % refusal.retry_after_s
        if body is None:
            body = msgspec.json.encode({"error": refusal.error, "next_step": refusal.next_step})
        self.answer(refusal.status, body, lines, close=refusal.status in (408, 413))

    def begin(self, status: int, lines: bytes) -> None:
        """Send the head of an answer in pieces; `lines` must say the content type. HTTP/1.0 knows no chunks: there the
        connection's end is the answer's."""
        if self.left:
            return
        if self.begun:
            raise RuntimeError("the answer was begun already")
        self.begun = True
        if self._version_1_0:
            self.keep_alive = False
        self._chunked = not self._version_1_0
        head = _STATUS_LINES[status] + lines
        if not self.keep_alive:
            head += b"connection: close\r\n"
        if self._chunked and self.method != "HEAD":
            head += b"transfer-encoding: chunked\r\n"
        self._caller.write(head + b"\r\n")

    async def send(self, piece: bytes) -> None:
        """Send one piece, no faster than the caller reads."""
        await self._caller.writable()
        if piece and not self.left and self.method != "HEAD":
            self._caller.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)

    def end(self) -> None:
        """The last piece was sent."""
        if self.left:
            return
        self.complete = True
        self._body = []
        if self._chunked and self.method != "HEAD":
            self._caller.write(b"0\r\n\r\n")
        self._caller.answered(self)

    async def stream(self, status: int, pieces: AsyncIterable[bytes], lines: bytes) -> None:
        """Answer with pieces as they come, no faster than the caller reads; `lines` must say the content type."""
        self.begin(status, lines)
        async for piece in pieces:
            await self.send(piece)
        self.end()


App = Callable[[Exchange], Coroutine[Any, Any, None]]


def header_lines(*headers: tuple[bytes, bytes]) -> bytes:
    """Headers with lower-case names as they are sent. Raises ValueError where one would break out of its line."""
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    if not lines.count(b"\n") == lines.count(b"\r") == len(headers) or b"\0" in lines:
        raise ValueError("a header's value holds a line break")
    return lines


def head_of(status: int, content_type: bytes) -> bytes:
    """An answer's head up to the length of its body."""
    return b"%bcontent-type: %b\r\ncontent-length: " % (_STATUS_LINES[status], content_type)


_PHRASES = {one.value: one.phrase for one in http.HTTPStatus}
_STATUS_LINES = {status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode() for status in range(100, 600)}
_JSON_HEADS = {status: head_of(status, JSON) for status in _STATUS_LINES}


def _body_too_large(bytes_max: int) -> Refusal:
    return Refusal(413, f"body over {bytes_max / 1024**2:g} MiB", "send fewer rows a request")


def _client_left() -> Refusal:
    return Refusal(499, "the client left", "")
