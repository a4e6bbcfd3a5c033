"""The sample's incidents, from finding to verified recovery, and its second model, which waits for a person."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from steersman.decide import routing
from steersman.decide.steps import GATES_STEP
from steersman.decide.triaging import judge_recovery
from steersman.domain.events import Action
from steersman.domain.identifiers import new_id
from steersman.domain.incident import Finding, Incident, IncidentKind, IncidentState, Purpose, Remedy, Training
from steersman.domain.release import Cause, Completion, Opened, Phase, Release
from steersman.domain.traffic import Challenger
from steersman.domain.version import Column, Format, Version
from steersman.loop.watching import recovery_blocks
from steersman.store.records import Approval, StoredDocument, Window
from steersman.store.transaction import Transaction
from steersman.testing import sample_documents
from steersman.testing.sample_moves import say, say_release
from steersman.testing.sample_numbers import DAY, SampleVersion, World

_CYCLE = (IncidentKind.PERFORMANCE, IncidentKind.DRIFT, IncidentKind.CHALLENGER)
_MONITORS = {IncidentKind.CHALLENGER: "freshness", IncidentKind.DRIFT: "inputs", IncidentKind.PERFORMANCE: "quality"}

RECOVERED_AFTER = timedelta(days=18)
"""Fourteen matured days of pairs after the promotion, and the label horizon."""


def _say(
    tx: Transaction, action: Action, at: datetime, kind: str, name: str, because: str, data: dict[str, object]
) -> None:
    say(tx, action, at=at, actor="system", kind=kind, name=name, because=because, data=data)


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
    name = f"flight-delay/{kind}"
    subject: dict[str, object] = {"incident": incident.id, "version": live.version}
    _say(tx, Action.FINDING_OPENED, day, "monitor", _MONITORS[kind], said, subject)
    _say(tx, Action.INCIDENT_OPENED, day, "incident", name, said, subject)
    triage = f"retrain: no bad data found, version {live.version} has been live for {age:.0f} days, cooldown of 14 days is over"
    _say(tx, Action.INCIDENT_TRIAGED, day, "incident", name, triage, {**subject, "remedy": "retrain"})
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
) -> Incident:
    """Take the incident where its release has brought it: recovering once promoted, closed once recovery is verified."""
    release = next((r for r in releases if r.id == incident.release), None)
    if incident.state is IncidentState.CLOSED or release is None or release.previous is None:
        return incident
    if release.promoted_at is not None and incident.state is IncidentState.REMEDYING:
        return tx.save_incident(incident, msgspec.structs.replace(incident, state=IncidentState.RECOVERING))
    if incident.state is not IncidentState.RECOVERING or release.promoted_at is None:
        return incident
    name = f"flight-delay/{incident.kind}"
    data: dict[str, object] = {"incident": incident.id, "version": release.version}
    serving = routing.live(releases)
    if serving is not None and serving.id != release.id:
        because = f"release {serving.number} replaced the remedy's version"
        _say(tx, Action.INCIDENT_CLOSED, day, "incident", name, because, data)
        closed = msgspec.structs.replace(incident, state=IncidentState.CLOSED, resolved_at=day, because=because)
        return tx.save_incident(incident, closed)
    if day < release.promoted_at + RECOVERED_AFTER:
        return incident
    verdict = judge_recovery(recovery_blocks(tx, sample_documents.flight_delay(), release)).verdict
    _say(tx, Action.INCIDENT_RECOVERED, day, "incident", name, verdict.because, data)
    _say(tx, Action.INCIDENT_CLOSED, day, "incident", name, verdict.because, data)
    return tx.save_incident(
        incident,
        msgspec.structs.replace(incident, state=IncidentState.CLOSED, resolved_at=day, because=verdict.because),
    )


def _digest(number: int) -> str:
    return "sha256:" + f"{number}a7e" * 16


def _register(tx: Transaction, number: int, at: datetime) -> None:
    tx.put_version(
        Version(
            workspace="ops",
            model="missed-connection",
            number=number,
            digest=_digest(number),
            format=Format.ONNX,
            file="model.onnx",
            signature=(Column(name="layover_min", type="FP64"),),
            registered_at=at,
            registered_by="grace@example.com",
            source=f"mlflow: models:/missed-connection/{number}",
            size_bytes=96_400,
        )
    )


def first_release(tx: Transaction, stored: StoredDocument, *, opened: datetime) -> None:
    """`missed-connection` enters production with an approval, and answers for three months."""
    _register(tx, 1, opened)
    release = Release(
        id=new_id("rel"),
        workspace="ops",
        model="missed-connection",
        environment="production",
        number=1,
        version=1,
        digest=_digest(1),
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
        verified_at=opened + timedelta(days=8),
        completion=Completion.PROMOTED,
        because="bake and label horizon passed",
    )
    tx.add_release(release)
    agreed, approver = "holdout and subgroup tables read, no objection", "alan@example.com"
    tx.agreements.put_approval(Approval(release=release.id, step=GATES_STEP, actor=approver, at=opened, because=agreed))
    say_release(tx, release, Action.RELEASE_OPENED, "first version", at=opened, actor=release.opened_by)
    say_release(tx, release, Action.RELEASE_APPROVED, agreed, at=opened, actor=approver)
    say_release(tx, release, Action.RELEASE_PROMOTED, "version 1 is the stable version", at=opened, actor="system")
    world = World(11)
    for week in range(13):
        start = opened.replace(hour=0) + timedelta(days=7 * week)
        loss = world.log_loss(SampleVersion(number=1, trained_until=opened), start) - 0.22
        window = Window(
            workspace="ops",
            environment="production",
            model="missed-connection",
            digest=release.digest,
            version=1,
            start=start,
            end=start + timedelta(days=7),
            rows=2_140 + 11 * week,
            labelled=2_101 + 11 * week,
            metrics={"log_loss": loss},
        )
        tx.evidence.put_window(window, b"")


def waiting_release(tx: Transaction, stored: StoredDocument, *, opened: datetime) -> None:
    """Its second version runs in staging, and waits for an approval before production."""
    _register(tx, 2, opened)
    live = tx.releases("ops", "missed-connection", "production")[0]
    waiting = msgspec.structs.replace(
        live,
        id=new_id("rel"),
        number=2,
        version=2,
        digest=_digest(2),
        previous=live.arm,
        document=stored.digest,
        phase=Phase.PAUSED,
        resumes=Phase.PENDING,
        step=0,
        step_started_at=opened,
        exposed=False,
        weight_pct=0.0,
        opened_at=opened,
        promoted_at=None,
        closed_at=None,
        verified_at=None,
        completion=None,
        cause=Cause.APPROVAL_LACKING,
        because="waits for 1 more approval by role approver",
        row=0,
    )
    staging = msgspec.structs.replace(
        waiting,
        id=new_id("rel"),
        environment="staging",
        number=1,
        previous=None,
        phase=Phase.HEALTHY,
        resumes=None,
        exposed=True,
        weight_pct=100.0,
        promoted_at=opened,
        closed_at=opened,
        verified_at=opened,
        completion=Completion.PROMOTED,
        cause=None,
        because="promoted; the document asks for no bake",
    )
    for release in (staging, waiting):
        tx.add_release(release)
        say_release(
            tx, release, Action.RELEASE_OPENED, "trained with the winter schedule", at=opened, actor="grace@example.com"
        )
    say_release(tx, staging, Action.RELEASE_PROMOTED, staging.because, at=opened, actor="system")
    say_release(tx, waiting, Action.RELEASE_PAUSED, waiting.because, at=opened, actor="system")
