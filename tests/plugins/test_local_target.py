"""The local target against a small stand-in for the worker, which loads in milliseconds; the real one is tried last."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from steersman.dataplane.artifacts import tree_digest
from steersman.plugins.targets.local import LocalTarget
from steersman.ports import ReplicaSpec, Target, TargetError
from steersman.testing.target_contract import TargetContract

STAND_IN = """
import json, os, signal, subprocess, sys, time
spec = json.load(open(sys.argv[sys.argv.index("--spec") + 1]))
kind = open(os.path.join(spec["artifact_dir"], spec["file"])).read()
if kind == "broken":
    sys.exit("the model has no trees")
if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"])
with open(os.path.join(spec["artifact_dir"], "..", "environment.json"), "w") as file:
    json.dump(dict(os.environ), file)
import psutil
card = {"pid": os.getpid(), "started_at": psutil.Process().create_time(), "address": "unix:/%d.sock" % os.getpid(),
        "digest": spec["digest"], "sandbox": None}
if kind != "slow":
    with open(spec["handle_file"] + ".new", "w") as file:
        json.dump(card, file)
    os.rename(spec["handle_file"] + ".new", spec["handle_file"])
time.sleep(60)
"""


def replica_of(folder: Path, kind: str) -> ReplicaSpec:
    artifact = folder / "tree"
    artifact.mkdir(parents=True)
    (artifact / "model.txt").write_text(kind)
    return ReplicaSpec(
        workspace="ops",
        environment="production",
        model="flight-delay",
        version=1,
        digest=tree_digest(artifact),
        artifact=artifact,
        format="lightgbm",
        file="model.txt",
    )


def stand_in(state: Path, *, drain_s: float = 5.0) -> LocalTarget:
    worker = state.parent / "stand_in.py"
    worker.write_text(STAND_IN)
    return LocalTarget(state, drain_s=drain_s, worker=(str(worker),))


class TestLocalTarget(TargetContract):
    def make_target(self, state: Path) -> Target:
        return stand_in(state)

    def make_replica(self, folder: Path) -> ReplicaSpec:
        return replica_of(folder, "good")

    def make_broken_replica(self, folder: Path) -> ReplicaSpec:
        return replica_of(folder, "broken")

    def test_a_failed_start_says_what_the_worker_said(self, target: Target, tmp_path: Path) -> None:
        broken = replica_of(tmp_path / "broken", "broken")
        target.ensure(broken, 1)
        because = until(lambda: target.failure(broken))
        assert "ended before it was ready: the model has no trees" in because

    def test_a_worker_killed_in_service_is_replaced(self, target: Target, replica: ReplicaSpec) -> None:
        target.ensure(replica, 1)
        [before] = self.wait_ready(target, 1)
        os.kill(before.pid, signal.SIGKILL)
        until(lambda: not target.observe())
        target.ensure(replica, 1)
        [after] = self.wait_ready(target, 1)
        assert after.pid != before.pid
        assert after.id == before.id
        assert target.failure(replica) is None

    def test_a_version_that_keeps_dying_is_tried_later_each_time(self, target: Target, tmp_path: Path) -> None:
        broken = replica_of(tmp_path / "broken", "broken")
        for _ in range(40):
            target.ensure(broken, 1)
            target.failure(broken)
            time.sleep(0.02)
        [record] = (tmp_path / "state" / "run" / "replicas").glob("*.json")
        assert 1 <= msgspec.json.decode(record.read_bytes())["deaths"] <= 3

    def test_a_worker_sees_no_variable_of_ours_but_the_allowed_ones(
        self, target: Target, replica: ReplicaSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STEERSMAN_TOKEN", "st_secret")
        target.ensure(replica, 1)
        self.wait_ready(target, 1)
        seen = msgspec.json.decode((replica.artifact.parent / "environment.json").read_bytes())
        assert not [name for name in seen if "STEERSMAN" in name]
        assert seen["OMP_NUM_THREADS"] == "1"
        assert {name for name in seen if "HOME" in name or "TOKEN" in name or "KEY" in name} == set()

    def test_cpu_time_and_memory_of_a_replica_are_told(self, target: Target, replica: ReplicaSpec) -> None:
        target.ensure(replica, 1)
        [running] = self.wait_ready(target, 1)
        assert running.cpu_s > 0
        assert running.memory_mb_peak > 5

    def test_what_a_replica_used_is_kept_when_it_has_ended(
        self, target: Target, replica: ReplicaSpec, state: Path
    ) -> None:
        target.ensure(replica, 1)
        [running] = self.wait_ready(target, 1)
        target.stop(replica.workspace, replica.environment, replica.model, replica.digest)
        [line] = (state / "logs" / "replicas" / "usage.jsonl").read_text().splitlines()
        kept = msgspec.json.decode(line)
        assert (kept["replica"], kept["pid"], kept["ended"]) == (running.id, running.pid, "stopped")
        assert kept["cpu_s"] >= running.cpu_s > 0
        assert kept["memory_mb_peak"] > 5

    def test_a_control_server_that_died_before_noting_the_pid_finds_the_worker(
        self, target: Target, replica: ReplicaSpec, state: Path
    ) -> None:
        target.ensure(replica, 1)
        [before] = self.wait_ready(target, 1)
        [record] = (state / "run" / "replicas").glob("*.json")
        intent = msgspec.json.decode(record.read_bytes()) | {"pid": None, "started_at": 0.0}
        record.write_bytes(msgspec.json.encode(intent))
        after = self.make_target(state)
        after.ensure(replica, 1)
        assert [running.pid for running in after.observe()] == [before.pid]

    def test_a_pid_given_to_another_process_is_not_taken_for_the_worker(
        self, target: Target, replica: ReplicaSpec, state: Path
    ) -> None:
        target.ensure(replica, 1)
        [before] = self.wait_ready(target, 1)
        os.kill(before.pid, signal.SIGKILL)
        until(lambda: not target.observe())
        [record] = (state / "run" / "replicas").glob("*.json")
        ours = psutil.Process()
        stale = msgspec.json.decode(record.read_bytes()) | {"pid": ours.pid, "started_at": ours.create_time() - 100}
        record.write_bytes(msgspec.json.encode(stale))
        assert target.observe() == []
        target.stop(replica.workspace, replica.environment, replica.model, replica.digest)
        assert ours.is_running()

    def test_a_worker_that_will_not_drain_is_ended_with_what_it_started(self, state: Path, tmp_path: Path) -> None:
        target = stand_in(state, drain_s=0.3)
        stubborn = replica_of(tmp_path / "stubborn", "stubborn")
        target.ensure(stubborn, 1)
        [running] = self.wait_ready(target, 1)
        children = psutil.Process(running.pid).children(recursive=True)
        assert children
        target.stop("ops", "production", "flight-delay", stubborn.digest)
        assert target.observe() == []
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    def test_a_worker_that_is_loading_is_seen_but_not_ready(self, target: Target, tmp_path: Path) -> None:
        slow = replica_of(tmp_path / "slow", "slow")
        target.ensure(slow, 1)
        [running] = until(target.observe)
        assert not running.ready
        assert running.address == ""

    def test_a_version_whose_files_are_missing_is_refused(self, target: Target, replica: ReplicaSpec) -> None:
        shutil.rmtree(replica.artifact)
        with pytest.raises(TargetError, match="register version 1 again"):
            target.ensure(replica, 1)

    def test_observing_is_cheap(self, target: Target, replica: ReplicaSpec) -> None:
        target.ensure(replica, 2)
        self.wait_ready(target, 2)
        begin = time.process_time()
        for _ in range(50):
            target.observe()
        assert (time.process_time() - begin) / 50 < 0.01


def until(look):  # type: ignore[no-untyped-def]
    """What `look` returns as soon as it is true."""
    deadline = time.monotonic() + 20
    while not (found := look()):
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)
    return found
