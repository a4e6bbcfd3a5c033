"""A whole installation of real processes: what a newcomer sees in the first minute, and what kill -9 does to it.

Under a light load, control server, router, committer and workers are killed at moments drawn from a seed, in the middle of
a release. Then: no prediction that was answered is missing from the table or there twice, requests failed only while the router
itself was gone, and the release ended as it would have.
"""

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

from steersman.testing.installed import PROCESSES, Installed

SEED = 20130301


def steps(pause: str) -> list[dict[str, Any]]:
    wait = {"pause": {"duration": pause}}
    return [{"setWeight": 20}, wait, {"setWeight": 60}, wait, {"setWeight": 100}, {"promote": {}}]


def document(pause: str) -> dict[str, Any]:
    return {
        "apiVersion": "steersman/v1",
        "kind": "Model",
        "metadata": {"name": "delay", "owner": "ops@example.com"},
        "spec": {
            "versions": {"registry": "directory", "name": "delay"},
            "serving": {"replicas": 2, "idempotent": True, "keepWarm": 1},
            "environments": {"production": {"strategy": {"canary": {"steps": steps(pause)}}}},
        },
    }


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """Version 1 of `delay` lives in production; versions 2 to 4 lie in the registry."""
    with Installed(tmp_path_factory.mktemp("installed")) as running:
        for number in range(1, 5):
            running.register_stump("delay", number, low=number / 10)
        running.client.apply([document("1s")])
        running.client.register("delay", 1)
        opened = running.client.release("delay", 1, because="first version")
        assert running.completion(opened["id"]) == "Promoted"
        yield running


def answered_by(installed: Installed, event: str) -> float:
    status, answer = installed.infer("delay", {"x": [-1.0], "z": [0.0]}, event_ids=[event])
    assert status == 200, answer
    return float(answer["outputs"][0]["data"][0])


def test_a_newcomer_s_first_minute(installed: Installed) -> None:
    client = installed.client
    assert answered_by(installed, "first") == pytest.approx(0.1)

    client.register("delay", 2)
    opened = client.release("delay", 2, because="a better one")
    assert installed.completion(opened["id"]) == "Promoted"
    assert answered_by(installed, "second") == pytest.approx(0.2)
    assert client.log_labels("delay", {"first": 1.0, "second": 0.0}) == 2

    began = time.monotonic()
    back = client.rollback("delay", because="customers complain")
    assert installed.completion(back["id"]) == "FastRolledBack"
    assert time.monotonic() - began < 15  # a second or two on a quiet machine
    assert answered_by(installed, "back") == pytest.approx(0.1)
    assert client.history("delay")["history"][-1]["version"] == 1
    assert client.ledger_verify()["verified"]


class Caller(threading.Thread):
    """Asks a few times a second; remembers what was answered, and when a request failed and why."""

    def __init__(self, installed: Installed, name: str) -> None:
        super().__init__(daemon=True)
        self.answered: list[str] = []
        self.failures: list[tuple[float, str]] = []
        self._installed = installed
        self._name = name
        self._ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._ended.wait(0.02):
            ids = [f"{self._name}-{number}-{row}" for row in range(2)]
            number += 1
            try:
                status, answer = self._installed.infer("delay", {"x": [-1.0, 1.0], "z": [0.0, 0.0]}, event_ids=ids)
            except (OSError, ValueError) as error:
                self.failures.append((time.monotonic(), repr(error)))
                continue
            except Exception as error:  # http.client's, when the router dies in the middle of an answer
                self.failures.append((time.monotonic(), repr(error)))
                continue
            if status == 200:
                self.answered += ids
            else:
                self.failures.append((time.monotonic(), f"{status} {answer}"))

    def finish(self) -> None:
        self._ended.set()
        self.join(30)


class Killer:
    """Draws victims and moments from a seed; keeps when the router was gone."""

    def __init__(self, installed: Installed, seed: int) -> None:
        self._installed = installed
        self._draw = random.Random(seed)
        self.killed: Counter[str] = Counter()
        self.router_gone: list[tuple[float, float]] = []

    def kill_one(self) -> None:
        time.sleep(self._draw.uniform(0.3, 1.5))
        victim = self._draw.choice((*PROCESSES, "worker"))
        if victim == "worker" and not self._spare_worker():
            victim = "committer"
        began = time.monotonic()
        pid = self._installed.kill(victim)
        if pid is None:
            return
        self.killed.update([victim])
        if victim == "router-0":
            self._installed.wait_for(self._router_answers, "the router is back")
            self.router_gone.append((began, time.monotonic()))

    def _router_answers(self) -> bool:
        try:
            return (
                self._installed.infer("delay", {"x": [1.0], "z": [0.0]}, event_ids=[f"probe-{time.monotonic_ns()}"])[0]
                == 200
            )
        except Exception:
            return False

    def _spare_worker(self) -> bool:
        """Whether every version that answers has two living replicas the router knows: then one may die unnoticed."""
        there = {replica.address for replica in self._installed.replicas() if replica.ready}
        routed = self._installed.routed()
        variants = [variant for route in routed.routes for variant in route.variants] if routed else []
        return bool(variants) and all(len(there & set(variant.addresses)) >= 2 for variant in variants)


def assert_nothing_was_lost(installed: Installed, caller: Caller, killer: Killer) -> None:
    installed.wait_for(lambda: set(caller.answered) <= set(rows_of(installed)), "every answered event is in the table")
    rows = rows_of(installed)
    assert [event for event in caller.answered if rows[event] != 1] == []
    unexplained = [
        (when, why)
        for when, why in caller.failures
        if not any(began - 0.5 <= when <= ended + 0.5 for began, ended in killer.router_gone)
    ]
    assert unexplained == []


def rows_of(installed: Installed) -> Counter[str]:
    table = installed.state / "tables/default/production/delay/predictions"
    return Counter(pl.read_delta(str(table))["event_id"].to_list())


def released_under_fire(installed: Installed, version: int, *, kills: int, seed: int) -> None:
    caller, killer = Caller(installed, f"load-{version}-{seed}"), Killer(installed, seed)
    client = installed.client
    client.apply([document("10s")])
    client.register("delay", version)
    opened = client.release("delay", version, because="under fire")
    caller.start()
    try:
        while sum(killer.killed.values()) < kills:
            killer.kill_one()
        installed.wait_for(lambda: installed.pid("control") is not None, "the control server is back")
        ended = installed.completion(opened["id"], 120)
    finally:
        caller.finish()
    assert ended == "Promoted"
    assert len(caller.answered) > 100
    assert_nothing_was_lost(installed, caller, killer)
    completed = [e for e in installed.client.ledger_entries(limit=1000) if e["action"] == "release.completed"]
    assert max(Counter(e["object"]["name"] for e in completed).values()) == 1
    assert answered_by(installed, f"after-{version}-{seed}") == pytest.approx(version / 10)


@pytest.mark.timeout(240)
def test_twenty_kills_in_the_middle_of_a_release_lose_nothing(installed: Installed) -> None:
    released_under_fire(installed, 3, kills=20, seed=SEED)


def test_the_router_is_replaced_by_command_and_no_caller_notices(installed: Installed) -> None:
    caller = Caller(installed, "restart")
    before = installed.pid("router-0")
    caller.start()
    try:
        time.sleep(0.3)
        words = [sys.executable, "-m", "steersman.cli", "--state", str(installed.state), "restart", "router"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
        time.sleep(0.3)
    finally:
        caller.finish()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"router-0: pid {installed.pid('router-0')} took over from pid {before}\n"
    assert installed.pid("router-0") != before
    assert caller.failures == []
    assert len(caller.answered) > 20


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_hundred_kills_lose_nothing(installed: Installed) -> None:
    for turn in range(10):
        released_under_fire(installed, 3 + turn % 2, kills=20, seed=SEED + 1 + turn)
