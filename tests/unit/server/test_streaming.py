"""The proxy's HTTP client against upstreams that behave badly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from steersman.domain.errors import Unavailable
from steersman.server import streaming
from steersman.server.streaming import Headers, StreamingClient, UploadEnded

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def _against(serve: Serve, act: Callable[[StreamingClient], Awaitable[Any]]) -> Any:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(closing, "127.0.0.1", 0)
    client = StreamingClient(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    try:
        return await asyncio.wait_for(act(client), 10)
    finally:
        client.close()
        server.close()


async def _get(client: StreamingClient, method: str = "GET") -> tuple[int, bytes]:
    async with client.send(method, b"/x", [(b"host", b"h")], None) as response:
        return response.status, b"".join([chunk async for chunk in response.body()])


async def _put(client: StreamingClient, body: AsyncIterator[bytes], framing: Headers) -> tuple[int, bytes]:
    async with client.send("PUT", b"/x", [(b"host", b"h"), *framing], body) as response:
        return response.status, b"".join([chunk async for chunk in response.body()])


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def test_a_connection_is_used_again_and_replaced_when_it_died_while_idle() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)

    async def act(client: StreamingClient) -> list[tuple[int, bytes]]:
        return [await _get(client) for _ in range(5)]

    assert asyncio.run(_against(serve, act)) == [(200, b"ok")] * 5
    assert connections == 3


@pytest.mark.parametrize("framing", [[(b"content-length", b"6")], [(b"transfer-encoding", b"chunked")]])
def test_a_body_is_sent_as_it_comes_in_the_framing_it_came_with(framing: Headers) -> None:
    seen = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        chunked = framing[0][0] == b"transfer-encoding"
        seen.extend(await reader.readexactly(len(b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n") if chunked else 6))
        writer.write(OK)

    async def act(client: StreamingClient) -> tuple[int, bytes]:
        return await _put(client, _chunks(b"abc", b"", b"def"), framing)

    assert asyncio.run(_against(serve, act)) == (200, b"ok")
    assert bytes(seen) in (b"abcdef", b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n")


def test_an_answer_that_comes_before_the_upload_ends_is_passed_on() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        await reader.read(1)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0)

    async def act(client: StreamingClient) -> tuple[int, bytes]:
        return await _put(client, endless(), [(b"transfer-encoding", b"chunked")])

    assert asyncio.run(_against(serve, act)) == (403, b"no")


def test_a_caller_that_leaves_ends_the_exchange_at_once() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def leaving() -> AsyncIterator[bytes]:
        yield b"begun"
        raise UploadEnded("left")

    async def act(client: StreamingClient) -> None:
        with pytest.raises(UploadEnded):
            await _put(client, leaving(), [(b"content-length", b"1000")])

    asyncio.run(_against(serve, act))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
def test_half_an_answer_is_unavailable_and_never_a_whole_one(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async def act(client: StreamingClient) -> None:
        with pytest.raises(Unavailable):
            await _get(client)

    asyncio.run(_against(serve, act))


def test_silence_is_unavailable_after_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "IDLE_TIMEOUT_S", 0.1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def act(client: StreamingClient) -> None:
        with pytest.raises(Unavailable, match="TimeoutError"):
            await _get(client)

    asyncio.run(_against(serve, act))


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", b"200 OK"), ("GET", b"204 No Content"), ("GET", b"304 Not Modified")]
)
def test_an_answer_without_a_body_is_not_waited_for(method: str, status: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 500\r\n\r\n")
        await reader.read()

    async def act(client: StreamingClient) -> tuple[int, bytes]:
        return await _get(client, method)

    assert asyncio.run(_against(serve, act))[1] == b""


def test_nobody_listening_is_unavailable() -> None:
    async def act() -> None:
        with pytest.raises(Unavailable, match="does not answer"):
            await _get(StreamingClient(host="127.0.0.1", port=9))

    asyncio.run(act())
