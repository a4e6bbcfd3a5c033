"""Routers are replaced, killed and adopted under load; workers, routers and their sockets are real.

The supervisor's part is played by its own `Routers`, driven by a thread as `steersman up` drives it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from steersman.dataplane import handover
from steersman.dataplane.handles import Handle, read_handle
from steersman.server.installation import Installation
from steersman.server.router_control import RouterSockets
from steersman.server.routers import Routers
from steersman.testing.plane import STUMP, STUMP_SIGNATURE, TOKEN, Plane, stump, tensor


class Supervised:
    """The routers of one state directory, looked after until `leave` (as by kill -9) or the end."""

    def __init__(self, plane: Plane, *, routers: int = 1, port: int | None = None) -> None:
        self.said: list[str] = []
        self.plane = plane
        plane.port = port or plane.port or free_port()
        self.routers = Routers(plane.state, Installation(router_port=plane.port, routers=routers), self.said.append)
        self._ended = threading.Event()
        self.routers.gather()
        for child in self.routers.children.values():
            if not child.running():
                child.start()
        for child in self.routers.children.values():
            until(lambda child=child: self.routers.ready(child), child.name)  # type: ignore[misc]
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.routers.look()
            for child in self.routers.children.values():
                if not child.running():
                    child.start()

    def leave(self) -> None:
        """End like a supervisor that is killed: nothing is told to anybody, and its copies of the sockets close."""
        self._ended.set()
        self._thread.join()
        for child in self.routers.children.values():
            if child.listener is not None:
                child.listener.close()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        self.routers.stop()

    def pids(self) -> dict[str, int | None]:
        return {name: child.pid for name, child in self.routers.children.items()}

    def restart(self) -> None:
        """Ask for successors and wait until each has taken over."""
        before = self.pids()
        self.routers.ask_restart()
        until(lambda: all(pid != before[name] for name, pid in self.pids().items()), "\n".join(self.said))


def until(holds: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane(tmp_path / "state") as running:
        yield running


@pytest.fixture
def supervise(plane: Plane) -> Iterator[Callable[..., Supervised]]:
    started: list[Supervised] = []

    def start(**settings: int) -> Supervised:
        started.append(Supervised(plane, **settings))
        return started[-1]

    yield start
    for supervised in started:
        supervised.end()
    for card in (plane.state / "run").glob("router-*.json"):
        handle = read_handle(card)
        if handle is not None and handle.alive():
            os.kill(handle.pid, signal.SIGKILL)


def serve(plane: Plane, tmp_path: Path, *, replicas: int = 1) -> None:
    """Workers of a stump, and a route to them in every router."""
    digest = plane.store(stump(tmp_path / "tree"))
    addresses = [plane.address(plane.start_worker(digest, **STUMP)) for _ in range(replicas)]
    plane.route(plane.variant("stable", digest, addresses), signature=STUMP_SIGNATURE)


class Caller(threading.Thread):
    """Calls over one kept-alive connection, `pause_s` apart; a failed call counts, whatever made it fail."""

    def __init__(self, plane: Plane, name: str, pause_s: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.answered: list[str] = []
        self.failures: list[BaseException] = []
        self.connections = 0
        self._plane = plane
        self._name = name
        self._pause_s = pause_s
        self._ended = threading.Event()

    def run(self) -> None:
        number = 0
        connection = http.client.HTTPConnection("127.0.0.1", self._plane.port, timeout=30)
        while not self._ended.wait(self._pause_s):
            number += 1
            event = f"{self._name}-{number}"
            body = {"parameters": {"event_ids": [event]}, "inputs": [tensor("x", [1.0]), tensor("z", [0.0])]}
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
            try:
                self.connections += connection.sock is None
                connection.request("POST", self._plane.infer_path, msgspec.json.encode(body), headers)
                answer = connection.getresponse()
                said = answer.read()
                if answer.status != 200:
                    raise AssertionError(f"{answer.status} {said!r}")
                self.answered.append(event)
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failures.append(error)
                connection.close()
        connection.close()

    def finish(self) -> None:
        self._ended.set()
        self.join(35)


@contextlib.contextmanager
def load(plane: Plane, callers: int = 4) -> Iterator[list[Caller]]:
    """Callers without a pause, and one that thinks between its calls, as people's programs do."""
    running = [Caller(plane, f"c{number}") for number in range(callers)] + [Caller(plane, "thinking", 0.5)]
    for caller in running:
        caller.start()
    time.sleep(0.3)
    try:
        yield running
        time.sleep(0.3)
    finally:
        for caller in running:
            caller.finish()


def rows_of(plane: Plane) -> Counter[str]:
    files = plane.log.committed_files(plane.scope, {})
    return Counter(plane.log.read_files(files)["event_id"].to_list())


def test_five_planned_restarts_fail_no_request(
    plane: Plane, supervise: Callable[..., Supervised], tmp_path: Path
) -> None:
    supervised = supervise()
    serve(plane, tmp_path)
    plane.committer()
    pids = set()
    with load(plane) as callers:
        for _ in range(5):
            pids.add(supervised.pids()["router-0"])
            supervised.restart()
            time.sleep(0.3)
    assert len(pids) == 5
    assert [repr(error) for caller in callers for error in caller.failures] == []
    assert all(caller.connections >= 5 for caller in callers if caller.name != "thinking")
    answered = [event for caller in callers for event in caller.answered]
    assert len(answered) > 200
    plane.flush()
    rows = rows_of(plane)
    assert {rows[event] for event in answered} == {1}, "each is in the table once, whichever router wrote it"
    until(lambda: not list((plane.state / "run").glob("*.restart")), "the predecessors have ended", 20)


def test_a_killed_router_fails_only_what_was_in_flight(
    plane: Plane, supervise: Callable[..., Supervised], tmp_path: Path
) -> None:
    supervised = supervise()
    serve(plane, tmp_path)
    with load(plane) as callers:
        for _ in range(3):
            pid = supervised.pids()["router-0"]
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: supervised.pids()["router-0"] != pid, "a new router")  # type: ignore[misc]
            until(lambda: supervised.routers.ready(supervised.routers.children["router-0"]), "it is ready")
            time.sleep(0.2)
    for caller in callers:
        assert not any(isinstance(error, ConnectionRefusedError) for error in caller.failures), "callers wait instead"
        assert len(caller.failures) <= 3, "one for each kill"
        assert caller.answered


def test_several_routers_share_a_port_and_one_that_is_killed_leaves_the_others_serving(
    plane: Plane, supervise: Callable[..., Supervised], tmp_path: Path
) -> None:
    supervised = supervise(routers=3)
    serve(plane, tmp_path)
    control = RouterSockets(plane.state, 3)
    assert control.generation() is None or control.generation() == 0, "only router-0 was told"
    configuration = plane.admin("GET", "/configuration")[1]
    control.apply(msgspec.json.encode(configuration))
    assert control.generation() == configuration["generation"]
    with load(plane, callers=8) as callers:
        pid = supervised.pids()["router-1"]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
        supervised.restart()
    assert not any(isinstance(error, ConnectionRefusedError) for caller in callers for error in caller.failures)
    assert sum(len(caller.failures) for caller in callers) <= len(callers), "what the killed one had in flight"
    until(lambda: control.generation() == configuration["generation"], "the successors restored it")
    asked = [plane.admin("GET", "/counters", socket=f"router-{n}.sock")[1] for n in range(3)]
    assert len(asked) == 3
    plane.committer()
    plane.flush()
    rows = rows_of(plane)
    assert {rows[event] for caller in callers for event in caller.answered} == {1}


def test_a_new_supervisor_gets_the_socket_back_and_restarts_on_it(
    plane: Plane, supervise: Callable[..., Supervised], tmp_path: Path
) -> None:
    first = supervise()
    serve(plane, tmp_path)
    with load(plane) as callers:
        first.leave()
        second = supervise()
        assert second.pids() == first.pids()
        second.restart()
    assert [repr(error) for caller in callers for error in caller.failures] == []
    assert any("adopted" in line for line in second.said)


def test_a_supervisor_killed_in_a_restart_leaves_no_second_router(
    plane: Plane, supervise: Callable[..., Supervised], tmp_path: Path
) -> None:
    first = supervise()
    serve(plane, tmp_path)
    old = first.routers.children["router-0"]
    first._ended.set()
    first._thread.join()
    first.routers.ask_restart()
    until(lambda: bool(list((plane.state / "run").glob("*.restart"))) or bool(first.routers.look()), "it began")
    successor = first.routers._successor
    assert successor is not None
    until(lambda: first.routers.ready(successor), "the successor is ready")
    assert old.running()
    second = supervise()
    assert second.pids()["router-0"] == successor.pid
    until(lambda: not old.running(), "the predecessor drains and ends", 20)
    assert plane.infer({"x": [1.0], "z": [0.0]})[0] == 200


def test_a_successor_that_cannot_start_leaves_the_old_router_serving(
    plane: Plane, supervise: Callable[..., Supervised], tmp_path: Path
) -> None:
    supervised = supervise()
    serve(plane, tmp_path)
    before = supervised.pids()
    (plane.state / "router" / "config.json").write_text("damaged")
    supervised.routers.ask_restart()
    until(lambda: any("was not replaced" in line for line in supervised.said), "it gives up")
    assert supervised.pids() == before
    assert plane.infer({"x": [1.0], "z": [0.0]})[0] == 200
    assert plane.admin("GET", "/counters")[0] == 200, "the control server reaches it as before"


def test_the_socket_is_given_only_to_who_knows_the_key(plane: Plane, supervise: Callable[..., Supervised]) -> None:
    supervise()
    door = handover.door(plane.state, 0)
    fetched = handover.fetch(door)
    assert fetched is not None
    assert fetched.getsockname()[1] == plane.port
    fetched.close()
    key = door.with_name(door.name + ".key")
    assert key.stat().st_mode & 0o077 == 0
    right = key.read_text()
    key.write_text("0" * 64)
    try:
        assert handover.fetch(door) is None
    finally:
        key.write_text(right)


def test_fewer_routers_than_before_end_those_too_many(plane: Plane, supervise: Callable[..., Supervised]) -> None:
    first = supervise(routers=2)
    pids = first.pids()
    first.leave()
    second = supervise(routers=1)
    card = read_handle(plane.state / "run" / "router-1.json")
    assert card is not None
    assert not card.alive()
    assert list(second.routers.children) == ["router-0"]
    assert second.pids()["router-0"] != pids["router-0"], "one alone does not share its port"
    until(lambda: plane.request("GET", "/v2/health/live", b"")[0] == 200, "it serves")


def test_the_note_of_a_restart_names_processes_not_pids(plane: Plane, supervise: Callable[..., Supervised]) -> None:
    """A pid that was given away again is not ended in place of a router."""
    (plane.state / "run" / "router-0.restart").write_bytes(
        msgspec.json.encode([Handle(pid=os.getpid(), started_at=1.0)])
    )
    supervise()
    assert not (plane.state / "run" / "router-0.restart").exists()
