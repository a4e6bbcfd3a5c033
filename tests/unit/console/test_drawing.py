"""Scales, ticks and words: the small arithmetic under the charts."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.console import wording
from steersman.console.drawing import TimeScale, element, value_scale

START = datetime(2013, 3, 1, tzinfo=UTC)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_every_value_lies_within_the_field(values: list[float]) -> None:
    scale = value_scale(values, top=10, height=100)
    assert all(10 <= scale.at(value) <= 110 for value in values)
    assert 1 <= len(scale.ticks()) <= 8
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks())


@given(st.floats(0.5, 900))
def test_a_time_axis_has_few_ticks_in_order(days: float) -> None:
    ticks = TimeScale(begin=START, end=START + timedelta(days=days)).ticks()
    assert len(ticks) <= 17
    assert [share for share, _ in ticks] == sorted(share for share, _ in ticks)


def test_an_empty_time_axis_does_not_divide_by_zero() -> None:
    assert TimeScale(begin=START, end=START).at(START) == 0.0


def test_ticks_are_written_with_as_many_decimals_as_they_need() -> None:
    assert value_scale([0.0, 0.12], top=0, height=100).digits() == 3
    assert value_scale([0.0, 0.1], top=0, height=100).digits() == 2
    assert value_scale([0.0, 50.0], top=0, height=100).digits() == 0


def test_attributes_and_text_are_escaped() -> None:
    drawn = str(element("text", "<b>", class_='"><script>'))
    assert drawn == '<text class="&#34;&gt;&lt;script&gt;">&lt;b&gt;</text>'


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        (timedelta(seconds=12), "12 s"),
        (timedelta(minutes=20), "20 min"),
        (timedelta(hours=3), "3 h"),
        (timedelta(hours=3, minutes=5), "3 h 5 min"),
        (timedelta(days=3, hours=4), "3 d 4 h"),
        (timedelta(days=27, hours=4), "27 d"),
        (None, "–"),
    ],
)
def test_durations_have_at_most_two_units(duration: timedelta | None, words: str) -> None:
    assert wording.span(duration) == words


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gates passed", "Gates passed"),
        ("roc_auc: harm", "roc_auc: harm"),
        ("models:/flight-delay/3 from mlflow", "models:/flight-delay/3 from mlflow"),
        ("", ""),
    ],
)
def test_a_reason_begins_like_a_sentence_unless_it_begins_with_a_name(text: str, shown: str) -> None:
    assert wording.sentence(text) == shown
