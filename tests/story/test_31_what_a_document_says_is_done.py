"""No field of a document is read and then forgotten: what these say is seen in what happens, or refused when it is applied."""

from datetime import timedelta
from typing import Any

import pytest
from inline_snapshot import snapshot

from steersman.domain.errors import BadDocument, BadRequest
from steersman.domain.release import Completion, Phase
from steersman.domain.version import Format
from steersman.server.answers import history, model_line, release_status
from steersman.testing.story import DATASET, LOOP, Story, canary, model_document


def environment(mode: str) -> dict[str, Any]:
    return {
        "apiVersion": "steersman/v1",
        "kind": "Environment",
        "metadata": {"name": "production"},
        "spec": {"mode": mode},
    }


def labels_come_too_late() -> dict[str, Any]:
    return model_document(environments=canary(), groundTruth={"column": "late", "horizon": "30d"})


def test_a_document_that_cannot_come_true_is_not_applied(story: Story) -> None:
    with pytest.raises(BadDocument, match="horizon is beyond maxDuration"):
        story.apply(labels_come_too_late())
    with pytest.raises(BadDocument) as refused:
        story.commands.apply([labels_come_too_late()], actor="ann", dry_run=True)
    assert "mode: warn" in refused.value.next_step
    assert story.told() == []


def test_an_environment_may_say_that_such_errors_are_only_shown(story: Story) -> None:
    results = story.commands.apply([environment("warn"), labels_come_too_late()], actor="ann")
    assert [finding["level"] for finding in results[1]["findings"]] == ["error"]
    assert story.commands.apply([labels_come_too_late()], actor="ann")[0]["outcome"] == "unchanged"


def test_an_environment_may_ask_for_no_advice(story: Story) -> None:
    results = story.commands.apply([environment("off"), labels_come_too_late()], actor="ann")
    assert results[1]["findings"] == []


def test_a_step_the_target_cannot_do_is_refused(story: Story) -> None:
    story.target.capabilities = frozenset({"setWeight", "keepWarm"})
    with pytest.raises(BadDocument, match="the environment's target cannot mirror"):
        story.apply(model_document(environments=canary()))


# --- progressDeadline


def turns(story: Story, *, after: timedelta) -> None:
    """The loop as on the wall clock, which does not wait until an effect has ended."""
    story.clock.move(story.clock.now() + after)
    for _ in range(10):
        story.control.reconciler.turn()
        story.control.executor.turn()


def never_ready(story: Story) -> str:
    """Version 2's workers start and never become ready; its release is opened."""
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")
    story.target.slow.add(story.digest(2))
    release = story.commands.release("default", "delay", 2, "production", actor="ann", because="faster, they say")
    return release.id


def test_a_version_that_never_becomes_ready_is_given_up_at_the_deadline(story: Story) -> None:
    story.apply(model_document(environments=canary(progressDeadline="20m")))
    story.release(1)
    never_ready(story)

    turns(story, after=timedelta(0))
    turns(story, after=timedelta(minutes=19))
    assert story.releases[-1].phase is Phase.PROGRESSING

    turns(story, after=timedelta(minutes=1))
    ended = story.releases[-1]
    assert ended.completion is Completion.ABORTED
    assert ended.because == "the traffic of step 0 (mirror 100 %) did not come about within progressDeadline, 20m"
    assert story.router.weights() == {"1": 100.0}


def test_gates_that_nobody_can_answer_end_at_the_deadline_too(story: Story) -> None:
    story.apply(DATASET, model_document(environments=canary(), holdout=LOOP["holdout"], gates=LOOP["gates"]))
    story.release(1)
    never_ready(story)
    turns(story, after=timedelta(0))
    turns(story, after=timedelta(minutes=30))
    assert story.releases[-1].because == "the verdicts of its gates did not come about within progressDeadline, 30m"


def test_waiting_for_a_freeze_to_end_is_not_held_against_a_release(story: Story) -> None:
    freeze = [{"startsAt": "2013-03-01T00:00:00Z", "endsAt": "2013-03-03T00:00:00Z", "reason": "fair"}]
    story.apply(model_document(environments=canary(progressDeadline="20m", freeze=freeze)))
    story.release(1)
    story.days(3)
    assert story.router.weights() == {"1": 100.0}


# --- the envelope of an automatic retraining


def retrained(story: Story, **changes: Any) -> None:
    """Version 1 falls behind a challenger; an incident retrains, without anybody asking."""
    story.apply(DATASET, model_document(environments=canary(), **{**LOOP, **changes}))
    story.release(1)
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")
    old = story.digest(1)
    story.traffic.quality = lambda digest, _day: 0.3 if digest == old else 1.0
    story.set_challenger(2)


def test_a_retraining_within_its_envelope_releases_itself(story: Story) -> None:
    retrained(story)
    story.days(30)
    assert len(story.releases) == 2
    assert story.releases[-1].opened_by == "system"
    assert story.releases[-1].promoted_at is not None


def test_a_retraining_of_another_format_waits_for_a_person(story: Story) -> None:
    retrained(story)
    story.registry.format = Format.XGBOOST
    story.days(12)
    waiting = story.releases[-1]
    assert waiting.phase is Phase.PAUSED
    assert waiting.because == (
        "waits for 1 more approval by role approver; outside of the envelope: "
        "it is xgboost, production's is lightgbm, and algorithm is same"
    )
    with story.store.read() as tx:
        assert release_status(tx, story.world_documents, waiting, now=story.clock.now())["approvals_required"] == 1

    story.commands.approve(waiting.id, actor="bob", because="we wanted to try the other one")
    story.control.settle()
    assert story.reread(waiting).phase is Phase.PROGRESSING


def test_a_retraining_that_is_surely_worse_waits_for_a_person_though_its_gate_lets_it_pass(story: Story) -> None:
    lenient = [{"metric": "roc_auc", "vs": "production", "maxDrop": 0.5}]
    retrained(story, gates=lenient)
    known = {story.digest(1): 0.3, story.digest(2): 1.0}
    story.traffic.quality = lambda digest, _day: known.get(digest, 0.0)
    story.days(12)
    assert story.releases[-1].phase is Phase.PAUSED
    assert "outside of the envelope: roc_auc is worse by at least 0.1" in story.releases[-1].because


# --- incidents.rollbackWhen


def promoted_and_drifting(story: Story, *, quality: float) -> None:
    """Version 2 passes the shadow, then its inputs move; `quality` is how good it is from the promotion on (version 1: 1.0)."""
    monitors = [{"name": "inputs", "kind": "drift", "columns": ["x"], "falseAlarmEvery": "60d"}]
    loop = {**LOOP, "gates": [], "retrain": {}, "monitors": monitors, "incidents": {"rollbackWhen": "inputs"}}
    environments = canary()
    environments["production"]["strategy"]["canary"]["steps"][-1]["bake"]["margin"] = 0.5
    story.apply(DATASET, model_document(environments=environments, **loop))
    story.release(1)
    story.days(16)
    story.release(2)
    story.days(16)
    second = story.digest(2)
    since = story.clock.now()
    assert story.releases[-1].phase is Phase.VERIFYING
    story.traffic.quality = lambda digest, day: quality if digest == second and day >= since else 1.0
    story.traffic.inputs = lambda day: 2.0 if day >= since else 0.0


def test_a_finding_during_the_bake_brings_the_replaced_version_back_where_pairs_say_it_is_better(story: Story) -> None:
    promoted_and_drifting(story, quality=0.4)
    chapter = story.chapter
    story.days(12)
    assert story.why(since=chapter) == snapshot(
        [
            "04-06 incident.opened: evidence of change 78, limit 60 (one false alarm in 60 windows), led by x, 1 columns, …",
            "04-06 finding.opened: evidence of change 78, limit 60 (one false alarm in 60 windows), led by x, 1 columns, 1…",
            "04-06 incident.triaged: ask none: retraining is off; a person decides",
            "04-10 incident.triaged: start rollback: version 2 was promoted on 2013-03-27 and version 1 is better: roc_auc…",
            "04-10 release.opened: version 2 was promoted on 2013-03-27 and version 1 is better: roc_auc: harm +0.0939 [+0…",
            "04-10 release.step_started: step 0 (setWeight 100 %) is in effect",
            "04-10 release.promoted: version 1 is the stable version of production",
            "04-10 release.degraded: taken back by the rollback of release 3",
            "04-10 incident.closed: the previous version answers again",
            "04-10 release.completed: version 1 answers again",
            "04-10 release.completed: taken back by the rollback of release 3",
            "04-14 incident.opened: evidence of change 78, limit 60 (one false alarm in 60 windows), led by x, 1 columns, …",
            "04-14 finding.opened: evidence of change 78, limit 60 (one false alarm in 60 windows), led by x, 1 columns, 4…",
            "04-14 incident.triaged: ask none: retraining is off; a person decides",
        ]
    )
    assert story.router.weights() == {"1": 100.0}


def test_a_finding_during_the_bake_alone_takes_nothing_back(story: Story) -> None:
    promoted_and_drifting(story, quality=1.0)
    chapter = story.chapter
    story.days(12)
    assert story.why(since=chapter) == snapshot(
        [
            "04-06 incident.opened: evidence of change 78, limit 60 (one false alarm in 60 windows), led by x, 1 columns, …",
            "04-06 finding.opened: evidence of change 78, limit 60 (one false alarm in 60 windows), led by x, 1 columns, 1…",
            "04-06 incident.triaged: ask none: retraining is off; a person decides",
            "04-11 release.completed: bake and label horizon passed: roc_auc: harm -0.0064 [-0.1129, +0.1002], below the m…",
        ]
    )
    assert story.router.weights() == {"2": 100.0}


# --- incidents.notify


def test_people_are_told_of_an_incident_where_the_document_says(story: Story) -> None:
    retrained(story, incidents={"notify": ["ops"]})
    story.days(8)
    assert [(channel, subject) for channel, subject, _text in story.notifier.told] == snapshot(
        [
            ("ops", "default/delay in production: incident.opened (challenger)"),
            ("ops", "default/delay in production: incident.triaged (challenger)"),
        ]
    )
    assert "the challenger is better by" in story.notifier.told[0][2]


def test_a_channel_this_installation_does_not_have_is_refused(story: Story) -> None:
    with pytest.raises(BadDocument, match="notify\\[0\\]: no channel 'pager' here; it has: ops"):
        story.apply(model_document(environments=canary(), incidents={"notify": ["pager"]}))


# --- an environment's order


def test_environments_are_shown_in_the_order_their_documents_give(story: Story) -> None:
    policies = {name: {"strategy": {"allAtOnce": {}}} for name in ("production", "dev", "canaries")}
    document = {"apiVersion": "steersman/v1", "kind": "Environment", "metadata": {"name": "canaries"}}
    story.apply({**document, "spec": {"order": 25}}, model_document(environments=policies))
    with story.store.read() as tx:
        line = model_line(
            tx, story.world_documents, story.world_documents.model(tx, "default", "delay"), now=story.clock.now()
        )
    assert list(line["environments"]) == ["dev", "canaries", "production"]


# --- and the history says which milestones a version has reached


def test_the_history_names_the_milestones_of_a_version(story: Story) -> None:
    retrained(story)
    story.days(45)
    with story.store.read() as tx:
        chapters = history(tx, story.world_documents.model(tx, "default", "delay"), environment=None, at=None)
    told = [{name: at[5:10] for name, at in chapter["milestones"].items()} for chapter in chapters]
    assert told == snapshot(
        [
            {
                "registered": "03-01",
                "gated": "03-01",
                "promoted": "03-01",
                "observed": "03-02",
                "drifted": "03-07",
                "incident": "03-07",
                "retrained": "03-07",
            },
            {
                "registered": "03-07",
                "gated": "03-07",
                "mirrored": "03-07",
                "canaried": "03-13",
                "promoted": "03-14",
                "observed": "03-15",
            },
        ]
    )


# --- serving and inferenceLog


def all_at_once() -> dict[str, Any]:
    return {"production": {"strategy": {"allAtOnce": {}}}}


def test_what_is_kept_and_how_many_may_wait_reaches_the_router(story: Story) -> None:
    log = {"sampling": 0.5, "drop": ["x"], "hash": ["who"]}
    serving = {"stickyBy": "who", "queue": 7, "keepWarm": 1}
    story.apply(model_document(environments=all_at_once(), serving=serving, inferenceLog=log))
    story.release(1)
    story.release(2)
    assert story.router.configuration is not None
    [route] = story.router.configuration.routes
    assert (route.in_flight_max, route.log.sampling, route.log.drop, route.log.hash) == (7, 0.5, ("x",), ("who",))
    assert [(one.version, one.release != "") for one in route.warm] == [("1", True)], "can be asked for by number"


def test_a_misspelt_private_column_is_refused_and_never_kept_by_mistake(story: Story) -> None:
    story.apply(model_document(environments=all_at_once(), inferenceLog={"hash": ["passport_nr"]}))
    story.registry.add(1)
    story.commands.register("default", "delay", 1, actor="ann")
    with pytest.raises(BadRequest, match="the column 'passport_nr', which version 1 does not take") as refused:
        story.commands.release("default", "delay", 1, "production", actor="ann", because="first")
    assert "the version takes x" in refused.value.next_step


def test_batches_and_memory_reach_the_workers(story: Story) -> None:
    serving = {"batching": {"maxRows": 32, "maxWait": "4ms"}, "memoryMb": 512}
    story.apply(model_document(environments=all_at_once(), serving=serving))
    story.release(1)
    replica = story.target.asked[story.digest(1)]
    assert (replica.batch_rows_max, replica.batch_wait_ms, replica.memory_mb) == (32, 4.0, 512)
