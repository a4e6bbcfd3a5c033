"""The inference log's questions, on tables that the committer wrote."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from steersman.plugins.tables.delta import DeltaInferenceLog
from steersman.ports import InferenceLog, LogError
from steersman.testing.log import PLACE, Written


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


day = Written.day


def test_it_is_the_port_the_loops_ask(written: Written) -> None:
    assert isinstance(written.log, InferenceLog)


def test_a_model_nobody_called_answers_with_nothing(written: Written) -> None:
    assert written.log.scored_rows(*PLACE, since=day(0), until=day(9), as_of=day(9)).height == 0
    assert written.log.counts(*PLACE, since=day(0), until=day(9)) == []
    assert written.log.committed_files(*PLACE, {}) == []


def test_labels_count_from_the_moment_they_arrived_and_the_latest_by_then_holds(written: Written) -> None:
    written.predict(["e1", "e2"], day(0), [0.1, 0.2])
    written.label("e1", 0.0, day(1))
    written.label("e1", 1.0, day(2))
    written.commit()

    def known(as_of: datetime) -> list[float | None]:
        return written.log.scored_rows(*PLACE, since=day(0), until=day(1), as_of=as_of)["label"].to_list()

    assert known(day(0, 23)) == [None, None]
    assert known(day(1)) == [0.0, None]
    assert known(day(3)) == [1.0, None]


def test_pairs_are_events_both_versions_answered_with_a_label_by_then(written: Written) -> None:
    written.predict(["e1", "e2", "e3"], day(0), [0.1, 0.2, 0.3])
    written.predict(["e2", "e1"], day(0), [0.8, 0.9], digest="b", variant="shadow")
    written.predict(["e3"], day(0), [0.0], digest="b", variant="shadow", status=500)
    for event_id in ("e1", "e2", "e3"):
        written.label(event_id, 1.0, day(1))
    written.commit()
    pairs = written.log.paired(*PLACE, since=day(0), until=day(1), as_of=day(2), reference="a", compared="b")
    assert (pairs.reference.tolist(), pairs.compared.tolist()) == ([0.1, 0.2], [0.9, 0.8])
    assert pairs.labels.tolist() == [1.0, 1.0]
    early = written.log.paired(*PLACE, since=day(0), until=day(1), as_of=day(0, 5), reference="a", compared="b")
    assert len(early.labels) == 0


def test_answers_are_what_callers_got_with_their_inputs(written: Written) -> None:
    written.predict(["e1", "e22"], day(0), [0.1, 0.2])
    written.predict(["e1", "e22"], day(0), [0.8, 0.9], variant="challenger")
    written.predict(["e4"], day(0), [0.0], status=500)
    written.label("e22", 1.0, day(1))
    written.commit()
    answered = written.log.answered(*PLACE, since=day(0), until=day(1), as_of=day(2), digest="a")
    assert answered.rows == 2
    assert answered.columns["x"].tolist() == [2.0, 3.0]
    assert answered.columns["origin"].tolist() == ["JFK", "JFK"]
    assert answered.scores.tolist() == [0.1, 0.2]
    assert np.isnan(answered.labels[0])
    assert answered.labels[1] == 1.0


def test_an_event_sent_twice_counts_once(written: Written) -> None:
    for _ in range(2):
        written.predict(["e1"], day(0), [0.1], request_id="q")
    written.commit()
    assert written.log.scored_rows(*PLACE, since=day(0), until=day(1), as_of=day(1)).height == 1
    assert [count.rows for count in written.log.counts(*PLACE, since=day(0), until=day(1))] == [1]


def test_counts_and_latencies_are_by_arm_and_by_request(written: Written) -> None:
    written.predict(["e1", "e2"], day(0), [0.1, 0.2], request_id="q1", latency_ms=5.0)
    written.predict(["e3"], day(0), [0.1], request_id="q2", latency_ms=7.0)
    written.predict(["e3"], day(0), [0.0], digest="b", variant="candidate", status=500)
    written.commit()
    counts = written.log.counts(*PLACE, since=day(0), until=day(1))
    assert [(count.digest, count.variant, count.rows, count.errors) for count in counts] == [
        ("a", "stable", 3, 0),
        ("b", "candidate", 1, 1),
    ]
    latencies = written.log.latencies(*PLACE, since=day(0), until=day(1), digest="a")
    assert sorted(latencies.tolist()) == [5.0, 7.0]


def test_a_question_opens_the_files_of_its_dates_only(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        written.predict([f"e{number}"], day(number, 3), [0.1])
        written.commit()
    opened: list[str] = []
    scan = DeltaInferenceLog._scan

    def watched(log: DeltaInferenceLog, files: list[str], schema: dict[str, pl.DataType]) -> pl.LazyFrame:
        opened.extend(files)
        return scan(log, files, schema)

    monkeypatch.setattr(DeltaInferenceLog, "_scan", watched)
    rows = written.log.scored_rows(*PLACE, since=day(2), until=day(3), as_of=day(3))
    assert rows["event_id"].to_list() == ["e2"]
    assert {Path(path).parent.name for path in opened} == {"date=2013-03-03"}


def test_the_span_is_exact_within_its_dates(written: Written) -> None:
    for hour in range(4):
        written.predict([f"e{hour}"], day(0, hour), [0.1])
    written.commit()
    rows = written.log.scored_rows(*PLACE, since=day(0, 1), until=day(0, 3), as_of=day(1))
    assert rows["event_id"].to_list() == ["e1", "e2"]


def test_each_committed_file_is_told_once_to_who_folds_it(written: Written) -> None:
    written.predict(["e1"], day(0), [0.1])
    written.commit()
    first = written.log.committed_files(*PLACE, {})
    assert written.log.read_files(first)["event_id"].to_list() == ["e1"]
    written.predict(["e2"], day(0), [0.1])
    written.commit()
    later = written.log.committed_files(*PLACE, {"predictions": first[-1].version})
    assert written.log.read_files(later)["event_id"].to_list() == ["e2"]
    assert [file.rows for file in later] == [1]


def test_only_what_has_matured_is_matured(written: Written) -> None:
    written.predict(["old"], day(0), [0.1])
    written.predict(["young"], day(2), [0.1])
    written.label("old", 1.0, day(1))
    written.label("young", 1.0, day(2, 1))
    written.commit()
    rows = written.log.matured(
        *PLACE, since=day(0), until=day(9), as_of=day(2, 12), horizon=timedelta(days=1), inputs=True
    )
    assert rows["event_id"].to_list() == ["old"]
    assert rows["inputs"].to_list() == [{"x": 3.0, "origin": "JFK"}]


def test_a_flush_without_a_committer_says_so(written: Written) -> None:
    with pytest.raises(LogError, match="the committer does not answer"):
        written.log.flush()
