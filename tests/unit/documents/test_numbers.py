"""The only door for numbers in texts from outside."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from steersman.domain.numbers import DIGITS_MAX, number_within


@given(st.integers(0, 10**20), st.integers(0, 10**20), st.integers(0, 10**20), st.booleans())
def test_a_number_is_read_where_it_lies_within_its_bounds(number: int, low: int, high: int, raw: bool) -> None:
    text: str | bytes = str(number).encode() if raw else str(number)
    expected = number if low <= number <= high and number < 10**DIGITS_MAX else None
    assert number_within(text, low, high) == expected


@given(st.text() | st.binary() | st.text("0123456789\u00b2\u0663+-_. e", min_size=1))
def test_no_text_raises_and_only_digits_are_a_number(text: str | bytes) -> None:
    found = number_within(text, 0, 10**DIGITS_MAX)
    plain = text.decode("latin-1") if isinstance(text, bytes) else text
    only_digits = bool(plain) and set(plain) <= set("0123456789")
    assert found == (int(plain) if only_digits and len(plain) <= DIGITS_MAX else None)
