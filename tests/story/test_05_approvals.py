"""From tier 2 on a person must agree before the first step, and not the one who made or asked for the version."""

from typing import Any

import pytest
from inline_snapshot import snapshot

from steersman.domain.errors import Conflict, NotAllowed
from steersman.domain.release import Completion, Phase, Release
from steersman.testing.story import Story, canary, model_document


def asked(story: Story, *, tier: int = 2, **policy: Any) -> Release:
    """A first version of a model that matters is asked for by Ann."""
    story.apply(model_document(tier=tier, environments=canary(onInconclusive="pause", **policy)))
    return story.release(1, actor="ann")


def approve(story: Story, release: Release, *people: str) -> Release:
    for person in people:
        story.commands.approve(release.id, actor=person, because="the evidence is good")
    story.control.settle()
    return story.reread(release)


def test_tier_2_waits_until_somebody_else_agrees(story: Story) -> None:
    release = asked(story)
    assert release.phase is Phase.PAUSED
    assert release.because == "waits for 1 more approval by role approver"
    assert story.router.weights() == {}

    story.days(3)
    assert story.router.weights() == {}

    assert approve(story, release, "bob").phase is Phase.VERIFYING
    assert story.router.weights() == {"1": 100.0}
    assert story.told() == snapshot(
        [
            "03-01 document.applied Model/delay",
            "03-01 version.registered delay/1",
            "03-01 release.opened delay/production/1",
            "03-01 release.paused delay/production/1",
            "03-04 release.approved delay/production/1",
            "03-04 release.step_started delay/production/1",
            "03-04 release.step_started delay/production/1",
            "03-04 release.promoted delay/production/1",
        ]
    )


def test_who_made_or_opened_it_cannot_agree_to_it(story: Story) -> None:
    release = asked(story)
    for author in ("ann", "trainer"):
        with pytest.raises(NotAllowed, match="made or opened what is to be approved"):
            story.commands.approve(release.id, actor=author, because="I trust myself")
    assert story.reread(release).phase is Phase.PAUSED


def test_tier_3_takes_two_people_and_one_of_them_twice_is_not_two(story: Story) -> None:
    release = asked(story, tier=3)
    assert approve(story, release, "bob", "bob").phase is Phase.PAUSED
    assert approve(story, release, "carol").phase is Phase.VERIFYING


def test_resuming_does_not_stand_in_for_an_approval(story: Story) -> None:
    release = asked(story)
    with pytest.raises(Conflict, match="waits for an approval, which `resume` does not replace"):
        story.commands.resume(release.id, actor="bob", because="let us go on")


def test_a_rejected_release_ends_without_a_request_answered(story: Story) -> None:
    release = asked(story)
    story.commands.reject(release.id, actor="bob", because="not during the holidays")
    story.control.settle()
    assert story.reread(release).completion is Completion.ABORTED
    assert story.router.answered_ever == set()


def test_an_approval_that_came_too_early_has_expired_when_it_is_needed(story: Story) -> None:
    story.apply(
        model_document(
            tier=2,
            environments=canary(
                onInconclusive="pause",
                approvals={"required": 1, "expires": "2d"},
                freeze=[{"startsAt": "2013-03-01T00:00:00Z", "endsAt": "2013-03-08T00:00:00Z", "reason": "fair"}],
            ),
        )
    )
    release = story.release(1)
    assert approve(story, release, "bob").phase is Phase.PENDING

    story.days(8)

    assert story.reread(release).phase is Phase.PAUSED
    assert approve(story, release, "bob").phase is Phase.VERIFYING


def test_an_approval_step_in_the_middle_waits_again(story: Story) -> None:
    steps = [{"setWeight": 10}, {"approval": {"count": 1}}, {"setWeight": 100}, {"promote": {}}]
    story.apply(model_document(environments={"production": {"strategy": {"canary": {"steps": steps}}}}))
    story.release(1)
    approve(story, story.releases[0], "bob")

    release = story.release(2)
    assert release.phase is Phase.PAUSED
    assert story.router.weights() == {"2": 10.0, "1": 90.0}

    story.commands.promote(release.id, actor="ann", because="I cannot wait", full=True)
    story.control.settle()
    assert story.router.weights() == {"2": 10.0, "1": 90.0}

    assert approve(story, release, "carol").completion is Completion.FAST_PROMOTED
    assert story.router.weights() == {"2": 100.0}
