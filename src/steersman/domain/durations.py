"""Durations as people write them in documents: `30s`, `5m`, `2h`, `1d`, also joined as `1d12h`.

Documents are read by people who approve releases, so a duration has the shortest unambiguous form and never a bare
number whose unit one has to guess. Inside the program a duration is a `timedelta`; this is the only door between them.
"""

from __future__ import annotations

import re
from datetime import timedelta

PATTERN = r"^(?=\d)(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?$"
"""The form of a duration, also published in the JSON Schema."""

DURATION_DAYS_MAX = 3660
"""Upper bound of any duration: ten years. A longer one is a typing error, and it keeps sums of durations finite."""

_PARTS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?(?:(\d+)ms)?", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """The duration `text` means; raises `ValueError` with the accepted form when it means none."""
    match = _PARTS.fullmatch(text) if len(text) <= 40 else None
    if match is None or not text:
        raise ValueError(f"must be a duration such as 30s, 5m, 2h or 1d, got {text[:40]!r}")
    days, hours, minutes, seconds, milliseconds = (int(part or 0) for part in match.groups())
    try:
        duration = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)
    except OverflowError:
        duration = timedelta.max
    if duration > timedelta(days=DURATION_DAYS_MAX):
        raise ValueError(f"must be at most {DURATION_DAYS_MAX}d, got {text[:40]!r}")
    return duration


def format_duration(duration: timedelta) -> str:
    """The shortest form, the inverse of `parse_duration`; below a millisecond it rounds down."""
    milliseconds = duration // timedelta(milliseconds=1)
    parts = []
    for size, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
