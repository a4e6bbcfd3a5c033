"""Tables stay cheap to open and to read, and nobody who reads or writes meanwhile notices."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from steersman.dataplane import deltas, upkeep
from steersman.dataplane.capture import Labels
from steersman.dataplane.committer import Committer
from steersman.dataplane.deltas import open_table
from steersman.dataplane.storage import LocalStorage, Storage
from steersman.dataplane.upkeep import Upkeep
from steersman.plugins.tables.delta import DeltaInferenceLog
from steersman.ports import Span
from steersman.testing.log import SCOPE, Written

TABLE = "ops/production/m/predictions"


class Kept(Written):
    """A log with its upkeep, without a process around them."""

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self.upkeep = Upkeep(LocalStorage(state / "tables"))
        self.committer = Committer(state, committed=self.upkeep.committed)

    def commits(self, count: int, *, first: int = 0) -> None:
        for number in range(first, first + count):
            self.predict([f"e{number}"], self.day(0), [float(number)])
            self.commit()

    def keep_up(self) -> None:
        while self.upkeep.turn():
            pass

    def files(self) -> list[Path]:
        return sorted((self.state / "tables" / TABLE).rglob("*.parquet"))

    def delta(self) -> DeltaTable:
        return DeltaTable(str(self.state / "tables" / TABLE))

    def vacuum(self, *, hours: int, orphans: bool) -> int:
        return upkeep.vacuum(self.upkeep.storage, TABLE, self.delta(), hours=hours, orphans=orphans)

    def age(self, hours: float) -> None:
        """Make every file that much older than it is."""
        for path in self.files():
            os.utime(path, (time.time() - hours * 3600,) * 2)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_small_files_of_a_date_become_one_and_every_row_stays(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "SMALL_FILES_MAX", 8)
    kept.commits(8)
    kept.predict(["next-day"], kept.day(1), [0.5])
    kept.commit()
    before = kept.log.scored_rows(SCOPE, Span(kept.day(0), kept.day(2)), as_of=kept.day(2))
    kept.keep_up()
    assert len(kept.delta().file_uris()) == 2
    after = kept.log.scored_rows(SCOPE, Span(kept.day(0), kept.day(2)), as_of=kept.day(2))
    assert after.equals(before)
    fresh = DeltaInferenceLog(kept.state).scored_rows(SCOPE, Span(kept.day(0), kept.day(2)), as_of=kept.day(2))
    assert fresh.equals(before)


def test_a_date_that_is_over_is_merged_whole_however_few_files_it_has(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.commits(3)
    kept.keep_up()
    assert len(kept.delta().file_uris()) == 3
    monkeypatch.setattr(upkeep, "DATE_OVER_S", -1.0)
    Upkeep.find(kept.upkeep)
    for known in kept.upkeep._known.values():
        known.again = True
    kept.keep_up()
    assert len(kept.delta().file_uris()) == 1


def test_a_compaction_is_no_news_to_who_folds_files_and_hides_none(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "SMALL_FILES_MAX", 4)
    kept.commits(2)
    folded = kept.log.committed_files(SCOPE, {})
    assert sum(file.rows for file in folded) == 2
    seen = {"predictions": folded[-1].version}
    kept.commits(2, first=2)
    kept.keep_up()
    for log in (kept.log, DeltaInferenceLog(kept.state)):
        new = log.committed_files(SCOPE, seen)
        assert log.read_files(new)["event_id"].to_list() == ["e2", "e3"]
        assert log.committed_files(SCOPE, {"predictions": new[-1].version}) == []
        assert sum(file.rows for file in log.committed_files(SCOPE, {})) == 4


def test_who_reads_an_old_list_of_files_can_still_read_them_for_a_day(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "SMALL_FILES_MAX", 4)
    kept.commits(4)
    old = [Path(path.removeprefix("file://")) for path in kept.delta().file_uris()]
    kept.keep_up()
    assert pl.read_parquet(old)["event_id"].sort().to_list() == ["e0", "e1", "e2", "e3"]
    assert kept.vacuum(hours=upkeep.GRACE_H, orphans=True) == 0
    assert kept.vacuum(hours=0, orphans=False) == 4
    assert len(kept.files()) == 1


def test_opening_a_table_reads_its_checkpoint_and_the_entries_behind_it(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "CHECKPOINT_ENTRIES", 10)
    kept.commits(12)
    kept.keep_up()
    log = kept.state / "tables" / TABLE / "_delta_log"
    for entry in sorted(log.glob("*.json"))[:10]:
        entry.unlink()
    assert (log / "_last_checkpoint").exists()
    fresh = DeltaInferenceLog(kept.state)
    rows = fresh.scored_rows(SCOPE, Span(kept.day(0), kept.day(1)), as_of=kept.day(1))
    assert rows.height == 12
    kept.commits(1, first=12)
    assert Committer(kept.state).commit_all() == 0
    assert fresh.scored_rows(SCOPE, Span(kept.day(0), kept.day(1)), as_of=kept.day(1)).height == 13


def test_the_file_of_a_committer_that_died_before_its_commit_is_never_read_and_goes(kept: Kept) -> None:
    kept.commits(1)
    [real] = kept.files()
    orphan = real.with_name("part-00000-orphan.parquet")
    orphan.write_bytes(real.read_bytes())
    rows = kept.log.scored_rows(SCOPE, Span(kept.day(0), kept.day(1)), as_of=kept.day(1))
    assert rows["event_id"].to_list() == ["e0"]
    assert kept.log.committed_files(SCOPE, {})[0].rows == 1
    assert kept.vacuum(hours=upkeep.GRACE_H, orphans=True) == 0
    kept.age(hours=25)
    assert kept.vacuum(hours=upkeep.GRACE_H, orphans=True) == 1
    assert kept.files() == [real]


def test_commits_and_compactions_at_the_same_time_lose_and_double_nothing(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "SMALL_FILES_MAX", 5)
    ended = threading.Event()

    def keep_up() -> None:
        while not ended.is_set():
            kept.upkeep.turn()

    thread = threading.Thread(target=keep_up)
    thread.start()
    try:
        kept.commits(40)
    finally:
        ended.set()
        thread.join()
    kept.keep_up()
    rows = kept.log.scored_rows(SCOPE, Span(kept.day(0), kept.day(1)), as_of=kept.day(1))
    assert sorted(rows["event_id"].to_list()) == sorted(f"e{number}" for number in range(40))
    assert kept.upkeep.counts.compactions > 0


def test_compaction_does_not_change_which_of_two_labels_of_one_moment_counts(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "SMALL_FILES_MAX", 4)
    kept.predict(["e0"], kept.day(0), [0.5])
    for value in (3.0, 1.0, 2.0, 0.0):
        kept.label("e0", value, kept.day(1))
        kept.commit()
    kept.keep_up()
    assert len(DeltaTable(str(kept.state / "tables/ops/m/labels")).file_uris()) == 1
    rows = kept.log.scored_rows(SCOPE, Span(kept.day(0), kept.day(1)), as_of=kept.day(2))
    assert rows["label"].to_list() == [0.0]


def test_a_table_from_before_the_newest_columns_takes_them_and_reads_as_null(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.commits(1)
    table = kept.state / "tables" / TABLE
    old = pl.read_delta(str(table)).drop("trace_id", "position")
    write_deltalake(str(table), old, mode="overwrite", schema_mode="overwrite", partition_by=["date"])
    kept.predict(["e1"], kept.day(0), [0.5], trace_id="4bf92f3577b34da6a3ce929d0e0e4736")
    Committer(kept.state).commit_all()
    rows = DeltaInferenceLog(kept.state)._predictions(
        SCOPE, Span(kept.day(0), kept.day(1)), columns=("event_id", "trace_id"), with_inputs=False, keep=None
    )
    assert rows.rows() == [("e0", None), ("e1", "4bf92f3577b34da6a3ce929d0e0e4736")]


def test_polars_and_duckdb_read_the_same_rows_from_the_table(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "SMALL_FILES_MAX", 4)
    kept.commits(6)
    kept.keep_up()
    table = kept.delta()
    ours = pl.read_delta(str(kept.state / "tables" / TABLE)).sort("event_id")
    files = [path.removeprefix("file://") for path in table.file_uris()]
    theirs = duckdb.sql(
        f'select event_id, score, inputs.x as x, epoch_us("at") as moment from read_parquet({files}) order by event_id'
    ).fetchall()
    assert theirs == [
        (row["event_id"], row["score"], row["inputs"]["x"], int(row["at"].timestamp() * 1e6))
        for row in ours.iter_rows(named=True)
    ]


def test_names_of_entities_and_events_do_not_reach_the_tables_log(kept: Kept) -> None:
    kept.predict(["very-personal"], kept.day(0), [0.5])
    kept.writer.append(None, Labels("ops", "m", "api", ["very-personal"], [int(datetime.now(UTC).timestamp())], [1.0]))
    kept.commit()
    for log in kept.state.rglob("_delta_log"):
        assert all(b"very-personal" not in entry.read_bytes() for entry in log.iterdir() if entry.is_file())


def test_a_table_is_opened_anew_from_time_to_time_since_it_keeps_what_it_followed(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def opening(storage: Storage, path: str) -> DeltaTable | None:
        opened.append(path)
        return open_table(storage, path)

    monkeypatch.setattr(deltas, "OPEN_ENTRIES_MAX", 3)
    monkeypatch.setattr(deltas, "open_table", opening)
    kept.commits(1)
    opened.clear()
    kept.commits(7, first=1)
    assert len(opened) == 2, "after entries 3 and 6"
    assert kept.delta().to_pyarrow_table().num_rows == 8
