"""Times that come again, in the five fields of a crontab: minute, hour, day of month, month, day of week.

A freeze asks one question: when did it last begin? That is a walk back over a bounded number of days, on the clock of
one time zone, so the whole evaluator is smaller than the dependency it would be. Each field is `*`, a number, a range `a-b`,
either with a step `/n`, or a list of these; months and weekdays also by their three English letters, Sunday is 0 or 7.
Where both days are restricted one of them suffices, as in every cron (POSIX crontab).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

PERIOD_MAX = timedelta(days=31)
"""Longest period that may follow a moment of a cron: what lasts longer is written with a start and an end."""

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_BOUNDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
_ITEM = re.compile(r"(?:(\*)|([0-9]{1,2}|[a-z]{3})(?:-([0-9]{1,2}|[a-z]{3}))?)(?:/([0-9]{1,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """The values each field allows; weekdays count from Sunday, 0. `either_day`: both days are restricted."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool

    def on(self, day: datetime) -> bool:
        """Whether it fires on that date."""
        if day.month not in self.months:
            return False
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return of_month or of_week if self.either_day else of_month and of_week


def parse_cron(text: str) -> Cron:
    """Raises ValueError naming the field that is wrong."""
    fields = text.lower().split()
    if len(fields) != len(_BOUNDS):
        raise ValueError(f"needs five fields (minute hour day month weekday), got {len(fields)}")
    minutes, hours, days, months, weekdays = (
        _values(field, *bounds) for field, bounds in zip(fields, _BOUNDS, strict=True)
    )
    return Cron(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(day % 7 for day in weekdays),
        either_day=not fields[2].startswith("*") and not fields[4].startswith("*"),
    )


def _values(field: str, name: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for item in field.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"{name} must be *, a number, a range or a list of these, got {item[:20]!r}")
        every, first, last, step = match.groups()
        begin = low if every else _number(first, name)
        end = high if every or (step and not last) else _number(last or first, name)
        if not low <= begin <= end <= high or step == "0":
            raise ValueError(f"{name} must lie within {low}..{high}, in rising order, got {item[:20]!r}")
        found.update(range(begin, end + 1, int(step or 1)))
    return found


def _number(text: str, name: str) -> int:
    if text.isdigit():
        return int(text)
    names = {"month": _MONTHS, "day of week": _WEEKDAYS}.get(name, ())
    if text not in names:
        raise ValueError(f"{name} must be a number or a name such as {', '.join(names[:2]) or '5'}, got {text!r}")
    return names.index(text) + (1 if name == "month" else 0)


def zone_of(name: str) -> ZoneInfo:
    """Raises ValueError for a zone this machine does not know."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"no time zone {name[:60]!r} on this machine; write one such as Europe/Berlin") from error


def last_firing(cron: Cron, zone: ZoneInfo, now: datetime, *, within: timedelta) -> datetime | None:
    """The latest moment of `cron` in (now - within, now], in UTC; None where there is none.

    A local time that the clock skips in spring fires at the moment it would have been; one that comes twice in autumn
    fires at its first coming.
    """
    local = now.astimezone(zone)
    for back in range(min(within, PERIOD_MAX).days + 2):
        day = datetime(local.year, local.month, local.day) - timedelta(days=back)  # noqa: DTZ001 - a date on the zone's clock
        if not cron.on(day):
            continue
        moments = (
            day.replace(hour=hour, minute=minute, tzinfo=zone).astimezone(UTC)
            for hour in cron.hours
            for minute in cron.minutes
        )
        fired = max((moment for moment in moments if now - within < moment <= now), default=None)
        if fired is not None:
            return fired
    return None
