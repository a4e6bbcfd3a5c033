"""What may arrive on a caller's connection: cut anywhere, several at once, too slow, too large, or no HTTP at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
import uvloop

from steersman.dataplane import edge
from steersman.dataplane.exchange import Exchange, Refusal, header_lines
from steersman.dataplane.listening import EdgeServer, listen_tcp

POST = b"POST /echo HTTP/1.1\r\nHost: edge\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /echo HTTP/1.1\r\nHost: edge\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;note=1\r\nllo\r\n0\r\n\r\n"
)


async def echo(exchange: Exchange) -> None:
    try:
        body = await exchange.body(bytes_max=64 * 1024, timeout_s=0.3)
    except Refusal as refusal:
        exchange.refuse(refusal)
    else:
        exchange.answer(200, body)


async def unread(exchange: Exchange) -> None:
    exchange.refuse(Refusal(401, "who are you", "send a token"))


class Line:
    """A caller's connection to an edge of its own."""

    def __init__(self, app: Any = echo) -> None:
        self._app = app

    async def __aenter__(self) -> Line:
        listener = listen_tcp("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.server = EdgeServer(self._app)
        self._task = asyncio.create_task(self.server.serve(listener))
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        self.server.stop(at_once=True)
        await self._task

    async def send(self, *parts: bytes) -> None:
        """Each part as a packet of its own."""
        for part in parts:
            self.writer.write(part)
            await asyncio.sleep(0.001)

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Status, head and body of the next answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head.split()[1]), head, await self.reader.readexactly(length)

    async def ended(self) -> bool:
        return await asyncio.wait_for(self.reader.read(), 5) == b""


def run(main: Coroutine[Any, Any, None]) -> None:
    uvloop.run(asyncio.wait_for(main, 30))


TRAILED = CHUNKED[:-2] + b"x-sum: 5\r\n\r\n"


@pytest.mark.parametrize("request_", [POST, CHUNKED, TRAILED], ids=["length", "chunked", "trailed"])
def test_a_request_cut_at_any_byte_is_the_same_request(request_: bytes) -> None:
    async def main() -> None:
        async with Line() as line:
            for cut in range(1, len(request_)):
                await line.send(request_[:cut], request_[cut:])
                status, _, body = await line.answer()
                assert (status, body) == (200, b"hello"), cut

    run(main())


def test_a_request_may_come_a_byte_at_a_time() -> None:
    async def main() -> None:
        async with Line() as line:
            await line.send(*(CHUNKED[at : at + 1] for at in range(len(CHUNKED))))
            assert (await line.answer())[::2] == (200, b"hello")

    run(main())


def test_requests_sent_in_one_piece_are_answered_one_after_the_other() -> None:
    under_way = 0

    async def alone(exchange: Exchange) -> None:
        nonlocal under_way
        under_way += 1
        assert under_way == 1
        body = await exchange.body(bytes_max=100, timeout_s=5)
        await asyncio.sleep(0)
        under_way -= 1
        exchange.answer(200, body)

    async def main() -> None:
        async with Line(alone) as line:
            requests = [POST.replace(b"hello", b"%05d" % number) for number in range(200)]
            await line.send(b"".join(requests) + POST[:-2], POST[-2:])
            assert [(await line.answer())[2] for _ in requests] == [b"%05d" % number for number in range(200)]
            assert (await line.answer())[2] == b"hello"

    run(main())


def test_a_head_over_its_bound_is_431_and_the_end() -> None:
    async def main() -> None:
        async with Line() as line:
            await line.send(b"GET / HTTP/1.1\r\n", b"x: " + b"a" * edge.HEAD_BYTES_MAX)
            assert (await line.answer())[0] == 431
            assert await line.ended()

    run(main())


@pytest.mark.parametrize("behind", [b"0\r\nx: ", b"0\r\n" + b"x: y\r\n", b"5;note="], ids=["one", "many", "extension"])
@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
def test_what_a_chunked_body_brings_beside_its_data_is_bounded_as_a_head_is(behind: bytes, read: bool) -> None:
    """Also for a caller whom the app refuses without reading the body: it has its answer, and then the end."""

    async def patient(exchange: Exchange) -> None:
        await exchange.body(bytes_max=64 * 1024, timeout_s=20)

    async def main() -> None:
        async with Line(patient if read else unread) as line:
            await line.send(CHUNKED.partition(b"2\r\n")[0], b"5\r\nhello\r\n", behind)
            if not read:
                assert (await line.answer())[0] == 401
            sent = 0
            more = behind.removeprefix(b"0\r\n") if behind.endswith(b"\r\n") else b"y"
            packet = more * (4096 // len(more))
            said = asyncio.create_task(line.reader.read(4096))
            while not said.done() and sent < 1024 * 1024:
                await line.send(packet)
                sent += len(packet)
            assert said.done(), sent
            assert (
                (said.result().startswith(b"HTTP/1.1 431") and b"trailers" in said.result())
                if read
                else said.result() == b""
            )
            assert edge.HEAD_BYTES_MAX / 2 < sent < 4 * edge.HEAD_BYTES_MAX
            assert not line.server.state.runs, "whoever waited for the rest of the body hears that there is none"

    run(main())


def test_trailers_are_no_headers_of_the_request() -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def note(exchange: Exchange) -> None:
        await echo(exchange)
        seen.extend(exchange.fields)

    async def main() -> None:
        async with Line(note) as line:
            await line.send(TRAILED + POST)
            assert [(await line.answer())[2] for _ in range(2)] == [b"hello", b"hello"]

    run(main())
    assert [name for name, _ in seen] == [b"host", b"transfer-encoding", b"host", b"content-length"]


def test_many_small_chunks_are_a_body_like_any_other() -> None:
    async def main() -> None:
        async with Line() as line:
            line.writer.write(CHUNKED.partition(b"2\r\n")[0] + b"1\r\na\r\n" * 20_000)
            await line.send(*[b"1\r\na\r\n"] * 20, b"0\r\n\r\n")
            assert (await line.answer())[::2] == (200, b"a" * 20_020)

    run(main())


def test_a_length_of_more_digits_than_any_body_has_is_413() -> None:
    async def main() -> None:
        async with Line() as line:
            await line.send(POST.replace(b"Length: 5", b"Length: " + b"0" * 5_000 + b"5"))
            assert (await line.answer())[0] == 413

    run(main())


def test_a_head_slower_than_its_bound_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "HEAD_S_MAX", 0.1)

    async def main() -> None:
        async with Line() as line:
            await line.send(b"GET / HTTP/1.1\r\nHost:")
            assert await line.ended()

    run(main())


def test_a_body_slower_than_its_bound_is_408_and_the_end() -> None:
    async def main() -> None:
        async with Line() as line:
            await line.send(POST[:-1])
            status, head, _ = await line.answer()
            assert (status, b"connection: close" in head) == (408, True)
            assert await line.ended()

    run(main())


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
def test_a_body_over_its_bound_is_413_and_the_end(declared: bool) -> None:
    async def main() -> None:
        async with Line() as line:
            if declared:
                await line.send(b"POST / HTTP/1.1\r\nHost: edge\r\nContent-Length: 1000000\r\n\r\n")
            else:
                await line.send(b"POST / HTTP/1.1\r\nHost: edge\r\nTransfer-Encoding: chunked\r\n\r\n")
                await line.send(*[b"8000\r\n" + b"a" * 0x8000 + b"\r\n"] * 3)
            status, head, _ = await line.answer()
            assert (status, b"connection: close" in head) == (413, True)

    run(main())


def test_a_body_nobody_reads_is_left_in_the_socket_until_the_answer() -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def late(exchange: Exchange) -> None:
            await go_on.wait()
            await unread(exchange)

        async with Line(late) as line:
            size = 64 * 1024 * 1024
            line.writer.write(b"POST / HTTP/1.1\r\nHost: edge\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size)
            await asyncio.sleep(0.3)
            left = line.writer.transport.get_write_buffer_size()
            assert left > size / 2
            go_on.set()
            assert (await line.answer())[0] == 401
            await line.send(POST)  # what was sent with the refused request is read past
            assert (await line.answer())[0] == 401

    run(main())


def test_a_caller_that_asks_first_is_told_to_continue() -> None:
    head = b"POST / HTTP/1.1\r\nHost: edge\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n"

    async def main() -> None:
        async with Line() as line:
            await line.send(head)
            assert await line.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await line.send(b"hello")
            assert (await line.answer())[::2] == (200, b"hello")
        async with Line(unread) as line:
            await line.send(head)
            assert (await line.answer())[0] == 401

    run(main())


def test_http_1_0_is_answered_without_chunks_and_closed() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async def either(exchange: Exchange) -> None:
        if exchange.path == "/stream":
            await exchange.stream(200, pieces(), header_lines((b"content-type", b"text/plain")))
        else:
            await echo(exchange)

    async def main() -> None:
        async with Line(either) as line:
            await line.send(POST.replace(b"HTTP/1.1", b"HTTP/1.0\r\nConnection: keep-alive"))
            assert (await line.answer())[::2] == (200, b"hello")
            assert await line.ended()
        async with Line(either) as line:
            await line.send(b"GET /stream HTTP/1.0\r\n\r\n")
            head, _, body = (await line.reader.read()).partition(b"\r\n\r\n")
            assert (b"transfer-encoding" in head, body) == (False, b"one two")

    run(main())


@pytest.mark.parametrize(
    "line_",
    [b"HELLO\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"\0\0"],
)
def test_what_cannot_be_parsed_is_400_and_the_end(line_: bytes) -> None:
    async def main() -> None:
        async with Line() as line:
            await line.send(line_)
            assert (await line.answer())[0] == 400
            assert await line.ended()

    run(main())


def test_a_broken_chunk_ends_a_request_whose_body_is_waited_for() -> None:
    async def main() -> None:
        async with Line() as line:
            await line.send(CHUNKED.replace(b"3;note=1", b"zz"))
            assert (await line.answer())[0] == 400
            assert await line.ended()
            await asyncio.sleep(0.05)
            assert not line.server.state.runs

    run(main())


def test_an_upgrade_is_not_taken_and_the_request_is_answered() -> None:
    async def main() -> None:
        async with Line() as line:
            await line.send(b"GET / HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
            assert (await line.answer())[0] == 200

    run(main())


def test_a_caller_that_leaves_in_the_middle_of_its_body_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with Line() as line:
            await line.send(POST[:-2])
            line.writer.close()
            async with asyncio.timeout(5):
                while line.server.state.runs or line.server.state.connections:
                    await asyncio.sleep(0.005)
            assert line.server.state.counts.clients_left == 1

    run(main())
