"""Before any request reaches a version it must prove itself on rows whose outcome is known.

Steersman asks both versions itself, on the same holdout; what the training said of itself counts for nothing.
"""

from typing import Any

from inline_snapshot import snapshot

from steersman.domain.release import Completion, Phase
from steersman.testing.story import DATASET, Story, canary, model_document

GATES: dict[str, Any] = {
    "holdout": {"dataset": "flights", "last": "14d"},
    "gates": [
        {"metric": "log_loss", "on": "holdout", "vs": "production", "test": "paired", "block": "1d", "margin": 0.03},
        {"metric": "roc_auc", "on": "holdout", "vs": "production", "maxDrop": 0.01},
        {"policy": "version.signature == production.signature"},
    ],
}


def gated(story: Story) -> None:
    """Version 1 lives; version 2 is registered and waits to be released."""
    story.apply(DATASET, model_document(environments=canary(), serving={"replicas": 2, "keepWarm": 1}, **GATES))
    story.release(1)
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")


def test_a_candidate_that_learned_nothing_fails_its_gates_and_never_sees_a_request(story: Story) -> None:
    gated(story)
    scrambled = story.digest(2)
    story.traffic.quality = lambda digest, _day: 0.0 if digest == scrambled else 1.5
    chapter = story.chapter

    release = story.release(2)

    assert release.completion is Completion.ABORTED
    assert story.router.answered_ever == {"1"}
    assert story.why(since=chapter) == snapshot(
        [
            "03-01 release.opened: new version",
            "03-01 release.gate_failed: log_loss paired, margin 0.03: log_loss: harm +0.2366 [+0.2304, +0.2428] against pr…",
            "03-01 release.degraded: gate failed: log_loss paired, margin 0.03: log_loss: harm +0.2366 [+0.2304, +0.2428] …",
            "03-01 release.completed: gate failed: log_loss paired, margin 0.03: log_loss: harm +0.2366 [+0.2304, +0.2428]…",
        ]
    )
    assert [r.digest for r in story.target.replicas if r.digest == scrambled] == []


def test_a_candidate_as_good_as_production_passes(story: Story) -> None:
    gated(story)
    chapter = story.chapter

    release = story.release(2)

    assert release.phase is Phase.PROGRESSING
    assert story.told(since=chapter) == snapshot(
        [
            "03-01 release.opened delay/production/2",
            "03-01 release.gated delay/production/2",
            "03-01 release.step_started delay/production/2",
            "03-01 release.step_started delay/production/2",
        ]
    )


def test_the_verdicts_are_kept_with_the_release_with_their_intervals_and_numbers(story: Story) -> None:
    gated(story)
    release = story.release(2)
    with story.store.read() as tx:
        kept = [verdict.body for verdict in tx.verdicts(release.id, "gate")]
    assert [(v["name"], v["outcome"], v["n"], v["n_unit"]) for v in kept] == snapshot(
        [
            ("log_loss paired, margin 0.03", "successful", 14, "blocks"),
            ("roc_auc, drop at most 0.01", "successful", 5600, "rows"),
            ("version.signature == production.signature", "successful", 0, "requests"),
        ]
    )


def test_for_the_first_version_comparisons_do_not_apply_and_that_is_said(story: Story) -> None:
    story.apply(DATASET, model_document(environments=canary(), **GATES))
    chapter = story.chapter
    story.release(1)
    assert story.why(since=chapter)[2] == snapshot(
        "03-01 release.gated: log_loss paired, margin 0.03: no production version to compare with; roc_auc, drop at mo…"
    )


def test_a_holdout_without_labelled_rows_is_no_pass(story: Story) -> None:
    gated(story)
    story.traffic.rows = 0
    release = story.release(2)
    assert release.completion is Completion.ABORTED
    assert "no labelled row between 2013-02-14 and 2013-02-28" in release.because
