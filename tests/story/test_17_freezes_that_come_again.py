"""Nothing new on a Friday evening, by the clock there; a hotfix passes with one pair of eyes more, a rollback always."""

from typing import Any

from steersman.domain.release import Completion, Phase, Release
from steersman.testing.story import Story, canary, model_document

WEEKEND = {"cron": "0 16 * * FRI", "duration": "64h", "timeZone": "Europe/Berlin", "reason": "nobody is in the office"}
"""The story begins on Friday, 1 March 2013, at midnight UTC; in Berlin that is one o'clock."""

STEPS = {"strategy": {"allAtOnce": {"steps": [{"setWeight": 100}, {"promote": {}}]}}}


def weekends_off(story: Story, *, tier: int = 1, **policy: Any) -> None:
    story.apply(model_document(tier=tier, environments={"production": {**STEPS, "freeze": [WEEKEND], **policy}}))


def asked(story: Story, number: int, *, hotfix: bool = False) -> Release:
    story.registry.add(number)
    story.commands.register("default", "delay", number, actor="ann")
    release = story.commands.release(
        "default", "delay", number, "production", actor="ann", because="now", hotfix=hotfix
    )
    story.control.settle()
    return story.reread(release)


def test_what_is_asked_for_on_saturday_starts_on_monday(story: Story) -> None:
    weekends_off(story)
    story.days(1)
    release = asked(story, 1)
    story.days(1)
    assert story.reread(release).phase is Phase.PENDING
    story.days(1)
    assert story.reread(release).phase is Phase.PENDING  # Monday, 00:00 UTC: it ends at 8 o'clock in Berlin
    story.days(1)
    assert story.reread(release).completion is Completion.PROMOTED


def test_a_hotfix_passes_once_somebody_else_has_agreed(story: Story) -> None:
    weekends_off(story)
    story.days(1)
    release = asked(story, 1, hotfix=True)
    assert (release.phase, release.because) == (Phase.PAUSED, "waits for 1 more approval by role approver")
    story.commands.approve(release.id, actor="bob", because="the feed broke the old one")
    story.control.settle()
    assert story.reread(release).completion is Completion.PROMOTED


def test_a_hotfix_of_a_model_that_matters_takes_one_person_more_than_ever(story: Story) -> None:
    weekends_off(story, tier=2)
    release = asked(story, 1, hotfix=True)
    for person, phase in (("bob", Phase.PAUSED), ("carol", Phase.HEALTHY)):
        story.commands.approve(release.id, actor=person, because="seen")
        story.control.settle()
        assert story.reread(release).phase is phase


def test_a_rollback_asks_no_calendar(story: Story) -> None:
    weekends_off(story)
    for number in (1, 2):
        asked(story, number)
    story.days(1)
    assert asked(story, 3).phase is Phase.PENDING
    story.commands.rollback("default", "delay", "production", actor="bob", because="complaints")
    story.control.settle()
    assert story.router.weights() == {"1": 100.0}


def test_a_canary_caught_by_the_weekend_keeps_its_share(story: Story) -> None:
    story.apply(model_document(environments=canary(freeze=[WEEKEND])))
    asked(story, 1)
    release = asked(story, 2)
    story.commands.promote(release.id, actor="bob", because="no labels yet")
    story.control.settle()
    assert story.router.weights() == {"2": 10.0, "1": 90.0}
    story.days(3)
    assert story.router.weights() == {"2": 10.0, "1": 90.0}
    story.days(1)
    assert story.router.weights() == {"2": 100.0}
