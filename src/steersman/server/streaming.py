"""A small HTTP/1.1 client that streams both ways, for the one upstream on this machine.

A proxy in front of a registry carries model files of gigabytes: neither side may be held in memory, and a refusal may
arrive while the upload still runs. General clients cost three times the CPU of the parser below them; this one does
only what the proxy needs: one host, pooled connections, limits on everything.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httptools

from steersman.domain.errors import LimitReached, Unavailable

Headers = Sequence[tuple[bytes, bytes]]

CHUNK_BYTES = 64 * 1024
CONNECTIONS_MAX = 32
"""Bounds what one MLflow process gets at once; it works off about 85 requests a second."""
CONNECT_TIMEOUT_S = 5.0
QUEUE_TIMEOUT_S = 30.0
IDLE_TIMEOUT_S = 120.0
"""No byte for this long, in either direction, ends the exchange: MLflow's slowest answers take seconds."""
POOLED_MAX_S = 60.0
"""An idle connection is dropped before MLflow drops it (75 s, see `embedded_mlflow`)."""
HEADER_BYTES_MAX = 64 * 1024


class _Answer:
    """Callbacks of httptools' parser for one answer."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: deque[bytes] = deque()
        self.begun = False
        self.complete = False
        self._header_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADER_BYTES_MAX:
            raise Unavailable(f"MLflow sent headers of more than {HEADER_BYTES_MAX} bytes.")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.begun = True

    def on_body(self, body: bytes) -> None:
        self.chunks.append(body)

    def on_message_complete(self) -> None:
        self.complete = True


class UploadEnded(Exception):
    """The request's body cannot be completed; the exchange is given up."""


class Response:
    """One answer: `status` and `headers` are there, `body()` comes as it arrives."""

    def __init__(self, connection: _Connection, upload: asyncio.Task[bool] | None, *, bodiless: bool) -> None:
        self._connection = connection
        self._upload = upload
        self._bodiless = bodiless
        self.status = connection.parser.get_status_code()
        self.headers = connection.answer.headers

    async def body(self) -> AsyncIterator[bytes]:
        answer = self._connection.answer
        while not self._bodiless:
            while answer.chunks:
                yield answer.chunks.popleft()
            if answer.complete or not await self._connection.feed():
                break
        if not answer.complete and not self._bodiless and not self._connection.ended_by_close:
            raise Unavailable("MLflow closed the connection in the middle of its answer.")

    async def stop_upload(self) -> bool:
        """Send no more of the body; True when all of it had been sent. Afterwards nobody reads the body but the caller."""
        if self._upload is None:
            return True
        await _stopped(self._upload)
        return not self._upload.cancelled() and self._upload.exception() is None and self._upload.result()

    async def reusable(self) -> bool:
        complete = await self.stop_upload()
        return complete and self._connection.answer.complete and not self._bodiless and self._connection.keep_alive


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.idle_since = time.monotonic()
        self.expect()

    def expect(self) -> None:
        self.answer = _Answer()
        self.parser = httptools.HttpResponseParser(self.answer)

    @property
    def ended_by_close(self) -> bool:
        """Whether this answer's length is told by the end of the connection only (HTTP/1.0 manner)."""
        names = {name for name, _ in self.answer.headers}
        return not names & {b"content-length", b"transfer-encoding"}

    async def feed(self) -> bool:
        """Parse what arrives next; False at the end of the connection."""
        data = await asyncio.wait_for(self.reader.read(CHUNK_BYTES), IDLE_TIMEOUT_S)
        if not data:
            return False
        self.parser.feed_data(data)
        return True

    async def head(self) -> None:
        while not self.answer.begun:
            if not await self.feed():
                raise ConnectionResetError("closed before an answer")

    @property
    def keep_alive(self) -> bool:
        """The parser forgets it once the answer is complete, so it is asked of the headers."""
        return not any(name == b"connection" and b"close" in value.lower() for name, value in self.answer.headers)

    @property
    def fresh(self) -> bool:
        return time.monotonic() - self.idle_since < POOLED_MAX_S and not self.reader.at_eof()

    def close(self) -> None:
        self.writer.close()


class StreamingClient:
    """Connections to one host and port. Errors are `Unavailable` and `LimitReached`; nothing is retried once a body ran."""

    def __init__(self, *, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._idle: list[_Connection] = []
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)

    @asynccontextmanager
    async def send(
        self, method: str, target: bytes, headers: Headers, body: AsyncIterator[bytes] | None
    ) -> AsyncIterator[Response]:
        """`headers` must frame the body: `content-length`, or `transfer-encoding: chunked`, which is then applied here."""
        try:
            await asyncio.wait_for(self._slots.acquire(), QUEUE_TIMEOUT_S)
        except TimeoutError:
            raise LimitReached(f"MLflow is busy: no connection became free within {QUEUE_TIMEOUT_S:.0f} s.") from None
        try:
            connection, upload = await self._exchange(method, target, headers, body)
            bodiless = method == "HEAD" or connection.parser.get_status_code() in (204, 304)
            response = Response(connection, upload, bodiless=bodiless)
            kept = False
            try:
                yield response
                kept = await response.reusable()
            finally:
                if upload is not None:
                    await _stopped(upload)
                self._give_back(connection, kept=kept)
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            raise Unavailable(f"The embedded MLflow does not answer ({type(error).__name__}).") from error
        finally:
            self._slots.release()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _exchange(
        self, method: str, target: bytes, headers: Headers, body: AsyncIterator[bytes] | None
    ) -> tuple[_Connection, asyncio.Task[bool] | None]:
        """Send and read up to the answer's head. A pooled connection that died meanwhile is replaced, while no body ran."""
        lines = [method.encode() + b" " + target + b" HTTP/1.1", *(name + b": " + value for name, value in headers)]
        head = b"\r\n".join((*lines, b"", b""))
        while True:
            connection, pooled = await self._connection()
            upload = None
            try:
                connection.writer.write(head)
                if body is None:
                    await connection.head()
                else:
                    chunked = any(name == b"transfer-encoding" for name, _ in headers)
                    upload = asyncio.create_task(_upload(connection.writer, body, chunked=chunked))
                    await _head_while(connection, upload)
            except BaseException as error:
                if upload is not None:
                    await _stopped(upload)
                connection.close()
                if pooled and body is None and isinstance(error, ConnectionError):
                    continue
                raise
            return connection, upload

    async def _connection(self) -> tuple[_Connection, bool]:
        while self._idle:
            connection = self._idle.pop()
            if connection.fresh:
                connection.expect()
                return connection, True
            connection.close()
        opening = asyncio.open_connection(self._host, self._port, limit=CHUNK_BYTES)
        return _Connection(*await asyncio.wait_for(opening, CONNECT_TIMEOUT_S)), False

    def _give_back(self, connection: _Connection, *, kept: bool) -> None:
        if kept:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()


async def _upload(writer: asyncio.StreamWriter, body: AsyncIterator[bytes], *, chunked: bool) -> bool:
    """Write the body as it arrives; False when the upstream stopped listening, which is no error: its answer says why."""
    async for chunk in body:
        if not chunk:
            continue
        try:
            writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
            await asyncio.wait_for(writer.drain(), IDLE_TIMEOUT_S)
        except ConnectionError:
            return False
    if chunked:
        writer.write(b"0\r\n\r\n")
    return True


async def _head_while(connection: _Connection, upload: asyncio.Task[bool]) -> None:
    """Wait for the answer's head, which may come before the upload ends; a failed upload ends the wait."""
    head = asyncio.create_task(connection.head())
    try:
        await asyncio.wait({head, upload}, return_when=asyncio.FIRST_COMPLETED)
        if not head.done():
            await upload
        await head
    finally:
        await _stopped(head)


async def _stopped(task: asyncio.Task[Any]) -> None:
    """The task is over when this returns; how it ended is its owner's business."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
