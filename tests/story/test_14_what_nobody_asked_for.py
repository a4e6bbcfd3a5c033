"""Replicas and routes that came about beside the releases: found, recorded once, and set right or left, as declared."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from steersman.dataplane.configuration import RouterConfiguration
from steersman.domain.release import Completion
from steersman.testing.story import Story, canary, model_document


@pytest.fixture
def live(story: Story) -> Story:
    story.apply(model_document(environments=canary(), serving={"replicas": 2, "keepWarm": 1}))
    story.release(1)
    return story


def environment(policy: str) -> dict[str, Any]:
    spec = {"order": 30, "manualChanges": policy}
    return {"apiVersion": "steersman/v1", "kind": "Environment", "metadata": {"name": "production"}, "spec": spec}


def third_replica(story: Story) -> str:
    """Somebody starts one more of version 1."""
    story.target.ensure(story.target.asked[story.digest(1)], 3)
    return story.target.replicas[-1].address


def stranger(story: Story) -> str:
    """Somebody starts a version that no release ever brought here."""
    known = story.target.asked[story.digest(1)]
    story.target.ensure(msgspec.structs.replace(known, digest="sha256:" + "f" * 64), 1)
    return story.target.replicas[-1].address


BESIDE = pytest.mark.parametrize("somebody", [third_replica, stranger])


def addresses(story: Story) -> set[str]:
    assert story.router.configuration is not None
    return {a for r in story.router.configuration.routes for v in r.variants for a in v.addresses}


def observed(story: Story, since: int) -> list[str]:
    return [line for line in story.why(since=since) if "manual_change.observed" in line]


@BESIDE
def test_what_nobody_asked_for_is_stopped_and_recorded_once(live: Story, somebody: Callable[[Story], str]) -> None:
    chapter, address = live.chapter, somebody(live)
    live.days(2)
    assert address not in {r.address for r in live.target.replicas}
    assert len(live.target.replicas) == 2
    assert len(observed(live, chapter)) == 1
    assert address not in {a for c in live.router.applied for r in c.routes for v in r.variants for a in v.addresses}


@BESIDE
@pytest.mark.parametrize("policy", ["warn", "adopt"])
def test_what_is_to_be_left_is_left_and_recorded_once(
    live: Story, somebody: Callable[[Story], str], policy: str
) -> None:
    live.apply(environment(policy))
    chapter, address = live.chapter, somebody(live)
    live.days(2)
    assert address in {r.address for r in live.target.replicas}
    assert len(observed(live, chapter)) == 1
    answers = policy == "adopt" and somebody is third_replica
    assert (address in addresses(live)) is answers


def test_each_time_somebody_does_it_is_recorded(live: Story) -> None:
    chapter = live.chapter
    for _ in range(2):
        third_replica(live)
        live.days(1)
    said = "manual_change.observed: 1 replica(s) of version 1 run in production though nobody asked for them"
    assert [said in line for line in observed(live, chapter)] == [True, True]


def test_fewer_replicas_in_the_document_is_no_manual_change(live: Story) -> None:
    chapter = live.chapter
    live.apply(model_document(environments=canary(), serving={"replicas": 1, "keepWarm": 1}))
    live.days(1)
    assert len(live.target.replicas) == 1
    assert len(addresses(live)) == 1
    assert observed(live, chapter) == []


def test_a_router_that_was_given_another_configuration_is_given_ours_again(live: Story) -> None:
    assert live.router.configuration is not None
    chapter, ours = live.chapter, live.router.configuration
    live.router.configuration = msgspec.structs.replace(ours, routes=())
    live.days(2)
    assert live.router.weights() == {"1": 100.0}
    assert [line.partition(": ")[2] for line in observed(live, chapter)] == [
        f"a router's configuration {ours.generation} was changed beside us; it is given ours again"
    ]


def test_a_router_whose_configuration_is_newer_than_ours_still_follows(live: Story) -> None:
    """As after the database was restored from a backup: an older number would be refused for ever."""
    chapter = live.chapter
    live.router.configuration = RouterConfiguration(generation=1000)
    live.days(1)
    assert live.router.weights() == {"1": 100.0}
    assert len(observed(live, chapter)) == 1
    release = live.release(2)
    live.days(40)
    assert live.reread(release).completion is Completion.PROMOTED


def test_a_target_that_cannot_be_asked_keeps_no_rollback_waiting(live: Story) -> None:
    live.release(2)
    live.days(40)
    assert live.router.weights() == {"2": 100.0}
    live.commands.rollback("default", "delay", "production", actor="bob", because="worse")
    live.target.observe = unreachable  # type: ignore[method-assign]
    for _ in range(8):
        with pytest.raises(OSError, match="unreachable"):
            live.control.reconciler.turn()
        live.control.executor.turn()
    assert live.router.weights() == {"1": 100.0}


def unreachable() -> Any:
    raise OSError("the machines of the target are unreachable")
