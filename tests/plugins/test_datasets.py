"""Snapshots of datasets: nothing that was learnt after `known_until`, whatever came in whatever order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steersman.dataplane import tables
from steersman.dataplane.storage import LocalStorage
from steersman.domain.errors import BadRequest, NotFound
from steersman.plugins.tables.datasets import ParquetDatasets
from steersman.plugins.tables.delta import DeltaInferenceLog
from steersman.ports import DatasetSource, Snapshot

BEGIN = datetime(2013, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
INPUTS = pl.Struct({"distance": pl.Int64, "temp": pl.Float64})
INSTANT = pl.Datetime("us", "UTC")


def prediction(event: str, at: datetime, **changes: Any) -> dict[str, Any]:
    return {
        "event_id": event,
        "at": at,
        "date": at.date().isoformat(),
        "version": "1",
        "digest": "sha256:" + "1" * 64,
        "release": "rel-1",
        "variant": "stable",
        "probability": 1.0,
        "entity": event,
        "inputs": {"distance": 100, "temp": 50.5},
        "score": 0.25,
        "outputs": None,
        "status": 200,
        "error": None,
        "latency_ms": 1.0,
        "request_id": f"r-{event}",
        **changes,
    }


def label(event: str, at: datetime, value: float) -> dict[str, Any]:
    return {"event_id": event, "at": at, "date": at.date().isoformat(), "value": value, "source": "api"}


def write_log(state: Path, predictions: Sequence[dict[str, Any]], labels: Sequence[dict[str, Any]]) -> None:
    """The two tables as the committer leaves them."""
    folder = tables.predictions_folder("ops", "production", "flight-delay")
    known = tables.Catalogue()
    known.assign("context", {"distance": "long", "temp": "double"})
    tables.write_catalogue(LocalStorage(state / "tables"), folder, known)
    if predictions:
        types = {"at": INSTANT, "inputs": INPUTS, "outputs": pl.String, "error": pl.String, "status": pl.Int32}
        frame = pl.DataFrame(predictions, schema_overrides=types)
        write_deltalake(str(state / "tables" / folder / "predictions"), frame, mode="append", partition_by=["date"])
    if labels:
        frame = pl.DataFrame(labels, schema_overrides={"at": INSTANT, "value": pl.Float64})
        target = tables.labels_table("ops", "flight-delay")
        write_deltalake(str(state / "tables" / target), frame, mode="append", partition_by=["date"])


def write_history(path: Path, rows: Sequence[tuple[str, datetime, datetime, int | None]]) -> Path:
    """Key, time, availability and label."""
    frame = pl.DataFrame(
        {
            "flight_id": [row[0] for row in rows],
            "predicted_at": [row[1] for row in rows],
            "label_at": [row[2] for row in rows],
            "distance": [100 + number for number in range(len(rows))],
            "temp": [40.0] * len(rows),
            "late": [row[3] for row in rows],
        },
        schema={
            "flight_id": pl.String,
            "predicted_at": INSTANT,
            "label_at": INSTANT,
            "distance": pl.Int64,
            "temp": pl.Float64,
            "late": pl.Int64,
        },
    )
    frame.write_parquet(path)
    return path


def flights(uri: Path, **changes: Any) -> DatasetSource:
    wanted: dict[str, Any] = {
        "uri": uri,
        "time_column": "predicted_at",
        "label_column": "late",
        "key_column": "flight_id",
        "available_column": "label_at",
        "horizon_s": 86_400.0,
        "extend_workspace": "ops",
        "extend_environment": "production",
        "extend_model": "flight-delay",
    }
    return DatasetSource(**{**wanted, **changes})


def cut(
    state: Path,
    source: DatasetSource,
    known_until: datetime,
    *,
    time_from: datetime | None = None,
    time_until: datetime | None = None,
) -> tuple[Snapshot, pl.DataFrame]:
    datasets = ParquetDatasets(DeltaInferenceLog(state))
    into = state / "snapshot.parquet"
    snapshot = datasets.snapshot(source, known_until=known_until, time_from=time_from, time_until=time_until, into=into)
    return snapshot, pl.read_parquet(into)


def test_history_and_answered_events_make_one_table_in_order_of_time(tmp_path: Path) -> None:
    history = write_history(tmp_path / "flights.parquet", [("h1", BEGIN - DAY, BEGIN, 1)])
    write_log(tmp_path, [prediction("e1", BEGIN + HOUR)], [label("e1", BEGIN + DAY, 0.0)])
    snapshot, rows = cut(tmp_path, flights(history), BEGIN + 2 * DAY)
    assert rows.columns == ["flight_id", "predicted_at", "label_at", "distance", "temp", "late"]
    assert rows.rows() == [
        ("h1", BEGIN - DAY, BEGIN, 100, 40.0, 1),
        ("e1", BEGIN + HOUR, BEGIN + DAY, 100, 50.5, 0),
    ]
    assert (snapshot.rows, snapshot.first_at, snapshot.last_at) == (2, BEGIN - DAY, BEGIN + HOUR)


def test_a_label_that_arrives_later_is_not_known_yet(tmp_path: Path) -> None:
    history = write_history(tmp_path / "flights.parquet", [("h1", BEGIN - DAY, BEGIN + 5 * DAY, 1)])
    write_log(tmp_path, [prediction("e1", BEGIN)], [label("e1", BEGIN + DAY, 1.0)])
    _, rows = cut(tmp_path, flights(history), BEGIN + DAY - timedelta(microseconds=1))
    assert rows.height == 0
    _, rows = cut(tmp_path, flights(history), BEGIN + DAY)
    assert rows["flight_id"].to_list() == ["e1"]


def test_a_correction_counts_from_its_arrival(tmp_path: Path) -> None:
    history = write_history(tmp_path / "flights.parquet", [])
    corrected = [label("e1", BEGIN + DAY, 1.0), label("e1", BEGIN + 3 * DAY, 0.0)]
    write_log(tmp_path, [prediction("e1", BEGIN)], corrected)
    _, before = cut(tmp_path, flights(history), BEGIN + 2 * DAY)
    _, after = cut(tmp_path, flights(history), BEGIN + 3 * DAY)
    assert (before["late"].to_list(), after["late"].to_list()) == ([1], [0])


def test_copies_and_failures_are_no_answers_and_an_event_counts_once(tmp_path: Path) -> None:
    history = write_history(tmp_path / "flights.parquet", [])
    other = "sha256:" + "2" * 64
    predictions = [
        prediction("e1", BEGIN, variant="candidate", status=500, score=None, digest=other),
        prediction("e1", BEGIN),
        prediction("e1", BEGIN, variant="shadow", digest=other, inputs={"distance": 7, "temp": 7.0}),
        prediction("e1", BEGIN, variant="challenger", digest=other),
        prediction("e1", BEGIN + HOUR, request_id="retry"),
        prediction("e2", BEGIN, variant="shadow", digest=other),
    ]
    write_log(tmp_path, predictions, [label("e1", BEGIN + DAY, 1.0), label("e2", BEGIN + DAY, 1.0)])
    _, rows = cut(tmp_path, flights(history), BEGIN + 2 * DAY)
    assert rows.select("flight_id", "predicted_at", "distance").rows() == [("e1", BEGIN, 100)]


def test_an_event_of_history_and_log_is_taken_from_history(tmp_path: Path) -> None:
    history = write_history(tmp_path / "flights.parquet", [("e1", BEGIN, BEGIN + DAY, 1)])
    write_log(tmp_path, [prediction("e1", BEGIN)], [label("e1", BEGIN + DAY, 0.0)])
    _, rows = cut(tmp_path, flights(history), BEGIN + 2 * DAY)
    assert rows.select("flight_id", "late", "temp").rows() == [("e1", 1, 40.0)]


def test_a_span_takes_its_begin_and_leaves_its_end(tmp_path: Path) -> None:
    rows = [(f"h{number}", BEGIN + number * DAY, BEGIN + number * DAY, 0) for number in range(4)]
    history = write_history(tmp_path / "flights.parquet", rows)
    write_log(tmp_path, [], [])
    _, found = cut(tmp_path, flights(history), BEGIN + 9 * DAY, time_from=BEGIN + DAY, time_until=BEGIN + 3 * DAY)
    assert found["flight_id"].to_list() == ["h1", "h2"]


def test_without_a_column_of_availability_the_horizon_decides(tmp_path: Path) -> None:
    history = write_history(tmp_path / "flights.parquet", [("h1", BEGIN, BEGIN, 1), ("h2", BEGIN + HOUR, BEGIN, 1)])
    source = flights(history, available_column=None, extend_model=None)
    _, rows = cut(tmp_path, source, BEGIN + DAY)
    assert rows["flight_id"].to_list() == ["h1"]


def test_a_history_without_zone_or_with_dates_is_utc(tmp_path: Path) -> None:
    path = tmp_path / "flights.parquet"
    days = {"day": [datetime(2013, 3, 1), datetime(2013, 3, 2)], "late": [True, False], "temp": [1.0, 2.0]}  # noqa: DTZ001
    pl.DataFrame(days).with_columns(pl.col("day").cast(pl.Date)).write_parquet(path)
    write_log(tmp_path, [prediction("e1", BEGIN + 30 * HOUR)], [label("e1", BEGIN + 3 * DAY, 1.0)])
    source = flights(path, time_column="day", key_column=None, available_column=None)
    snapshot, rows = cut(tmp_path, source, BEGIN + 3 * DAY)
    assert rows["late"].to_list() == [True, False, True]
    assert snapshot.last_at == BEGIN + DAY


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    history = write_history(tmp_path / "flights.parquet", [("b", BEGIN, BEGIN, 1), ("a", BEGIN, BEGIN, 0)])
    first = [prediction(f"e{number}", BEGIN + number * HOUR) for number in range(50)]
    known = [label(f"e{number}", BEGIN + DAY, 1.0) for number in range(50)]
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    write_log(tmp_path / "one", first, known)
    for part in (first[25:], first[:25]):
        write_log(tmp_path / "two", part, known[::-1] if part is first else [])
    write_log(tmp_path / "two", [], known[::-1])
    one, _ = cut(tmp_path / "one", flights(history), BEGIN + 4 * DAY)
    two, _ = cut(tmp_path / "two", flights(history), BEGIN + 4 * DAY)
    assert one.digest == two.digest
    assert one.digest.startswith("sha256:")


def test_files_and_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no Parquet file"):
        cut(tmp_path, flights(tmp_path / "nothing.parquet"), BEGIN)
    history = write_history(tmp_path / "flights.parquet", [])
    with pytest.raises(BadRequest, match="no column delayed; it has flight_id, predicted_at"):
        cut(tmp_path, flights(history, label_column="delayed"), BEGIN)
    with pytest.raises(BadRequest, match=r"temp .* must be a time"):
        cut(tmp_path, flights(history, time_column="temp"), BEGIN)


def test_columns_of_a_snapshot_are_read_as_arrays(tmp_path: Path) -> None:
    history = write_history(tmp_path / "flights.parquet", [("h1", BEGIN, BEGIN, 1), ("h2", BEGIN + HOUR, BEGIN, 0)])
    snapshot, _ = cut(tmp_path, flights(history, extend_model=None), BEGIN + DAY)
    columns = ParquetDatasets(DeltaInferenceLog(tmp_path)).read(snapshot.path, ["late", "predicted_at", "flight_id"])
    assert columns["late"].tolist() == [1.0, 0.0]
    assert columns["predicted_at"].astype("datetime64[h]").astype(str).tolist() == ["2013-03-01T00", "2013-03-01T01"]
    assert columns["flight_id"].tolist() == ["h1", "h2"]


hours = st.integers(min_value=0, max_value=24 * 6)
labelled = st.lists(st.tuples(st.integers(0, 7), hours, st.sampled_from([0.0, 1.0])), max_size=20)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    answered=st.lists(st.tuples(st.integers(0, 7), hours), max_size=12),
    arrived=labelled,
    past=st.lists(st.tuples(hours, hours), max_size=6),
    known=hours,
)
def test_no_row_of_any_snapshot_has_a_label_known_after_known_until(
    tmp_path_factory: pytest.TempPathFactory,
    answered: list[tuple[int, int]],
    arrived: list[tuple[int, int, float]],
    past: list[tuple[int, int]],
    known: int,
) -> None:
    state = tmp_path_factory.mktemp("state")
    known_until = BEGIN + known * HOUR
    facts = [(f"h{number}", BEGIN + at * HOUR, BEGIN + (at + late) * HOUR, 1) for number, (at, late) in enumerate(past)]
    history = write_history(state / "flights.parquet", facts)
    predictions = [prediction(f"e{event}", BEGIN + at * HOUR) for event, at in answered]
    # A minute apart: of two labels that arrive at one instant neither is the later.
    labels = [
        label(f"e{event}", BEGIN + at * HOUR + timedelta(seconds=place), value)
        for place, (event, at, value) in enumerate(arrived)
    ]
    write_log(state, predictions, labels)
    _, rows = cut(state, flights(history), known_until)

    told: dict[str, float] = {}
    for one in sorted(labels, key=lambda one: one["at"]):
        if one["at"] <= known_until:
            told[one["event_id"]] = one["value"]
    asked = {one["event_id"] for one in predictions if one["at"] <= known_until}
    expected = {event: value for event, value in told.items() if event in asked}
    expected |= {key: 1.0 for key, at, available, _ in facts if available <= known_until and at <= known_until}
    assert dict(rows.select("flight_id", "late").rows()) == expected
    assert rows.height == len(expected)
    assert rows.filter(pl.col("label_at") > known_until).height == 0
    assert rows.filter(pl.col("predicted_at") > known_until).height == 0


def test_a_large_log_is_cut_quickly(tmp_path: Path) -> None:
    count = 60_000
    frame = pl.DataFrame({"n": range(count)}).select(
        pl.format("e{}", "n").alias("event_id"),
        (pl.lit(BEGIN) + pl.duration(seconds=pl.col("n") * 40)).cast(INSTANT).alias("at"),
    )
    frame = frame.with_columns(
        pl.col("at").dt.strftime("%Y-%m-%d").alias("date"),
        *(
            pl.lit(value, dtype=kind).alias(name)
            for name, value, kind in (
                ("version", "1", pl.String),
                ("digest", "sha256:" + "1" * 64, pl.String),
                ("release", "rel-1", pl.String),
                ("variant", "stable", pl.String),
                ("probability", 1.0, pl.Float64),
                ("entity", "e", pl.String),
                ("score", 0.5, pl.Float64),
                ("outputs", None, pl.String),
                ("status", 200, pl.Int32),
                ("error", None, pl.String),
                ("latency_ms", 1.0, pl.Float64),
                ("request_id", "r", pl.String),
            )
        ),
        pl.struct(pl.lit(100).cast(pl.Int64).alias("distance"), pl.lit(1.0).alias("temp")).alias("inputs"),
    )
    write_log(tmp_path, [], [label("other", BEGIN, 1.0)])
    folder = tables.predictions_folder("ops", "production", "flight-delay")
    write_deltalake(str(tmp_path / "tables" / folder / "predictions"), frame, partition_by=["date"])
    known = frame.select(
        "event_id", pl.col("at") + DAY, "date", pl.lit(1.0).alias("value"), pl.lit("api").alias("source")
    )
    target = tables.labels_table("ops", "flight-delay")
    write_deltalake(str(tmp_path / "tables" / target), known, mode="append", partition_by=["date"])
    history = write_history(tmp_path / "flights.parquet", [])
    begin = time.perf_counter()
    snapshot, _ = cut(tmp_path, flights(history), BEGIN + 400 * DAY)
    assert snapshot.rows == count
    assert time.perf_counter() - begin < 3.0  # 0.2 s on a quiet machine
