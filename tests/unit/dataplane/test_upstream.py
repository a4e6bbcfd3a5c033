"""The router's client before workers that stream, stop, die and come back; each is a real server, once on a Unix socket as
ours are and once on a free port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from steersman.dataplane import connection, sockets, upstream
from steersman.dataplane.upstream import NoReplicaError, Replica, Upstreams

ASK = b"POST /x HTTP/1.1\r\nHost: worker\r\nContent-Length: 2\r\n\r\nhi"
ASK_IN_PIECES = b"POST /x HTTP/1.1\r\nHost: worker\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer-Timing: total;dur=1\r\nContent-Length: 2\r\n\r\n{}"
BROKEN = b"HTTP/1.1 500 Broken\r\nContent-Length: 2\r\n\r\n{}"
FULL = b"HTTP/1.1 503 Full\r\nContent-Length: 2\r\n\r\n{}"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Worker:
    """`serve` gets every connection; the connection closes when it returns."""

    folder: Path | None = None
    """For its socket; None: it has a port."""

    def __init__(self, serve: Serve) -> None:
        self.connections = 0
        self._serve = serve

    async def __aenter__(self) -> Worker:
        if self.folder is not None:
            bound, self.address = sockets.bind_beside(self.folder / f"worker-{id(self)}.json")
            self._server = await asyncio.start_unix_server(self._accept, sock=bound, limit=1024)
        else:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1024)
            self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture(params=["unix", "tcp"], autouse=True)
def _kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("deep" * 30)  # a socket's address holds 108 bytes
    folder.mkdir()
    monkeypatch.setattr(Worker, "folder", folder if request.param == "unix" else None)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The head of a request whose body, if it has one, was read too."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b"Content-Length: 2" in head:
        await reader.readexactly(2)
    return head


def answering(answer: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(answer)

    return serve


def run(main: Coroutine[Any, Any, None]) -> None:
    uvloop.run(asyncio.wait_for(main, 30))


def in_s(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def ask(replicas: list[Replica], *, idempotent: bool = True) -> Coroutine[Any, Any, upstream.Response]:
    return upstream.call(replicas, ASK, deadline_at=in_s(5), idempotent=idempotent)


def stream(replicas: list[Replica], **more: Any) -> Coroutine[Any, Any, upstream.Stream]:
    return upstream.stream(replicas, more.pop("head", ASK), deadline_at=in_s(5), idempotent=True, **more)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.005)


# --- whole answers ---------------------------------------------------------------------------------------------------


def test_an_answer_comes_whole_and_the_connection_is_used_again() -> None:
    async def main() -> None:
        async with Worker(answering(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)) as worker:
            replicas = [Upstreams().replica(worker.address)]
            for _ in range(3):
                answer = await ask(replicas)
                assert (answer.status, answer.body) == (200, b"{}")
            assert worker.connections == 1

    run(main())


def test_equals_take_turns() -> None:
    async def main() -> None:
        seen: list[int] = []

        def noting(number: int) -> Serve:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                while True:
                    await read_request(reader)
                    seen.append(number)
                    writer.write(OK)

            return serve

        async with Worker(noting(0)) as a, Worker(noting(1)) as b, Worker(noting(2)) as c:
            upstreams = Upstreams()
            replicas = [upstreams.replica(worker.address) for worker in (a, b, c)]
            for _ in range(6):
                await ask(replicas)
        assert seen == [0, 1, 2, 0, 1, 2]

    run(main())


def test_an_answer_whose_head_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RESPONSE_BYTES_MAX", 1024 * 1024)
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nX-Note: ")
        while sent < 64 * 1024 * 1024:
            writer.write(b"x" * 65_536)
            sent += 65_536
            await writer.drain()

    async def main() -> None:
        async with Worker(serve) as worker:
            with pytest.raises(NoReplicaError, match="over 1 MiB"):
                await ask([Upstreams().replica(worker.address)], idempotent=False)
            assert sent < 16 * 1024 * 1024

    run(main())


# --- streams ---------------------------------------------------------------------------------------------------------


def test_events_pass_one_by_one_as_the_worker_sends_them() -> None:
    async def main() -> None:
        heard = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(STREAM + b"9\r\ndata: 1\n\n\r\n")
            await heard.wait()  # the second is not sent before the first has arrived
            writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
            await reader.read()

        async with Worker(serve) as worker:
            replica = Upstreams().replica(worker.address)
            events = []
            async with await stream([replica]) as answer:
                assert (answer.status, answer.header(b"content-type")) == (200, b"text/event-stream")
                assert replica.in_flight == 1
                async for piece in answer:
                    events.append(piece)
                    heard.set()
            assert events == [b"data: 1\n\n", b"data: 2\n\n"]
            assert replica.in_flight == 0
            assert replica._idle, "read to its end, the connection is kept"

    run(main())


@pytest.mark.parametrize(
    "begins", [b"HTTP/1.1 200 OK\r\nX-Note: ", STREAM + b"2\r\nhi\r\n0\r\nX-Note: "], ids=["head", "trailer"]
)
def test_what_a_stream_brings_beside_its_pieces_is_bounded(begins: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(begins)
        await asyncio.sleep(0.01)
        for _ in range(64):
            writer.write(b"x" * 65_536)
            await writer.drain()
        await reader.read()

    async def main() -> None:
        async with Worker(serve) as worker:
            with pytest.raises((upstream.UpstreamError, NoReplicaError), match="beside its body"):
                async with await stream([Upstreams().replica(worker.address)]) as answer:
                    _ = [piece async for piece in answer]

    run(main())


def test_a_slow_reader_slows_the_worker_and_memory_stays_bounded() -> None:
    total = 64 * 1024 * 1024
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            writer.write(b"x" * 65_536)
            sent += 65_536
            await writer.drain()

    async def main() -> None:
        async with Worker(serve) as worker, await stream([Upstreams().replica(worker.address)]) as answer:
            await asyncio.sleep(0.5)
            assert answer._held <= connection.STREAM_BYTES_MAX + 256 * 1024
            assert sent < 16 * 1024 * 1024, "the rest waits in the worker, past what the kernel holds"
            received = 0
            async for piece in answer:
                received += len(piece)
                assert len(piece) <= connection.STREAM_BYTES_MAX + 256 * 1024
            assert received == total

    run(main())


def test_a_body_is_sent_as_it_comes_and_no_faster_than_the_worker_reads() -> None:
    produced = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal produced
        for _ in range(512):
            produced += 65_536
            yield b"x" * 65_536

    async def main() -> None:
        go = asyncio.Event()
        got = bytearray()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            await go.wait()
            while not got.endswith(b"0\r\n\r\n"):
                got.extend(await reader.read(1 << 20))
            writer.write(OK)

        async with Worker(serve) as worker:
            asked = asyncio.create_task(
                stream([Upstreams().replica(worker.address)], head=ASK_IN_PIECES, body=body())  # type: ignore[arg-type]
            )
            await asyncio.sleep(0.5)
            assert produced < 16 * 1024 * 1024
            go.set()
            async with await asked as answer:
                assert [piece async for piece in answer] == [b"{}"]
        assert produced == 512 * 65_536
        assert got.count(b"x") == produced

    run(main())


def test_what_the_body_raises_reaches_the_caller_and_the_worker_sees_the_end() -> None:
    async def main() -> None:
        gone = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(-1)
            gone.set()

        async def body() -> AsyncIterator[bytes]:
            yield b"half"
            raise KeyError("the caller broke off")

        async with Worker(serve) as worker:
            replica = Upstreams().replica(worker.address)
            with pytest.raises(KeyError):
                await stream([replica], head=ASK_IN_PIECES, body=body())
            await asyncio.wait_for(gone.wait(), 5)
            assert (replica.in_flight, len(replica._idle)) == (0, 0)

    run(main())


def test_a_stream_that_breaks_off_or_falls_silent_says_so() -> None:
    async def main() -> None:
        async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(STREAM + b"2\r\nhi\r\n")

        async def falls_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await breaks_off(reader, writer)
            await reader.read()

        async with Worker(breaks_off) as one, Worker(falls_silent) as other:
            for worker, error in ((one, upstream.UpstreamError), (other, TimeoutError)):
                replica = Upstreams().replica(worker.address)
                async with await stream([replica], silence_s=0.1) as answer:
                    assert await anext(answer) == b"hi"
                    with pytest.raises(error):
                        await anext(answer)
                assert (replica.in_flight, len(replica._idle)) == (0, 0)

    run(main())


def test_a_stream_goes_to_another_replica_only_before_its_first_byte() -> None:
    async def main() -> None:
        async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)

        async with Worker(dies) as bad, Worker(answering(OK)) as good:
            upstreams = Upstreams()
            replicas = [upstreams.replica(bad.address), upstreams.replica(good.address)]
            async with await stream(replicas) as answer:
                assert [piece async for piece in answer] == [b"{}"]
            assert upstreams.counts.retries == 1

    run(main())


# --- leaving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["call", "head", "body"])
def test_a_caller_that_leaves_closes_the_connection_so_that_the_worker_hears_it(how: str) -> None:
    async def main() -> None:
        began, gone = asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            if how == "body":
                writer.write(STREAM + b"2\r\nhi\r\n")
            began.set()
            await reader.read()
            gone.set()

        async def listen(replica: Replica) -> None:
            async with await stream([replica]) as answer:
                async for _ in answer:
                    pass

        async with Worker(serve) as worker:
            upstreams = Upstreams()
            replica = upstreams.replica(worker.address)
            task = asyncio.create_task(ask([replica]) if how == "call" else listen(replica))  # type: ignore[arg-type]
            await asyncio.wait_for(began.wait(), 5)
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(gone.wait(), 5)
            assert (replica.in_flight, len(replica._idle), replica.ejected) == (0, 0, False)
            assert upstreams.counts.cancelled == (how != "body")

    run(main())


def test_a_forgotten_replica_finishes_what_it_has_and_keeps_no_connection() -> None:
    async def main() -> None:
        began, go, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            began.set()
            await go.wait()
            writer.write(OK)
            await reader.read()
            gone.set()

        async with Worker(serve) as worker:
            upstreams = Upstreams()
            replica = upstreams.replica(worker.address)
            task = asyncio.create_task(ask([replica]))
            await began.wait()
            upstreams.keep_only(())
            go.set()
            assert (await task).status == 200
            await asyncio.wait_for(gone.wait(), 5)
            assert not replica._idle

    run(main())


# --- stale connections, retries, ejection ----------------------------------------------------------------------------


def test_a_connection_the_worker_closed_while_idle_is_not_used() -> None:
    async def main() -> None:
        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(OK)

        async with Worker(once) as worker:
            replica = Upstreams().replica(worker.address)
            for _ in range(5):
                assert (await ask([replica], idempotent=False)).status == 200
                await asyncio.sleep(0.06)
            assert not replica.ejected

    run(main())


@pytest.mark.parametrize("idempotent", [True, False])
def test_one_that_ends_at_the_second_request_is_doubtful_but_no_reason_to_eject(idempotent: bool) -> None:
    async def main() -> None:
        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(OK)
            await read_request(reader)  # read, and perhaps worked on: nobody can know

        async with Worker(once) as worker:
            upstreams = Upstreams()
            replica = upstreams.replica(worker.address)
            await ask([replica])
            if idempotent:
                assert (await ask([replica])).status == 200
            else:
                with pytest.raises(NoReplicaError):
                    await ask([replica], idempotent=False)
            assert (upstreams.counts.stale_connections, replica.ejected) == (1, False)
            assert upstreams.counts.retries == idempotent

    run(main())


def test_retries_end_when_their_budget_is_spent() -> None:
    async def main() -> None:
        requests = 0

        async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal requests
            head = await read_request(reader)
            requests += head.startswith(b"POST")

        async with Worker(dies) as worker:
            upstreams = Upstreams()
            replica = upstreams.replica(worker.address)
            replica.may_cause_retry()
            replica.tokens = 20.0  # of the 250 banked, so that the test is short
            started = in_s(0)
            for _ in range(200):
                with pytest.raises(NoReplicaError):
                    await ask([replica])
            allowed = 20 + 0.2 * 200 + upstream.RETRIES_PER_S * (in_s(0) - started)
            assert 55 < upstreams.counts.retries <= allowed
            assert upstreams.counts.retries_refused == 200 - upstreams.counts.retries
            assert requests == 200 + upstreams.counts.retries
            replica.close()

    run(main())


def test_a_request_nobody_can_have_seen_is_repeated_without_a_budget_and_without_idempotence() -> None:
    async def main() -> None:
        async with Worker(answering(OK)) as worker, Worker(answering(OK)) as dead:
            upstreams = Upstreams()
            replicas = [upstreams.replica(dead.address), upstreams.replica(worker.address)]
            await dead.__aexit__()
            replicas[0].may_cause_retry()
            replicas[0].tokens = 0.0
            assert (await ask(replicas, idempotent=False)).status == 200
            assert upstreams.counts.connect_failures == 1
            assert upstreams.health()[0]["ejected"]
            upstreams.close()

    run(main())


def test_a_replica_that_answers_only_errors_is_ejected_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "OUTLIER_S", 0.2)

    async def main() -> None:
        sick = True

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                ready = b"/ready" in await reader.readuntil(b"\r\n\r\n")
                if not ready:
                    await reader.readexactly(2)
                writer.write(BROKEN if sick and not ready else OK)

        async with Worker(serve) as bad, Worker(answering(OK)) as good:
            upstreams = Upstreams()
            replicas = [upstreams.replica(bad.address), upstreams.replica(good.address)]
            statuses = [(await ask(replicas)).status for _ in range(30)]
            assert statuses.count(500) == upstream.ERRORS_IN_ROW_MAX
            assert (replicas[0].ejected, upstreams.counts.outliers) == (True, 1)
            sick = False
            await until(lambda: not replicas[0].ejected)
            before = replicas[0].turn
            assert {(await ask(replicas)).status for _ in range(4)} == {200}
            assert replicas[0].turn > before, "it has its turns again"
            upstreams.close()

    run(main())


def test_the_last_healthy_replica_is_never_ejected_for_its_answers() -> None:
    async def main() -> None:
        async with Worker(answering(BROKEN)) as one, Worker(answering(BROKEN)) as other:
            upstreams = Upstreams()
            replicas = [upstreams.replica(one.address), upstreams.replica(other.address)]
            for _ in range(40):
                assert (await ask(replicas)).status == 500
            assert sorted(replica.ejected for replica in replicas) == [False, True]
            upstreams.close()

    run(main())


def test_a_replica_that_says_it_is_full_is_not_broken() -> None:
    async def main() -> None:
        async with Worker(answering(FULL)) as one, Worker(answering(OK)) as other:
            upstreams = Upstreams()
            replicas = [upstreams.replica(one.address), upstreams.replica(other.address)]
            for _ in range(30):
                await ask(replicas)
            assert [replica.ejected for replica in replicas] == [False, False]
            upstreams.close()

    run(main())
