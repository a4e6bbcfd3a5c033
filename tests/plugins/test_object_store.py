"""The tables on an S3 server, a real one: everything that holds on a disk holds there."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from steersman.dataplane import upkeep
from steersman.dataplane.committer import Committer
from steersman.dataplane.removal import EraseRequest, ExpireRequest, Remover
from steersman.dataplane.storage import ObjectStorage, StorageError, StorageRefusedError, open_storage
from steersman.dataplane.upkeep import Upkeep
from steersman.plugins.tables.delta import DeltaInferenceLog
from steersman.ports import Span
from steersman.testing.log import SCOPE, Written
from steersman.testing.object_store import ObjectStore
from steersman.testing.plane import Plane


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("object-store")) as running:
        yield running


@pytest.fixture
def storage(store: ObjectStore, tmp_path: Path) -> ObjectStorage:
    """A prefix of its own for each test."""
    return store.storage("tables", tmp_path.name)


def event_ids(log: DeltaInferenceLog) -> list[str]:
    rows = log._predictions(
        SCOPE, Span(Written.day(0), Written.day(99)), columns=("event_id",), with_inputs=False, keep=None
    )
    return sorted(rows["event_id"].to_list())


def test_rows_go_in_and_are_read_merged_expired_and_erased(
    storage: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "SMALL_FILES_MAX", 4)
    monkeypatch.setattr(upkeep, "CHECKPOINT_ENTRIES", 4)
    written = Written(tmp_path, storage)
    for number in range(5):
        written.predict([f"e{number}", f"mine{number}"], written.day(number // 4), [0.5, 0.1], who=["N1", "N2"])
        written.label(f"e{number}", float(number % 2), written.day(2))
        written.commit()
    before = written.log.scored_rows(SCOPE, Span(written.day(0), written.day(9)), as_of=written.day(9))
    assert before["label"].drop_nulls().to_list() == [0.0, 1.0, 0.0, 1.0, 0.0]
    kept = Upkeep(storage)
    kept.find()
    while kept.turn():
        pass
    assert kept.counts.compactions > 0
    assert kept.counts.checkpoints > 0
    fresh = DeltaInferenceLog(tmp_path, storage)
    for log in (written.log, fresh):
        after = log.scored_rows(SCOPE, Span(written.day(0), written.day(9)), as_of=written.day(9))
        assert after.equals(before)
    remover = Remover(tmp_path, storage)
    assert remover.erase(EraseRequest(workspace="ops", model="m", entities=["N2"])).predictions == 5
    expired = remover.expire(ExpireRequest(key="k", workspace="ops", model="m", until=written.day(1).date()))
    assert expired.predictions == 4
    assert expired.files > 0
    assert event_ids(written.log) == ["e4"]
    assert Committer(tmp_path, storage).commit_all() == 0
    assert not (tmp_path / "tables").exists()


def test_anyone_with_the_credentials_reads_the_table(storage: ObjectStorage, tmp_path: Path) -> None:
    written = Written(tmp_path, storage)
    written.predict(["e0"], written.day(0), [0.5])
    written.commit()
    uri = storage.uri("ops/production/m/predictions")
    assert pl.read_delta(uri, storage_options=storage.scan_options)["event_id"].to_list() == ["e0"]
    table = DeltaTable(uri, storage_options=storage.options)
    assert pl.DataFrame(table.get_add_actions(flatten=True))["num_records"].to_list() == [1]


def test_two_writers_of_one_log_entry_cannot_both_win(storage: ObjectStorage, tmp_path: Path) -> None:
    written = Written(tmp_path, storage)
    written.predict(["e0"], written.day(0), [0.5])
    written.commit()
    other = Committer(tmp_path, storage)
    assert other.commit_all() == 0
    for number in range(1, 4):  # each commits on top of what it did not see of the other
        written.predict([f"e{number}"], written.day(0), [0.5])
        (other if number % 2 else written.committer).commit_all()
    assert Committer(tmp_path, storage).commit_all() == 0
    assert event_ids(written.log) == ["e0", "e1", "e2", "e3"]


def test_while_the_server_is_down_commits_wait_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    with (
        ObjectStore(tmp_path / "store") as store,
        Plane(tmp_path / "state", tables=store.variables("tables", "restart")) as plane,
    ):
        written = Written(plane.state, store.storage("tables", "restart"))
        plane.committer(interval_s=0.2)
        for number in range(3):
            written.predict([f"before{number}"], written.day(0), [0.5])
        plane.admin("POST", "/flush", socket="committer.sock")
        store.stop(signal.SIGKILL)
        for number in range(3):
            written.predict([f"during{number}"], written.day(0), [0.5])
        began = time.monotonic()
        status, answer = plane.admin("POST", "/flush", socket="committer.sock")
        assert status == 503, answer
        assert time.monotonic() - began < 30
        assert plane.processes["committer"].poll() is None
        store.start()
        deadline = time.monotonic() + 60  # it writes before it has found all it held
        while (told := plane.admin("POST", "/flush", socket="committer.sock"))[0] != 200:
            assert time.monotonic() < deadline, told
            time.sleep(0.5)
        assert len(event_ids(written.log)) == 6
        assert len(set(event_ids(written.log))) == 6
        assert "secret" not in plane.said("committer")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "the secret key is wrong"),
        ("AWS_ACCESS_KEY_ID", "nobody", "does not know the access key"),
    ],
)
def test_wrong_credentials_end_the_committer_at_its_start_with_a_sentence(
    store: ObjectStore, tmp_path: Path, variable: str, value: str, said: str
) -> None:
    variables = store.variables("tables", "refused") | {variable: value}
    with pytest.raises(StorageRefusedError, match=said):
        open_storage(tmp_path, variables).check()
    with Plane(tmp_path, tables=variables) as plane, pytest.raises(AssertionError, match=said):
        plane.committer()
    assert "secret-of-the-tests" not in (tmp_path / "committer.log").read_text()


def test_a_server_that_does_not_answer_is_told_within_seconds(store: ObjectStore, tmp_path: Path) -> None:
    variables = store.variables("tables", "x") | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    began = time.monotonic()
    with pytest.raises(StorageError, match="cannot be reached") as caught:
        open_storage(tmp_path, variables).check()
    assert not isinstance(caught.value, StorageRefusedError)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("uri", ["s3://", "s3:/bucket", "gs://bucket/x", "s3://b/../x", "s3://Bucket", "tables"])
def test_what_is_no_place_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no place for tables"):
        open_storage(tmp_path, {"STEERSMAN_TABLES": uri})
