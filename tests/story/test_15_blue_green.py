"""Two whole sides: the new version runs at full strength beside the old one, is judged there, and then all traffic switches."""

from datetime import timedelta
from typing import Any

from inline_snapshot import snapshot

from steersman.domain.release import Completion, Phase, Release
from steersman.testing.story import Story, model_document

STEPS = [
    {"mirror": {"percent": 100}},
    {"analysis": {"metrics": ["roc_auc"], "critical": True, "maxDuration": "14d", "onInconclusive": "rollback"}},
    {"promote": {}},
]


def on_the_green_side(story: Story, **strategy: Any) -> Release:
    """Version 1 answers with three replicas and nothing is kept warm; version 2 is beside it, and better."""
    policy = {"strategy": {"blueGreen": {"steps": STEPS, "warmFor": "3d", **strategy}}}
    story.apply(model_document(environments={"production": policy}, serving={"replicas": 3, "keepWarm": 0}))
    story.release(1)
    story.days(4)
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")
    better = story.digest(2)
    story.traffic.quality = lambda digest, _day: 1.5 if digest == better else 1.0
    return story.release(2)


def replicas(story: Story, number: int) -> set[str]:
    return {r.id for r in story.target.replicas if r.digest == story.digest(number)}


def test_the_candidate_runs_at_full_capacity_before_it_answers_anybody(story: Story) -> None:
    on_the_green_side(story)
    assert (len(replicas(story, 1)), len(replicas(story, 2))) == (3, 3)
    assert story.router.weights() == {"1": 100.0}
    assert story.router.copies_to >= {"2"}


def test_all_traffic_switches_at_once_to_the_very_replicas_that_were_judged(story: Story) -> None:
    release = on_the_green_side(story)
    judged = replicas(story, 2)
    chapter = story.chapter
    story.days(7)

    assert story.reread(release).phase is Phase.VERIFYING
    assert story.router.weights() == {"2": 100.0}
    assert replicas(story, 2) == judged
    assert story.why(since=chapter) == snapshot(
        [
            "03-11 release.analysed: roc_auc: harm -0.0887 [-0.1168, -0.0607], below the margin 0.02, 5 days",
            "03-11 release.promoted: version 2 is the stable version of production",
        ]
    )
    weights = [{v.version: v.weight_pct for r in c.routes for v in r.variants} for c in story.router.applied]
    assert all(share == 100.0 for shares in weights for share in shares.values())


def test_the_old_side_stays_whole_for_the_declared_time_and_no_longer(story: Story) -> None:
    release = on_the_green_side(story)
    story.days(7)
    old = replicas(story, 1)
    assert len(old) == 3

    promoted_at = story.reread(release).promoted_at
    assert promoted_at is not None

    story.days(1)
    assert story.clock.now() < promoted_at + timedelta(days=3)
    assert replicas(story, 1) == old
    story.days(1)

    assert story.clock.now() == promoted_at + timedelta(days=3)
    assert story.reread(release).completion is Completion.PROMOTED
    assert replicas(story, 1) == set()


def test_switching_back_takes_no_start_of_a_replica(story: Story) -> None:
    on_the_green_side(story)
    story.days(8)
    old = replicas(story, 1)

    story.commands.rollback("default", "delay", "production", actor="bob", because="complaints")
    story.control.settle()

    assert story.router.weights() == {"1": 100.0}
    assert replicas(story, 1) == old


def test_a_bad_candidate_is_gone_before_anybody_met_it(story: Story) -> None:
    release = on_the_green_side(story)
    worse = story.digest(2)
    story.traffic.quality = lambda digest, _day: 0.3 if digest == worse else 1.2
    story.days(8)
    ended = story.reread(release)
    assert (ended.completion, ended.exposed) == (Completion.ABORTED, False)
    assert replicas(story, 2) == set()
