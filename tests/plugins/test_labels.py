"""Labels about an entity at a time find their prediction by one rule, whatever is late, corrected or merged."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.plugins.tables import labels
from steersman.ports import Comparison, Span
from steersman.testing.log import SCOPE, START, Written

HORIZON = timedelta(hours=6)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path, entity_horizon=lambda _workspace, _model: HORIZON)


day = Written.day


END = day(9)


def known(written: Written, *, as_of: datetime = END, until: datetime = END) -> dict[str, float]:
    written.commit()
    rows = written.log.scored_rows(SCOPE, Span(day(0), until), as_of=as_of)
    return {row["event_id"]: row["label"] for row in rows.iter_rows(named=True) if row["label"] is not None}


def test_a_label_belongs_to_the_entitys_latest_prediction_at_or_before_its_time(written: Written) -> None:
    for hour in (0, 2, 4):
        written.predict([f"a{hour}", f"b{hour}"], day(0, hour), [0.1, 0.2], who=["N1", "N2"])
    written.label_entity("N1", day(0, 2), 1.0, day(1))
    written.label_entity("N2", day(0, 3.9), 0.0, day(1))
    assert known(written) == {"a2": 1.0, "b2": 0.0}


def test_a_label_before_the_first_prediction_or_beyond_the_horizon_belongs_to_none(written: Written) -> None:
    written.predict(["a"], day(0, 1), [0.1], who=["N1"])
    written.label_entity("N1", day(0, 0.5), 1.0, day(1))
    written.label_entity("N1", day(0, 7.1), 1.0, day(1))
    assert known(written) == {}
    written.label_entity("N1", day(0, 7), 1.0, day(1))
    assert known(written) == {"a": 1.0}


def test_a_later_prediction_takes_the_label_though_it_lies_outside_of_the_question(written: Written) -> None:
    written.predict(["a"], day(0, 23), [0.1], who=["N1"])
    written.predict(["b"], day(1, 1), [0.1], who=["N1"])
    written.label_entity("N1", day(1, 2), 1.0, day(1, 3))
    assert known(written, until=day(1)) == {}
    assert known(written) == {"b": 1.0}


def test_of_labels_about_several_times_the_nearest_counts(written: Written) -> None:
    written.predict(["a"], day(0), [0.1], who=["N1"])
    written.label_entity("N1", day(0, 3), 0.0, day(1))
    written.label_entity("N1", day(0, 1), 1.0, day(2))
    assert known(written) == {"a": 1.0}


def test_a_correction_is_a_version_and_what_was_known_before_stays_known(written: Written) -> None:
    written.predict(["a"], day(0), [0.1], who=["N1"])
    written.label_entity("N1", day(0, 1), 0.0, day(1))
    written.label_entity("N1", day(0, 1), 1.0, day(2))
    assert known(written, as_of=day(0, 23)) == {}
    assert known(written, as_of=day(1)) == {"a": 0.0}
    assert known(written, as_of=day(2)) == {"a": 1.0}


def test_copies_and_errors_take_no_label_and_a_copy_shares_its_events(written: Written) -> None:
    written.predict(["a"], day(0), [0.1], who=["N1"])
    written.predict(["a"], day(0), [0.9], who=["N1"], digest="b", variant="shadow")
    written.predict(["failed"], day(0, 1), [0.0], who=["N1"], status=500)
    written.predict(["copy"], day(0, 1), [0.5], who=["N1"], digest="b", variant="challenger")
    written.label_entity("N1", day(0, 2), 1.0, day(1))
    written.commit()
    pairs = written.log.paired(SCOPE, Span(day(0), day(1)), Comparison(reference="a", compared="b"), as_of=day(2))
    assert (pairs.reference.scores.tolist(), pairs.compared.scores.tolist()) == ([0.1], [0.9])
    assert pairs.labels.tolist() == [1.0]
    assert known(written) == {"a": 1.0}


def test_a_label_by_event_id_and_one_by_entity_meet_and_the_later_arrival_counts(written: Written) -> None:
    written.predict(["a"], day(0), [0.1], who=["N1"])
    written.label("a", 0.0, day(1))
    written.label_entity("N1", day(0), 1.0, day(2))
    assert known(written, as_of=day(1)) == {"a": 0.0}
    assert known(written) == {"a": 1.0}
    written.label("a", 0.5, day(3))
    assert known(written) == {"a": 0.5}


def test_feedback_under_a_name_is_no_ground_truth(written: Written) -> None:
    written.predict(["a"], day(0), [0.1], who=["N1"])
    written.label("a", 1.0, day(1))
    written.label("a", -1.0, day(2), name="thumbs")
    assert known(written) == {"a": 1.0}


def test_where_the_document_names_the_event_id_labels_about_entities_wait(tmp_path: Path) -> None:
    written = Written(tmp_path)
    written.predict(["a"], day(0), [0.1], who=["N1"])
    written.label_entity("N1", day(0), 1.0, day(1))
    assert known(written) == {}


def test_rows_to_learn_from_have_labels_of_either_kind(written: Written) -> None:
    written.predict(["a", "b"], day(0), [0.1, 0.2], who=["N1", "N2"])
    written.label_entity("N1", day(0), 1.0, day(1))
    written.label("b", 0.0, day(1))
    written.commit()
    rows = written.log.known_events(SCOPE, Span(day(0), day(1)), as_of=day(2))
    assert rows.sort("event_id").select("event_id", "label").rows() == [("a", 1.0), ("b", 0.0)]


HOURS = st.integers(min_value=0, max_value=30)


@settings(max_examples=60, deadline=None)
@given(
    predictions=st.lists(st.tuples(st.sampled_from("AB"), HOURS), max_size=12),
    arrivals=st.lists(st.tuples(st.sampled_from("AB"), HOURS, st.integers(0, 5)), max_size=12),
)
def test_the_join_says_what_the_rule_says_row_by_row(
    predictions: list[tuple[str, int]], arrivals: list[tuple[str, int, int]]
) -> None:
    def hour(number: int) -> datetime:
        return START + timedelta(hours=number)

    answered = pl.DataFrame(
        [(f"e{index}", hour(at), entity) for index, (entity, at) in enumerate(predictions)],
        schema={"event_id": pl.String(), "at": labels.INSTANT, "entity": pl.String()},
        orient="row",
    ).sort("at", maintain_order=True)
    rows = [
        (None, hour(40 + n), float(n), "api", entity, hour(about), None, n)
        for n, (entity, about, _) in enumerate(arrivals)
    ]
    arrived = labels.truth(pl.LazyFrame(rows, schema=labels.LABELS, orient="row"), hour(99)).collect()
    found = dict(labels.of_entities(arrived, answered, HORIZON).select("event_id", "label").iter_rows())

    latest = {(entity, about): float(n) for n, (entity, about, _) in enumerate(arrivals)}
    expected: dict[str, tuple[int, float]] = {}
    for (entity, about), value in latest.items():
        before = [
            (at, position, event)
            for position, (event, at) in enumerate(
                (f"e{i}", at) for i, (who, at) in enumerate(predictions) if who == entity
            )
            if at <= about
        ]
        if before and (best := max(before))[0] >= about - 6:
            event = best[2]
            if event not in expected or about < expected[event][0]:
                expected[event] = (about, value)
    assert found == {event: value for event, (_, value) in expected.items()}
