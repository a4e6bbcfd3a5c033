"""The local target with real workers, and the scorer that asks them."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from steersman.dataplane.artifacts import tree_digest
from steersman.domain.errors import BadRequest, Unavailable
from steersman.domain.version import Column
from steersman.plugins.targets.local import LocalTarget
from steersman.plugins.targets.scorer import WorkerScorer
from steersman.ports import ReplicaSpec, Target
from steersman.testing.plane import stump
from steersman.testing.target_contract import TargetContract


def version(folder: Path, *, intact: bool = True) -> ReplicaSpec:
    artifact = stump(folder / "tree")
    digest = tree_digest(artifact)
    if not intact:
        (artifact / "model.lgb").write_text("tree\nversion=v4\noverwritten after registration\n")
    return ReplicaSpec(
        workspace="ops",
        environment="production",
        model="flight-delay",
        version=1,
        digest=digest,
        artifact=artifact,
        format="lightgbm",
        file="model.lgb",
        signature=(Column(name="x", type="FP64"), Column(name="z", type="FP64")),
        extra_columns=("flight_id",),
    )


class TestRealWorkers(TargetContract):
    def make_target(self, state: Path) -> Target:
        return LocalTarget(state)

    def make_replica(self, folder: Path) -> ReplicaSpec:
        return version(folder)

    def make_broken_replica(self, folder: Path) -> ReplicaSpec:
        return version(folder, intact=False)

    def test_bytes_changed_after_registration_are_not_loaded(self, target: Target, tmp_path: Path) -> None:
        (tmp_path / "broken").mkdir()
        broken = self.make_broken_replica(tmp_path / "broken")
        target.ensure(broken, 1)
        deadline = time.monotonic() + 60
        while (because := target.failure(broken)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "changed, added or removed after registration" in because

    def test_a_killed_worker_leaves_its_name_to_its_successor(self, target: Target, replica: ReplicaSpec) -> None:
        target.ensure(replica, 2)
        first, second = self.wait_ready(target, 2)
        os.kill(first.pid, signal.SIGKILL)
        while len(target.observe()) > 1:
            time.sleep(0.02)
        target.ensure(replica, 2)
        after = {running.id: running.pid for running in self.wait_ready(target, 2)}
        assert after[second.id] == second.pid
        assert after[first.id] != first.pid


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("scored")
    target = LocalTarget(folder / "state")
    replica = version(folder)
    target.ensure(replica, 1)
    deadline = time.monotonic() + 60
    while not (ready := [running for running in target.observe() if running.ready]):
        assert time.monotonic() < deadline, target.failure(replica)
        time.sleep(0.05)
    yield ready[0].address
    target.stop(replica.workspace, replica.environment, replica.model, replica.digest)


def rows(folder: Path, **columns: list[object]) -> Path:
    path = folder / "rows.parquet"
    pl.DataFrame(columns).write_parquet(path)
    return path


def test_scores_come_in_the_order_of_the_rows_through_several_requests(address: str, tmp_path: Path) -> None:
    path = rows(tmp_path, x=[-1.0, 1.0, -2.0, 3.0, None], z=[0.0, math.nan, 1.0, None, 2.0], late=[0, 1, 0, 1, 0])
    scores = WorkerScorer(chunk_rows=2).score(address, "flight-delay", path, ["x", "z"])
    assert list(scores[:4]) == [0.25, 0.75, 0.25, 0.75]
    assert len(scores) == 5


def test_no_rows_have_no_scores(address: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pl.DataFrame(schema={"x": pl.Float64, "z": pl.Float64}).write_parquet(path)
    assert list(WorkerScorer().score(address, "flight-delay", path, ["x", "z"])) == []


def test_single_predictions_are_timed_one_by_one(address: str, tmp_path: Path) -> None:
    path = rows(tmp_path, x=[-1.0, 1.0], z=[0.0, 0.0])
    took = WorkerScorer().latencies(address, "flight-delay", path, ["x", "z"], requests=25)
    assert len(took) == 25
    assert all(0.0 < one < 10_000.0 for one in took)


def test_a_column_the_rows_lack_is_named(address: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no column z; they have x"):
        WorkerScorer().score(address, "flight-delay", rows(tmp_path, x=[1.0]), ["x", "z"])


def test_rows_of_another_type_are_refused_by_the_worker_in_its_words(address: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="'x'"):
        WorkerScorer().score(address, "flight-delay", rows(tmp_path, x=["a"], z=[1.0]), ["x", "z"])


def test_a_worker_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        WorkerScorer().score("127.0.0.1:9", "flight-delay", rows(tmp_path, x=[1.0]), ["x"])
