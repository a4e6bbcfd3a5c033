"""The figures of a team, from plain records, each with its counts."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from steersman.decide.kpis import (
    Durations,
    Share,
    automated_share,
    measure,
    retrainings,
    time_to_detect,
    time_to_resolve,
)
from steersman.domain.incident import Incident, IncidentKind, IncidentState, Purpose, Training
from steersman.domain.release import Opened, Phase, Release

DAY = timedelta(days=1)
MARCH = datetime(2013, 3, 1, tzinfo=UTC)


def release(version: int, *, promoted: bool) -> Release:
    return Release(
        id=f"r{version}",
        workspace="ops",
        model="flight-delay",
        environment="production",
        number=version,
        version=version,
        digest="sha256:0",
        previous=None,
        document="d",
        phase=Phase.HEALTHY,
        step_started_at=MARCH,
        opened=Opened.REMEDY,
        opened_at=MARCH,
        opened_by="loop",
        promoted_at=MARCH if promoted else None,
    )


def incident(detected_after: int, resolved_after: int | None) -> Incident:
    detected_at = MARCH + detected_after * DAY
    return Incident(
        id="i",
        workspace="ops",
        model="flight-delay",
        environment="production",
        kind=IncidentKind.CHALLENGER,
        state=IncidentState.OPEN,
        version=1,
        began_at=MARCH,
        detected_at=detected_at,
        resolved_at=None if resolved_after is None else detected_at + resolved_after * DAY,
    )


def training(version: int | None, *, purpose: Purpose = Purpose.RETRAIN, finished: bool = True) -> Training:
    return Training(
        id=f"t{version}",
        workspace="ops",
        model="flight-delay",
        environment="production",
        purpose=purpose,
        incident="i",
        started_at=MARCH,
        known_until=MARCH,
        finished_at=MARCH + DAY if finished else None,
        version=version,
    )


def test_the_automated_share_counts_promoted_releases_against_manual_changes() -> None:
    share = automated_share(
        [release(1, promoted=True), release(2, promoted=False), release(3, promoted=True)], manual_changes=1
    )
    assert share == Share(part=2, whole=3)
    assert share.value == pytest.approx(2 / 3)
    assert share.interval == pytest.approx((0.0943, 0.9916), abs=1e-4)
    with pytest.raises(ValueError, match="negative"):
        automated_share([], manual_changes=-1)


def test_a_share_of_nothing_is_unknown_and_not_zero() -> None:
    assert automated_share([], manual_changes=0).value is None
    assert Share(part=0, whole=0).interval == (0.0, 1.0)


def test_incidents_still_open_are_counted_beside_the_resolved_ones() -> None:
    incidents = [incident(2, 10), incident(4, 20), incident(9, None)]
    assert time_to_detect(incidents) == Durations(n=3, median=4 * DAY, longest=9 * DAY, open=0)
    assert time_to_resolve(incidents) == Durations(n=2, median=15 * DAY, longest=20 * DAY, open=1)
    assert time_to_resolve([]) == Durations(n=0, median=None, longest=None, open=0)


def test_an_incident_detected_before_it_began_is_refused() -> None:
    with pytest.raises(ValueError, match="before it began"):
        time_to_detect([msgspec.structs.replace(incident(1, 1), began_at=MARCH + 5 * DAY)])


def test_a_retraining_succeeds_when_its_version_was_promoted() -> None:
    trainings = [
        training(2),
        training(3),
        training(None),
        training(4, finished=False),
        training(9, purpose=Purpose.CHALLENGER),
    ]
    releases = [release(2, promoted=True), release(3, promoted=False), release(9, promoted=True)]
    figures = retrainings(trainings, releases, since=MARCH, until=MARCH + 60 * DAY)
    assert (figures.started, figures.running, figures.promoted) == (4, 1, Share(part=1, whole=3))
    assert figures.per_month == pytest.approx(2.0)


def test_a_span_that_ends_before_it_begins_is_refused_and_an_empty_one_has_no_rate() -> None:
    with pytest.raises(ValueError, match="before it begins"):
        retrainings([], [], since=MARCH, until=MARCH - DAY)
    assert retrainings([], [], since=MARCH, until=MARCH).per_month is None


def test_all_figures_come_together() -> None:
    kpis = measure(
        releases=[release(1, promoted=True)],
        manual_changes=0,
        incidents=[incident(1, 2)],
        trainings=[training(1)],
        since=MARCH,
        until=MARCH + 30 * DAY,
    )
    assert (kpis.automated.value, kpis.detect.n, kpis.resolve.n, kpis.retrainings.promoted.value) == (1.0, 1, 1, 1.0)
