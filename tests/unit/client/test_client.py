"""The client says what went wrong and what to do, repeats only what may be repeated, and keeps the token to itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from steersman.client import Label, Prepared, Steersman, Traffic
from steersman.client.credentials import FILE, Credentials, read_credentials, write_credentials
from steersman.client.inference import prepare_labels, prepare_prediction, split_reference
from steersman.domain import errors

Answering = Callable[[str, str, dict[str, Any]], tuple[int, Any]]


class Server:
    """A real HTTP server on a free port that remembers what it was asked."""

    def __init__(self, answer: Answering) -> None:
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.hang_up_next = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def _handle(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                body = json.loads(raw) if raw else None
                outer.asked.append((self.command, self.path, dict(self.headers), body))
                if outer.hang_up_next > 0:
                    outer.hang_up_next -= 1
                    self.close_connection = True
                    return
                status, found = answer(self.command, self.path, body)
                content = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = _handle  # noqa: N815

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def serve() -> Iterator[Callable[[Answering], Server]]:
    servers: list[Server] = []

    def start(answer: Answering) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


Serve = Callable[[Answering], Server]


def ok(_: str, path: str, body: Any) -> tuple[int, Any]:
    return 200, {"path": path, "body": body}


def test_a_decision_goes_to_its_route_with_its_reason(serve: Serve) -> None:
    server = serve(ok)
    Steersman(server.url, "secret").approve("rel-1", because="reviewed")
    (method, path, headers, body) = server.asked[0]
    assert (method, path, body) == ("POST", "/api/v1/releases/rel-1/approve", {"because": "reviewed"})
    assert headers["Authorization"] == "Bearer secret"


def test_an_error_of_the_server_arrives_as_its_class_with_the_next_step(serve: Serve) -> None:
    refused = errors.Blocked("gate log_loss failed", next_step="train a better one")
    server = serve(lambda *_: (refused.status, refused.to_wire()))
    with pytest.raises(errors.Blocked, match="gate log_loss failed") as caught:
        Steersman(server.url).release("ops/m", 3, because="why not")
    assert caught.value.next_step == "train a better one"


def test_no_server_is_unavailable_and_says_how_to_start_one() -> None:
    with pytest.raises(errors.Unavailable, match="nothing listens") as caught:
        Steersman("http://127.0.0.1:9").status("m")
    assert "steersman up" in caught.value.next_step


def test_a_read_survives_a_connection_closed_while_idle(serve: Serve) -> None:
    server = serve(ok)
    steersman = Steersman(server.url)
    steersman.health()
    server.hang_up_next = 1
    assert steersman.health()["path"] == "/api/v1/health"
    assert len(server.asked) == 3


def test_a_change_is_never_repeated_by_itself(serve: Serve) -> None:
    server = serve(ok)
    steersman = Steersman(server.url)
    steersman.health()
    server.hang_up_next = 1
    with pytest.raises(errors.Unavailable, match="broke"):
        steersman.rollback("ops/m", because="now")
    assert len(server.asked) == 2


def test_moving_the_clock_is_repeated_until_the_control_server_is_back(serve: Serve) -> None:
    server = serve(ok)
    server.hang_up_next = 2
    moment = datetime(2013, 3, 1, tzinfo=UTC)
    assert Steersman(server.url).advance(moment)["body"] == {"to": "2013-03-01T00:00:00Z"}
    assert len(server.asked) == 3


def test_waiting_ends_when_the_release_waits_for_a_person(serve: Serve) -> None:
    phases = iter(["Progressing", "Paused"])
    server = serve(lambda *_: (200, {"id": "rel-1", "phase": next(phases), "completion": None}))
    assert Steersman(server.url).wait("rel-1", timeout_s=10)["phase"] == "Paused"


def test_whoever_waits_is_told_each_time_the_release_waits_for_something_else(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steersman.client.steersman.POLL_S", 0.0)
    reasons = iter(["waits for another release", "waits for another release", "evidence under way", "inconclusive"])

    def answer(*_: object) -> tuple[int, dict[str, object]]:
        reason = next(reasons)
        phase = "Paused" if reason == "inconclusive" else "Pending"
        return 200, {"id": "rel-1", "phase": phase, "completion": None, "standing": {"reason": reason}}

    told: list[str] = []
    steersman = Steersman(serve(answer).url)
    steersman.wait("rel-1", timeout_s=10, told=lambda state: told.append(state["standing"]["reason"]))
    assert told == ["waits for another release", "evidence under way"]


def test_a_wait_that_was_too_short_says_for_what_the_release_still_waits(serve: Serve) -> None:
    server = serve(lambda *_: (200, {"id": "rel-1", "phase": "Pending", "standing": {"reason": "frozen"}}))
    with pytest.raises(errors.Unavailable, match="still Pending after 0 s: frozen"):
        Steersman(server.url).wait("rel-1", timeout_s=0.0)


@pytest.mark.parametrize("url", ["127.0.0.1:7700", "ftp://x", "http://u:secret@x", "http://", "http://x:99999999"])
def test_what_is_no_address_is_refused_without_showing_a_secret(url: str) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        Steersman(url)
    assert "secret@" not in str(caught.value)


def test_no_repr_shows_a_token() -> None:
    assert "secret" not in repr(Steersman("http://127.0.0.1:9", "secret"))
    assert "secret" not in repr(Credentials(url="http://127.0.0.1:9", token="secret"))


@pytest.mark.parametrize("name", ["", "a/b/c", "/m", "ops/"])
def test_what_is_no_model_is_refused(name: str) -> None:
    with pytest.raises(errors.BadRequest, match="is not a model"):
        split_reference(name)


def test_a_name_can_never_become_another_path(serve: Serve) -> None:
    server = serve(ok)
    Steersman(server.url).incident("../tokens?x=1")
    assert server.asked[0][1] == "/api/v1/incidents/..%2Ftokens%3Fx=1"


def test_columns_become_tensors_and_missing_values_null() -> None:
    columns = {"origin": ["JFK", None], "hour": [5, 6], "wind": [1.5, float("nan")], "late": [True, False]}
    prepared = prepare_prediction("ops/flight-delay", columns, event_ids=["a", "b"])
    body = json.loads(prepared.body)
    assert prepared.path == "/ops/production/v2/models/flight-delay/infer"
    assert body["parameters"] == {"event_ids": ["a", "b"]}
    assert [(t["datatype"], t["shape"], t["data"]) for t in body["inputs"]] == [
        ("BYTES", [2], ["JFK", None]),
        ("INT64", [2], [5, 6]),
        ("FP64", [2], [1.5, None]),
        ("BOOL", [2], [True, False]),
    ]


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(errors.BadRequest, match="columns of one length"):
        prepare_prediction("m", {"a": [1], "b": [1, 2]})


def test_labels_carry_their_arrival_in_a_replay() -> None:
    at = datetime(2013, 3, 2, tzinfo=UTC)
    prepared = prepare_labels("ops/m", [Label(event_id="e", value=1.0)], at=at)
    assert prepared.path == "/ops/labels/m"
    assert json.loads(prepared.body) == {"labels": [{"event_id": "e", "value": 1.0, "at": "2013-03-02T00:00:00Z"}]}


def test_a_naive_time_is_refused_rather_than_guessed() -> None:
    with pytest.raises(errors.BadRequest, match="needs its zone"):
        prepare_labels("ops/m", {"e": 1.0}, at=datetime(2013, 3, 2))  # noqa: DTZ001


def test_a_prediction_comes_back_row_by_row(serve: Serve) -> None:
    answer = {
        "model_name": "m",
        "model_version": "3",
        "parameters": {"event_ids": ["a"], "variants": ["stable"]},
        "outputs": [{"name": "score", "datatype": "FP64", "shape": [1], "data": [0.25]}],
    }
    server = serve(lambda *_: (200, answer))
    at = datetime(2013, 3, 1, 6, tzinfo=UTC)
    found = Steersman(server.url, router_url=server.url).predict("ops/m", {"x": [1]}, event_ids=["a"], at=at)
    assert (found.version, found.event_ids, found.variants, found.scores) == ("3", ("a",), ("stable",), [0.25])
    assert server.asked[0][2]["X-Event-Time"] == "2013-03-01T06:00:00Z"


def test_many_requests_come_back_in_their_order(serve: Serve) -> None:
    server = serve(lambda _m, _p, body: (503 if body["n"] == 7 else 200, body))
    requests = [Prepared(path="/x", body=json.dumps({"n": n}).encode()) for n in range(60)]
    with Traffic(server.url, "secret", connections=4) as traffic:
        replies = traffic.send(requests)
    assert [json.loads(reply.body)["n"] for reply in replies] == list(range(60))
    assert [reply.status for reply in replies].count(503) == 1


def test_a_lost_connection_is_a_reply_not_an_exception(serve: Serve) -> None:
    server = serve(ok)
    server.hang_up_next = 1
    requests = [Prepared(path="/x", body=b"{}")] * 3
    with Traffic(server.url, connections=1) as traffic:
        replies = traffic.send(requests)
    assert [reply.status for reply in replies] == [0, 200, 200]
    assert "closed before the answer" in replies[0].error
    server.hang_up_next = 1
    with Traffic(server.url, connections=1, retries=1) as traffic:
        assert [reply.status for reply in traffic.send(requests)] == [200, 200, 200]


def test_credentials_are_kept_from_others(tmp_path: Path) -> None:
    assert read_credentials(tmp_path) is None
    path = write_credentials(tmp_path, Credentials(url="http://127.0.0.1:7700", token="secret"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_credentials(tmp_path) == Credentials(url="http://127.0.0.1:7700", token="secret")
    path.chmod(0o644)
    with pytest.raises(errors.Misconfigured, match="can be read by others"):
        read_credentials(tmp_path)


def test_a_damaged_credentials_file_is_named_without_its_contents(tmp_path: Path) -> None:
    (tmp_path / FILE).touch(0o600)
    (tmp_path / FILE).write_text('{"token": "secret"')
    with pytest.raises(errors.Misconfigured) as caught:
        read_credentials(tmp_path)
    assert "secret" not in str(caught.value)
