"""A candidate that passed gates and shadow may still fail where it matters: in service. Then it goes back within one look."""

from datetime import timedelta

from inline_snapshot import snapshot

from steersman.domain.release import Completion, Phase, Release
from steersman.testing.story import Story, canary, model_document


def canaried(story: Story) -> Release:
    """Version 2 answers a tenth of the requests, and nothing is wrong yet."""
    story.apply(model_document(environments=canary(), serving={"replicas": 2, "keepWarm": 1}))
    story.release(1)
    story.days(16)
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")
    better = story.digest(2)
    story.traffic.quality = lambda digest, _day: 1.5 if digest == better else 1.0
    release = story.release(2)
    story.days(6)
    assert story.reread(release).weight_pct == 10.0
    return release


def test_errors_in_the_canary_roll_it_back_within_one_look(story: Story) -> None:
    release = canaried(story)
    story.traffic.errors = {story.digest(2): 0.5}
    chapter = story.chapter

    story.clock.move(story.clock.now() + timedelta(hours=1))
    story.control.settle()

    assert story.reread(release).completion is Completion.ROLLED_BACK
    assert story.router.weights() == {"1": 100.0}
    assert story.registry.alias == {"champion": 1}
    assert story.why(since=chapter) == snapshot(
        [
            "03-23 release.guardrail_broken: error-rate: error rate 50.0000% [27.2641%, 72.7359%], limit 0.001, n=40",
            "03-23 release.degraded: guardrail broken: error-rate: error rate 50.0000% [27.2641%, 72.7359%], limit 0.001, …",
            "03-23 release.completed: guardrail broken: error-rate: error rate 50.0000% [27.2641%, 72.7359%], limit 0.001,…",
        ]
    )


def test_errors_of_the_stable_version_are_not_blamed_on_the_candidate(story: Story) -> None:
    release = canaried(story)
    story.traffic.errors = {story.digest(1): 0.5}
    story.clock.move(story.clock.now() + timedelta(hours=1))
    story.control.settle()
    assert story.reread(release).weight_pct == 10.0


def test_a_guardrail_broken_in_the_bake_takes_the_promotion_back(story: Story) -> None:
    release = canaried(story)
    story.days(3)
    assert story.reread(release).phase is Phase.VERIFYING
    story.traffic.errors = {story.digest(2): 0.2}
    chapter = story.chapter

    story.days(1)

    assert story.reread(release).completion is Completion.ROLLED_BACK
    assert story.router.weights() == {"1": 100.0}
    assert story.registry.alias == {"champion": 1}
    assert story.told(since=chapter) == snapshot(
        [
            "03-27 release.guardrail_broken delay/production/2",
            "03-27 release.degraded delay/production/2",
            "03-27 release.completed delay/production/2",
        ]
    )


def test_when_production_itself_is_taken_back_the_candidate_is_not_promoted_unproven_but_a_person_asked(
    story: Story,
) -> None:
    story.apply(model_document(environments=canary()))
    story.release(1)
    candidate = story.release(2)
    story.days(1)
    story.traffic.errors = {story.digest(1): 0.5}

    story.days(1)

    first, second = story.releases
    assert first.completion is Completion.ROLLED_BACK
    assert second.phase is Phase.PAUSED
    assert second.because == snapshot(
        "the version it was compared with was taken back and no other answers; a person decides"
    )
    assert story.router.answered_ever == {"1"}

    story.commands.resume(candidate.id, actor="bob", because="better this one than none")
    story.control.settle()
    assert story.router.weights() == {"2": 100.0}


def test_a_first_version_that_fails_leaves_nobody_answering_rather_than_a_broken_version(story: Story) -> None:
    story.apply(model_document(environments=canary()))
    release = story.release(1)
    story.traffic.errors = {story.digest(1): 0.5}

    story.days(1)

    assert story.reread(release).completion is Completion.ROLLED_BACK
    assert story.router.weights() == {}
    assert story.registry.alias == {}
