"""kill -9 of router, committer and workers: nothing acknowledged is lost, nothing is there twice."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import random
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from steersman.dataplane.router import STREAMS_MAX
from steersman.ports import LogError
from steersman.testing.plane import STUMP, STUMP_SIGNATURE, Plane, stump

SEED = 20130301


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane(tmp_path / "state") as running:
        yield running


def serve(plane: Plane, tmp_path: Path, *, replicas: int = 1, **route: object) -> list[str]:
    """Workers of a stump behind a router; returns the workers' names."""
    digest = plane.store(stump(tmp_path / "tree"))
    names = [plane.start_worker(digest, **STUMP) for _ in range(replicas)]
    plane.router()
    stable = plane.variant("stable", digest, [plane.address(name) for name in names])
    plane.route(stable, signature=STUMP_SIGNATURE, **route)
    return names


class Caller(threading.Thread):
    """Calls without pause until told to stop; remembers which events were answered and how often a call failed."""

    def __init__(self, plane: Plane, name: str, *, rows: int = 3) -> None:
        super().__init__(daemon=True)
        self.answered: list[str] = []
        self.failures: list[str] = []
        self._plane = plane
        self._prefix = name
        self._rows = rows
        self._stop_asked = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._stop_asked.is_set():
            ids = [f"{self._prefix}-{number}-{row}" for row in range(self._rows)]
            number += 1
            try:
                status, answer = self._plane.infer({"x": [1.0] * self._rows, "z": [0.0] * self._rows}, event_ids=ids)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                time.sleep(0.01)
                continue
            if status == 200:
                self.answered += answer["parameters"]["event_ids"]
            else:
                self.failures.append(f"{status} {answer}")

    def finish(self) -> None:
        self._stop_asked.set()
        self.join(30)


def rows_of(plane: Plane) -> Counter[str]:
    table = plane.state / "tables/ops/production/m/predictions"
    return Counter(pl.read_delta(str(table))["event_id"].to_list())


def assert_each_once(plane: Plane, answered: list[str]) -> None:
    rows = rows_of(plane)
    assert [event_id for event_id in answered if rows[event_id] != 1] == []
    assert max(rows.values()) == 1


def test_every_answered_prediction_is_in_the_table_once_after_the_router_was_killed(
    plane: Plane, tmp_path: Path
) -> None:
    serve(plane, tmp_path)
    plane.committer()
    chance = random.Random(SEED)
    callers = [Caller(plane, f"c{number}") for number in range(3)]
    for caller in callers:
        caller.start()
    for _ in range(4):
        time.sleep(chance.uniform(0.05, 0.3))
        plane.stop("router", signal.SIGKILL)
        if chance.random() < 0.5:
            plane.flush()
        plane.router()
    for caller in callers:
        caller.finish()
    plane.flush()
    answered = [event_id for caller in callers for event_id in caller.answered]
    assert len(answered) > 50
    assert_each_once(plane, answered)


def test_every_prediction_is_committed_once_however_often_the_committer_is_killed(plane: Plane, tmp_path: Path) -> None:
    serve(plane, tmp_path)
    chance = random.Random(SEED)
    caller = Caller(plane, "c")
    caller.start()
    for _ in range(5):
        plane.committer()
        flushing = threading.Thread(target=try_flush, args=(plane,))
        flushing.start()
        time.sleep(chance.uniform(0.0, 0.06))
        plane.stop("committer", signal.SIGKILL)
        flushing.join(30)
    caller.finish()
    plane.committer()
    plane.flush()
    assert len(caller.answered) > 50
    assert caller.failures == [], "callers do not notice"
    assert_each_once(plane, caller.answered)


def try_flush(plane: Plane) -> None:
    with contextlib.suppress(LogError):
        plane.flush()


def test_no_call_fails_when_a_worker_of_two_is_killed(plane: Plane, tmp_path: Path) -> None:
    names = serve(plane, tmp_path, replicas=2)
    plane.committer()
    callers = [Caller(plane, f"c{number}") for number in range(4)]
    for caller in callers:
        caller.start()
    time.sleep(0.3)
    plane.stop(names[0], signal.SIGKILL)
    time.sleep(0.5)
    for caller in callers:
        caller.finish()
    plane.flush()
    assert [failure for caller in callers for failure in caller.failures] == []
    answered = [event_id for caller in callers for event_id in caller.answered]
    assert len(answered) > 50
    assert_each_once(plane, answered)


def batch_in_a_worker_that_is_killed(plane: Plane, names: list[str]) -> tuple[int, Any, list[str]]:
    """One batch, held by the worker it went to until that is killed; status, answer and the event ids."""
    ids = [f"e-{row}" for row in range(500)]
    for name in names:
        plane.processes[name].send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(plane.infer, {"x": [1.0, -1.0] * 250, "z": [0.0] * 500}, event_ids=ids)
        asked = holder(plane, names)
        for name in set(names) - {asked}:
            plane.processes[name].send_signal(signal.SIGCONT)
        plane.stop(asked, signal.SIGKILL)
        status, answer = pending.result(30)
    return status, answer, ids


def holder(plane: Plane, names: list[str]) -> str:
    """The worker that has a request in flight."""
    addresses = {plane.address(name): name for name in names}
    while True:
        for replica in plane.admin("GET", "/counters")[1]["replicas"]:
            if replica["in_flight"]:
                return addresses[replica["address"]]
        time.sleep(0.01)


def test_a_batch_whose_worker_is_killed_is_answered_by_the_other_one(plane: Plane, tmp_path: Path) -> None:
    names = serve(plane, tmp_path, replicas=2)
    plane.committer()
    status, answer, ids = batch_in_a_worker_that_is_killed(plane, names)
    assert (status, answer["outputs"][0]["data"]) == (200, [0.75, 0.25] * 250)
    counters = plane.admin("GET", "/counters")[1]
    assert sum(replica["ejections"] for replica in counters["replicas"]) == 1
    assert (counters["router"]["requests"], counters["router"]["failed"]) == (1, 0)
    plane.flush()
    assert rows_of(plane) == Counter(ids)


def test_a_batch_is_not_repeated_where_the_model_is_not_idempotent(plane: Plane, tmp_path: Path) -> None:
    names = serve(plane, tmp_path, replicas=2, idempotent=False)
    plane.committer()
    status, answer, ids = batch_in_a_worker_that_is_killed(plane, names)
    assert (status, answer["error"]) == (503, "version 1: the connection was closed before the answer")
    counters = plane.admin("GET", "/counters")[1]
    assert counters["variants"][0]["counts"]["requests"] == 1, "the other replica was not asked"
    plane.flush()
    assert rows_of(plane) == Counter(ids), "that it failed is in the table"


def test_a_router_asked_to_end_finishes_what_is_under_way(plane: Plane, tmp_path: Path) -> None:
    serve(plane, tmp_path)
    plane.committer()
    caller = Caller(plane, "c")
    caller.start()
    time.sleep(0.2)
    assert plane.stop("router") == 0
    plane.router()
    caller.finish()
    # A connection that brought no request yet may be closed or refused; no request that was read goes unanswered.
    assert [failure for failure in caller.failures if failure[:1].isdigit()] == []
    plane.flush()
    assert_each_once(plane, caller.answered)


def full_log(plane: Plane, tmp_path: Path, capture: str) -> None:
    """A router whose files may grow to 40 kB only: the log is full after some dozens of calls."""
    digest = plane.store(stump(tmp_path / "tree"))
    address = plane.worker(digest, **STUMP)
    plane.router(limits={resource.RLIMIT_FSIZE: 40_000})
    plane.route(plane.variant("stable", digest, [address]), signature=STUMP_SIGNATURE, capture=capture)


def test_a_full_disk_drops_and_counts_records_and_fails_no_prediction_in_async(plane: Plane, tmp_path: Path) -> None:
    full_log(plane, tmp_path, "async")
    ids = [[f"e{number}-{row}" for row in range(10)] for number in range(120)]
    statuses = [plane.infer({"x": [1.0] * 10, "z": [0.0] * 10}, event_ids=one)[0] for one in ids]
    assert set(statuses) == {200}
    capture = plane.admin("GET", "/counters")[1]["capture"]
    assert capture["dropped_records"] > 0
    assert capture["dropped_rows"] == 10 * capture["dropped_records"]
    assert capture["last_error"] == "File too large"
    assert plane.labels([{"event_id": f"label-{'x' * 150}-{n}", "value": 1} for n in range(300)])[0] == 503
    plane.committer()
    plane.flush()
    assert sum(rows_of(plane).values()) == 10 * capture["records"]


def test_a_full_disk_refuses_predictions_in_durable_and_keeps_what_it_answered(plane: Plane, tmp_path: Path) -> None:
    full_log(plane, tmp_path, "durable")
    answered: list[str] = []
    refused = 0
    for number in range(120):
        ids = [f"e{number}-{row}" for row in range(10)]
        status, answer = plane.infer({"x": [1.0] * 10, "z": [0.0] * 10}, event_ids=ids)
        if status == 200:
            answered += ids
        else:
            assert (status, "free disk space" in answer["next_step"]) == (503, True)
            refused += 1
    assert refused > 0
    plane.committer()
    plane.flush()
    assert_each_once(plane, answered)
    assert len(rows_of(plane)) == len(answered)


def test_two_routers_never_write_one_log(plane: Plane, tmp_path: Path) -> None:
    """Each has a stream of its own; one that finds none free does not start."""
    plane.router()
    second = plane.start("router-second", "--state", str(plane.state), "--port", "0", "--number", "1")
    held = plane.state / "wal"
    plane._await("router-second", lambda: (held / "router-1.lock").exists())
    locks = [os.open(held / f"router-{number}.lock", os.O_RDWR | os.O_CREAT) for number in range(2, STREAMS_MAX)]
    try:
        for lock in locks:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        third = plane.start("router-third", "--state", str(plane.state), "--port", "0", "--number", "2")
        assert third.wait(20) == 1
        assert "other routers write all" in plane.said("router-third")
    finally:
        for lock in locks:
            os.close(lock)
    assert second.poll() is None


def test_two_committers_never_work_on_one_log(plane: Plane) -> None:
    plane.committer()
    second = plane.start("committer-second", "--state", str(plane.state))
    assert second.wait(20) == 1
    assert "another committer works" in plane.said("committer-second")


def test_a_port_in_use_is_said(plane: Plane, tmp_path: Path) -> None:
    plane.router()
    second = plane.start("router-second", "--state", str(tmp_path / "other"), "--port", str(plane.port))
    assert second.wait(20) == 1
    assert "in use" in plane.said("router-second")


def test_the_router_imports_nothing_heavy(plane: Plane) -> None:
    plane.router()
    maps = Path(f"/proc/{plane.processes['router'].pid}/maps").read_text()
    for library in ("polars", "numpy", "deltalake", "pandas", "scipy", "sklearn", "mlflow"):
        assert f"/{library}" not in maps
    status = Path(f"/proc/{plane.processes['router'].pid}/status").read_text()
    resident_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident_kb < 60_000
