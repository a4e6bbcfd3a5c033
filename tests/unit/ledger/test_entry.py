"""The bytes of an entry: canonical, exact, bounded, and read back only as they were written."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.ledger.entry import (
    BODY_BYTES_MAX,
    Actor,
    Entry,
    EntryError,
    Json,
    Object,
    canonical_json,
    parse_entry,
)

WHEN = datetime(2013, 5, 1, 12, 30, tzinfo=UTC)


def entry(data: dict[str, Json] | None = None, **changes: object) -> Entry:
    envelope: dict[str, object] = {
        "id": "0196a0c4-7a00-7000-8000-000000000001",
        "at": WHEN,
        "recorded_at": WHEN + timedelta(seconds=2),
        "actor": Actor(issuer="local", subject="ada", kind="human"),
        "action": "release.approved",
        "object": Object(
            kind="release", workspace="ops", name="flight-delay", more={"environment": "production", "version": "3"}
        ),
        "because": "log loss 0.412 against 0.431, n=38211",
        "request_id": "r-1",
        "data": data or {},
    }
    return Entry(**(envelope | changes))  # type: ignore[arg-type]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def test_the_body_is_one_line_of_sorted_json_with_both_times() -> None:
    assert entry({"log_loss": "0.412"}).body().decode() == (
        '{"action":"release.approved","actor":{"issuer":"local","kind":"human","subject":"ada"},'
        '"at":"2013-05-01T12:30:00.000000Z","because":"log loss 0.412 against 0.431, n=38211",'
        '"data":{"log_loss":"0.412"},"id":"0196a0c4-7a00-7000-8000-000000000001",'
        '"object":{"environment":"production","kind":"release","name":"flight-delay","version":"3",'
        '"workspace":"ops"},"recorded_at":"2013-05-01T12:30:02.000000Z","request_id":"r-1","v":1}'
    )


def test_strings_and_key_order_are_those_of_the_rfc_8785_examples() -> None:
    # RFC 8785 section 3.2.3: keys sort by UTF-16 code units, so the emoji (a surrogate pair) comes before U+FB33.
    keys = {"\u20ac": "Euro", "\r": "CR", "\ufb33": "Dalet", "1": "One", "\U0001f600": "Grin", "\x80": "C", "ö": "o"}
    canonical = canonical_json(keys).decode()
    assert list(json.loads(canonical)) == ["\r", "1", "\x80", "ö", "\u20ac", "\U0001f600", "\ufb33"]
    # Section 3.2.2.2: only what must be escaped is, and control characters in lower-case hexadecimal.
    assert (
        canonical_json("\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/").decode() == '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'
    )


@given(data=st.dictionaries(TEXTS, JSON_VALUES, max_size=5))
def test_what_is_written_is_what_is_read_and_is_one_line(data: dict[str, Json]) -> None:
    body = entry(data).body()
    assert b"\n" not in body
    assert parse_entry(body).body() == body
    assert json.loads(body)["data"] == data


def test_times_are_kept_in_utc_whatever_zone_they_came_in() -> None:
    elsewhere = WHEN.astimezone(timezone(timedelta(hours=-5)))
    assert entry(at=elsewhere).body() == entry().body()
    with pytest.raises(EntryError, match="aware"):
        entry(at=WHEN.replace(tzinfo=None)).body()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.5, r"\$\.data\.x\[0\] is a float.*as strings"),
        (float("nan"), "float"),
        (2**53, "beyond the integers"),
        (b"raw", "bytes"),
        ({1: "one"}, "key that is no text"),
        ("\ud800", "surrogate"),
    ],
)
def test_values_without_an_exact_form_are_refused_with_their_path(value: object, message: str) -> None:
    with pytest.raises(EntryError, match=message):
        entry({"x": [value]}).body()  # type: ignore[list-item]


def test_an_entry_larger_than_64_kib_is_refused_with_the_way_out() -> None:
    with pytest.raises(EntryError, match="by digest"):
        entry({"x": "y" * BODY_BYTES_MAX}).body()


def test_a_nesting_bomb_is_refused_and_exhausts_no_stack() -> None:
    deep: Json = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(EntryError, match="nested deeper"):
        entry({"x": deep}).body()
    with pytest.raises(EntryError):
        parse_entry(b"[" * 50_000)
    with pytest.raises(EntryError):
        parse_entry(b'{"a":' * 10_000)


def test_the_names_of_an_object_cannot_be_overwritten_by_its_further_names() -> None:
    forged = Object(kind="release", workspace="ops", name="a", more={"workspace": "other"})
    with pytest.raises(EntryError, match="must not repeat workspace"):
        entry(object=forged).body()


GOOD = entry({"n": 3}).body()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"\xff",
        GOOD + b" ",
        GOOD.replace(b'"n":3', b'"n":3.0'),
        GOOD.replace(b'"n":3', b'"n":3,"n":3'),
        GOOD.replace(b'"n":3', b'"n":NaN'),
        GOOD.replace(b'"n":3', b'"n":' + b"9" * 5000),
        GOOD.replace(b'"v":1', b'"v":2'),
        GOOD.replace(b'"v":1', b'"v":true'),
        GOOD.replace(b'"v":1', b'"v":1,"w":1'),
        GOOD.replace(b'"id":', b'"ie":'),
        GOOD.replace(b'"kind":"human",', b""),
        GOOD.replace(b'"version":"3"', b'"version":3'),
        GOOD.replace(b"2013-05-01T12:30:00.000000Z", b"2013-05-01T12:30:00Z"),
        GOOD.replace(b"2013-05-01T12:30:00.000000Z", b"2013-13-01T12:30:00.000000Z"),
        GOOD.replace(b'"because":"log', b'"because":"\\u006cog'),
        GOOD.decode().encode("utf-16"),
    ],
)
def test_bytes_that_are_not_exactly_an_entry_are_refused(body: bytes) -> None:
    assert body != GOOD
    with pytest.raises(EntryError):
        parse_entry(body)
