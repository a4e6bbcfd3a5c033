"""Back to what was there before, in one turn of the loop; and the answer to "what was live then, and why"."""

from datetime import UTC, datetime, timedelta

import pytest
from inline_snapshot import snapshot

from steersman.domain.errors import Conflict
from steersman.domain.release import Completion, Phase
from steersman.server import answers
from steersman.testing.story import Story, canary, model_document


def three_versions(story: Story) -> None:
    """Versions 1, 2 and 3 follow each other in production, on 1, 11 and 21 March."""
    story.apply(model_document(environments=canary(), serving={"replicas": 2, "keepWarm": 1}))
    for number in (1, 2, 3):
        release = story.release(number)
        if number > 1:
            story.commands.promote(release.id, actor="ann", because="quick start", full=True)
            story.control.settle()
        story.days(10)


def live_at(story: Story, day: str) -> list[int]:
    with story.store.read() as tx:
        model = story.world_documents.model(tx, "default", "delay")
        told = answers.history(tx, model, environment="production", at=datetime.fromisoformat(day).replace(tzinfo=UTC))
    return [chapter["version"] for chapter in told]


def test_rollback_brings_the_previous_version_back_in_one_settle(story: Story) -> None:
    three_versions(story)
    chapter = story.chapter

    rollback = story.commands.rollback("default", "delay", "production", actor="bob", because="customers complain")
    story.control.settle()

    assert story.reread(rollback).completion is Completion.FAST_ROLLED_BACK
    assert story.router.weights() == {"2": 100.0}
    assert story.registry.alias == {"champion": 2}
    assert story.why(since=chapter) == snapshot(
        [
            "03-31 rollback.requested: customers complain",
            "03-31 release.opened: rollback from version 3: customers complain",
            "03-31 release.step_started: step 0 (setWeight 100 %) is in effect",
            "03-31 release.promoted: version 2 is the stable version of production",
            "03-31 release.degraded: taken back by the rollback of release 4",
            "03-31 release.completed: version 2 answers again",
            "03-31 release.completed: taken back by the rollback of release 4",
        ]
    )


def test_a_replica_that_the_replaced_version_loses_in_the_bake_is_started_again(story: Story) -> None:
    three_versions(story)
    assert story.releases[-1].phase is Phase.VERIFYING
    story.target.kill(story.digest(2))
    story.control.settle()
    assert sum(replica.digest == story.digest(2) for replica in story.target.replicas) == 2


def test_a_release_that_was_still_verified_ends_rolled_back_when_a_person_rolls_it_back(story: Story) -> None:
    three_versions(story)
    verifying = story.releases[-1]
    assert verifying.phase is Phase.VERIFYING
    story.commands.rollback("default", "delay", "production", actor="bob", because="customers complain")
    story.control.settle()
    assert story.reread(verifying).completion is Completion.ROLLED_BACK


def test_a_bake_that_ends_while_a_rollback_is_on_its_way_proves_nothing(story: Story) -> None:
    three_versions(story)
    verifying = story.releases[-1]
    story.days(4)
    story.commands.rollback("default", "delay", "production", actor="bob", because="customers complain")
    story.clock.move(story.clock.now() + timedelta(days=2))  # past the end of the bake, before the loop comes to it
    story.control.settle()
    ended = story.reread(verifying)
    assert (ended.completion, ended.verified_at) == (Completion.ROLLED_BACK, None)


def test_a_second_rollback_goes_one_further_back_and_not_to_the_version_the_first_one_left(story: Story) -> None:
    three_versions(story)
    for expected in ("2", "1"):
        story.commands.rollback("default", "delay", "production", actor="bob", because="worse")
        story.control.settle()
        assert story.router.weights() == {expected: 100.0}
    with pytest.raises(Conflict, match="no version of delay before version 1 to go back to"):
        story.commands.rollback("default", "delay", "production", actor="bob", because="worse")


def test_a_rollback_stops_whatever_was_on_its_way_or_queued_behind_it(story: Story) -> None:
    three_versions(story)
    coming, queued = story.release(4), story.release(5)
    story.commands.rollback("default", "delay", "production", actor="bob", because="production is on fire")
    story.control.settle()
    assert story.router.weights() == {"2": 100.0}
    assert {story.reread(r).completion for r in (coming, queued)} == {Completion.SUPERSEDED}


def test_a_rollback_needs_no_working_production(story: Story) -> None:
    three_versions(story)
    broken = story.digest(3)
    story.target.broken.add(broken)
    story.target.stop("default", "production", "delay", broken)

    story.commands.rollback("default", "delay", "production", actor="bob", because="version 3 does not even start")
    story.control.settle()

    assert story.router.weights() == {"2": 100.0}


def test_no_freeze_stops_a_rollback(story: Story) -> None:
    three_versions(story)
    freeze = [{"startsAt": "2013-03-01T00:00:00Z", "endsAt": "2013-12-31T00:00:00Z", "reason": "holidays"}]
    story.apply(model_document(environments=canary(freeze=freeze), serving={"replicas": 2, "keepWarm": 1}))
    story.commands.rollback("default", "delay", "production", actor="bob", because="worse")
    story.control.settle()
    assert story.router.weights() == {"2": 100.0}


def test_history_says_what_was_live_at_any_moment(story: Story) -> None:
    three_versions(story)
    story.commands.rollback("default", "delay", "production", actor="bob", because="worse")
    story.days(1)
    days = ["2013-02-28", "2013-03-01", "2013-03-10", "2013-03-11", "2013-03-20", "2013-03-22", "2013-04-01"]
    assert {day: live_at(story, day) for day in days} == snapshot(
        {
            "2013-02-28": [],
            "2013-03-01": [1],
            "2013-03-10": [1],
            "2013-03-11": [2],
            "2013-03-20": [2],
            "2013-03-22": [3],
            "2013-04-01": [2],
        }
    )


def test_history_tells_each_chapter_with_its_end_and_where_the_ledger_has_it(story: Story) -> None:
    three_versions(story)
    with story.store.read() as tx:
        model = story.world_documents.model(tx, "default", "delay")
        told = answers.history(tx, model, environment=None, at=None)
    assert [(c["version"], c["live_from"], c["live_until"], len(c["ledger"])) for c in told] == snapshot(
        [
            (1, "2013-03-01T00:00:00Z", "2013-03-11T00:00:00Z", 5),
            (2, "2013-03-11T00:00:00Z", "2013-03-21T00:00:00Z", 10),
            (3, "2013-03-21T00:00:00Z", None, 9),
        ]
    )
