"""Errors beside the stable version, budgets that burn, and releases that wait until a budget has recovered."""

from typing import Any

import pytest
from inline_snapshot import snapshot

from steersman.domain.release import Completion, Phase, Release
from steersman.loop.gathering import Readings
from steersman.loop.observer import reading_key
from steersman.testing.story import Story, canary, model_document

BESIDE = {"name": "error-rate", "vs": "stable", "ratio": 2.0, "critical": True}
BUDGET = {
    "name": "error-budget",
    "critical": True,
    "burnRate": {"objective": "99%", "windows": [{"long": "1d", "short": "6h", "factor": 6}]},
}


def canaried(story: Story, *guardrails: dict[str, Any]) -> Release:
    """Version 2, which is better, answers a tenth of the requests, and nothing is wrong yet."""
    story.traffic.rows = 4000
    story.apply(model_document(environments=canary(guardrails=list(guardrails))))
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


def read(story: Story, release: Release) -> dict[str, str]:
    with story.store.read() as tx:
        found = tx.monitor_state("default", "delay", "production", reading_key(release), Readings)
    assert found is not None
    return {reading.name: f"{reading.verdict.outcome}: {reading.verdict.because}" for reading in found.readings}


def test_a_candidate_with_surely_more_errors_than_stable_goes_back(story: Story) -> None:
    release = canaried(story, BESIDE)
    story.traffic.errors = {story.digest(1): 0.01, story.digest(2): 0.2}
    story.days(1)
    ended = story.reread(release)
    assert ended.completion is Completion.ROLLED_BACK
    assert ended.because == snapshot(
        "guardrail broken: error-rate: error rate ratio 20.00 [7.11, 62.59] (80 of 400 against 36 of 3600), limit 2"
    )


def test_errors_that_both_have_are_no_fault_of_the_candidate(story: Story) -> None:
    release = canaried(story, BESIDE)
    story.traffic.errors = {story.digest(1): 0.05, story.digest(2): 0.05}
    story.days(1)
    assert story.reread(release).phase is not Phase.DEGRADED
    assert story.reread(release).completion is None
    assert story.reread(release).weight_pct == 100.0


def test_a_budget_that_burns_fast_in_both_windows_takes_the_candidate_back(story: Story) -> None:
    release = canaried(story, BUDGET)
    story.traffic.errors = {story.digest(2): 0.5}
    story.days(1)
    ended = story.reread(release)
    assert ended.completion is Completion.ROLLED_BACK
    assert ended.because == snapshot(
        "guardrail broken: error-budget: error budget burns 50.0 times its rate over"
        " 1 d and 50.0 times over 6 h, limit 6 in both, n=400"
    )


def test_windows_without_a_request_say_nothing_and_stop_nothing(story: Story) -> None:
    release = canaried(story, BESIDE, BUDGET)
    story.traffic.rows = 0
    story.days(1)
    assert story.reread(release).weight_pct == 100.0
    assert read(story, release) == snapshot(
        {
            "error-rate": "inconclusive: error rate ratio: 0 requests, and 0 of the stable version at the same time",
            "error-budget": "inconclusive: error budget: burn rate unknown, no requests yet",
        }
    )


SLOW = {"name": "p99-latency", "limit": "<= 50ms", "critical": True}


def shadowed(story: Story, *guardrails: dict[str, Any], **policy: Any) -> Release:
    """Version 2 gets copies of what version 1 answers, and answers nobody."""
    story.apply(model_document(environments=canary(guardrails=list(guardrails), **policy)))
    story.release(1)
    release = story.release(2)
    assert (story.router.copies_to, release.exposed) == ({"2"}, False)
    return release


@pytest.mark.parametrize(
    ("errors", "latency_ms", "because"),
    [
        (0.2, 2.0, "guardrail broken: error-rate: error rate 20.0000% [13.7093%, 27.4772%], limit 0.01, n=400"),
        (0.0, 80.0, "guardrail broken: p99-latency: latency p99 80.0 ms [80.0, inf], limit 50 ms, n=400"),
    ],
)
def test_what_errs_or_is_slow_on_copies_is_taken_back_before_it_answers_anybody(
    story: Story, monkeypatch: pytest.MonkeyPatch, errors: float, latency_ms: float, because: str
) -> None:
    monkeypatch.setattr(story.clock, "replay", False)  # in a replay latency is recorded and decides nothing
    release = shadowed(story, {"name": "error-rate", "limit": "<= 1%", "critical": True}, SLOW)
    story.traffic.errors_on_copies = {story.digest(2): errors}
    story.traffic.latency_ms = {story.digest(2): latency_ms}
    story.days(1)
    ended = story.reread(release)
    assert (ended.completion, ended.exposed) == (Completion.ABORTED, False)
    assert ended.because == because
    assert story.router.answered_ever == {"1"}
    assert story.router.copies_to == set()


def test_on_copies_only_limits_are_read_and_one_that_is_not_critical_stops_nothing(
    story: Story,
) -> None:
    release = shadowed(story, BESIDE, BUDGET, {"name": "error-rate", "limit": "<= 1%"})
    story.traffic.errors_on_copies = {story.digest(2): 0.5}
    story.days(1)
    assert story.reread(release).phase is Phase.PROGRESSING
    assert read(story, release) == snapshot(
        {"error-rate": "failed: error rate 50.0000% [41.5700%, 58.4300%], limit 0.01, n=400"}
    )


def test_in_the_bake_errors_are_compared_with_those_of_the_replaced_version_on_copies(story: Story) -> None:
    release = canaried(story, BESIDE)
    story.days(2)
    assert story.reread(release).phase is Phase.VERIFYING
    story.traffic.errors_on_copies, story.traffic.errors = {story.digest(1): 0.01}, {story.digest(2): 0.01}
    story.days(1)
    assert read(story, release) == snapshot(
        {"error-rate": "successful: error rate ratio 1.00 [0.25, 3.93] (40 of 4000 against 40 of 4000), limit 2"}
    )
    story.traffic.errors = {story.digest(2): 0.2}
    story.days(1)
    assert story.reread(release).completion is Completion.ROLLED_BACK


def waiting(story: Story, **rule: Any) -> Release:
    """Version 1 has used up the budget of a week when version 2 is to be released."""
    held = {"objective": "99%", "period": "7d", "holdsReleases": True, **rule}
    guardrail = {"name": "error-budget", "burnRate": held}
    story.apply(model_document(environments=canary(guardrails=[guardrail])))
    story.release(1)
    story.traffic.errors = {story.digest(1): 0.05}
    story.days(8)
    return story.release(2)


def test_no_release_begins_while_the_budget_is_used_up_and_it_says_why(story: Story) -> None:
    release = waiting(story)
    assert release.phase is Phase.PENDING
    assert release.because == snapshot(
        "waits until the error budget recovers: error budget: 140 errors of 2800 requests in 7 d, 28.0 allowed"
    )
    assert story.router.copies_to == set()

    story.traffic.errors = {}
    story.days(1)
    assert story.reread(release).phase is Phase.PROGRESSING, "the week's errors are forgotten by this made-up log"


def test_a_budget_stops_no_rollback(story: Story) -> None:
    story.apply(model_document(environments={"production": {"strategy": {"allAtOnce": {}}}}))
    story.release(1)
    story.release(2)
    story.traffic.errors = {story.digest(2): 0.05}
    held = {"name": "error-budget", "burnRate": {"objective": "99%", "holdsReleases": True}}
    story.apply(model_document(environments={"production": {"strategy": {"allAtOnce": {}}, "guardrails": [held]}}))
    story.days(1)
    story.commands.rollback("default", "delay", "production", actor="ann", because="errors")
    story.control.settle()
    assert story.router.weights() == {"1": 100.0}


def test_a_document_that_holds_nothing_is_not_held(story: Story) -> None:
    release = waiting(story, holdsReleases=False)
    assert release.phase is Phase.PROGRESSING
