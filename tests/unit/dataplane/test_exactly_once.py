"""Each record is in the tables once, whatever is cut off, killed, full, or done by others in between."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError

from steersman.dataplane import capture, deltas
from steersman.dataplane.capture import SegmentWriter
from steersman.dataplane.committer import Committer
from steersman.dataplane.deltas import APPLICATION, DeltaTables
from steersman.dataplane.sandbox import allowed_environment
from steersman.ports import Span
from steersman.testing.log import SCOPE, Written
from steersman.testing.plane import Plane

TABLE = "tables/ops/production/m/predictions"


def event_ids(written: Written) -> list[str]:
    """Ids of all rows, duplicates too."""
    rows = written.log._predictions(
        SCOPE, Span(written.day(0), written.day(9)), columns=("event_id",), with_inputs=False, keep=None
    )
    return sorted(rows["event_id"].to_list())


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_a_segment_cut_off_at_any_byte_gives_each_whole_record_once(tmp_path: Path, closed: bool) -> None:
    """`closed`: another segment follows, as after the restart of a router that died; else it is still written to."""
    source = Written(tmp_path / "source")
    ends = []
    for number in range(2):
        source.predict([f"e{number}"], source.day(0), [0.5])
        ends.append(source.writer.position & 0xFFFF_FFFF)
    source.writer.close()
    [(number, whole)] = capture.segments(tmp_path / "source" / "wal", "router-0")
    content = whole.read_bytes()
    assert ends[-1] == len(content)
    committed: dict[int, list[str]] = {}

    def stub(tables: DeltaTables, path: str, stream: str, items: list, end: int, frame_of: object) -> int:  # type: ignore[type-arg]
        assert all(position <= end for position, _ in items)
        kept = done.setdefault(path, [0])
        fresh = [item for item in items if item[0] > kept[0]]
        kept[0] = end
        rows.extend(one for _, (_, record) in fresh for one in record.event_ids)
        return len(fresh)

    patch = pytest.MonkeyPatch()
    patch.setattr(
        DeltaTables, "append_once", stub
    )  # 1,000 tables would take minutes; what it stands for is tested below
    try:
        for size in range(len(content) + 1):
            state = tmp_path / f"cut-{size}"
            wal = state / "wal"
            wal.mkdir(parents=True)
            rows: list[str] = []
            done: dict[str, list[int]] = {}
            path = capture.segment_path(wal, "router-0", number)
            path.write_bytes(content[:size])
            expected = [f"e{index}" for index, end in enumerate(ends) if end <= size]
            if closed:
                writer = SegmentWriter(wal, "router-0")
                after = Written.__new__(Written)
                after.writer = writer
                after.predict(["after"], Written.day(0), [0.5])
                writer.close()
                expected.append("after")
            committer = Committer(state)
            for _ in range(2):
                committer.commit_all()
            assert rows == expected, size
            if not closed:  # the rest arrives, as when the cut was only how far the writer had come
                path.write_bytes(content)
                committer.commit_all()
                Committer(state).commit_all()
                assert rows == ["e0", "e1"], size
            committed[size] = rows
    finally:
        patch.undo()
    assert len(committed) == len(content) + 1


def test_a_committer_killed_between_writing_a_file_and_committing_it_leaves_a_file_nobody_reads(
    written: Written,
) -> None:
    written.predict(["e0"], written.day(0), [0.5])
    written.commit()
    written.predict(["e1"], written.day(0), [0.5])
    script = (
        "import os, signal, sys, pathlib\n"
        "from steersman.dataplane import deltas\n"
        "from steersman.dataplane.committer import Committer\n"
        "state = pathlib.Path(sys.argv[1])\n"
        "import deltalake\n"
        "entry = state / sys.argv[2] / '_delta_log' / ('%020d.json' % 1)\n"
        "entry.mkdir()\n"  # the entry cannot be created: the file is written, the commit is not
        "try:\n    Committer(state).commit_all()\n"
        "except Exception:\n    pass\n"
        "entry.rmdir()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(written.state), TABLE],
        env=allowed_environment(os.environ, threads=1),
        timeout=60,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    files = list((written.state / TABLE).rglob("*.parquet"))
    assert len(files) > len(DeltaTable(str(written.state / TABLE)).file_uris())
    assert event_ids(written) == ["e0"]
    Committer(written.state).commit_all()
    assert event_ids(written) == ["e0", "e1"]


@pytest.mark.parametrize("foreign", ["append", "delete", "optimize", "columns"])
def test_a_foreign_writer_between_our_read_and_our_commit_costs_nothing(written: Written, foreign: str) -> None:
    for number in range(2):
        written.predict([f"e{number}"], written.day(0), [0.5])
        written.commit()
    theirs = DeltaTable(str(written.state / TABLE))
    rows = 2
    if foreign == "append":
        frame = written.log.read_files(written.log.committed_files(SCOPE, {})[:1])
        write_deltalake(
            theirs,
            frame.with_columns(event_id=frame["event_id"] + "-theirs", date=frame["at"].dt.strftime("%F")),
            mode="append",
        )
    elif foreign == "delete":
        theirs.delete("event_id = 'e0'")
        rows = 1
    elif foreign == "optimize":
        assert theirs.optimize.compact()["numFilesRemoved"] == 2
    else:
        frame = written.log.read_files(written.log.committed_files(SCOPE, {})[:1])
        more = frame.with_columns(date=frame["at"].dt.strftime("%F"), note=frame["event_id"]).head(0)
        write_deltalake(theirs, more, mode="append", schema_mode="merge")
    written.predict(["e2"], written.day(0), [0.5])
    written.commit()
    assert len(event_ids(written)) == rows + 1 + (foreign == "append")
    assert written.commit() == 0
    assert Committer(written.state).commit_all() == 0


def test_a_commit_whose_answer_was_lost_is_not_made_again(written: Written) -> None:
    """Another writer carries our very transaction, as an earlier attempt of ours whose answer never came would have."""
    written.predict(["e0"], written.day(0), [0.5])
    written.commit()
    written.predict(["e1"], written.day(0), [0.5])
    lost = Transaction(APPLICATION + "router-0", written.writer.position)
    frame = written.log.read_files(written.log.committed_files(SCOPE, {}))
    write_deltalake(
        DeltaTable(str(written.state / TABLE)),
        frame.with_columns(event_id=frame["event_id"].str.replace("e0", "e1"), date=frame["at"].dt.strftime("%F")),
        mode="append",
        commit_properties=CommitProperties(app_transactions=[lost]),
    )
    assert written.commit() == 0
    assert event_ids(written) == ["e0", "e1"]


def test_two_committers_at_once_commit_each_record_once(written: Written) -> None:
    """The lock keeps this from happening on one machine; the tables keep it from doing harm."""
    for number in range(30):
        written.predict([f"e{number:02}"], written.day(0), [0.5])
    written.commit()
    others = [Committer(written.state) for _ in range(2)]
    for number in range(30, 60):
        written.predict([f"e{number:02}"], written.day(0), [0.5])

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(one.commit_all) for one in others]:
            done.result()
    assert event_ids(written) == [f"e{number:02}" for number in range(60)]


def test_conflicts_without_end_are_told_and_the_log_keeps_what_waits(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    written.predict(["e0"], written.day(0), [0.5])

    def conflict(*_: object, **__: object) -> None:
        raise deltas.CommitFailedError("somebody else")

    monkeypatch.setattr(deltas, "write_deltalake", conflict)
    with pytest.raises(DeltaError, match="somebody else"):
        written.commit()
    monkeypatch.undo()
    assert written.commit() == 1


def test_a_clock_that_steps_back_neither_repeats_a_segment_nor_keeps_one_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [2_000_000_000.0]
    monkeypatch.setattr(capture.time, "time", lambda: now[0])
    written = Written(tmp_path)
    numbers = []
    for number in range(3):
        written.predict([f"e{number}"], written.day(0), [0.5])
        written.writer.close_segment()
        numbers.append(capture.segments(tmp_path / "wal", "router-0")[-1][0])
        written.commit()
        now[0] -= 86_400 * 400
    assert numbers == sorted(set(numbers))
    written.writer.close()
    again = Written(tmp_path)  # a restart, still in the past
    again.predict(["e3"], again.day(0), [0.5])
    again.commit()
    assert event_ids(again) == ["e0", "e1", "e2", "e3"]
    assert capture.segments(tmp_path / "wal", "router-0")[-1][0] > numbers[-1]


def test_after_a_restart_with_an_empty_folder_and_an_older_clock_positions_still_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture.time, "time", lambda: 2_000_000_000.0)
    written = Written(tmp_path)
    written.predict(["e0"], written.day(0), [0.5])
    written.commit()
    written.writer.close()
    for segment in (tmp_path / "wal").glob("*.seg"):
        segment.unlink()
    monkeypatch.setattr(capture.time, "time", lambda: 1_900_000_000.0)
    again = Written(tmp_path)
    again.predict(["e1"], again.day(0), [0.5])
    again.commit()
    assert event_ids(again) == ["e0", "e1"]


def test_a_full_disk_under_the_tables_keeps_the_log_and_recovers(tmp_path: Path) -> None:
    written = Written(tmp_path)
    written.predict([f"e{number}" for number in range(200)], written.day(0), [0.5] * 200)
    written.writer.close()
    with Plane(tmp_path) as plane:
        process = plane.start(
            "committer", "--state", str(tmp_path), "--interval-s", "0", limits={resource.RLIMIT_FSIZE: 4096}
        )
        plane._await("committer", (tmp_path / "run" / "committer.sock.key").exists)
        status, answer = plane.admin("POST", "/flush", socket="committer.sock")
        assert status == 503, answer
        assert process.poll() is None
        assert event_ids(written) == []
        plane.stop("committer", signal.SIGKILL)
        plane.committer()
        status, answer = plane.admin("POST", "/flush", socket="committer.sock")
        assert (status, answer) == (200, {"rows": 200})
    assert len(set(event_ids(written))) == 200
    assert msgspec.json.decode((tmp_path / "wal" / "committed.json").read_bytes())["positions"]


def test_the_note_of_what_is_done_never_says_more_than_is_on_the_disk(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may take commits that nobody synced; a note ahead of them would hide the records from the next process."""
    note = written.state / "wal" / "committed.json"
    synced: list[Path] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    written.predict(["e0"], written.day(0), [0.5])
    assert written.commit() == 1
    tables = written.state / TABLE
    assert [path for path in synced if path.is_relative_to(tables)] == []
    assert not note.exists()
    written.writer.close_segment()
    written.predict(["e1"], written.day(0), [0.5])
    assert written.commit() == 1
    files = {*tables.rglob("*.parquet"), *(tables / "_delta_log").glob("*.json")}
    assert len(files) == 4
    assert files <= set(synced)
    assert msgspec.json.decode(note.read_bytes())["positions"]["router-0"] == written.writer.position


def test_what_a_killed_committer_left_unsynced_is_synced_by_the_next_before_it_lets_go_of_the_log(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    written.predict(["e0"], written.day(0), [0.5])
    written.commit()
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(os.readlink(f"/proc/self/fd/{number}"))))
    written.writer.close()
    assert Committer(written.state).commit_all() == 0, "the table has it already"
    assert capture.segments(written.state / "wal", "router-0") == []
    files = {*(written.state / TABLE).rglob("*.parquet"), *(written.state / TABLE / "_delta_log").glob("*.json")}
    assert len(files) == 2
    assert files <= set(synced)


@pytest.mark.parametrize("torn", ["entry", "data"])
def test_commits_that_a_power_cut_left_unfinished_are_made_again_from_the_log(written: Written, torn: str) -> None:
    """What the kernel had not written yet: an entry of the table's log without content, or the data file it names."""
    written.predict(["e0"], written.day(0), [0.5])
    written.commit()
    written.writer.close_segment()
    written.predict(["e1"], written.day(0), [0.5])
    written.commit()  # all of this is on the disk, and noted
    for number in (2, 3):
        written.predict([f"e{number}"], written.day(0), [0.5])
        written.commit()
    table = written.state / TABLE
    entry = table / "_delta_log" / f"{2:020d}.json"
    [data] = deltas.added_files(str(table), entry.read_bytes())
    (entry if torn == "entry" else Path(data)).write_bytes(b"")
    written.predict(["e4"], written.day(0), [0.5])
    assert Committer(written.state).commit_all() == 3
    assert event_ids(written) == ["e0", "e1", "e2", "e3", "e4"]
    assert len(list((table / "_delta_log").glob("*.json.unfinished"))) == 2
