"""The load generator says what a server takes, and does not take its own interruptions for the server's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from measuring import load

STUB = Path(load.__file__).with_name("stub.py")
STALL_S = 0.6


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server that answers `ok`, and its port."""
    (tmp_path / "answer").write_bytes(b"ok")
    with subprocess.Popen(
        [sys.executable, str(STUB), str(tmp_path / "answer"), str(tmp_path / "s")], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def plan(port: int, **settings: float) -> load.Plan:
    sent = [load.post("/", b"{}", expected=b"ok")]
    return load.Plan(port=port, sent=sent, connections=4, rate=200.0, seconds=2.0, **settings)  # type: ignore[arg-type]


def stall(pid: int, began: float) -> None:
    time.sleep(began + 1.0 - time.monotonic())
    os.kill(pid, signal.SIGSTOP)
    time.sleep(STALL_S)
    os.kill(pid, signal.SIGCONT)


def test_everyone_who_came_while_the_server_stalled_pays(stub: tuple[subprocess.Popen[bytes], int]) -> None:
    server, port = stub
    generator = load.start(plan(port))
    stall(server.pid, time.monotonic())
    outcome = load.finish(generator)
    assert outcome.failed == 0
    assert outcome.latency_ms_max > STALL_S * 900
    assert outcome.latency_ms_p99 > STALL_S * 500, "half of those who came in the second half of the stall"


def test_a_stall_of_the_generator_is_nobodys_latency(stub: tuple[subprocess.Popen[bytes], int]) -> None:
    _, port = stub
    generator = load.start(plan(port))
    stall(generator.pid, time.monotonic())
    outcome = load.finish(generator)
    assert (outcome.failed, outcome.lapses > 0) == (0, True)
    assert outcome.answered > 100, "those without a latency are answered all the same"
    assert outcome.latency_ms_max < STALL_S * 900
    assert outcome.latency_ms_p99 < STALL_S * 500


def test_another_answer_than_expected_is_a_failure(stub: tuple[subprocess.Popen[bytes], int]) -> None:
    _, port = stub
    sent = [load.post("/", b"{}", expected=b"no")]
    outcome = load.run(load.Plan(port=port, sent=sent, connections=2, requests=10))
    assert (outcome.answered, outcome.failures) == (0, {"wrong answer: ok": 10})
