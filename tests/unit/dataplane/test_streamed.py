"""An answer in pieces through a real router, from a worker that sends it slowly, breaks off, or refuses."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import polars as pl
import pytest

from steersman.testing.plane import TOKEN, Plane

PIECES = [
    b'data: {"text_output": "one"}\n\n',
    b'data: {"text_output": "two"}\n\n',
    b'data: {"text_output": "three"}\n\n',
]


class Generator:
    """A worker that speaks as much HTTP as a stream takes. `behave` gets the connection after the request was read."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.heads: list[bytes] = []
        self.left = threading.Event()
        self._behave = behave
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536)
            self.heads.append(data)
            try:
                self._behave(connection)
                if connection.recv(1) == b"":
                    self.left.set()
            except OSError:
                self.left.set()

    def close(self) -> None:
        self._listener.close()


def begin(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")


def piece(connection: socket.socket, content: bytes) -> None:
    connection.sendall(b"%x\r\n%b\r\n" % (len(content), content))


def end(connection: socket.socket) -> None:
    connection.sendall(b"0\r\n\r\n")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane(tmp_path_factory.mktemp("streamed")) as running:
        running.router()
        running.committer()
        yield running


@pytest.fixture
def generator(plane: Plane) -> Iterator[Callable[..., Generator]]:
    started: list[Generator] = []

    def start(behave: Callable[[socket.socket], None], **settings: Any) -> Generator:
        started.append(Generator(behave))
        plane.route(plane.variant("stable", "sha256:a", [started[-1].address]), **settings)
        return started[-1]

    yield start
    for one in started:
        one.close()


def call(plane: Plane, body: dict[str, Any]) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", plane.port, timeout=10)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    path = plane.infer_path.replace("/infer", "/generate_stream")
    connection.request("POST", path, msgspec.json.encode(body), headers)
    return connection, connection.getresponse()


def kept(plane: Plane, event_id: str) -> list[tuple[Any, ...]]:
    plane.flush()
    rows = plane.log.read_files(plane.log.committed_files(plane.scope, {}))
    return rows.filter(pl.col("event_id") == event_id).select("status", "outputs", "error", "variant").rows()


def test_pieces_come_as_the_worker_makes_them_and_the_log_has_the_whole(
    plane: Plane, generator: Callable[..., Generator]
) -> None:
    go_on = threading.Event()

    def behave(connection: socket.socket) -> None:
        begin(connection)
        piece(connection, PIECES[0])
        assert go_on.wait(10), "the first piece was held back"
        for content in PIECES[1:]:
            piece(connection, content)
        end(connection)

    worker = generator(behave)
    connection, response = call(plane, {"text_input": "tell me", "parameters": {"event_ids": ["told"]}})
    assert (response.status, response.getheader("content-type")) == (200, "text/event-stream; charset=utf-8")
    assert response.getheader("x-steersman-event-ids") == "told"
    assert response.read1(1000) == PIECES[0]
    go_on.set()
    assert response.read() == b"".join(PIECES[1:])
    connection.close()
    assert worker.heads[0].startswith(b"POST /v2/models/m/generate_stream ")
    [(status, outputs, error, variant)] = kept(plane, "told")
    assert (status, error, variant) == (200, None, "stable")
    assert msgspec.json.decode(outputs) == {"stream": b"".join(PIECES).decode()}


def test_a_caller_that_leaves_ends_the_workers_generator_and_is_in_the_log(
    plane: Plane, generator: Callable[..., Generator]
) -> None:
    def behave(connection: socket.socket) -> None:
        begin(connection)
        piece(connection, PIECES[0])

    worker = generator(behave)
    connection, response = call(plane, {"text_input": "x", "parameters": {"event_ids": ["gone"]}})
    assert response.read1(1000) == PIECES[0]
    response.close()
    connection.close()
    assert worker.left.wait(5), "the worker hears that nobody reads"
    deadline = time.monotonic() + 5
    while not (rows := kept(plane, "gone")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [(status, error) for status, _, error, _ in rows] == [(499, "the caller left before the end")]
    counters = plane.admin("GET", "/counters")[1]
    assert [one["in_flight"] for one in counters["routes"]] == [0]


def test_a_caller_that_leaves_before_the_first_piece_is_in_the_log(
    plane: Plane, generator: Callable[..., Generator]
) -> None:
    worker = generator(lambda connection: None)
    body = msgspec.json.encode({"text_input": "x", "parameters": {"event_ids": ["early"]}})
    with socket.create_connection(("127.0.0.1", plane.port)) as caller:
        path = plane.infer_path.replace("/infer", "/generate_stream")
        head = f"POST {path} HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer {TOKEN}\r\n"
        caller.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        deadline = time.monotonic() + 5
        while not worker.heads and time.monotonic() < deadline:
            time.sleep(0.01)
    assert worker.left.wait(5), "the worker hears that nobody reads"
    [(status, _, error, variant)] = kept(plane, "early")
    assert (status, variant) == (499, "stable")
    assert error.startswith("given up before its answer")
    assert [one["in_flight"] for one in plane.admin("GET", "/counters")[1]["routes"]] == [0]


def test_a_worker_that_breaks_off_leaves_the_answer_without_an_end(
    plane: Plane, generator: Callable[..., Generator]
) -> None:
    def behave(connection: socket.socket) -> None:
        begin(connection)
        piece(connection, PIECES[0])
        connection.shutdown(socket.SHUT_RDWR)

    generator(behave)
    connection, response = call(plane, {"text_input": "x", "parameters": {"event_ids": ["broken"]}})
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    connection.close()
    assert [status for status, *_ in kept(plane, "broken")] == [502]


def test_a_worker_that_refuses_is_answered_as_a_refusal(plane: Plane, generator: Callable[..., Generator]) -> None:
    said = b'{"error": "no stream here", "next_step": "use infer"}'

    def behave(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n%b" % (len(said), said))

    generator(behave)
    connection, response = call(plane, {"text_input": "x"})
    assert (response.status, msgspec.json.decode(response.read())) == (404, msgspec.json.decode(said))
    connection.close()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"inputs": []}, "no tensors"),
        ({"inputs": [{"name": "x", "datatype": "FP64", "shape": [2], "data": [1, 2]}]}, "2 rows; an answer in pieces"),
        ({"text_input": 5}, "Expected `str"),
    ],
)
def test_a_stream_is_of_one_row(
    plane: Plane, generator: Callable[..., Generator], body: dict[str, Any], says: str
) -> None:
    generator(end)
    connection, response = call(plane, body)
    assert (response.status, says in msgspec.json.decode(response.read())["error"]) == (400, True)
    connection.close()
