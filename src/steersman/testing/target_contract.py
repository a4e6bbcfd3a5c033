"""What every target keeps, whoever wrote it: inherit the suite, say how to make one, and pytest does the rest.

    class TestMyTarget(TargetContract):
        def make_target(self, state): return MyTarget(state)
        def make_replica(self, folder): ...
        def make_broken_replica(self, folder): ...

`make_target` is called again with the same state to play the control server that comes after a crash.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest

from steersman.ports import ReplicaSpec, RunningReplica, Target


class TargetContract(ABC):
    """Starting, finding, adopting and stopping replicas."""

    ready_within_s: float = 60.0
    """How long a replica of `make_replica` may take to be ready on a busy machine."""

    @abstractmethod
    def make_target(self, state: Path) -> Target: ...

    @abstractmethod
    def make_replica(self, folder: Path) -> ReplicaSpec:
        """A version that loads; `folder` is empty and its own."""

    @abstractmethod
    def make_broken_replica(self, folder: Path) -> ReplicaSpec:
        """A version whose worker dies before it is ready."""

    @pytest.fixture
    def state(self, tmp_path: Path) -> Path:
        state = tmp_path / "state"
        state.mkdir()
        return state

    @pytest.fixture
    def replica(self, tmp_path: Path) -> ReplicaSpec:
        (tmp_path / "good").mkdir()
        return self.make_replica(tmp_path / "good")

    @pytest.fixture
    def target(self, state: Path, replica: ReplicaSpec) -> Iterator[Target]:
        target = self.make_target(state)
        yield target
        for running in self.make_target(state).observe():
            target.stop(running.workspace, running.environment, running.model, running.digest)

    def wait_ready(self, target: Target, count: int) -> list[RunningReplica]:
        """Observe until `count` replicas are ready."""
        deadline = time.monotonic() + self.ready_within_s
        while time.monotonic() < deadline:
            found = [replica for replica in target.observe() if replica.ready]
            if len(found) >= count:
                return found
            time.sleep(0.05)
        raise AssertionError(f"{count} replicas are not ready after {self.ready_within_s:.0f} s: {target.observe()}")

    def test_replicas_become_ready_under_addresses_of_their_own(self, target: Target, replica: ReplicaSpec) -> None:
        target.ensure(replica, 2)
        found = self.wait_ready(target, 2)
        assert len({running.address for running in found}) == 2
        assert {running.digest for running in found} == {replica.digest}
        assert target.failure(replica) is None

    def test_asking_twice_starts_once(self, target: Target, replica: ReplicaSpec) -> None:
        target.ensure(replica, 1)
        target.ensure(replica, 1)
        before = self.wait_ready(target, 1)
        target.ensure(replica, 1)
        assert [running.pid for running in target.observe()] == [running.pid for running in before]

    def test_a_new_control_server_adopts_what_runs(self, target: Target, replica: ReplicaSpec, state: Path) -> None:
        target.ensure(replica, 1)
        before = self.wait_ready(target, 1)
        after = self.make_target(state)
        after.ensure(replica, 1)
        assert [running.pid for running in after.observe()] == [running.pid for running in before]

    def test_stopping_returns_when_all_replicas_are_gone(self, target: Target, replica: ReplicaSpec) -> None:
        target.ensure(replica, 2)
        self.wait_ready(target, 2)
        target.stop(replica.workspace, replica.environment, replica.model, replica.digest)
        assert target.observe() == []

    def test_stopping_all_but_some_leaves_those_named_first(self, target: Target, replica: ReplicaSpec) -> None:
        target.ensure(replica, 3)
        before = self.wait_ready(target, 3)
        target.stop(replica.workspace, replica.environment, replica.model, replica.digest, keep=1)
        assert [running.pid for running in target.observe()] == [before[0].pid]

    def test_stopping_what_does_not_run_changes_nothing(self, target: Target, replica: ReplicaSpec) -> None:
        target.stop(replica.workspace, replica.environment, replica.model, replica.digest)
        assert target.observe() == []

    def test_a_worker_that_dies_before_it_is_ready_is_explained(self, target: Target, tmp_path: Path) -> None:
        (tmp_path / "broken").mkdir()
        broken = self.make_broken_replica(tmp_path / "broken")
        target.ensure(broken, 1)
        deadline = time.monotonic() + self.ready_within_s
        while (because := target.failure(broken)) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert because
        assert not [running for running in target.observe() if running.ready]
