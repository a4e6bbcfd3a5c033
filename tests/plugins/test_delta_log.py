"""The inference log's questions, on tables that the committer wrote."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from steersman.plugins.tables.delta import DeltaInferenceLog
from steersman.ports import Comparison, InferenceLog, LogError, Span, SplitRows
from steersman.testing.log import SCOPE, Written


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


day = Written.day


def test_it_is_the_port_the_loops_ask(written: Written) -> None:
    assert isinstance(written.log, InferenceLog)


def test_a_model_nobody_called_answers_with_nothing(written: Written) -> None:
    assert written.log.scored_rows(SCOPE, Span(day(0), day(9)), as_of=day(9)).height == 0
    assert written.log.counts(SCOPE, Span(day(0), day(9))) == []
    assert written.log.committed_files(SCOPE, {}) == []


def test_labels_count_from_the_moment_they_arrived_and_the_latest_by_then_holds(written: Written) -> None:
    written.predict(["e1", "e2"], day(0), [0.1, 0.2])
    written.label("e1", 0.0, day(1))
    written.label("e1", 1.0, day(2))
    written.commit()

    def known(as_of: datetime) -> list[float | None]:
        return written.log.scored_rows(SCOPE, Span(day(0), day(1)), as_of=as_of)["label"].to_list()

    assert known(day(0, 23)) == [None, None]
    assert known(day(1)) == [0.0, None]
    assert known(day(3)) == [1.0, None]


def test_pairs_are_events_both_versions_were_asked_and_a_failure_is_part_of_them(written: Written) -> None:
    written.predict(["e1", "e2", "e3"], day(0), [0.1, 0.2, 0.3])
    written.predict(["e2", "e1"], day(0), [0.8, 0.9], digest="b", variant="shadow")
    written.predict(["e3"], day(0), [0.0], digest="b", variant="shadow", status=500)
    written.predict(["e4"], day(0), [0.4])
    written.predict(["e5"], day(0), [0.0], status=499)
    written.predict(["e5"], day(0), [0.5], digest="b", variant="shadow")
    for event_id in ("e1", "e2", "e3", "e4", "e5"):
        written.label(event_id, 1.0, day(1))
    written.commit()
    pairs = written.log.paired(SCOPE, Span(day(0), day(1)), Comparison(reference="a", compared="b"), as_of=day(2))
    assert pairs.events == ["e1", "e2", "e3"]
    assert pairs.reference.scores.tolist() == [0.1, 0.2, 0.3]
    assert pairs.compared.scores.tolist() == pytest.approx([0.9, 0.8, math.nan], nan_ok=True)
    assert (pairs.reference.failed.tolist(), pairs.compared.failed.tolist()) == ([False] * 3, [False, False, True])
    assert pairs.labels.tolist() == [1.0, 1.0, 1.0]
    early = written.log.paired(SCOPE, Span(day(0), day(1)), Comparison(reference="a", compared="b"), as_of=day(0, 5))
    assert np.isnan(early.labels).all()


def drawn(written: Written, ids: list[str], number: float, share: float, **more: Any) -> None:
    """Rows of a split in which the candidate has this share; `digest="b"` is the candidate's own."""
    candidate = more.get("digest") == "b"
    chance = share if candidate else 1.0 - share
    variant = "candidate" if candidate else "stable"
    written.predict(
        ids, day(0, number), more.pop("scores", [0.5] * len(ids)), variant=variant, probability=chance, **more
    )


def split(written: Written) -> SplitRows:
    asked = Comparison(reference="a", compared="b")
    return written.log.split(SCOPE, Span(day(0), day(1)), asked, as_of=day(3), drawn_since=day(-5))


def test_a_split_has_the_rows_that_were_drawn_each_with_the_candidates_probability(written: Written) -> None:
    drawn(written, ["e1"], 1, 0.1)
    drawn(written, ["e2"], 2, 0.1, digest="b", scores=[0.9])
    written.predict(["copy"], day(0, 3), [0.4], digest="b", variant="shadow")
    written.predict(["all of it"], day(0, 4), [0.4], probability=1.0)
    written.label("e2", 1.0, day(1))
    written.commit()
    rows = split(written)
    assert rows.events == ["e1", "e2"]
    assert rows.candidate.tolist() == [False, True]
    assert rows.probability.tolist() == [0.1, 0.1]
    assert rows.labels.tolist() == pytest.approx([math.nan, 1.0], nan_ok=True)
    assert rows.answers.scores.tolist() == [0.5, 0.9]


def test_what_stable_answered_in_a_failed_candidates_place_counts_for_the_candidate(written: Written) -> None:
    drawn(written, ["e1"], 1, 0.1, digest="b", status=503)
    written.predict(["e1"], day(0, 1), [0.3], probability=None)
    written.commit()
    rows = split(written)
    assert (rows.events, rows.candidate.tolist(), rows.answers.failed.tolist()) == (["e1"], [True], [True])
    assert np.isnan(rows.answers.scores).all()


def test_an_entity_counts_where_it_was_first_drawn_and_as_it_was_drawn_then(written: Written) -> None:
    drawn(written, ["old"], -20, 0.1, who=["N1"])
    drawn(written, ["again"], 1, 0.1, who=["N1"])
    drawn(written, ["new"], 2, 0.1, who=["N2"])
    drawn(written, ["twice"], 3, 0.1, who=["N2"])
    drawn(written, ["ramped"], 4, 0.5, who=["N2"], digest="b")
    written.commit()
    rows = split(written)
    assert (rows.events, rows.units) == (["new", "twice"], ["N2", "N2"])


def test_declared_metrics_and_slices_are_read_from_the_rows_and_a_wrong_column_is_missing(written: Written) -> None:
    written.predict(["e1", "e22"], day(0), [0.2, 0.4])
    written.predict(["e1", "e22"], day(0), [0.9, 0.8], digest="b", variant="shadow")
    written.label("e1", 1.0, day(1))
    written.commit()
    measures = {"cost": "CASE WHEN score >= 0.5 THEN x ELSE 0 END", "gap": "abs(score - label)", "lost": "score * y"}
    pairs = written.log.paired(
        SCOPE,
        Span(day(0), day(1)),
        Comparison(reference="a", compared="b", slices=("origin", "none"), measures=measures),
        as_of=day(2),
    )
    assert pairs.compared.measured["cost"].tolist() == [2.0, 3.0]
    assert pairs.reference.measured["gap"].tolist() == pytest.approx([0.8, math.nan], nan_ok=True)
    assert "lost" not in pairs.compared.measured
    assert {name: values.tolist() for name, values in pairs.slices.items()} == {"origin": ["JFK", "JFK"]}


def test_an_expression_polars_cannot_read_is_refused(written: Written) -> None:
    assert written.log.refuse_measure("abs(score - label)") is None
    assert "unable to parse" in str(written.log.refuse_measure("score +"))
    assert written.log.refuse_measure("upper(score)") is not None


def test_answers_are_what_callers_got_with_their_inputs(written: Written) -> None:
    written.predict(["e1", "e22"], day(0), [0.1, 0.2])
    written.predict(["e1", "e22"], day(0), [0.8, 0.9], variant="challenger")
    written.predict(["e4"], day(0), [0.0], status=500)
    written.label("e22", 1.0, day(1))
    written.commit()
    answered = written.log.answered(SCOPE, Span(day(0), day(1)), as_of=day(2), digest="a")
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
    assert written.log.scored_rows(SCOPE, Span(day(0), day(1)), as_of=day(1)).height == 1
    assert [count.rows for count in written.log.counts(SCOPE, Span(day(0), day(1)))] == [1]


def test_counts_and_latencies_are_by_arm_and_by_request(written: Written) -> None:
    written.predict(["e1", "e2"], day(0), [0.1, 0.2], request_id="q1", latency_ms=5.0)
    written.predict(["e3"], day(0), [0.1], request_id="q2", latency_ms=7.0)
    written.predict(["e3"], day(0), [0.0], digest="b", variant="candidate", status=500)
    written.predict(["e4"], day(0), [0.1], request_id="q4", variant="shadow", latency_ms=9.0)
    written.predict(["e5"], day(0), [0.0], request_id="q5", status=499, latency_ms=31.0)
    written.predict(["e6"], day(0), [0.0], request_id="q6", status=400, latency_ms=0.5)
    written.commit()
    counts = written.log.counts(SCOPE, Span(day(0), day(1)))
    assert [(count.digest, count.variant, count.rows, count.errors) for count in counts] == [
        ("a", "shadow", 1, 0),
        ("a", "stable", 4, 0),
        ("b", "candidate", 1, 1),
    ]
    assert sorted(written.log.latencies(SCOPE, Span(day(0), day(1)), digest="a", variants={"stable"}).tolist()) == [
        5.0,
        7.0,
        31.0,
    ], "who was given up would have waited longer; who was refused never began"
    assert written.log.latencies(SCOPE, Span(day(0), day(1)), digest="a", variants={"shadow"}).tolist() == [9.0]


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
    rows = written.log.scored_rows(SCOPE, Span(day(2), day(3)), as_of=day(3))
    assert rows["event_id"].to_list() == ["e2"]
    assert {Path(path).parent.name for path in opened} == {"date=2013-03-03"}


def test_the_span_is_exact_within_its_dates(written: Written) -> None:
    for hour in range(4):
        written.predict([f"e{hour}"], day(0, hour), [0.1])
    written.commit()
    rows = written.log.scored_rows(SCOPE, Span(day(0, 1), day(0, 3)), as_of=day(1))
    assert rows["event_id"].to_list() == ["e1", "e2"]


def test_each_committed_file_is_told_once_to_who_folds_it(written: Written) -> None:
    written.predict(["e1"], day(0), [0.1])
    written.commit()
    first = written.log.committed_files(SCOPE, {})
    assert written.log.read_files(first)["event_id"].to_list() == ["e1"]
    written.predict(["e2"], day(0), [0.1])
    written.commit()
    later = written.log.committed_files(SCOPE, {"predictions": first[-1].version})
    assert written.log.read_files(later)["event_id"].to_list() == ["e2"]
    assert [file.rows for file in later] == [1]


def test_only_what_has_matured_is_matured(written: Written) -> None:
    written.predict(["old"], day(0), [0.1])
    written.predict(["young"], day(2), [0.1])
    written.label("old", 1.0, day(1))
    written.label("young", 1.0, day(2, 1))
    written.commit()
    rows = written.log.matured(SCOPE, Span(day(0), day(9)), as_of=day(2, 12), horizon=timedelta(days=1), inputs=True)
    assert rows["event_id"].to_list() == ["old"]
    assert rows["inputs"].to_list() == [{"x": 3.0, "origin": "JFK"}]


def test_a_flush_without_a_committer_says_so(written: Written) -> None:
    with pytest.raises(LogError, match="the committer does not answer"):
        written.log.flush()
