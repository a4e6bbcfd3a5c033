"""From the log to the tables: exactly once, whatever happens between two steps."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import polars as pl
import pytest

from steersman.dataplane import capture, committer, tables
from steersman.dataplane.capture import Context, Labels, Prediction, SegmentWriter, context_of
from steersman.dataplane.committer import Committer
from steersman.dataplane.configuration import Column, ColumnType, Route
from steersman.dataplane.storage import LocalStorage
from steersman.testing.plane import tensor

DAY_US = 86_400_000_000


def context(**columns: ColumnType) -> Context:
    signature = tuple(Column(name=name, type=kind) for name, kind in columns.items())
    return context_of(
        Route(workspace="ops", environment="production", model="m", salt="s", sticky_by="who", signature=signature)
    )


NUMERIC = context(x="FP64")


def prediction(of: Context, ids: list[str], day: int = 0, **fields: object) -> Prediction:
    rows = len(ids)
    columns = fields.pop("columns", {"x": [float(row) for row in range(rows)]})
    outputs = fields.pop("outputs", [{"name": "score", "datatype": "FP64", "shape": [rows], "data": [0.5] * rows}])
    values: dict[str, object] = {
        "context": of.id,
        "at_us": day * DAY_US,
        "version": "1",
        "digest": "sha256:0",
        "release": "r",
        "variant": "stable",
        "probability": 1.0,
        "request_id": "q-" + ids[0],
        "event_ids": ids,
        "request": msgspec.json.encode({"inputs": [tensor(name, data) for name, data in columns.items()]}),  # type: ignore[attr-defined]
        "outputs": msgspec.json.encode(outputs) if outputs else b"",
        "status": 200,
        "error": None,
        "latency_ms": 1.5,
        **fields,
    }
    return Prediction(**values)  # type: ignore[arg-type]


def labels(ids: list[str]) -> Labels:
    return Labels("ops", "m", "api", ids, [0] * len(ids), [1.0] * len(ids))


class Log:
    """A writer beside the committer, as the router is."""

    def __init__(self, state: Path, **bounds: int) -> None:
        self.state = state
        self.writer = SegmentWriter(state / "wal", "router-0", **bounds)

    def rows(self, name: str = "predictions") -> pl.DataFrame:
        return pl.read_delta(str(self.state / "tables/ops/production/m" / name)).sort("event_id")

    def event_ids(self) -> list[str]:
        return self.rows()["event_id"].to_list()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_rows_carry_everything_the_contract_names(log: Log) -> None:
    record = prediction(NUMERIC, ["a", "b"], columns={"x": [1.5, None], "who": ["AA1", 7]})
    log.writer.append(NUMERIC, record)
    log.writer.append(None, labels(["a"]))
    assert Committer(log.state).commit_all() == 3
    rows = log.rows()
    assert rows.columns == [
        *("event_id", "at", "date", "version", "digest", "release", "variant", "probability", "entity", "inputs"),
        *("score", "outputs", "status", "error", "latency_ms", "request_id", "trace_id", "position"),
    ]
    assert rows["inputs"].to_list() == [{"x": 1.5}, {"x": None}]
    assert rows["entity"].to_list() == ["AA1", "7"]
    assert rows["score"].to_list() == [0.5, 0.5]
    assert rows["at"].dtype == pl.Datetime("us", "UTC")
    assert rows["date"].to_list() == ["1970-01-01"] * 2
    kept = pl.read_delta(str(log.state / "tables/ops/m/labels"))
    assert kept.columns == [
        *("event_id", "at", "date", "value", "source", "entity", "about", "name", "position"),
    ]


def test_what_is_committed_is_not_committed_again(log: Log) -> None:
    worker = Committer(log.state)
    log.writer.append(NUMERIC, prediction(NUMERIC, ["a"]))
    assert worker.commit_all() == 1
    assert worker.commit_all() == 0
    log.writer.append(NUMERIC, prediction(NUMERIC, ["b"]))
    assert worker.commit_all() == 1
    assert log.event_ids() == ["a", "b"]


def test_a_committer_that_dies_between_two_tables_commits_each_record_once(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.writer.append(NUMERIC, prediction(NUMERIC, ["a", "b"]))
    log.writer.append(None, labels(["a", "b"]))
    append = Committer._append

    def dies_at_labels(self: Committer, path: str, *rest: object) -> None:
        if path.endswith("/labels"):
            raise KeyboardInterrupt
        append(self, path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Committer, "_append", dies_at_labels)
    with pytest.raises(KeyboardInterrupt):
        Committer(log.state).commit_all()
    monkeypatch.undo()
    log.writer.append(NUMERIC, prediction(NUMERIC, ["c"]))
    Committer(log.state).commit_all()
    assert log.event_ids() == ["a", "b", "c"]
    assert pl.read_delta(str(log.state / "tables/ops/m/labels")).height == 2


def test_a_committer_that_dies_before_its_note_commits_each_record_once(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.writer.append(NUMERIC, prediction(NUMERIC, ["a"]))
    log.writer.close_segment()

    def dies(self: Committer) -> None:
        raise KeyboardInterrupt

    log.writer.append(NUMERIC, prediction(NUMERIC, ["b"]))
    monkeypatch.setattr(Committer, "_sync", dies)
    with pytest.raises(KeyboardInterrupt):
        Committer(log.state).commit_all()
    monkeypatch.undo()
    log.writer.append(NUMERIC, prediction(NUMERIC, ["c"]))
    Committer(log.state).commit_all()
    assert log.event_ids() == ["a", "b", "c"]


def test_a_lost_note_costs_reading_and_no_duplicate(log: Log) -> None:
    log.writer.append(NUMERIC, prediction(NUMERIC, ["a0"]))
    log.writer.close_segment()
    log.writer.append(NUMERIC, prediction(NUMERIC, ["a"]))
    Committer(log.state).commit_all()
    (log.state / "wal" / "committed.json").unlink()
    log.writer.append(NUMERIC, prediction(NUMERIC, ["b"]))
    Committer(log.state).commit_all()
    assert log.event_ids() == ["a", "a0", "b"]


def test_a_new_committer_that_begins_in_the_middle_of_a_segment_knows_its_contexts(log: Log) -> None:
    log.writer.append(NUMERIC, prediction(NUMERIC, ["a0"]))
    log.writer.close_segment()
    log.writer.append(NUMERIC, prediction(NUMERIC, ["a"]))
    Committer(log.state).commit_all()
    log.writer.append(NUMERIC, prediction(NUMERIC, ["b"]))
    assert Committer(log.state).commit_all() == 1


def test_portions_bound_the_memory_and_lose_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "BATCH_ROWS_MAX", 3)
    for number in range(10):
        log.writer.append(NUMERIC, prediction(NUMERIC, [f"e{number}"]))
    worker = Committer(log.state)
    assert worker.commit_all() == 10
    assert worker.counts.commits == 4


def test_committed_segments_go_and_the_open_one_stays(tmp_path: Path) -> None:
    log = Log(tmp_path, segment_bytes_max=400)
    for number in range(6):
        log.writer.append(NUMERIC, prediction(NUMERIC, [f"e{number}"]))
    assert len(capture.segments(tmp_path / "wal", "router-0")) > 1
    Committer(tmp_path).commit_all()
    assert len(capture.segments(tmp_path / "wal", "router-0")) == 1
    assert len(log.event_ids()) == 6


def test_the_last_segment_of_a_writer_that_ended_goes_too_and_its_number_is_not_given_again(log: Log) -> None:
    log.writer.append(NUMERIC, prediction(NUMERIC, ["before"]))
    [(number, _)] = capture.segments(log.state / "wal", "router-0")
    worker = Committer(log.state)
    worker.commit_all()
    assert len(capture.segments(log.state / "wal", "router-0")) == 1, "its writer lives"
    log.writer.close()
    worker.commit_all()
    assert capture.segments(log.state / "wal", "router-0") == []
    again = Log(log.state)
    again.writer.append(NUMERIC, prediction(NUMERIC, ["after"]))
    [(next_number, _)] = capture.segments(log.state / "wal", "router-0")
    assert next_number > number
    worker.commit_all()
    assert log.event_ids() == ["after", "before"]


def test_an_old_segment_without_new_records_is_replaced_committed_and_deleted(tmp_path: Path) -> None:
    log = Log(tmp_path, segment_age_max_s=0)
    log.writer.append(NUMERIC, prediction(NUMERIC, ["e"]))
    [(_, first)] = capture.segments(tmp_path / "wal", "router-0")
    log.writer.turn_page()
    Committer(tmp_path).commit_all()
    [(_, second)] = capture.segments(tmp_path / "wal", "router-0")
    assert second != first
    assert second.read_bytes() == capture.MAGIC
    log.writer.turn_page()
    assert capture.segments(tmp_path / "wal", "router-0") == [(int(second.stem[-10:]), second)], "an empty one stays"
    assert log.event_ids() == ["e"]


def test_a_torn_tail_is_recovered_and_set_aside(log: Log) -> None:
    for number in range(3):
        log.writer.append(NUMERIC, prediction(NUMERIC, [f"e{number}"]))
    log.writer.close()
    [(_, path)] = capture.segments(log.state / "wal", "router-0")
    path.write_bytes(path.read_bytes()[:-5])
    again = Log(log.state)
    again.writer.append(NUMERIC, prediction(NUMERIC, ["after"]))
    worker = Committer(log.state)
    worker.commit_all()
    assert again.event_ids() == ["after", "e0", "e1"]
    assert worker.counts.torn_bytes > 0
    assert [found.suffix for found in (log.state / "wal").glob("*.damaged")] == [".damaged"]


def test_a_new_column_evolves_the_table_and_another_type_begins_a_new_one(log: Log) -> None:
    wider, other = context(x="FP64", y="BYTES"), context(x="BYTES")
    worker = Committer(log.state)
    log.writer.append(NUMERIC, prediction(NUMERIC, ["a"]))
    worker.commit_all()
    log.writer.append(wider, prediction(wider, ["b"], columns={"x": [1.0], "y": ["JFK"]}))
    log.writer.append(other, prediction(other, ["c"], columns={"x": ["text"]}))
    log.writer.append(NUMERIC, prediction(NUMERIC, ["d"]))
    worker.commit_all()
    assert log.rows()["inputs"].to_list() == [{"x": 0.0, "y": None}, {"x": 1.0, "y": "JFK"}, {"x": 0.0, "y": None}]
    assert log.rows("predictions-2")["inputs"].to_list() == [{"x": "text"}]
    catalogue = tables.read_catalogue(LocalStorage(log.state / "tables"), "ops/production/m")
    assert [table.name for table in catalogue.tables] == ["predictions", "predictions-2"]


def test_a_request_the_worker_refused_is_a_row_with_its_status(log: Log) -> None:
    refused = prediction(
        NUMERIC, ["a", "b"], columns={"x": ["text", 2.0]}, outputs=None, status=422, error="column 'x': row 0 is str"
    )
    log.writer.append(NUMERIC, refused)
    Committer(log.state).commit_all()
    rows = log.rows()
    assert rows["inputs"].to_list() == [{"x": None}, {"x": 2.0}]
    assert rows["status"].to_list() == [422, 422]
    assert rows["score"].to_list() == [None, None]


def test_a_model_without_a_signature_logs_its_rows_as_json(log: Log) -> None:
    free = context()
    log.writer.append(free, prediction(free, ["a"], columns={"x": [1.0], "y": ["JFK"]}))
    Committer(log.state).commit_all()
    assert log.rows()["inputs"].to_list() == [{"json": '{"x":1.0,"y":"JFK"}'}]


def test_several_values_a_row_are_kept_whole(log: Log) -> None:
    outputs = [
        {"name": "score", "datatype": "FP64", "shape": [2], "data": [0.1, 0.2]},
        {"name": "shares", "datatype": "FP64", "shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.0]},
    ]
    log.writer.append(NUMERIC, prediction(NUMERIC, ["a", "b"], outputs=outputs))
    Committer(log.state).commit_all()
    assert log.rows()["score"].to_list() == [0.1, 0.2]
    assert msgspec.json.decode(log.rows()["outputs"][1]) == {"score": 0.2, "shares": [3.0, 4.0]}


def test_binary_tensors_reach_the_table_as_json_does(log: Log) -> None:
    """The protocol's binary extension: the values lie raw behind the JSON, which the record says the length of."""
    wide = context(x="FP64", n="INT64", origin="BYTES")
    texts = b"".join(len(text).to_bytes(4, "little") + text for text in (b"JFK", "Zürich".encode()))
    given = [
        ("x", "FP64", struct.pack("<2d", 1.5, -2.0)),
        ("n", "INT64", struct.pack("<2q", 7, 8)),
        ("origin", "BYTES", texts),
    ]
    head = msgspec.json.encode(
        {
            "inputs": [
                {"name": name, "datatype": kind, "shape": [2], "parameters": {"binary_data_size": len(raw)}}
                for name, kind, raw in given
            ]
        }
    )
    request = head + b"".join(raw for _, _, raw in given)
    log.writer.append(wide, prediction(wide, ["a", "b"], request=request, json_bytes=len(head)))
    Committer(log.state).commit_all()
    assert log.rows()["inputs"].to_list() == [
        {"x": 1.5, "n": 7, "origin": "JFK"},
        {"x": -2.0, "n": 8, "origin": "Zürich"},
    ]


def test_one_matrix_is_spread_over_the_columns_of_the_signature(log: Log) -> None:
    wide = context(x="FP64", y="FP64", who="FP64")
    matrix = {"name": "input", "datatype": "FP64", "shape": [2, 3], "data": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
    log.writer.append(wide, prediction(wide, ["a", "b"], request=msgspec.json.encode({"inputs": [matrix]})))
    Committer(log.state).commit_all()
    assert log.rows()["inputs"].to_list() == [{"x": 1.0, "y": 2.0, "who": 3.0}, {"x": 4.0, "y": 5.0, "who": 6.0}]
    assert log.rows()["entity"].to_list() == ["3.0", "6.0"]


def test_rows_and_labels_say_their_order_in_the_log(log: Log) -> None:
    for number in range(3):
        log.writer.append(NUMERIC, prediction(NUMERIC, [f"e{number}", f"f{number}"]))
        log.writer.append(None, labels([f"e{number}"]))
    Committer(log.state).commit_all()
    rows = log.rows().sort("position")
    assert rows["event_id"].to_list() == ["e0", "f0", "e1", "f1", "e2", "f2"]
    assert rows["position"].n_unique() == 6


def test_labels_have_an_event_id_or_an_entity_and_a_time_and_feedback_has_a_name(log: Log) -> None:
    log.writer.append(None, labels(["a"]))
    log.writer.append(
        None,
        Labels("ops", "m", "api", ["", "b"], [0, 0], [1.0, 2.0], ["N1", ""], [DAY_US, 0], ["", "thumbs"]),
    )
    Committer(log.state).commit_all()
    kept = pl.read_delta(str(log.state / "tables/ops/m/labels")).sort("position")
    about = [None if at is None else int(at.timestamp()) for at in kept["about"]]
    assert list(zip(kept["event_id"], kept["entity"], about, kept["name"], strict=True)) == [
        ("a", None, None, None),
        (None, "N1", DAY_US // 1_000_000, None),
        ("b", None, None, "thumbs"),
    ]
