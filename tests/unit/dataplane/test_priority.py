"""A process that nobody waits for leaves the processor to those that serve, whatever session it is in."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from steersman.dataplane import committer, priority
from steersman.dataplane.committer import Committer, Service
from steersman.dataplane.priority import Session
from steersman.dataplane.removal import Remover
from steersman.dataplane.storage import LocalStorage
from steersman.dataplane.upkeep import Upkeep
from steersman.testing.plane import STUMP, Plane, stump

grouped = pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel groups no sessions")

SPIN = """
import sys, time
from steersman.dataplane import priority
if sys.argv[1] == "back":
    priority.step_back()
print(flush=True)
sys.stdin.readline()
until = time.monotonic() + 0.5
while time.monotonic() < until:
    pass
print(time.process_time())
"""


def session_nice(pid: int) -> int:
    return int(Path(f"/proc/{pid}/autogroup").read_text().split()[-1])


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane(tmp_path / "state") as running:
        yield running


@grouped
def test_who_stepped_back_leaves_the_core_to_who_did_not(tmp_path: Path) -> None:
    """In sessions of their own, as all processes of an installation are; a nice value alone changes nothing there."""
    if Path("/proc/sys/kernel/sched_autogroup_enabled").read_text().strip() != "1":
        pytest.skip("sessions are not grouped here")
    core = min(os.sched_getaffinity(0))
    spinning = [
        subprocess.Popen(
            ["taskset", "-c", str(core), sys.executable, "-P", "-c", SPIN, where],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        for where in ("forward", "back")
    ]
    for process in spinning:
        assert process.stdout is not None
        process.stdout.readline()
    before = [_cpu_s(process.pid) for process in spinning]
    for process in spinning:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    spent = [float(process.communicate()[0]) for process in spinning]
    forward, back = (after - first for after, first in zip(spent, before, strict=True))
    assert back < forward / 2


def _cpu_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@grouped
def test_a_worker_starts_in_the_background_and_serves_in_the_foreground(plane: Plane, tmp_path: Path) -> None:
    digest = plane.store(stump(tmp_path / "tree"))
    name = plane.start_worker(digest, **STUMP)
    pid = plane.processes[name].pid
    seen = set()
    handle = plane.state / "run" / f"{name}.json"
    while not (handle.exists() and handle.read_bytes()):
        seen.add(session_nice(pid))
        time.sleep(0.005)
        assert plane.processes[name].poll() is None
    assert max(seen) == priority.NICE
    assert session_nice(pid) == 0


@grouped
def test_the_committer_stays_in_the_background(plane: Plane) -> None:
    plane.committer()
    pid = plane.processes["committer"].pid
    assert (session_nice(pid), os.getpriority(os.PRIO_PROCESS, pid)) == (priority.NICE, priority.NICE)


@grouped
def test_a_start_that_takes_too_long_takes_its_full_share(tmp_path: Path) -> None:
    """On a machine that leaves it nothing a version must still become ready."""
    spec = tmp_path / "spec.json"
    spec.write_text("{}")
    code = """
import sys, time
from pathlib import Path
from steersman.dataplane import worker
def run(*_):
    for _ in range(2):
        print(Path("/proc/self/autogroup").read_text().split()[-1])
        time.sleep(0.3)
worker.PATIENCE_S, worker._run = 0.1, run
worker.main()
"""
    said = subprocess.run(
        [sys.executable, "-P", "-c", code, "--spec", str(spec)],
        capture_output=True, text=True, timeout=60, check=True, start_new_session=True,
    )  # fmt: skip
    assert said.stdout.split() == [str(priority.NICE), "0"]


class NotedSession(Session):
    def __init__(self) -> None:
        self.steps: list[str] = []

    def step_back(self, *, patience_s: float = 0.0) -> bool:
        self.steps.append("back")
        return True

    def step_forward(self, nice: int = 0, *, patience_s: float = 0.0) -> bool:
        self.steps.append(f"forward to {nice}")
        return True


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Service, NotedSession]:
    """A committer whose commits take 0.4 s, and how far it stepped when."""
    monkeypatch.setattr(committer, "PATIENCE", ((0.1, 10), (0.2, 5), (60.0, 0)))
    monkeypatch.setattr(committer, "AWAITED_S", 0.3)
    session, storage = NotedSession(), LocalStorage(tmp_path / "tables")
    work = Committer(tmp_path, storage)
    monkeypatch.setattr(work, "commit_all", lambda: time.sleep(0.4))
    return Service(work, Upkeep(storage), Remover(tmp_path, storage), session, interval_s=0, bytes_max=1), session


def test_a_commit_in_time_stays_in_the_background(
    slow: tuple[Service, NotedSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, session = slow
    monkeypatch.setattr(committer, "PATIENCE", ((60.0, 0),))
    asyncio.run(service.commit())
    assert session.steps == []


def test_a_commit_that_takes_too_long_takes_more_and_more_until_its_end(slow: tuple[Service, NotedSession]) -> None:
    """Where callers leave no processor at all the log would grow without end."""
    service, session = slow
    asyncio.run(service.commit())
    assert session.steps == ["forward to 10", "forward to 5", "back"]


def test_a_flush_that_waits_too_long_takes_the_full_share(slow: tuple[Service, NotedSession]) -> None:
    service, session = slow
    asyncio.run(service.commit(awaited=True))
    assert session.steps == ["forward to 0", "back"]


def test_a_flush_hurries_the_commit_before_it_as_well(slow: tuple[Service, NotedSession]) -> None:
    service, session = slow

    async def run() -> None:
        await asyncio.gather(service.commit(), service.commit(awaited=True))

    asyncio.run(run())
    assert session.steps == ["forward to 10", "forward to 5", "forward to 0", "back", "forward to 0", "back"]


def test_a_session_led_by_another_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = tmp_path / "autogroup"
    given.touch()
    monkeypatch.setattr(priority, "_SESSION", str(given))
    monkeypatch.setattr(os, "getsid", lambda pid: pid + 1)
    session = Session()
    assert session.step_back() is False
    assert given.read_bytes() == b""
    session.close()


def test_a_change_the_kernel_grants_a_little_later_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without privilege there is one such change in 0.1 s, on the whole machine."""
    given = tmp_path / "autogroup"
    given.touch()
    monkeypatch.setattr(priority, "_SESSION", str(given))
    monkeypatch.setattr(os, "getsid", lambda pid: pid)
    write, refusals = os.write, [errno.EAGAIN, errno.EAGAIN]

    def busy(descriptor: int, data: bytes) -> int:
        if refusals:
            raise OSError(refusals.pop(), "later")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", busy)
    session = Session()
    assert session.step_forward(patience_s=5.0) is True
    assert given.read_bytes() == b"0"
    refusals.append(errno.EAGAIN)
    assert session.step_back() is False, "who cannot wait goes on as it is"
    session.close()
