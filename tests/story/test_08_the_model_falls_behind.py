"""The world moves on; a freshly trained version on the same requests shows what is being lost, and the loop closes.

Nobody does anything in this chapter. A challenger is trained and scored on copies of the traffic; when it is surely better,
there is a finding, an incident, a retraining on what has matured, gates, a shadow, a canary, a promotion, and, two weeks
later, proof that it helped.
"""

from datetime import UTC, datetime

from inline_snapshot import snapshot

from steersman.domain.incident import IncidentState, Purpose, Remedy
from steersman.domain.release import Completion, Opened
from steersman.testing.story import DATASET, LOOP, Story, canary, model_document

BEHIND_SINCE = datetime(2013, 3, 20, tzinfo=UTC)


def lives_alone(story: Story) -> None:
    """Version 1 is in production and falls behind on 20 March; whatever is trained after that is as good as ever."""
    story.apply(DATASET, model_document(environments=canary(), serving={"replicas": 2, "keepWarm": 1}, **LOOP))
    story.release(1)
    old = story.digest(1)
    story.traffic.quality = lambda digest, day: 0.4 if digest == old and day >= BEHIND_SINCE else 1.2


def test_a_model_that_falls_behind_is_retrained_released_and_its_recovery_verified(story: Story) -> None:
    lives_alone(story)

    story.days(60)

    assert story.told(since=2) == snapshot(
        [
            "03-01 version.registered delay/1",
            "03-01 release.opened delay/production/1",
            "03-01 release.gated delay/production/1",
            "03-01 release.step_started delay/production/1",
            "03-01 release.step_started delay/production/1",
            "03-01 release.promoted delay/production/1",
            "03-15 training.started delay/challenger",
            "03-15 version.registered delay/2",
            "03-15 training.finished delay/challenger",
            "03-15 challenger.set delay/production",
            "03-16 release.completed delay/production/1",
            "03-27 incident.opened delay/challenger",
            "03-27 finding.opened delay/freshness",
            "03-27 incident.triaged delay/challenger",
            "03-27 training.started delay/retrain",
            "03-27 version.registered delay/3",
            "03-27 training.finished delay/retrain",
            "03-27 release.opened delay/production/2",
            "03-27 release.gated delay/production/2",
            "03-27 release.step_started delay/production/2",
            "03-27 release.step_started delay/production/2",
            "03-31 finding.opened delay/quality",
            "04-02 release.analysed delay/production/2",
            "04-02 release.step_started delay/production/2",
            "04-02 release.step_started delay/production/2",
            "04-03 release.step_started delay/production/2",
            "04-03 release.promoted delay/production/2",
            "04-10 training.started delay/challenger",
            "04-10 version.registered delay/4",
            "04-10 training.finished delay/challenger",
            "04-10 challenger.set delay/production",
            "04-18 incident.recovered delay/challenger",
            "04-18 incident.closed delay/challenger",
            "04-18 release.completed delay/production/2",
            "04-24 training.started delay/challenger",
            "04-24 version.registered delay/5",
            "04-24 training.finished delay/challenger",
            "04-24 challenger.set delay/production",
        ]
    )
    incident = story.incidents[0]
    assert (incident.state, incident.remedy, incident.attempts) == (IncidentState.CLOSED, Remedy.RETRAIN, 0)
    assert story.router.weights() == {"3": 100.0}


def test_the_reasons_are_numbers_with_intervals(story: Story) -> None:
    lives_alone(story)
    story.days(60)
    told = [line for line in story.why() if "incident" in line or "finding" in line]
    assert told == snapshot(
        [
            "03-27 incident.opened: roc_auc: the challenger is better by +0.1177 [+0.0023, +0.2330], margin 0.02, 11 days,…",
            "03-27 finding.opened: roc_auc: the challenger is better by +0.1177 [+0.0023, +0.2330], margin 0.02, 11 days, …",
            "03-27 incident.triaged: start retrain: 10000 matured labels are new, cooldown over",
            "03-27 release.opened: remedy of the challenger incident: start retrain: 10000 matured labels are new, cooldow…",
            "03-31 finding.opened: log_loss 0.6960, usually 0.5683; evidence of loss 684, limit 365, 15 days",
            "04-18 incident.recovered: roc_auc: harm -0.2252 [-0.2432, -0.2073], 14 matured days, 5600 rows; surely better…",
            "04-18 incident.closed: roc_auc: harm -0.2252 [-0.2432, -0.2073], 14 matured days, 5600 rows; surely better th…",
        ]
    )


def test_what_the_loop_released_passed_everything_a_person_s_release_passes(story: Story) -> None:
    lives_alone(story)
    story.days(60)
    remedy = next(r for r in story.releases if r.opened is Opened.REMEDY)
    assert remedy.completion is Completion.PROMOTED
    with story.store.read() as tx:
        kinds = {verdict.kind for verdict in tx.verdicts(remedy.id)}
    assert kinds == {"gate", "analysis", "bake"}


def test_no_training_may_see_a_label_before_it_arrived_nor_its_holdout(story: Story) -> None:
    lives_alone(story)
    story.days(60)
    with story.store.read() as tx:
        trainings = tx.trainings("default", "delay")
    assert [(t.purpose, t.known_until <= t.started_at) for t in trainings][:2] == [
        (Purpose.CHALLENGER, True),
        (Purpose.RETRAIN, True),
    ]
    for training in trainings:
        _start, end = (datetime.fromisoformat(text) for text in _span(story, training.id).split())
        horizon_s = 86400
        assert (training.known_until - end).total_seconds() >= horizon_s
        if training.purpose is Purpose.RETRAIN:
            assert (training.known_until - end).days >= 14


def _span(story: Story, training: str) -> str:
    return (story.folder / "jobs" / training / "data.parquet").read_text()


def test_a_world_that_stands_still_opens_no_incident(story: Story) -> None:
    lives_alone(story)
    story.traffic.quality = lambda _digest, _day: 1.0
    story.days(90)
    assert story.incidents == []
    assert [r.version for r in story.releases] == [1]


def test_one_cause_is_one_incident_however_many_monitors_see_it(story: Story) -> None:
    lives_alone(story)
    story.days(60)
    assert len(story.incidents) == 1


def test_with_mode_register_a_person_releases_what_was_trained(story: Story) -> None:
    loop = {**LOOP, "retrain": {**LOOP["retrain"], "mode": "register"}}
    story.apply(DATASET, model_document(environments=canary(), **loop))
    story.release(1)
    old = story.digest(1)
    story.traffic.quality = lambda digest, day: 0.4 if digest == old and day >= BEHIND_SINCE else 1.2
    story.days(45)
    assert [r.version for r in story.releases] == [1]
    incident = story.incidents[0]
    assert incident.state is IncidentState.REMEDYING
    with story.store.read() as tx:
        training = tx.training(incident.training or "")
    assert training is not None
    assert training.version is not None

    release = story.release(training.version, because="trained for the incident")
    story.days(40)
    assert story.reread(release).completion is Completion.PROMOTED
    assert story.incidents[0].state is IncidentState.CLOSED
