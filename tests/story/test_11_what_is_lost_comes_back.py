"""Replicas die, routers die, control servers die: what is, is brought back in step with what should be."""

from inline_snapshot import snapshot

from steersman.domain.release import Completion
from steersman.testing.story import Story, canary, model_document


def test_a_lost_replica_is_started_again_and_that_is_recorded(story: Story) -> None:
    story.apply(model_document(environments=canary(), serving={"replicas": 2}))
    story.release(1)
    chapter = story.chapter

    story.target.kill(story.digest(1))
    story.control.settle()

    assert len(story.target.replicas) == 2
    route = story.router.configuration.routes[0] if story.router.configuration else None
    assert route is not None
    assert route.variants[0].addresses == tuple(sorted(r.address for r in story.target.replicas))
    assert story.why(since=chapter) == snapshot(
        ["03-01 replica.lost: 1 of 2 replicas in production were there; started again"]
    )


def test_a_router_that_is_gone_gets_its_configuration_when_it_is_back(story: Story) -> None:
    story.apply(model_document(environments=canary()))
    story.release(1)
    story.router.configuration = None
    story.router.misses = 2

    story.control.settle()

    assert story.router.weights() == {"1": 100.0}


def test_a_version_that_stays_down_is_tried_again_later(story: Story) -> None:
    story.apply(model_document(environments=canary()))
    story.release(1)
    story.target.broken.add(story.digest(1))
    story.target.kill(story.digest(1))
    story.control.settle()
    assert story.target.replicas == []

    story.target.broken.clear()
    story.days(1)
    assert len(story.target.replicas) == 1


def test_a_challenger_that_does_not_start_holds_no_release(story: Story) -> None:
    story.apply(model_document(environments=canary()))
    story.release(1)
    story.registry.add(2)
    story.registry.add(3)
    for number in (2, 3):
        story.commands.register("default", "delay", number, actor="ann")
    story.set_challenger(2)
    story.target.broken.add(story.digest(2))
    better = story.digest(3)
    story.traffic.quality = lambda digest, _day: 1.5 if digest == better else 1.0

    release = story.release(3)
    story.days(30)

    assert story.reread(release).completion is Completion.PROMOTED


def test_a_new_control_server_takes_up_where_the_old_one_was(story: Story) -> None:
    story.apply(model_document(environments=canary()))
    story.release(1)
    release = story.release(2)
    story.days(3)
    chapter = story.chapter

    story = story.restart()
    story.control.settle()

    assert story.told(since=chapter) == []
    story.days(40)
    assert story.reread(release).completion is Completion.PROMOTED
