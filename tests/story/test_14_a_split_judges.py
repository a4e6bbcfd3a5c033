"""Each version answers its own share of real requests, drawn by lot; day by day the two shares are compared."""

from typing import Any

import pytest
from inline_snapshot import snapshot

from steersman.domain.errors import BadDocument
from steersman.domain.release import Completion, Release
from steersman.testing.story import Story, model_document


def splitting(story: Story, *, quality: float, **asked: Any) -> Release:
    """Version 2, of another quality than version 1's 1.0, answers a fifth of the requests and is judged on them."""
    analysis = {"metrics": ["brier"], "mode": "split", "margin": 0.02, "critical": True, "maxDuration": "28d", **asked}
    steps = [
        {"setWeight": 20},
        {"analysis": {**analysis, "onInconclusive": "rollback"}},
        {"setWeight": 100},
        {"promote": {}},
        {"bake": {"duration": "1d"}},
    ]
    story.apply(model_document(environments={"production": {"strategy": {"canary": {"steps": steps}}}}))
    story.traffic.rows = 4000
    story.release(1)
    story.days(2)
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")
    worse = story.digest(2)
    story.traffic.quality = lambda digest, _day: quality if digest == worse else 1.0
    return story.release(2)


def test_a_candidate_as_good_on_its_share_takes_over(story: Story) -> None:
    release = splitting(story, quality=1.0)
    chapter = story.chapter
    story.days(12)
    assert story.why(since=chapter) == snapshot(
        [
            "03-09 release.analysed: brier: harm +0.0044 [-0.0066, +0.0154], below the margin 0.02, 5 days",
            "03-09 release.step_started: step 2 (setWeight 100 %) is in effect",
            "03-09 release.promoted: version 2 is the stable version of production",
            "03-11 release.completed: bake and label horizon passed: no metric declared",
        ]
    )
    assert story.reread(release).completion is Completion.PROMOTED


def test_one_that_is_worse_on_its_share_is_rolled_back(story: Story) -> None:
    release = splitting(story, quality=-1.0)
    chapter = story.chapter
    story.days(12)
    assert story.why(since=chapter) == snapshot(
        [
            "03-09 release.analysed: brier: harm +0.1668 [+0.1520, +0.1817], above the margin 0.02, 5 days",
            "03-09 release.degraded: brier: harm +0.1668 [+0.1520, +0.1817], above the margin 0.02, 5 days",
            "03-09 release.completed: brier: harm +0.1668 [+0.1520, +0.1817], above the margin 0.02, 5 days",
        ]
    )
    assert story.reread(release).completion is Completion.ROLLED_BACK


def test_a_day_before_the_candidate_answered_is_no_evidence(story: Story) -> None:
    release = splitting(story, quality=1.0)
    with story.store.read() as tx:
        assert (
            tx.evidence.cohorts("default", "production", "delay", **pair(story), since=release.opened_at, mode="split")
            == []
        )
    story.days(4)
    with story.store.read() as tx:
        cohorts = tx.evidence.cohorts(
            "default", "production", "delay", **pair(story), since=release.opened_at, mode="split"
        )
    assert [(c.block.day, c.share) for c in cohorts] == snapshot([(3, 0.2), (4, 0.2), (5, 0.2)])


def test_a_metric_the_tables_reader_cannot_read_is_refused_when_it_is_applied(story: Story) -> None:
    story.traffic.refuse_measure = lambda _expression: "no SQL expression"  # type: ignore[method-assign]
    declared = {"name": "cost", "expression": "score +", "direction": "lower"}
    with pytest.raises(BadDocument) as refused:
        story.apply(model_document(metrics=[declared]))
    assert [str(problem) for problem in refused.value.problems] == ["spec.metrics[0]: expression: no SQL expression"]


def test_a_metric_that_no_installed_distribution_offers_is_refused_when_it_is_applied(story: Story) -> None:
    declared = {"name": "sharp", "entryPoint": "sharpness", "direction": "higher"}
    document = model_document(metrics=[declared], groundTruth={"column": "late", "horizon": "1d"})
    with pytest.raises(BadDocument) as refused:
        story.apply(document)
    assert [str(problem) for problem in refused.value.problems] == [
        "spec.metrics[0]: entryPoint: no metric 'sharpness' is installed here; it has: none"
    ]


def pair(story: Story) -> dict[str, str]:
    return {"reference": story.digest(1), "compared": story.digest(2)}
