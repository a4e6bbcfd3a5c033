"""The server's side of connections: how it ends without failing a request, and what it does about callers that misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from steersman.dataplane import edge
from steersman.dataplane.exchange import App, Exchange, header_lines
from steersman.dataplane.listening import EdgeServer, listen_tcp

GET = b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n"


def run(main: Coroutine[Any, Any, None]) -> None:
    uvloop.run(asyncio.wait_for(main, 30))


async def quick(exchange: Exchange) -> None:
    exchange.answer(200, b"{}", header_lines((b"x-version", b"7")))


class Served:
    """An app behind an edge on a free port."""

    def __init__(self, app: App, **settings: Any) -> None:
        self._app = app
        self._settings = settings

    async def __aenter__(self) -> Served:
        listener = listen_tcp("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.server = EdgeServer(self._app, **self._settings)
        self.task = asyncio.create_task(self.server.serve(listener))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.stop(at_once=True)
        await self.task

    @property
    def state(self) -> edge.EdgeState:
        return self.server.state

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.005)


# --- ending ----------------------------------------------------------------------------------------------------------


def test_a_kept_alive_connection_is_answered_once_more_and_told_to_close() -> None:
    async def main() -> None:
        async with Served(quick, idle_grace_s=5.0) as served:
            reader, writer = await served.connect()
            writer.write(GET)
            status, headers, _ = await answer(reader)
            assert (status, headers.get("connection")) == (200, None)
            served.server.stop()
            await until(lambda: served.state.draining)
            await asyncio.sleep(0.1)
            writer.write(GET)
            status, headers, _ = await answer(reader)
            assert (status, headers["connection"], headers["x-version"]) == (200, "close", "7")
            assert await reader.read() == b""
            await asyncio.wait_for(served.task, 1)  # the grace is not waited for when nobody is left

    run(main())


def test_idle_connections_are_closed_after_the_grace_and_not_before() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Served(quick, idle_grace_s=0.4) as served:
            reader, writer = await served.connect()
            writer.write(GET)
            await answer(reader)
            served.server.stop()
            began = loop.time()
            assert await reader.read() == b""
            assert 0.4 <= loop.time() - began < 2.0
            await asyncio.wait_for(served.task, 1)

    run(main())


def test_what_is_under_way_is_finished_and_the_answer_says_close() -> None:
    async def main() -> None:
        async def slow(exchange: Exchange) -> None:
            await asyncio.sleep(0.6)
            await quick(exchange)

        async with Served(slow, idle_grace_s=0.0) as served:
            reader, writer = await served.connect()
            writer.write(GET)
            await asyncio.sleep(0.05)
            served.server.stop()
            status, headers, _ = await answer(reader)
            assert (status, headers["connection"]) == (200, "close")
            await asyncio.wait_for(served.task, 1)

    run(main())


def test_what_takes_longer_than_the_drain_is_cut_off() -> None:
    async def main() -> None:
        async def forever(exchange: Exchange) -> None:
            await asyncio.sleep(60)

        async with Served(forever, idle_grace_s=0.0, drain_s=1) as served:
            reader, writer = await served.connect()
            writer.write(GET)
            await asyncio.sleep(0.05)
            served.server.stop()
            assert await reader.read() == b""
            await asyncio.wait_for(served.task, 2)

    run(main())


# --- callers ---------------------------------------------------------------------------------------------------------


def test_too_many_connections_are_told_when_to_come_back() -> None:
    async def main() -> None:
        async with Served(quick, connections_max=2) as served:
            kept = [await served.connect() for _ in range(2)]
            await until(lambda: len(served.state.connections) == 2)
            reader, writer = await served.connect()
            writer.write(GET)
            status, headers, body = await answer(reader)
            assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
            assert json.loads(body)["next_step"]
            assert served.state.counts.connections_refused == 1
            kept[0][1].write(GET)
            assert (await answer(kept[0][0]))[0] == 200

    run(main())


@pytest.mark.parametrize("cancel", [True, False])
def test_a_caller_that_leaves_cancels_its_request_where_the_app_wants_that(cancel: bool) -> None:
    async def main() -> None:
        began = asyncio.Event()
        ended: list[str] = []

        async def slow(exchange: Exchange) -> None:
            began.set()
            try:
                await asyncio.sleep(0.3)
                ended.append("finished")
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        async with Served(slow, cancel_on_leave=cancel) as served:
            _, writer = await served.connect()
            writer.write(GET)
            await began.wait()
            writer.close()
            await until(lambda: bool(ended))
            assert ended == ["cancelled" if cancel else "finished"]
            assert served.state.counts.clients_left == 1
            await until(lambda: not served.state.runs)

    run(main())


@pytest.mark.parametrize("keep_alive", [True, False])
def test_a_caller_that_does_not_read_its_answer_is_closed_and_counted(
    monkeypatch: pytest.MonkeyPatch, keep_alive: bool
) -> None:
    monkeypatch.setattr(edge, "WRITE_S_MAX", 0.2)

    async def main() -> None:
        async def large(exchange: Exchange) -> None:
            exchange.answer(200, b"x" * (32 * 1024 * 1024), close=not keep_alive)

        async with Served(large) as served:
            _, writer = await served.connect()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(GET)
            await until(lambda: served.state.counts.slow_readers == 1)
            await until(lambda: not served.state.connections)

    run(main())


def test_a_slow_but_steady_reader_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "WRITE_S_MAX", 0.2)
    size = 16 * 1024 * 1024

    async def main() -> None:
        async def large(exchange: Exchange) -> None:
            exchange.answer(200, b"x" * size)

        async with Served(large) as served:
            reader, writer = await served.connect()
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n")
            left = size
            while left:
                left -= len(await reader.readexactly(min(left, 1024 * 1024)))
                await asyncio.sleep(0.05)
            assert served.state.counts.slow_readers == 0

    run(main())


def test_a_connection_that_brings_no_request_is_closed() -> None:
    async def main() -> None:
        async with Served(quick, keep_alive_s=1) as served:
            reader, _ = await served.connect()
            assert await asyncio.wait_for(reader.read(), 3) == b""

    run(main())


# --- answers ---------------------------------------------------------------------------------------------------------


async def answered(app: App, request: bytes = GET) -> bytes:
    async with Served(app) as served:
        reader, writer = await served.connect()
        writer.write(request.replace(b"Host: edge", b"Host: edge\r\nConnection: close"))
        return await reader.read()


def test_a_header_cannot_break_out_of_its_line(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def split(exchange: Exchange) -> None:
            exchange.answer(200, b"{}", header_lines((b"x-id", b"1\r\nset-cookie: a=b")))

        said = await answered(split)
        assert said.startswith(b"HTTP/1.1 500 ")
        assert b"set-cookie" not in said
        assert b"next_step" in said

    run(main())


def test_an_answer_to_head_has_no_body_and_another_type_can_be_named() -> None:
    async def main() -> None:
        async def text(exchange: Exchange) -> None:
            exchange.answer(200, b"up 1\n", content_type=b"text/plain")

        head, _, body = (await answered(text, GET.replace(b"GET", b"HEAD"))).partition(b"\r\n\r\n")
        assert b"content-type: text/plain\r\ncontent-length: 5" in head
        assert body == b""

    run(main())


def test_a_stream_is_sent_piece_by_piece() -> None:
    async def main() -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            yield b"data: 2\n\n"

        async def events(exchange: Exchange) -> None:
            await exchange.stream(200, pieces(), header_lines((b"content-type", b"text/event-stream")))

        _, _, body = (await answered(events)).partition(b"\r\n\r\n")
        assert body == b"9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n"

    run(main())


def test_what_is_not_http_is_told_so_in_json() -> None:
    async def main() -> None:
        said = await answered(quick, b"\x16\x03\x01 a TLS hello\r\n\r\n")
        head, _, body = said.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["next_step"]

    run(main())


def test_pipelined_requests_are_answered_in_their_order() -> None:
    async def main() -> None:
        async def slower_first(exchange: Exchange) -> None:
            if exchange.path == "/first one":
                await asyncio.sleep(0.05)
            exchange.answer(200, exchange.path.encode())

        async with Served(slower_first) as served:
            reader, writer = await served.connect()
            writer.write(GET.replace(b" / ", b" /first%20one?x=1 ") + GET.replace(b" / ", b" /second "))
            assert [(await answer(reader))[2] for _ in range(2)] == [b"/first one", b"/second"]

    run(main())
