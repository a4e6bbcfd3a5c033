"""A first version enters production: nothing to compare with, so it goes straight to all of the traffic.

The second one has something to be compared with: it is judged on copies of real requests, then answers a tenth of them,
then all, and is watched for two more weeks.
"""

import pytest
from inline_snapshot import snapshot

from steersman.domain.errors import NotFound
from steersman.domain.release import Completion, Phase
from steersman.testing.story import Story, canary, model_document


def test_the_first_version_is_promoted_at_once_because_there_is_nothing_to_compare_with(story: Story) -> None:
    story.apply(model_document(environments=canary(), serving={"replicas": 2, "keepWarm": 1}))

    release = story.release(1)

    assert release.phase is Phase.VERIFYING
    assert story.router.weights() == {"1": 100.0}
    assert story.registry.alias == {"champion": 1}
    assert story.told() == snapshot(
        [
            "03-01 document.applied Model/delay",
            "03-01 version.registered delay/1",
            "03-01 release.opened delay/production/1",
            "03-01 release.step_started delay/production/1",
            "03-01 release.step_started delay/production/1",
            "03-01 release.promoted delay/production/1",
        ]
    )


def test_a_good_candidate_is_judged_in_the_shadow_then_canaried_then_promoted(story: Story) -> None:
    story.apply(model_document(environments=canary(), serving={"replicas": 2, "keepWarm": 1}))
    story.release(1)
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")
    better = story.digest(2)
    story.traffic.quality = lambda digest, _day: 1.5 if digest == better else 1.0
    chapter = story.chapter

    release = story.release(2)
    assert story.router.weights() == {"1": 100.0}
    assert story.router.copies_to == {"2"}

    story.days(6)
    assert story.router.weights() == {"2": 10.0, "1": 90.0}

    story.days(10)
    assert story.reread(release).phase is Phase.VERIFYING
    assert story.router.weights() == {"2": 100.0}
    assert story.registry.alias == {"champion": 2}
    assert story.why(since=chapter) == snapshot(
        [
            "03-01 release.opened: new version",
            "03-01 release.step_started: step 0 (mirror 100 %) is in effect",
            "03-01 release.step_started: step 1 (analysis of roc_auc) is in effect",
            "03-07 release.analysed: roc_auc: harm -0.1100 [-0.1317, -0.0882], below the margin 0.02, 5 days",
            "03-07 release.step_started: step 2 (setWeight 10 %) is in effect",
            "03-07 release.step_started: step 3 (pause 1d) is in effect",
            "03-08 release.step_started: step 4 (setWeight 100 %) is in effect",
            "03-08 release.promoted: version 2 is the stable version of production",
            "03-08 release.completed: release 2 took its place while it was verified",
        ]
    )

    story.days(20)
    assert story.reread(release).completion is Completion.PROMOTED


def test_asking_again_changes_nothing(story: Story) -> None:
    story.apply(model_document(environments=canary()))
    story.release(1)
    chapter, configurations = story.chapter, len(story.router.applied)

    for _ in range(3):
        story.control.settle()

    assert story.told(since=chapter) == []
    assert len(story.router.applied) == configurations


def test_a_version_the_registry_does_not_have_is_an_error_that_says_what_there_is(story: Story) -> None:
    story.apply(model_document(environments=canary()))
    story.release(1)
    with pytest.raises(NotFound, match="version 7 of delay is not registered here; known: 1"):
        story.commands.release("default", "delay", 7, "production", actor="ann", because="typing error")


def test_a_version_that_does_not_start_never_answers_and_may_be_tried_again(story: Story) -> None:
    story.apply(model_document(environments=canary()))
    story.release(1)
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")
    story.target.broken.add(story.digest(2))

    failed = story.release(2)
    assert failed.completion is Completion.ABORTED
    assert failed.because == snapshot("version 2 does not start: TargetError: it exits at once")

    story.target.broken.clear()
    tried_again = story.commands.retry(failed.id, actor="ann", because="the machine had no memory left")
    story.control.settle()
    assert story.reread(tried_again).phase is Phase.PROGRESSING
    assert story.router.copies_to == {"2"}
