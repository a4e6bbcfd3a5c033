"""Sockets between our own processes: whose they are, and what a client finds at their address."""

from __future__ import annotations

import http.client
import socket
import stat
import urllib.request
from pathlib import Path

import psutil
import pytest

from steersman.dataplane import sockets
from steersman.dataplane.handles import read_handle
from steersman.testing.plane import STUMP, Plane, stump


def path_of(address: str) -> Path:
    return Path(address.removeprefix(sockets.UNIX))


def test_a_workers_socket_is_its_users_alone_and_its_address_is_never_given_again(tmp_path: Path) -> None:
    bound, address = sockets.bind_beside(tmp_path / "handle.json")
    assert stat.S_IMODE(path_of(address).stat().st_mode) == 0o600
    other, beside = sockets.bind_beside(tmp_path / "handle-2.json")
    again, new = sockets.bind_beside(tmp_path / "handle.json")
    assert len({address, beside, new}) == 3
    assert sorted(tmp_path.glob("*.sock")) == sorted([path_of(beside), path_of(new)]), "the dead one's is gone"
    for one in (bound, other, again):
        one.close()


def test_a_socket_that_does_not_listen_yet_refuses(tmp_path: Path) -> None:
    bound, address = sockets.bind_beside(tmp_path / "handle.json")
    with bound, pytest.raises(ConnectionRefusedError):
        sockets.connect_unix(path_of(address), timeout_s=0.0)


def test_a_socket_with_a_full_queue_does_not_hold_up_who_connects(tmp_path: Path) -> None:
    bound, address = sockets.bind_beside(tmp_path / "handle.json")
    with bound:
        bound.listen(0)
        first = sockets.connect_unix(path_of(address), timeout_s=0.0)
        with first, pytest.raises(BlockingIOError):
            sockets.connect_unix(path_of(address), timeout_s=0.0)


@pytest.mark.parametrize("address", ["unix:/nowhere/w.sock", "127.0.0.1:1"])
def test_a_client_of_either_kind_of_address_says_that_nobody_is_there(address: str) -> None:
    connection = sockets.connection_to(address, timeout_s=1.0)
    with pytest.raises(OSError, match=r"No such file|refused"):
        connection.request("GET", "/")


def test_a_worker_answers_on_its_socket_and_has_no_port(tmp_path: Path) -> None:
    """A port of the loopback interface would answer everybody on the machine, past the router's tokens and its log."""
    with Plane(tmp_path / "state") as plane:
        name = plane.start_worker(plane.store(stump(tmp_path / "tree")), **STUMP)
        address = plane.address(name)
        connection: http.client.HTTPConnection = sockets.connection_to(address, timeout_s=10.0)
        connection.request("GET", "/v2/health/ready")
        assert connection.getresponse().status == 200
        connection.close()
        process = psutil.Process(plane.processes[name].pid)
        assert [one.status for one in process.net_connections("inet")] == []
        listening = [one.laddr for one in process.net_connections("unix") if one.type == socket.SOCK_STREAM]
        assert any(path_of(address).name in str(one) for one in listening)
        card = read_handle(plane.state / "run" / f"{name}.json")
        assert card is not None
        assert (card.port, card.address) == (None, address)


def test_a_worker_that_a_versions_own_tests_ask_has_a_port_of_this_machine_alone(tmp_path: Path) -> None:
    with Plane(tmp_path / "state") as plane:
        address = plane.worker(plane.store(stump(tmp_path / "tree")), **STUMP, local_port=True)
        assert address.startswith("127.0.0.1:")
        with urllib.request.urlopen(f"http://{address}/v2/health/ready", timeout=10) as answer:
            assert answer.status == 200
        assert not list((plane.state / "run").glob("worker-*.sock"))
