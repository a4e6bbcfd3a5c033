"""The sample's incidents, from finding to verified recovery, and its second model, which waits for a person."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from steersman.decide import rolling_out
from steersman.decide.judging import judge_paired
from steersman.domain.events import Action, Event
from steersman.domain.identifiers import new_id
from steersman.domain.incident import Finding, Incident, IncidentKind, IncidentState, Purpose, Remedy, Training
from steersman.domain.release import Completion, Opened, Phase, Release
from steersman.domain.traffic import Challenger
from steersman.domain.version import Column, Format, Version
from steersman.store.transaction import Approval, StoredDocument, StoredVerdict, Transaction, Window
from steersman.testing.sample_numbers import DAY, SampleVersion, World

_CYCLE = (IncidentKind.PERFORMANCE, IncidentKind.DRIFT, IncidentKind.CHALLENGER)
_MONITORS = {IncidentKind.CHALLENGER: "freshness", IncidentKind.DRIFT: "inputs", IncidentKind.PERFORMANCE: "quality"}

RECOVERED_AFTER = timedelta(days=15)
"""Fourteen matured days of pairs after the promotion, and the label horizon."""


def _say(
    tx: Transaction, action: Action, at: datetime, kind: str, name: str, because: str, data: dict[str, object]
) -> None:
    event = Event(
        action=action, at=at, actor="system", workspace="ops", kind=kind, name=name, because=because, data=data
    )
    tx.append(event)


def detect(tx: Transaction, live: Release, number: int, day: datetime, world: World) -> Incident:
    """A monitor's finding, the incident it opens, its triage, and the training that ends three days later."""
    kind = _CYCLE[number % len(_CYCLE)]
    began = day - timedelta(days=6 + number % 4)
    age = (day - (live.promoted_at or day)) / DAY
    said = {
        IncidentKind.CHALLENGER: "roc_auc: challenger better by +0.0391 [+0.0214, +0.0568], beyond the margin 0.02, 8 days",
        IncidentKind.DRIFT: "temp: Wasserstein rank distance 0.31, threshold 0.18, 4 of 4 windows, n=3702",
        IncidentKind.PERFORMANCE: "roc_auc 0.671 in the last 7 days against 0.724 at release, CUSUM 6.2, threshold 5.0, n=6488",
    }[kind]
    incident = Incident(
        id=new_id("inc"),
        workspace="ops",
        model="flight-delay",
        environment="production",
        kind=kind,
        state=IncidentState.REMEDYING,
        version=live.version,
        began_at=began,
        detected_at=day,
        remedied_at=day + timedelta(minutes=20),
        remedy=Remedy.RETRAIN,
        attempts=1,
        because=said,
    )
    finding = Finding(
        id=new_id("fnd"),
        workspace="ops",
        model="flight-delay",
        environment="production",
        monitor=_MONITORS[kind],
        kind=kind,
        version=live.version,
        began_at=began,
        found_at=day,
        because=said,
        evidence={"window": began.isoformat(), "n": 6_488},
        incident=incident.id,
    )
    until = day - timedelta(days=14)
    training = Training(
        id=new_id("trn"),
        workspace="ops",
        model="flight-delay",
        environment="production",
        purpose=Purpose.RETRAIN,
        incident=incident.id,
        started_at=day + timedelta(minutes=20),
        known_until=until,
        data_digest="sha256:" + "5f3c" * 16,
        rows=49_000 + 930 * int((day - datetime(2013, 2, 27, tzinfo=UTC)) / DAY),
        holdout_from=until,
        seed=number,
        finished_at=day + timedelta(minutes=21),
        version=number,
        outcome="registered",
        record={"exit_code": 0, "cpu_s": 1.9, "memory_mb_peak": 412},
    )
    incident = msgspec.structs.replace(incident, training=training.id)
    tx.add_incident(incident)
    tx.add_finding(finding)
    tx.add_training(training)
    tx.put_challenger(
        Challenger(
            workspace="ops",
            model="flight-delay",
            environment="production",
            version=number,
            digest=live.digest,
            since=day,
        )
    )
    subject: dict[str, object] = {"incident": incident.id, "version": live.version}
    _say(tx, Action.FINDING_OPENED, day, "monitor", _MONITORS[kind], said, subject)
    _say(tx, Action.INCIDENT_OPENED, day, "incident", incident.id, said, subject)
    triage = f"retrain: no bad data found, version {live.version} has been live for {age:.0f} days, cooldown of 14 days is over"
    _say(tx, Action.INCIDENT_TRIAGED, day, "incident", incident.id, triage, {**subject, "remedy": "retrain"})
    started = f"rows whose label was known by {until:%Y-%m-%d}, seed {number}"
    _say(tx, Action.TRAINING_STARTED, training.started_at, "training", "flight-delay/retrain", started, subject)
    ended = f"registered version {number} from {training.rows} rows"
    _say(
        tx,
        Action.TRAINING_FINISHED,
        training.started_at,
        "training",
        training.id,
        ended,
        {**subject, "version": number},
    )
    return incident


def follow(
    tx: Transaction,
    incident: Incident,
    releases: Sequence[Release],
    day: datetime,
    world: World,
    versions: Mapping[int, SampleVersion],
) -> Incident:
    """Take the incident where its release has brought it: recovering once promoted, closed once recovery is verified."""
    release = next((r for r in releases if r.id == incident.release), None)
    if incident.state is IncidentState.CLOSED or release is None or release.previous is None:
        return incident
    if release.promoted_at is not None and incident.state is IncidentState.REMEDYING:
        return tx.save_incident(incident, msgspec.structs.replace(incident, state=IncidentState.RECOVERING))
    if incident.state is not IncidentState.RECOVERING or release.promoted_at is None:
        return incident
    if day < release.promoted_at + RECOVERED_AFTER:
        return incident
    days = [release.promoted_at.replace(hour=0) + DAY * i for i in range(14)]
    old, new = versions[release.previous.version], versions[release.version]
    verdict = judge_paired([world.auc(old, d) - world.auc(new, d) for d in days], margin=0.0, metric="roc_auc")
    body = rolling_out.verdict_data("roc_auc", verdict)
    tx.add_verdict(StoredVerdict(subject=incident.id, kind="recovery", step=0, at=day, body=body))
    data: dict[str, object] = {"incident": incident.id, "verdicts": [body]}
    _say(tx, Action.INCIDENT_RECOVERED, day, "incident", incident.id, verdict.because, data)
    _say(tx, Action.INCIDENT_CLOSED, day, "incident", incident.id, "recovery verified", {"incident": incident.id})
    return tx.save_incident(incident, msgspec.structs.replace(incident, state=IncidentState.CLOSED, resolved_at=day))


def other_model(tx: Transaction, stored: StoredDocument) -> None:
    """`missed-connection`: one version in production since September, the next one waiting for an approval."""
    opened = datetime(2013, 9, 3, 6, tzinfo=UTC)
    waiting = datetime(2013, 12, 9, 6, tzinfo=UTC)
    for number, at in ((1, opened), (2, waiting)):
        tx.put_version(
            Version(
                workspace="ops",
                model="missed-connection",
                number=number,
                digest="sha256:" + f"{number}a7e" * 16,
                format=Format.ONNX,
                file="model.onnx",
                signature=(Column(name="layover_min", type="FP64"),),
                registered_at=at,
                registered_by="grace@example.com",
                source=f"mlflow: models:/missed-connection/{number}",
                size_bytes=96_400,
            )
        )
    first = Release(
        id=new_id("rel"),
        workspace="ops",
        model="missed-connection",
        environment="production",
        number=1,
        version=1,
        digest="sha256:" + "1a7e" * 16,
        previous=None,
        document=stored.digest,
        phase=Phase.HEALTHY,
        step=4,
        step_started_at=opened,
        exposed=True,
        weight_pct=100.0,
        opened=Opened.COMMAND,
        opened_at=opened,
        opened_by="grace@example.com",
        promoted_at=opened + timedelta(hours=3),
        closed_at=opened + timedelta(days=8),
        completion=Completion.PROMOTED,
        because="bake and label horizon passed",
    )
    staging = msgspec.structs.replace(
        first,
        id=new_id("rel"),
        environment="staging",
        version=2,
        digest="sha256:" + "2a7e" * 16,
        opened_at=waiting,
        promoted_at=waiting,
        closed_at=waiting,
        because="promoted; the document asks for no bake",
    )
    second = msgspec.structs.replace(
        first,
        id=new_id("rel"),
        number=2,
        version=2,
        digest="sha256:" + "2a7e" * 16,
        previous=first.arm,
        phase=Phase.PAUSED,
        resumes=Phase.PENDING,
        step=0,
        step_started_at=waiting,
        exposed=False,
        weight_pct=0.0,
        opened_at=waiting,
        promoted_at=None,
        closed_at=None,
        completion=None,
        because="waits for 1 more approval(s) by role approver",
    )
    for release in (first, staging, second):
        tx.add_release(release)
    agreed = "holdout and subgroup tables read, no objection"
    tx.add_approval(Approval(release=first.id, step=-1, actor="alan@example.com", at=opened, because=agreed))
    subject: dict[str, object] = {"release": 1, "version": 1}
    _say(tx, Action.RELEASE_OPENED, opened, "release", "missed-connection/production/1", "first version", subject)
    _say(tx, Action.RELEASE_APPROVED, opened, "release", "missed-connection/production/1", agreed, subject)
    _say(
        tx,
        Action.RELEASE_COMPLETED,
        opened + timedelta(days=8),
        "release",
        "missed-connection/production/1",
        first.because,
        subject,
    )
    _say(
        tx,
        Action.RELEASE_OPENED,
        waiting,
        "release",
        "missed-connection/production/2",
        "trained with the winter schedule",
        {"release": 2},
    )
    _say(
        tx,
        Action.RELEASE_PAUSED,
        waiting,
        "release",
        "missed-connection/production/2",
        second.because,
        {"release": 2, "version": 2},
    )
    world = World(11)
    for week in range(13):
        start = opened.replace(hour=0) + timedelta(days=7 * week)
        tx.put_window(
            Window(
                workspace="ops",
                environment="production",
                model="missed-connection",
                digest=first.digest,
                version=1,
                start=start,
                end=start + timedelta(days=7),
                rows=2_140 + 11 * week,
                labelled=2_101 + 11 * week,
                metrics={"log_loss": world.log_loss(SampleVersion(number=1, trained_until=opened), start) - 0.22},
            ),
            b"",
        )
