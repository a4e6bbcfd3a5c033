"""Freeze periods that come again: a crontab's five fields, by the clock of one place, through both changes of that clock."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.decide.freezing import frozen
from steersman.domain import spec
from steersman.domain.cron import last_firing, parse_cron

BERLIN = ZoneInfo("Europe/Berlin")
WEEK = timedelta(days=7)


def fired(cron: str, now: str, *, zone: str = "UTC", within: timedelta = WEEK) -> str | None:
    found = last_firing(parse_cron(cron), ZoneInfo(zone), datetime.fromisoformat(now), within=within)
    return None if found is None else found.isoformat()


@pytest.mark.parametrize(
    ("cron", "now", "at"),
    [
        ("0 16 * * FRI", "2026-11-29T09:00+00:00", "2026-11-27T16:00:00+00:00"),
        ("0 16 * * 5", "2026-11-27T16:00+00:00", "2026-11-27T16:00:00+00:00"),
        ("0 16 * * 5", "2026-11-27T15:59+00:00", None),
        ("*/20 8-9 * * *", "2026-11-27T09:59+00:00", "2026-11-27T09:40:00+00:00"),
        ("30 0 1 jan,dec *", "2026-12-03T00:00+00:00", "2026-12-01T00:30:00+00:00"),
        ("0 0 13 * FRI", "2026-11-14T12:00+00:00", "2026-11-13T00:00:00+00:00"),
        ("0 0 13 * MON", "2026-11-24T12:00+00:00", "2026-11-23T00:00:00+00:00"),
        ("0 0 * * 7", "2026-11-24T12:00+00:00", "2026-11-22T00:00:00+00:00"),
        ("5/15 * * * *", "2026-11-24T12:00+00:00", "2026-11-24T11:50:00+00:00"),
        ("0 0 31 2 *", "2026-11-24T12:00+00:00", None),
    ],
)
def test_the_last_time_it_fired(cron: str, now: str, at: str | None) -> None:
    assert fired(cron, now, within=timedelta(days=6)) == at


def test_a_time_the_clock_skips_fires_where_it_would_have_been_and_one_that_comes_twice_fires_first() -> None:
    assert fired("30 2 * * *", "2026-03-29T05:00+00:00", zone="Europe/Berlin") == "2026-03-29T01:30:00+00:00"
    assert fired("30 2 * * *", "2026-10-25T05:00+00:00", zone="Europe/Berlin") == "2026-10-25T00:30:00+00:00"


@given(
    now=st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),  # noqa: DTZ001
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    weekdays=st.sets(st.integers(0, 6), min_size=1, max_size=7),
    hours=st.integers(1, 31 * 24),
)
def test_it_fired_within_the_span_or_no_minute_of_the_span_fits(
    now: datetime, minute: int, hour: int, weekdays: set[int], hours: int
) -> None:
    cron = parse_cron(f"{minute} {hour} * * {','.join(map(str, weekdays))}")
    within = timedelta(hours=hours)
    found = last_firing(cron, BERLIN, now, within=within)
    floor = now.replace(second=0, microsecond=0)
    minutes = (floor - timedelta(hours=back) for back in range(hours + 1))
    candidates = [
        moment
        for hourly in minutes
        if now - within < (moment := _at_minute(hourly, minute, now)) <= now
        and (local := moment.astimezone(BERLIN)).hour == hour
        and local.isoweekday() % 7 in weekdays
        and not local.fold
    ]
    if candidates:
        assert found is not None
        assert found >= max(candidates)
    if found is not None:
        assert now - within < found <= now
        assert found.astimezone(BERLIN).minute == minute


def _at_minute(hourly: datetime, minute: int, now: datetime) -> datetime:
    moment = hourly.replace(minute=minute)
    return moment if moment <= now else moment - timedelta(hours=1)


def test_of_several_periods_the_one_that_ends_last_is_told() -> None:
    now = datetime(2026, 12, 25, 12, tzinfo=UTC)
    nights = spec.Freeze(cron="0 0 * * *", duration=timedelta(hours=14), reason="nights")
    feast = spec.Freeze(
        starts_at=datetime(2026, 12, 24, tzinfo=UTC), ends_at=datetime(2026, 12, 27, tzinfo=UTC), reason="feast"
    )
    policy = spec.EnvironmentPolicy(freeze=(nights,))
    assert frozen(policy, spec.EnvironmentSpec(), now) == "frozen until 2026-12-25T14:00:00+00:00: nights"
    said = frozen(policy, spec.EnvironmentSpec(freeze=(feast,)), now)
    assert said == "frozen until 2026-12-27T00:00:00+00:00: feast"
    assert frozen(policy, spec.EnvironmentSpec(), now + timedelta(hours=2)) is None
