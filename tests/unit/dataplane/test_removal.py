"""What is removed is in no file any more, and nothing else is."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from steersman.dataplane import removal, upkeep
from steersman.dataplane.removal import EraseRequest, ExpireRequest, Remover
from steersman.dataplane.storage import LocalStorage
from steersman.dataplane.upkeep import Upkeep
from steersman.ports import Span
from steersman.testing.log import SCOPE, Written

ENTITY = "N525'UA"


class Log(Written):
    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self.remover = Remover(state, LocalStorage(state / "tables"))

    def table(self, name: str) -> Path:
        return self.state / "tables" / name

    def event_ids(self) -> list[str]:
        rows = self.log.scored_rows(SCOPE, Span(self.day(0), self.day(99)), as_of=self.day(99))
        return rows["event_id"].to_list()

    def holding(self, text: str) -> list[Path]:
        """Files below the state directory that hold a text, plain or in a column of a Parquet file."""
        found = []
        for path in self.state.rglob("*"):
            if path.suffix == ".parquet":
                frame = pl.read_parquet(path, hive_partitioning=False)
                said = str(frame.to_dicts())
            elif path.is_file() and path.suffix != ".seg":
                said = path.read_bytes().decode(errors="replace")
            else:
                continue
            if text in said:
                found.append(path)
        return found


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def expire(until: date, key: str = "k") -> ExpireRequest:
    return ExpireRequest(key=key, workspace="ops", model="m", until=until)


ERASE = EraseRequest(workspace="ops", model="m", entities=[ENTITY])


def test_dates_before_the_retention_go_with_their_files_and_the_rest_stays(log: Log) -> None:
    for number in range(4):
        log.predict([f"e{number}"], log.day(number), [0.5])
        log.label(f"e{number}", 1.0, log.day(number, 1))
        log.commit()
    counts = log.remover.expire(expire(log.day(2).date()))
    assert (counts.predictions, counts.labels, counts.files) == (2, 2, 4)
    assert log.event_ids() == ["e2", "e3"]
    assert {path.parent.name for path in log.table("ops").rglob("*.parquet")} == {"date=2013-03-03", "date=2013-03-04"}


def test_expiring_again_finds_nothing_and_the_same_key_tells_what_was_done(log: Log) -> None:
    log.predict(["e0", "e1"], log.day(0), [0.5, 0.5])
    log.commit()
    first = log.remover.expire(expire(log.day(1).date()))
    assert first.predictions == 2
    assert Remover(log.state, LocalStorage(log.state / "tables")).expire(expire(log.day(1).date())).predictions == 2
    assert log.remover.expire(expire(log.day(1).date(), key="another")).predictions == 0


def test_an_expiration_that_died_in_the_middle_is_told_whole_when_it_is_repeated(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.predict(["e0"], log.day(0), [0.5])
    log.label("e0", 1.0, log.day(0, 1))
    log.commit()
    rows_before = removal.rows_before

    def dies_at_the_labels(table: DeltaTable, until: date) -> int:
        if table.table_uri.rstrip("/").endswith("labels") and not log.event_ids():
            raise KeyboardInterrupt
        return rows_before(table, until)

    monkeypatch.setattr(removal, "rows_before", dies_at_the_labels)
    with pytest.raises(KeyboardInterrupt):
        log.remover.expire(expire(log.day(1).date()))
    monkeypatch.undo()
    counts = log.remover.expire(expire(log.day(1).date()))
    assert (counts.predictions, counts.labels) == (1, 1)


def test_rows_that_came_late_for_a_dropped_date_go_with_the_next_expiration(log: Log) -> None:
    log.predict(["e0"], log.day(0), [0.5])
    log.commit()
    log.remover.expire(expire(log.day(1).date()))
    log.predict(["late"], log.day(0), [0.5])
    log.commit()
    assert log.remover.expire(expire(log.day(2).date(), key="next")).predictions == 1


def test_an_entity_is_in_no_file_any_more_and_everybody_else_is_where_he_was(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "SMALL_FILES_MAX", 2)
    for number in range(3):
        ids = [f"mine{number}", f"other{number}"]
        log.predict(ids, log.day(number % 2), [0.5, 0.25], who=[ENTITY, "N1"], request_id="q")
        log.label(f"mine{number}", 1.0, log.day(2))
        log.label(f"other{number}", 0.0, log.day(2))
        log.label_entity(ENTITY, log.day(0), 1.0, log.day(2))
        log.commit()
    keep = Upkeep(LocalStorage(log.state / "tables"))
    keep.find()
    while keep.turn():
        pass
    assert keep.counts.compactions > 0
    counts = log.remover.erase(ERASE)
    log.committer.forget("ops", "m")
    assert (counts.predictions, counts.labels) == (3, 6)
    assert log.event_ids() == ["other0", "other2", "other1"]
    labels = pl.read_delta(str(log.table("ops/m/labels"))).sort("event_id")
    assert labels["event_id"].to_list() == ["other0", "other1", "other2"]
    assert log.holding("N525") == []
    assert log.holding("mine1") == []
    log.predict(["again"], log.day(3), [0.5], who=[ENTITY])
    assert log.commit() == 1


def test_rows_without_an_entity_survive_the_erasure_of_one(log: Log) -> None:
    log.predict(["mine"], log.day(0), [0.5], who=[ENTITY])
    log.predict(["nobody"], log.day(0), [0.5])
    log.commit()
    assert log.remover.erase(ERASE).predictions == 1
    assert log.event_ids() == ["nobody"]


def test_who_folds_files_is_not_told_rows_that_an_erasure_wrote_again(log: Log) -> None:
    log.predict(["mine", "other"], log.day(0), [0.5, 0.25], who=[ENTITY, "N1"])
    log.commit()
    folded = log.log.committed_files(SCOPE, {})
    log.remover.erase(ERASE)
    log.committer.forget("ops", "m")
    assert log.log.committed_files(SCOPE, {"predictions": folded[-1].version}) == []
    log.predict(["new"], log.day(0), [0.5])
    log.commit()
    new = log.log.committed_files(SCOPE, {"predictions": folded[-1].version})
    assert log.log.read_files(new)["event_id"].to_list() == ["new"]


def test_what_nobody_folded_yet_is_told_without_the_erased_rows(log: Log) -> None:
    log.predict(["first"], log.day(1), [0.5])
    log.commit()
    folded = log.log.committed_files(SCOPE, {})
    log.predict(["mine", "other"], log.day(0), [0.5, 0.25], who=[ENTITY, "N1"])
    log.commit()
    log.remover.erase(ERASE)
    new = log.log.committed_files(SCOPE, {"predictions": folded[-1].version})
    assert log.log.read_files(new)["event_id"].to_list() == ["other"]


def test_damaged_segments_go_when_they_are_old_or_name_the_entity(log: Log) -> None:
    log.predict(["e0"], log.day(0), [0.5], who=[ENTITY])
    log.writer.close()
    [segment] = (log.state / "wal").glob("*.seg")
    damaged = segment.rename(segment.with_suffix(".damaged"))
    assert log.remover.expire(expire(log.day(0).date())).segments == 0
    assert log.remover.erase(EraseRequest(workspace="ops", model="m", entities=["nobody"])).segments == 0
    kept = damaged.read_bytes()
    assert log.remover.expire(expire(log.day(1).date(), key="next")).segments == 1
    damaged.write_bytes(kept)
    assert log.remover.erase(ERASE).segments == 1
    assert not damaged.exists()


def test_a_model_nobody_called_has_nothing_to_remove(log: Log) -> None:
    assert log.remover.erase(ERASE) == removal.Counts()
    assert log.remover.expire(expire(log.day(1).date())) == removal.Counts()
