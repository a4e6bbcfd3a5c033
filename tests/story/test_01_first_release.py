"""A first version enters production: nothing to compare with, so it goes straight to all of the traffic."""

from pathlib import Path

from inline_snapshot import snapshot

from steersman.domain.release import Completion, Phase
from steersman.testing.story import Story, model_document

CANARY = {
    "production": {
        "strategy": {
            "canary": {
                "steps": [
                    {"mirror": {"percent": 100}},
                    {
                        "analysis": {
                            "metrics": ["roc_auc"],
                            "margin": 0.02,
                            "critical": True,
                            "maxDuration": "14d",
                            "onInconclusive": "promoteWithinMargin",
                        }
                    },
                    {"setWeight": 10},
                    {"pause": {"duration": "1d"}},
                    {"setWeight": 100},
                    {"promote": {}},
                    {"bake": {"duration": "14d", "metrics": ["roc_auc"]}},
                ]
            }
        },
        "guardrails": [{"name": "error-rate", "limit": "<= 0.1%", "critical": True}],
    }
}


def test_the_first_version_is_promoted_at_once_because_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    story = Story.begin(tmp_path)
    story.apply(model_document(environments=CANARY, serving={"replicas": 2, "keepWarm": 1}))

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
            "03-01 release.step_started delay/production/1", "03-01 release.promoted delay/production/1",
        ]
    )


def test_a_good_candidate_is_judged_in_the_shadow_then_canaried_then_promoted(tmp_path: Path) -> None:
    story = Story.begin(tmp_path)
    story.apply(model_document(environments=CANARY, serving={"replicas": 2, "keepWarm": 1}))
    story.release(1)
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")
    better = story.digest(2)
    story.traffic.quality = lambda digest, _day: 1.5 if digest == better else 1.0
    before = len(story.told())

    release = story.release(2)
    story.days(16)

    assert story.reread(release).phase is Phase.VERIFYING
    assert story.told(since=before) == snapshot(
        [
            "03-01 release.opened delay/production/2",
            "03-01 release.step_started delay/production/2",
            "03-01 release.step_started delay/production/2",
            "03-07 release.analysed delay/production/2",
            "03-07 release.step_started delay/production/2",
            "03-07 release.step_started delay/production/2",
            "03-08 release.step_started delay/production/2", "03-08 release.promoted delay/production/2",
            "03-08 release.completed delay/production/1",
        ]
    )

    story.days(20)
    assert story.reread(release).completion is Completion.PROMOTED
