"""What was asked for, what answers, and what is known to be good are three things; and a release is over when its bake is."""

from datetime import timedelta

import pytest

from steersman.domain.errors import Blocked, Conflict
from steersman.domain.release import Completion, Opened, Phase, Release
from steersman.server import answers
from steersman.testing.story import Story, canary, model_document


def two_versions(story: Story, **policy: object) -> Release:
    """Version 1 has stood its bake; version 2 is in the shadow beside it, and better."""
    story.apply(model_document(environments=canary(**policy)))
    story.release(1)
    story.days(16)
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")
    better = story.digest(2)
    story.traffic.quality = lambda digest, _day: 1.5 if digest == better else 1.0
    return story.release(2)


def at_a_tenth(story: Story, **policy: object) -> Release:
    release = two_versions(story, **policy)
    story.commands.promote(release.id, actor="ann", because="no labels this week")
    story.control.settle()
    assert story.router.weights() == {"2": 10.0, "1": 90.0}
    return story.reread(release)


def stands(story: Story) -> tuple[object, ...]:
    with story.store.read() as tx:
        model = story.world_documents.model(tx, "default", "delay")
        place = answers.model_line(tx, model)["environments"]["production"]
    return tuple(place[name] for name in ("desired", "effective", "last_good", "held"))


def test_an_abort_pins_what_answers_and_forgets_nothing_of_what_was_asked_for(story: Story) -> None:
    release = at_a_tenth(story)
    assert stands(story) == (2, 1, 1, None)
    story.commands.abort(release.id, actor="bob", because="customers complain")
    story.control.settle()
    held = "release 2 (version 2) ended RolledBack: version 1 answers until another release"
    assert stands(story) == (2, 1, 1, held)
    story.days(3)
    assert stands(story) == (2, 1, 1, held)


def test_what_was_promoted_is_good_only_when_its_bake_is_over(story: Story) -> None:
    release = two_versions(story)
    story.days(8)
    assert story.reread(release).phase is Phase.VERIFYING
    assert stands(story) == (2, 2, 1, None)
    story.days(15)
    assert stands(story) == (2, 2, 2, None)


def test_rolling_back_a_canary_takes_it_back_and_not_the_version_beside_it(story: Story) -> None:
    release = at_a_tenth(story)
    queued = story.release(3)
    taken = story.commands.rollback("default", "delay", "production", actor="bob", because="complaints")
    story.control.settle()
    assert taken.id == release.id
    assert story.reread(release).completion is Completion.ROLLED_BACK
    assert story.reread(queued).completion is Completion.SUPERSEDED
    assert story.router.weights() == {"1": 100.0}


def test_nothing_takes_the_place_of_a_rollback_under_way(story: Story) -> None:
    two_versions(story, concurrency="supersede")
    story.days(8)
    story.registry.add(3)
    story.commands.register("default", "delay", 3, actor="ann")
    back = story.commands.rollback("default", "delay", "production", actor="bob", because="complaints")
    newer = story.commands.release("default", "delay", 3, "production", actor="ann", because="a third one")
    story.control.settle()
    assert story.reread(back).completion is Completion.FAST_ROLLED_BACK
    following = story.reread(newer)
    assert following.previous is not None
    assert (following.phase, following.previous.version) == (Phase.PROGRESSING, 1)


def test_beyond_the_rollback_period_a_version_comes_back_by_its_steps_only(story: Story) -> None:
    two_versions(story, rollbackPeriod="10d")
    story.days(20)
    with pytest.raises(Blocked, match="longer ago than rollbackPeriod, 10d: it comes back by its steps only") as no:
        story.commands.rollback("default", "delay", "production", actor="bob", because="complaints")
    assert no.value.next_step.startswith("steersman release delay 1 --environment production --hotfix")
    assert story.release(1).phase is Phase.PROGRESSING


def test_what_answers_already_is_not_released_once_more(story: Story) -> None:
    two_versions(story)
    with pytest.raises(Conflict, match="version 1 of delay answers in production already, since release 1"):
        story.release(1)


def test_the_next_release_starts_while_the_last_one_is_verified_and_a_late_verdict_still_takes_it_back(
    story: Story,
) -> None:
    late = two_versions(story)
    story.days(8)
    following = story.release(3)
    assert (story.reread(late).phase, following.phase) == (Phase.VERIFYING, Phase.PROGRESSING)

    worse = story.digest(2)
    story.traffic.quality = lambda digest, _day: 0.2 if digest == worse else 1.2
    story.days(10)

    ended = story.reread(late)
    assert ended.completion is Completion.ROLLED_BACK
    assert ended.because.startswith("failed in the bake: roc_auc")
    with story.store.read() as tx:
        assert "bake" in {verdict.kind for verdict in tx.verdicts(late.id)}
    goes_on = story.reread(following)
    assert goes_on.previous is not None
    assert goes_on.previous.version == 1


def test_a_rollback_is_not_retried_as_a_release(story: Story) -> None:
    two_versions(story)
    story.days(8)
    back = story.commands.rollback("default", "delay", "production", actor="bob", because="complaints")
    story.commands.abort(back.id, actor="bob", because="wrong model")
    story.control.settle()
    assert story.reread(back).opened is Opened.ROLLBACK
    with pytest.raises(Conflict, match="was a rollback, which is not retried as a release"):
        story.commands.retry(back.id, actor="bob", because="again")


def test_one_step_is_skipped_by_promote_and_it_is_told_at_the_end(story: Story) -> None:
    release = at_a_tenth(story)
    assert story.reread(release).step == 3
    story.clock.move(story.clock.now() + timedelta(hours=1))
    story.control.settle()
    assert story.router.weights() == {"2": 10.0, "1": 90.0}
    story.days(17)
    assert story.reread(release).completion is Completion.FAST_PROMOTED
