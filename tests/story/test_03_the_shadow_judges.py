"""Copies of real requests go to the candidate; nobody is answered by it, and day by day the two are compared in pairs."""

from inline_snapshot import snapshot

from steersman.domain.release import Completion, Phase, Release
from steersman.testing.story import Story, canary, model_document


def shadowed(story: Story, *, quality: float, on_inconclusive: str, tier: int = 1) -> Release:
    """Version 2, of another quality than version 1's 1.0, is in the shadow of production."""
    story.apply(model_document(environments=canary(onInconclusive=on_inconclusive), tier=tier))
    story.release(1)
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")
    candidate = story.digest(2)
    story.traffic.quality = lambda digest, _day: quality if digest == candidate else 1.0
    return story.release(2)


def test_a_worse_candidate_is_stopped_in_the_shadow_without_a_single_request_answered_by_it(story: Story) -> None:
    release = shadowed(story, quality=0.3, on_inconclusive="promoteWithinMargin")
    chapter = story.chapter

    story.days(14)

    assert story.reread(release).completion is Completion.ABORTED
    assert story.router.answered_ever == {"1"}
    assert story.router.copies_to == set()
    assert story.why(since=chapter) == snapshot(
        [
            "03-07 release.analysed: roc_auc: harm +0.1991 [+0.1433, +0.2549], above the margin 0.02, 5 days",
            "03-07 release.degraded: roc_auc: harm +0.1991 [+0.1433, +0.2549], above the margin 0.02, 5 days",
            "03-07 release.completed: roc_auc: harm +0.1991 [+0.1433, +0.2549], above the margin 0.02, 5 days",
        ]
    )


def test_undecided_within_the_margin_goes_on_where_the_document_says_so(story: Story) -> None:
    release = shadowed(story, quality=0.93, on_inconclusive="promoteWithinMargin")
    chapter = story.chapter
    story.days(14)
    assert story.reread(release).weight_pct == 10.0
    assert story.why(since=chapter) == snapshot(
        [
            "03-15 release.analysed: undecided after 14 d (roc_auc: harm +0.0154 [+0.0009, +0.0299], straddling the margin…",
            "03-15 release.step_started: step 2 (setWeight 10 %) is in effect",
            "03-15 release.step_started: step 3 (pause 1d) is in effect",
        ]
    )


def test_undecided_goes_back_where_the_document_says_rollback(story: Story) -> None:
    release = shadowed(story, quality=0.93, on_inconclusive="rollback")
    story.days(15)
    assert story.reread(release).completion is Completion.ABORTED
    assert story.router.answered_ever == {"1"}


def test_undecided_waits_for_a_person_where_the_document_says_pause(story: Story) -> None:
    release = shadowed(story, quality=0.93, on_inconclusive="pause")
    story.days(20)
    paused = story.reread(release)
    assert paused.phase is Phase.PAUSED
    assert "undecided after 14 d" in paused.because

    story.commands.resume(release.id, actor="bob", because="the difference does not matter to us")
    story.control.settle()
    assert story.reread(release).weight_pct == 10.0


def test_without_labels_there_is_no_verdict_and_no_data_is_no_pass(story: Story) -> None:
    release = shadowed(story, quality=1.0, on_inconclusive="promoteWithinMargin")
    story.traffic.rows = 0
    story.days(15)
    stopped = story.reread(release)
    assert stopped.completion is Completion.ABORTED
    assert stopped.because == snapshot(
        "undecided after 14 d (roc_auc: 0 days of evidence, need at least 5); nothing was measured, no data is no pass"
    )
