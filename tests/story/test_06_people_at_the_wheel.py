"""Everything a person may do to a release on its way: hold it, let it go on, hurry it, stop it, replace it, queue behind it."""

import pytest
from inline_snapshot import snapshot

from steersman.domain.errors import Conflict
from steersman.domain.release import Completion, Phase, Release
from steersman.testing.story import Story, canary, model_document


def on_its_way(story: Story, **policy: object) -> Release:
    """Version 1 answers; version 2 is in the shadow."""
    story.apply(model_document(environments=canary(**policy)))
    story.release(1)
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")
    better = story.digest(2)
    story.traffic.quality = lambda digest, _day: 1.5 if digest == better else 1.0
    return story.release(2)


def test_a_pause_by_hand_holds_the_release_and_stands_in_for_no_analysis(story: Story) -> None:
    release = on_its_way(story)
    story.days(2)
    story.commands.pause(release.id, actor="bob", because="the label feed looks odd")
    story.days(10)
    held = story.reread(release)
    assert (held.phase, held.weight_pct) == (Phase.PAUSED, 0.0)

    story.commands.resume(release.id, actor="bob", because="the feed was fine")
    story.control.settle()
    assert story.reread(release).weight_pct == 10.0
    assert story.why(since=4) == snapshot(
        [
            "03-01 release.step_started: step 4 (setWeight 100 %) is in effect",
            "03-01 release.promoted: version 1 is the stable version of production",
            "03-01 version.registered: lightgbm model of 1 columns",
            "03-01 release.opened: new version",
            "03-01 release.step_started: step 0 (mirror 100 %) is in effect",
            "03-01 release.step_started: step 1 (analysis of roc_auc) is in effect",
            "03-03 release.paused: paused by bob: the label feed looks odd",
            "03-13 release.resumed: resumed by bob: the feed was fine",
            "03-13 release.analysed: roc_auc: harm -0.1013 [-0.1175, -0.0851], below the margin 0.02, 11 days",
            "03-13 release.step_started: step 2 (setWeight 10 %) is in effect",
            "03-13 release.step_started: step 3 (pause 1d) is in effect",
        ]
    )


def test_a_release_that_waits_for_its_gates_can_be_held_too(story: Story) -> None:
    story.apply(model_document(environments=canary()))
    story.registry.add(1)
    story.commands.register("default", "delay", 1, actor="ann")
    release = story.commands.release("default", "delay", 1, "production", actor="ann", because="first")
    story.commands.pause(release.id, actor="bob", because="one moment")

    story.days(1)
    assert story.reread(release).phase is Phase.PAUSED

    story.commands.resume(release.id, actor="bob", because="go on")
    story.control.settle()
    assert story.reread(release).phase is Phase.VERIFYING


def test_promote_skips_the_waiting_but_not_the_order_of_things(story: Story) -> None:
    release = on_its_way(story)
    chapter = story.chapter
    story.commands.promote(release.id, actor="bob", because="an urgent correction", full=True)
    story.control.settle()

    assert story.reread(release).phase is Phase.VERIFYING
    assert story.router.weights() == {"2": 100.0}
    assert story.told(since=chapter) == snapshot(
        [
            "03-01 release.resumed delay/production/2",
            "03-01 release.step_skipped delay/production/2",
            "03-01 release.step_started delay/production/2",
            "03-01 release.step_skipped delay/production/2",
            "03-01 release.step_started delay/production/2",
            "03-01 release.promoted delay/production/2",
            "03-01 release.completed delay/production/1",
        ]
    )

    story.days(16)
    assert story.reread(release).completion is Completion.FAST_PROMOTED


def test_promote_goes_past_a_pause_that_waits_for_a_person(story: Story) -> None:
    steps = [{"setWeight": 10}, {"pause": {"duration": "1d"}}, {"pause": {}}, {"setWeight": 100}, {"promote": {}}]
    story.apply(model_document(environments={"production": {"strategy": {"canary": {"steps": steps}}}}))
    story.release(1)
    release = story.release(2)

    story.commands.promote(release.id, actor="bob", because="all is well", full=True)
    story.control.settle()

    assert story.reread(release).completion is Completion.FAST_PROMOTED


def test_aborting_a_canary_brings_all_requests_back_to_the_stable_version(story: Story) -> None:
    release = on_its_way(story)
    story.days(6)
    assert story.router.weights() == {"2": 10.0, "1": 90.0}

    story.commands.abort(release.id, actor="bob", because="customers complain")
    story.control.settle()

    assert story.reread(release).completion is Completion.ROLLED_BACK
    assert story.router.weights() == {"1": 100.0}


def test_a_second_release_waits_its_turn_and_is_then_compared_with_what_answers_by_then(story: Story) -> None:
    first = on_its_way(story)
    queued = story.release(3)
    assert queued.phase is Phase.PENDING
    assert queued.previous is not None
    assert queued.previous.version == 1

    story.days(8)
    assert story.reread(first).phase is Phase.VERIFYING

    following = story.reread(queued)
    assert following.phase is Phase.PROGRESSING
    assert following.previous is not None
    assert following.previous.version == 2
    assert story.router.copies_to >= {"3"}


def test_supersede_gives_the_older_release_up(story: Story) -> None:
    older = on_its_way(story, concurrency="supersede")
    newer = story.release(3)
    assert story.reread(older).completion is Completion.SUPERSEDED
    assert newer.phase is Phase.PROGRESSING


def test_reject_lets_nobody_in_while_a_release_is_on_its_way(story: Story) -> None:
    on_its_way(story, concurrency="reject")
    with pytest.raises(Conflict, match="release 2 of delay is still on its way in production"):
        story.release(3)


def test_a_freeze_holds_everything_where_it_is_but_what_fails_still_goes_back(story: Story) -> None:
    freeze = [{"startsAt": "2013-03-07T00:00:00Z", "endsAt": "2013-03-20T00:00:00Z", "reason": "holidays"}]
    release = on_its_way(story, freeze=freeze)
    story.days(10)
    assert story.reread(release).weight_pct == 0.0

    story.days(9)
    assert story.router.weights() == {"2": 10.0, "1": 90.0}


def test_a_canary_caught_by_a_freeze_stays_at_its_share_and_its_guardrails_stay_awake(story: Story) -> None:
    freeze = [{"startsAt": "2013-03-07T12:00:00Z", "endsAt": "2013-03-20T00:00:00Z", "reason": "holidays"}]
    release = on_its_way(story, freeze=freeze)
    story.days(10)
    assert story.router.weights() == {"2": 10.0, "1": 90.0}

    story.traffic.errors = {story.digest(2): 0.5}
    story.days(1)
    assert story.reread(release).completion is Completion.ROLLED_BACK


def test_what_is_over_cannot_be_steered_any_more(story: Story) -> None:
    release = on_its_way(story)
    story.commands.abort(release.id, actor="bob", because="wrong version")
    story.control.settle()
    for command in (story.commands.pause, story.commands.resume, story.commands.promote, story.commands.abort):
        with pytest.raises(Conflict, match="release 2 is over: Aborted"):
            command(release.id, actor="bob", because="too late")
