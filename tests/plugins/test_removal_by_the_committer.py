"""Deletions as the control server asks for them: over the committer's socket, with what waits in the log included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from steersman.dataplane import privacy
from steersman.ports import LogError, Removed, Span
from steersman.testing.log import SCOPE, Written
from steersman.testing.plane import Plane


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane(tmp_path) as running:
        running.committer()
        yield running


@pytest.fixture
def written(plane: Plane) -> Written:
    return Written(plane.state)


def event_ids(written: Written) -> list[str]:
    rows = written.log.scored_rows(SCOPE, Span(written.day(0), written.day(9)), as_of=written.day(9))
    return rows["event_id"].to_list()


def test_rows_that_still_wait_in_the_log_are_erased_too(plane: Plane, written: Written) -> None:
    written.predict(["mine", "other"], written.day(0), [0.5, 0.25], who=["N1", "N2"])
    plane.flush()
    assert event_ids(written) == ["mine", "other"]
    written.predict(["waiting"], written.day(1), [0.5], who=["N1"])
    removed = plane.log.erase("ops", "m", column="who", entity="N1")
    assert removed.predictions == 2
    assert removed.files > 0
    assert event_ids(written) == ["other"]
    written.predict(["later"], written.day(2), [0.5], who=["N1"])
    plane.flush()
    assert event_ids(written) == ["other", "later"]


def test_an_entity_is_found_plain_and_hashed(plane: Plane, written: Written) -> None:
    key = privacy.load_key(plane.state)
    written.predict(["before"], written.day(0), [0.5], who=["N1"])
    written.predict(["after"], written.day(0), [0.5], who=[privacy.hashed(key, "ops/m", "who", "N1")])
    written.predict(["other"], written.day(0), [0.5], who=[privacy.hashed(key, "ops/m", "who", "N2")])
    assert plane.log.erase("ops", "m", column="who", entity="N1").predictions == 2
    assert event_ids(written) == ["other"]


def test_an_expiration_is_told_again_by_its_key_after_a_restart(plane: Plane, written: Written) -> None:
    written.predict(["old"], written.day(0), [0.5])
    written.predict(["new"], written.day(3), [0.5])
    until = written.day(2).date()
    first = plane.log.expire("ops/m/x", "ops", "m", until=until)
    assert (first.predictions, first.files) == (1, 1)
    plane.stop("committer")
    plane.committer()
    assert plane.log.expire("ops/m/x", "ops", "m", until=until).predictions == 1
    assert plane.log.expire("ops/m/y", "ops", "m", until=until) == Removed()
    assert event_ids(written) == ["new"]


def test_a_request_that_cannot_be_read_is_refused_and_a_committer_that_is_away_is_named(
    plane: Plane, written: Written
) -> None:
    assert plane.admin("POST", "/erase", b'{"workspace": "ops"}', socket="committer.sock")[0] == 400
    plane.stop("committer")
    with pytest.raises(LogError, match="the committer does not answer"):
        written.log.expire("k", "ops", "m", until=written.day(1).date())
    with pytest.raises(LogError, match="the committer does not answer"):
        written.log.erase("ops", "m", column="who", entity="N1")
