"""The same digest moves on from staging to production and brings along what it proved; a waiver lets one pass, once."""

from datetime import timedelta
from typing import Any

import pytest
from inline_snapshot import snapshot

from steersman.decide.explaining import Reason
from steersman.domain.errors import BadRequest, Blocked, NotAllowed
from steersman.domain.release import Completion, Phase, Release
from steersman.ledger.entry import parse_entry
from steersman.loop.standing import standing
from steersman.testing.story import DATASET, Story, canary, model_document

STAGING = {"strategy": {"allAtOnce": {"steps": [{"setWeight": 100}, {"promote": {}}, {"bake": {"duration": "2d"}}]}}}


def two_environments(story: Story, **model: Any) -> None:
    """Production comes after staging; nothing is in either yet."""
    production = canary(onInconclusive="pause", after="staging")["production"]
    story.apply(DATASET, model_document(environments={"staging": STAGING, "production": production}, **model))
    for number in (1, 2):
        story.registry.add(number)
        story.commands.register("default", "delay", number, actor="ann")


def release(story: Story, number: int, environment: str, *, actor: str = "ann") -> Release:
    opened = story.commands.release("default", "delay", number, environment, actor=actor, because="next stop")
    story.control.settle()
    return story.reread(opened)


def test_what_has_not_stood_its_bake_before_may_not_enter(story: Story) -> None:
    two_environments(story)
    with pytest.raises(
        Blocked, match="version 1 has not stood its bake in staging, which production comes after"
    ) as no:
        release(story, 1, "production")
    assert "steersman release delay 1 --environment staging" in no.value.next_step
    assert "steersman waive delay 1 --environment production --skip staging" in no.value.next_step

    baking = release(story, 1, "staging")
    assert baking.phase is Phase.VERIFYING
    with pytest.raises(Blocked):
        release(story, 1, "production")


def test_what_it_proved_there_comes_along_and_stands_in_the_opening_entry(story: Story) -> None:
    floor = {"metric": "roc_auc", "on": "holdout", "floor": 0.6}
    two_environments(story, gates=[floor], holdout={"dataset": "flights", "last": "7d"})
    proving = release(story, 1, "staging")
    story.days(4)
    proving = story.reread(proving)
    assert proving.completion is Completion.PROMOTED
    chapter = story.chapter

    moved_on = release(story, 1, "production")

    assert moved_on.proved is not None
    assert (moved_on.proved.environment, moved_on.proved.release) == ("staging", proving.id)
    assert moved_on.digest == proving.digest
    with story.store.read() as tx:
        opening = parse_entry(next(iter(tx.ledger.rows(chapter))).body)
    assert moved_on.proved.verdicts == tuple(opening.data["proved"]["verdicts"])
    assert opening.data["proved"] == snapshot(
        {
            "completion": "Promoted",
            "environment": "staging",
            "promoted_at": "2013-03-01T00:00:00+00:00",
            "release": 1,
            "verdicts": [
                "gate roc_auc at least 0.6: roc_auc 0.8346 [0.8181, 0.8511] keeps the floor 0.6, 2800 rows in 7 blocks"
            ],
            "verified_at": "2013-03-04T00:00:00+00:00",
        }
    )


def test_a_bake_that_measured_nothing_of_what_it_was_to_measure_proves_nothing(story: Story) -> None:
    bake = {"bake": {"duration": "2d", "metrics": ["roc_auc"]}}
    staging = {"strategy": {"allAtOnce": {"steps": [{"setWeight": 100}, {"promote": {}}, bake]}}}
    production = {"strategy": {"allAtOnce": {}}, "after": "staging"}
    story.apply(model_document(environments={"staging": staging, "production": production}))
    for number in (1, 2):
        story.registry.add(number)
        story.commands.register("default", "delay", number, actor="ann")
    first = release(story, 1, "staging")
    story.days(3)
    assert story.reread(first).because == snapshot("bake and label horizon passed: nothing to compare with")
    assert release(story, 1, "production").proved is not None, "nothing was to be measured of the first version"

    story.traffic.rows = 0
    unproven = release(story, 2, "staging")
    story.days(3)

    ended = story.reread(unproven)
    assert (ended.completion, ended.verified_at) == (Completion.PROMOTED, None)
    assert ended.because == snapshot(
        "bake and label horizon passed, and nothing was measured: roc_auc: 0 days of evidence, need at least 5"
    )
    with story.store.read() as tx:
        said = standing(tx, story.world_documents, ended, now=story.clock.now())
    assert said.reason is Reason.UNPROVEN
    with pytest.raises(Blocked, match="which production comes after: its bake there measured nothing"):
        release(story, 2, "production")


def test_a_version_replaced_in_the_middle_of_its_bake_proved_nothing(story: Story) -> None:
    two_environments(story)
    first = release(story, 1, "staging")
    release(story, 2, "staging")
    replaced = story.reread(first)
    assert (replaced.completion, replaced.verified_at) == (Completion.PROMOTED, None)
    with pytest.raises(Blocked):
        release(story, 1, "production")


def test_what_was_rolled_back_there_since_proves_nothing_any_more(story: Story) -> None:
    two_environments(story)
    for number in (1, 2):
        release(story, number, "staging")
        story.days(4)
    story.commands.rollback("default", "delay", "staging", actor="bob", because="odd answers")
    story.control.settle()
    with pytest.raises(Blocked, match="version 2 has not stood its bake in staging"):
        release(story, 2, "production")
    assert release(story, 1, "production").proved is not None


def test_a_waiver_lets_one_version_skip_the_environment_before_once(story: Story) -> None:
    two_environments(story)
    chapter = story.chapter
    story.commands.waive(
        "default", "delay", 1, "production", skip="staging", actor="carol", because="staging is down, case 311"
    )
    entered = release(story, 1, "production")
    assert entered.phase is Phase.VERIFYING
    with pytest.raises(Blocked, match="version 2"):
        release(story, 2, "production")
    story.commands.abort(entered.id, actor="bob", because="wrong file")
    story.control.settle()
    with pytest.raises(Blocked, match="version 1"):
        release(story, 1, "production")
    assert story.why(since=chapter)[:2] == snapshot(
        ["03-01 waiver.granted: staging is down, case 311", "03-01 release.opened: next stop"]
    )


def test_a_waiver_is_not_used_up_where_it_is_not_needed(story: Story) -> None:
    two_environments(story)
    release(story, 1, "staging")
    story.days(4)
    waiver = story.commands.waive(
        "default", "delay", 1, "production", skip="staging", actor="carol", because="in case staging is down"
    )
    assert release(story, 1, "production").proved is not None
    with story.store.read() as tx:
        assert tx.agreements.waivers("default", "delay") == [waiver]


def test_a_waiver_of_a_step_that_is_over_waits_for_the_next_release(story: Story) -> None:
    story.apply(model_document(environments=canary(onInconclusive="pause")))
    story.release(1)
    second = story.release(2)
    story.commands.promote(second.id, actor="dan", because="no labels")
    story.control.settle()
    given = story.commands.waive("default", "delay", 2, "production", skip="1", actor="carol", because="no labels")
    assert given.used_by is None
    story.commands.abort(second.id, actor="dan", because="start again")
    story.control.settle()
    again = story.commands.retry(second.id, actor="ann", because="from its first step")
    story.control.settle()
    assert [waived.waiver for waived in story.reread(again).waived] == [given.id]
    assert story.router.weights() == {"2": 10.0, "1": 90.0}


def test_who_made_the_version_or_opens_the_release_waives_nothing(story: Story) -> None:
    two_environments(story)
    for author in ("ann", "trainer"):
        with pytest.raises(NotAllowed, match="made or opened what is to be waived"):
            story.commands.waive("default", "delay", 1, "production", skip="staging", actor=author, because="trust me")
    story.commands.waive("default", "delay", 1, "production", skip="staging", actor="carol", because="case 311")
    with pytest.raises(Blocked):
        release(story, 1, "production", actor="carol")
    assert release(story, 1, "production", actor="dan").phase is Phase.VERIFYING


def test_a_waiver_that_was_not_used_in_time_is_void(story: Story) -> None:
    two_environments(story)
    story.commands.waive(
        "default", "delay", 1, "production", skip="staging", actor="carol", because="case 311", life=timedelta(days=2)
    )
    story.days(2)
    with pytest.raises(Blocked):
        release(story, 1, "production")


def test_a_step_is_skipped_by_a_waiver_and_by_no_promote_where_the_model_matters(story: Story) -> None:
    environments = canary(onInconclusive="pause")
    story.apply(model_document(tier=2, environments=environments))
    first = story.release(1)
    story.commands.approve(first.id, actor="bob", because="first version")
    story.control.settle()
    second = story.release(2)
    story.commands.approve(second.id, actor="bob", because="looks well")
    story.control.settle()
    assert story.reread(second).step == 1

    with pytest.raises(Blocked, match="of a tier 2 model cannot be skipped by `promote`"):
        story.commands.promote(second.id, actor="dan", because="no time")
    for skip in ("2", "\u00b2", "1" * 5_000):
        with pytest.raises(BadRequest, match="nothing that can be waived in production"):
            story.commands.waive("default", "delay", 2, "production", skip=skip, actor="carol", because="no time")
    chapter = story.chapter
    story.commands.waive("default", "delay", 2, "production", skip="1", actor="carol", because="the feed is down")
    story.control.settle()
    assert story.router.weights() == {"2": 10.0, "1": 90.0}
    assert story.why(since=chapter) == snapshot(
        [
            "03-01 waiver.granted: the feed is down",
            "03-01 release.step_skipped: analysis of roc_auc skipped: waived by carol: the feed is down",
            "03-01 release.step_started: step 2 (setWeight 10 %) is in effect",
            "03-01 release.step_started: step 3 (pause 1d) is in effect",
        ]
    )
