"""Retraining can do harm: on broken data it bakes the damage in, without end it only burns, and it may not help at all."""

from datetime import UTC, datetime
from typing import Any

from inline_snapshot import snapshot

from steersman.domain.incident import IncidentState, Purpose, Remedy
from steersman.domain.release import Completion
from steersman.testing.story import DATASET, LOOP, Story, canary, model_document

BEHIND_SINCE = datetime(2013, 3, 20, tzinfo=UTC)


def falls_behind(story: Story, **sections: Any) -> None:
    """Version 1 falls behind on 20 March."""
    story.apply(DATASET, model_document(environments=canary(), **{**LOOP, **sections}))
    story.release(1)
    old = story.digest(1)
    story.traffic.quality = lambda digest, day: 0.4 if digest == old and day >= BEHIND_SINCE else 1.2


def trainings(story: Story) -> list[tuple[str, str, str]]:
    with story.store.read() as tx:
        return [(f"{t.started_at:%m-%d}", t.purpose, t.outcome) for t in tx.trainings("default", "delay")]


def test_a_feed_that_breaks_is_not_learned_from(story: Story) -> None:
    drift = {"name": "inputs", "kind": "drift", "window": "1d"}
    monitors = [drift, *LOOP["monitors"]]
    falls_behind(story, monitors=monitors, retrain={**LOOP["retrain"], "on": ["freshness", "quality", "inputs"]})
    story.days(20)
    story.traffic.missing = 0.6
    story.days(15)
    assert [t for t in trainings(story) if t[1] == "retrain"] == []
    assert any("bad data, do not retrain: x has" in line for line in story.why())


def test_a_failed_training_is_tried_again_only_after_the_cooldown(story: Story) -> None:
    falls_behind(story)
    story.days(14)
    story.trainer.fails = False
    story.days(6)
    story.trainer.fails = True
    story.days(40)
    assert [t for t in trainings(story) if t[1] == "retrain"] == snapshot(
        [
            ("03-27", Purpose.RETRAIN, "failed"),
            ("04-10", Purpose.RETRAIN, "failed"),
            ("04-24", Purpose.RETRAIN, "failed"),
        ]
    )
    assert story.router.weights() == {"1": 100.0}
    assert story.incidents[0].attempts >= 1


def test_after_three_remedies_that_did_not_help_a_person_must_look(story: Story) -> None:
    falls_behind(story)
    story.days(20)
    story.trainer.fails = True
    story.days(90)
    assert len([t for t in trainings(story) if t[1] == "retrain"]) == 3
    assert story.incidents[0].state is IncidentState.OPEN
    assert "3 remedies did not help, a person must look" in story.incidents[0].because


def test_a_training_that_cannot_be_carried_out_has_failed_and_the_incident_goes_on(story: Story) -> None:
    falls_behind(story)
    story.days(20)
    story.datasets.unreadable = True
    story.days(12)
    assert [t for t in trainings(story) if t[1] == "retrain"] == snapshot([("03-27", Purpose.RETRAIN, "failed")])
    assert story.incidents[0].state is IncidentState.OPEN


def test_a_remedy_that_its_gate_stops_reopens_the_incident(story: Story) -> None:
    falls_behind(story)
    story.days(20)
    known = {story.digest(1), story.digest(2)}
    before = story.traffic.quality
    story.traffic.quality = lambda digest, day: before(digest, day) if digest in known else 0.0
    story.days(14)
    assert story.router.answered_ever == {"1"}
    assert story.incidents[0].state is IncidentState.OPEN
    assert story.incidents[0].attempts == 1


def test_a_recovery_that_does_not_come_reopens_the_incident(story: Story) -> None:
    falls_behind(story)
    story.days(20)
    released = {story.digest(1), story.digest(2)}
    promoted_on = datetime(2013, 4, 3, tzinfo=UTC)

    def quality(digest: str, day: datetime) -> float:
        if digest in released:
            return 0.4 if digest == story.digest(1) and day >= BEHIND_SINCE else 1.2
        return 0.8 if day < promoted_on else 0.36

    story.traffic.quality = quality
    story.days(60)
    assert [line for line in story.told() if "incident" in line] == snapshot(
        [
            "03-27 incident.opened delay/challenger",
            "03-27 incident.triaged delay/challenger",
            "05-01 incident.triaged delay/challenger",
            "05-01 incident.triaged delay/challenger",
        ]
    )


def test_a_person_may_accept_an_incident_as_it_is(story: Story) -> None:
    falls_behind(story, retrain={**LOOP["retrain"], "mode": "off"})
    story.days(30)
    incident = story.incidents[0]
    assert incident.state is IncidentState.OPEN
    assert incident.because == "ask none: retraining is off; a person decides"

    accepted = story.commands.accept_incident(incident.id, actor="bob", because="the model retires next month")
    assert (accepted.state, accepted.remedy) == (IncidentState.CLOSED, Remedy.ACCEPT)
    assert story.told()[-1] == "03-31 incident.accepted " + incident.id


def test_a_version_released_by_a_person_counts_as_the_remedy_and_is_verified_like_one(story: Story) -> None:
    falls_behind(story, retrain={**LOOP["retrain"], "mode": "off"})
    story.days(30)
    release = story.release(7, because="trained by hand")
    story.days(40)
    assert story.reread(release).completion is Completion.PROMOTED
    assert {i.state for i in story.incidents} == {IncidentState.CLOSED}
    assert {i.version for i in story.incidents} == {7}
