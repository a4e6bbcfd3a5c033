"""Whole numbers in texts from outside: a header, a form, a query, a path.

`str.isdigit` says yes to "²", which `int` does not read, and `int` raises above 4,300 digits: each made an error of ours out of
one of the caller's. This is the only door.
"""

from __future__ import annotations

DIGITS_MAX = 18
"""More make a number beyond 64 bits, and nothing that is counted here is near that."""


def number_within(text: str | bytes, low: int, high: int) -> int | None:
    """The number that ASCII digits and nothing else write; None where they do not, or it is not in `low..high`."""
    if len(text) > DIGITS_MAX or not (text.isascii() and text.isdigit()):
        return None
    number = int(text)
    return number if low <= number <= high else None
