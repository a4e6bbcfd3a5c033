"""A real router process before workers that misbehave on demand."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import ANY

import msgspec
import pytest

from steersman.dataplane import sockets
from steersman.dataplane.configuration import LabelSettings, MirrorRoute, RouterConfiguration, TokenHash
from steersman.testing.plane import STUMP_SIGNATURE, TOKEN, Plane, tensor

AT = "2013-03-01T05:00:00Z"
Answer = tuple[int, dict[str, Any]]


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        """A caller that gave up is what some tests are about."""


class StandInWorker:
    """A worker in a thread. `behave` maps the columns and the variant to an answer; None closes the connection."""

    def __init__(self, behave: Callable[[dict[str, list[Any]], str], Answer | None]) -> None:
        self.seen: list[tuple[str, dict[str, list[Any]]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer(200, b"{}")

            def do_POST(self) -> None:
                body = msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"])))
                columns = {one["name"]: one["data"] for one in body["inputs"]}
                variant = self.headers["X-Steersman-Variant"]
                outer.seen.append((variant, columns))
                answer = behave(columns, variant)
                if answer is None:
                    self.close_connection = True
                    return
                self.answer(answer[0], msgspec.json.encode(answer[1]))

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = QuietServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def scores(columns: dict[str, list[Any]], factor: float = 1.0) -> Answer:
    data = [factor * value for value in columns["x"]]
    return 200, {"outputs": [{"name": "score", "datatype": "FP64", "shape": [len(data)], "data": data}]}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane(tmp_path_factory.mktemp("plane")) as running:
        running.router()
        running.committer()
        yield running


@pytest.fixture
def worker() -> Iterator[Callable[..., StandInWorker]]:
    started: list[StandInWorker] = []

    def start(behave: Callable[[dict[str, list[Any]], str], Answer | None]) -> StandInWorker:
        started.append(StandInWorker(behave))
        return started[-1]

    yield start
    for one in started:
        one.close()


Start = Callable[[Callable[[dict[str, list[Any]], str], Answer | None]], StandInWorker]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_batch_comes_back_in_order_with_an_event_id_a_row(plane: Plane, worker: Start) -> None:
    plane.route(plane.variant("stable", "sha256:a", [worker(lambda c, v: scores(c)).address]))
    status, answer = plane.infer({"x": [3.0, 1.0, 2.0]})
    assert status == 200
    assert answer["outputs"][0]["data"] == [3.0, 1.0, 2.0]
    assert answer["parameters"]["variants"] == ["stable"] * 3
    assert len(set(answer["parameters"]["event_ids"])) == 3
    assert answer["model_version"] == "1"


def test_a_split_batch_is_answered_as_the_unsplit_one_would_have_been(plane: Plane, worker: Start) -> None:
    one = worker(lambda c, v: scores(c))
    columns = {"x": [float(row) for row in range(40)], "who": [f"p{row}" for row in range(40)]}
    plane.route(plane.variant("stable", "sha256:a", [one.address]), sticky_by="who")
    whole = plane.infer(columns)[1]["outputs"]
    plane.route(
        plane.variant("stable", "sha256:a", [one.address], weight_pct=60),
        plane.variant("candidate", "sha256:b", [one.address], weight_pct=40, version="2"),
        sticky_by="who",
    )
    status, answer = plane.infer(columns)
    assert (status, answer["outputs"]) == (200, whole)
    variants = answer["parameters"]["variants"]
    assert set(variants) == {"stable", "candidate"}
    assert plane.infer(columns)[1]["parameters"]["variants"] == variants, "sticky"
    parts = {variant: c["x"] for variant, c in one.seen[-2:]}
    assert sorted(parts["stable"] + parts["candidate"]) == columns["x"]


def test_a_failing_candidate_is_covered_by_stable_and_stays_on_record(plane: Plane, worker: Start) -> None:
    good = worker(lambda c, v: scores(c))
    bad = worker(lambda c, v: (500, {"error": "the model raised ValueError: boom", "next_step": ""}))
    variants = (
        plane.variant("stable", "sha256:a", [good.address], weight_pct=50),
        plane.variant("candidate", "sha256:b", [bad.address], weight_pct=50, version="2", release="r-failing"),
    )
    columns = {"x": [float(row) for row in range(20)], "who": [f"p{row}" for row in range(20)]}
    plane.route(*variants, sticky_by="who", signature=STUMP_SIGNATURE)
    status, answer = plane.infer(columns)
    assert status == 200
    assert answer["outputs"][0]["data"] == columns["x"]
    assert set(answer["parameters"]["variants"]) == {"stable"}
    counters = plane.admin("GET", "/counters")[1]
    failing = next(one for one in counters["variants"] if one["release"] == "r-failing")
    assert failing["counts"]["errors"] == 1
    plane.route(*variants, sticky_by="who", idempotent=False)
    status, answer = plane.infer(columns)
    assert status == 500, "what may not be repeated is not repeated"
    assert "boom" in answer["error"]


def test_a_refused_row_is_the_callers_matter_and_not_repeated(plane: Plane, worker: Start) -> None:
    strict = worker(lambda c, v: (422, {"error": "column 'z' is missing", "next_step": "send it"}))
    plane.route(plane.variant("stable", "sha256:a", [strict.address]))
    assert plane.infer({"x": [1.0]}) == (422, {"error": "column 'z' is missing", "next_step": "send it"})
    assert len(strict.seen) == 1


def test_a_dead_replica_is_passed_over(plane: Plane, worker: Start) -> None:
    alive = worker(lambda c, v: scores(c))
    dead = f"127.0.0.1:{free_port()}"
    plane.route(plane.variant("stable", "sha256:a", [dead, alive.address]))
    assert [plane.infer({"x": [1.0]})[0] for _ in range(10)] == [200] * 10
    health = {one["address"]: one["ejected"] for one in plane.admin("GET", "/counters")[1]["replicas"]}
    assert health == {dead: True, alive.address: False}


def test_a_replica_that_hangs_up_is_asked_again_only_where_repeating_is_safe(plane: Plane, worker: Start) -> None:
    flaky = worker(lambda c, v: None)
    good = worker(lambda c, v: scores(c))
    plane.route(plane.variant("stable", "sha256:a", [flaky.address, good.address]))
    assert {plane.infer({"x": [1.0]})[0] for _ in range(4)} == {200}
    other = worker(lambda c, v: None)
    plane.route(plane.variant("stable", "sha256:a", [other.address]), idempotent=False)
    assert plane.infer({"x": [1.0]})[0] == 503
    assert len(other.seen) == 1


def test_nobody_there_is_503_and_says_when_to_come_back(plane: Plane) -> None:
    plane.route(plane.variant("stable", "sha256:a", []))
    body = msgspec.json.encode({"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]})
    status, answer = plane.request("POST", plane.infer_path, body)
    assert status == 503
    assert msgspec.json.decode(answer)["next_step"]


def test_a_model_that_hangs_ends_at_the_deadline(plane: Plane, worker: Start) -> None:
    def hang(columns: dict[str, list[Any]], variant: str) -> Answer:
        time.sleep(2)
        return scores(columns)

    plane.route(plane.variant("stable", "sha256:a", [worker(hang).address]), deadline_s=0.2)
    started = time.monotonic()
    status, answer = plane.infer({"x": [1.0]})
    assert (status, time.monotonic() - started < 1.0) == (504, True), answer


def test_more_requests_than_the_bound_are_turned_away(plane: Plane, worker: Start) -> None:
    def slow(columns: dict[str, list[Any]], variant: str) -> Answer:
        time.sleep(0.3)
        return scores(columns)

    plane.route(plane.variant("stable", "sha256:a", [worker(slow).address]), in_flight_max=2)
    statuses: list[int] = []
    callers = [threading.Thread(target=lambda: statuses.append(plane.infer({"x": [1.0]})[0])) for _ in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(statuses) == [200, 200, 429, 429, 429]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "truncated"),
        (b'{"inputs": []}', "no tensors"),
        (b'{"inputs": [{"name": "x", "datatype": "FP64", "shape": [0], "data": []}]}', "0 rows"),
        (b'{"inputs": [{"name": "x", "datatype": "FP64", "shape": [1000001], "data": []}]}', "1000001 rows"),
        (
            b'{"parameters": {"event_ids": ["a", "a"]}, '
            b'"inputs": [{"name": "x", "datatype": "FP64", "shape": [2], "data": [1, 2]}]}',
            "occurs twice",
        ),
        (b"\xff\xfe", ""),
    ],
)
def test_a_malformed_request_is_400_and_names_what_is_wrong(
    plane: Plane, worker: Start, body: bytes, says: str
) -> None:
    plane.route(plane.variant("stable", "sha256:a", [worker(lambda c, v: scores(c)).address]))
    status, answer = plane.request("POST", plane.infer_path, body)
    assert status == 400
    assert says in msgspec.json.decode(answer)["error"]


def test_a_body_over_the_bound_is_refused_before_it_is_read(plane: Plane, worker: Start) -> None:
    plane.route(plane.variant("stable", "sha256:a", [worker(lambda c, v: scores(c)).address]))
    head = (
        f"POST {plane.infer_path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a-token-of-the-tests\r\n"
        "Content-Length: 104857600\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", plane.port), timeout=5) as connection:
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_head_over_the_bound_ends_the_connection(plane: Plane) -> None:
    with socket.create_connection(("127.0.0.1", plane.port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 40_000)
        assert connection.recv(4096).startswith(b"HTTP/1.1 431")


def test_who_has_no_token_learns_nothing(plane: Plane) -> None:
    for target in (plane.infer_path, "/ops/production/v2/models/unknown/infer"):
        assert plane.request("POST", target, b"{}", {"Authorization": "Bearer wrong"})[0] == 401
        assert plane.request("POST", target, b"{}", {"Authorization": ""})[0] == 401
    assert plane.request("POST", "/ops/production/v2/models/unknown/infer", b"{}")[0] == 404
    assert plane.request("GET", plane.infer_path, b"")[0] in (404, 405)


def test_a_token_is_good_for_its_workspace_its_permissions_and_its_time(plane: Plane, worker: Start) -> None:
    plane.route(plane.variant("stable", "sha256:a", [worker(lambda c, v: scores(c)).address]))
    present = plane.admin("GET", "/configuration")[1]
    digest = present["tokens"][0]["sha256"]
    for generation, (token, status) in enumerate(
        [
            (TokenHash(sha256=digest, workspace="other"), 403),
            (TokenHash(sha256=digest, permissions=("label",)), 403),
            (TokenHash(sha256=digest, expires_at=time.time() - 1), 401),
            (TokenHash(sha256=digest, workspace="ops", permissions=("predict",), expires_at=time.time() + 60), 200),
        ],
        start=present["generation"] + 1,
    ):
        configured = msgspec.convert({**present, "generation": generation, "tokens": []}, RouterConfiguration)
        plane.configure(msgspec.structs.replace(configured, tokens=(token,)))
        plane._generation = generation
        assert plane.infer({"x": [1.0]})[0] == status


def test_event_time_is_for_replays_only_and_a_replay_demands_it(plane: Plane, worker: Start) -> None:
    stable = plane.variant("stable", "sha256:a", [worker(lambda c, v: scores(c)).address])
    plane.route(stable)
    assert plane.infer({"x": [1.0]}, at=AT)[0] == 400
    assert plane.labels([{"event_id": "e", "value": 1, "at": AT}])[0] == 400
    plane.route(stable, replay=True)
    assert plane.infer({"x": [1.0]})[0] == 400
    assert plane.infer({"x": [1.0]}, at="2013-03-01T05:00:00+02:00")[0] == 400
    assert plane.infer({"x": [1.0]}, at=AT)[0] == 200
    assert plane.labels([{"event_id": "e", "value": 1, "at": AT}]) == (202, {"accepted": 1})


def test_labels_outside_their_bounds_are_refused_as_a_whole(plane: Plane, worker: Start) -> None:
    stable = plane.variant("stable", "sha256:a", [worker(lambda c, v: scores(c)).address])
    plane.route(stable, labels=LabelSettings(value_min=0, value_max=1))
    assert plane.labels([{"event_id": "a", "value": 1}, {"event_id": "b", "value": 2}])[0] == 400
    assert plane.labels([{"event_id": "a", "value": True}])[0] == 202


def test_an_older_configuration_is_refused_and_the_last_one_survives_a_restart(plane: Plane, worker: Start) -> None:
    plane.route(plane.variant("stable", "sha256:a", [worker(lambda c, v: scores(c)).address]))
    present = plane.admin("GET", "/configuration")[1]
    status, answer = plane.configure(RouterConfiguration(generation=present["generation"] - 1))
    assert status == 409
    assert "is refused" in answer["error"]
    assert plane.configure(RouterConfiguration(generation=present["generation"]))[0] == 409, "same number, other words"
    plane.stop("router")
    plane.router()
    assert plane.admin("GET", "/configuration")[1] == present
    assert plane.infer({"x": [1.0]})[0] == 200


def test_the_side_door_needs_its_key(plane: Plane) -> None:
    path = plane.state / "run" / "router-0.sock"
    key = sockets.key_path(path)
    assert key.stat().st_mode & 0o077 == 0
    right = key.read_text()
    key.write_text("0" * 64)
    try:
        assert sockets.call_unix(path, "PUT", "/configuration", b"{}")[0] == 401
    finally:
        key.write_text(right)


def test_a_flush_waits_for_the_copies_under_way_and_not_for_those_that_come_after(plane: Plane, worker: Start) -> None:
    """Where every request is copied there is always one more."""

    def slowly(columns: Any, _variant: str) -> Any:
        time.sleep(0.3)
        return scores(columns)

    stable, shadow = worker(lambda c, v: scores(c)), worker(slowly)
    plane.route(
        plane.variant("stable", "sha256:a", [stable.address]),
        mirrors=[MirrorRoute(role="mirror", version="2", digest="sha256:b", release="r2", addresses=(shadow.address,))],
        signature=STUMP_SIGNATURE,
    )
    ended = threading.Event()

    def call() -> None:
        while not ended.wait(0.02):
            plane.infer({"x": [1.0], "z": [0.0]})

    caller = threading.Thread(target=call)
    caller.start()
    try:
        time.sleep(0.5)
        assert plane.admin("POST", "/flush") == (200, {"position": ANY, "mirrors_in_flight": 0})
    finally:
        ended.set()
        caller.join()


def test_mirrors_answer_under_the_same_event_ids_and_never_reach_the_caller(plane: Plane, worker: Start) -> None:
    stable, shadow, challenger = (worker(lambda c, v: scores(c)), worker(lambda c, v: scores(c, 2)),
                                  worker(lambda c, v: (500, {"error": "broken"})))  # fmt: skip
    plane.route(
        plane.variant("stable", "sha256:a", [stable.address]),
        mirrors=[
            MirrorRoute(role="mirror", version="2", digest="sha256:b", release="r2", addresses=(shadow.address,)),
            MirrorRoute(
                role="challenger", version="3", digest="sha256:c", release="c", addresses=(challenger.address,)
            ),
        ],
        replay=True,
        signature=STUMP_SIGNATURE,
    )
    status, answer = plane.infer({"x": [1.0, 2.0], "z": [0.0, 0.0]}, event_ids=["m1", "m2"], at=AT)
    assert (status, answer["outputs"][0]["data"]) == (200, [1.0, 2.0])
    assert [variant for variant, _ in shadow.seen + challenger.seen] == ["mirror", "challenger"], "before the answer"
    plane.flush()
    files = plane.log.committed_files(plane.scope, {})
    rows = plane.log.read_files(files)
    seen = {
        (event_id, variant): (score, status)
        for event_id, variant, score, status in rows.select("event_id", "variant", "score", "status").iter_rows()
        if event_id in ("m1", "m2")
    }
    assert seen == {
        ("m1", "stable"): (1.0, 200), ("m2", "stable"): (2.0, 200),
        ("m1", "shadow"): (2.0, 200), ("m2", "shadow"): (4.0, 200),
        ("m1", "challenger"): (None, 500), ("m2", "challenger"): (None, 500),
    }  # fmt: skip


def test_a_mirror_that_hangs_delays_nobody(plane: Plane, worker: Start) -> None:
    def hang(columns: dict[str, list[Any]], variant: str) -> Answer:
        time.sleep(1)
        return scores(columns)

    plane.route(
        plane.variant("stable", "sha256:a", [worker(lambda c, v: scores(c)).address]),
        mirrors=[
            MirrorRoute(role="mirror", version="2", digest="sha256:b", release="r2", addresses=(worker(hang).address,))
        ],
    )
    started = time.monotonic()
    assert plane.infer({"x": [1.0]})[0] == 200
    assert time.monotonic() - started < 0.5


def test_a_caller_that_leaves_is_heard_by_the_worker_and_is_in_the_log(plane: Plane) -> None:
    with socket.create_server(("127.0.0.1", 0)) as worker:
        worker.settimeout(20)
        address = f"127.0.0.1:{worker.getsockname()[1]}"
        plane.route(plane.variant("stable", "sha256:a", [address]), idempotent=False)
        before = plane.admin("GET", "/counters")[1]
        body = msgspec.json.encode({"inputs": [tensor("x", [1.0])], "parameters": {"event_ids": ["left"]}})
        with socket.create_connection(("127.0.0.1", plane.port)) as caller:
            head = f"POST {plane.infer_path} HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer {TOKEN}\r\n"
            caller.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            asked, _ = worker.accept()
            asked.settimeout(20)
            assert asked.recv(65_536).startswith(b"POST ")
            time.sleep(0.2)
        with asked:
            assert asked.recv(65_536) == b"", "nobody wants the answer any more"
    after = plane.admin("GET", "/counters")[1]
    assert after["edge"]["clients_left"] == before["edge"]["clients_left"] + 1
    assert after["upstream"]["cancelled"] == before["upstream"]["cancelled"] + 1
    assert after["replicas"][0]["in_flight"] == 0
    assert not after["replicas"][0]["ejected"]
    plane.flush()
    rows = plane.log.read_files(plane.log.committed_files(plane.scope, {}))
    [row] = rows.filter(rows["event_id"] == "left").rows(named=True)
    assert (row["status"], row["variant"], row["score"]) == (499, "stable", None)
    assert row["error"].startswith("given up before its answer")
    assert row["latency_ms"] > 150, "how long it was waited for"
