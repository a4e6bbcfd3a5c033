"""What each kind of operation does to the world: one function a kind, safe to repeat.

An effect returns None while it goes on (it is asked again), or `Ended` with its result and with what else must be
written in the same transaction as that result. It raises when an attempt failed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from steersman.domain import spec
from steersman.domain.errors import VersionRefused
from steersman.domain.events import Action, Event
from steersman.domain.incident import Purpose, Training
from steersman.domain.operation import Operation, OperationKind
from steersman.domain.release import Phase
from steersman.domain.version import Version
from steersman.loop.checking import check, check_given_up
from steersman.loop.datasets import dataset_source, holdout_span
from steersman.loop.evaluating import Contest, evaluate_gates
from steersman.loop.registering import register
from steersman.loop.world import Documents, World, registry_of
from steersman.ports import ReplicaSpec, TargetError, TrainingJob
from steersman.store.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """`failed` says why the effect ended without what was asked; another attempt would not help."""

    result: dict[str, Any] = field(default_factory=dict)
    record: Callable[[Transaction], None] | None = None
    failed: str | None = None


Effect = Callable[[World, Documents, Operation], Ended | None]


def replica_spec(world: World, model: spec.Model, version: Version, environment: str) -> ReplicaSpec:
    """How `version` runs in `environment`; columns that only route or join may accompany its inputs."""
    serving = model.spec.serving
    extras = [serving.sticky_by, model.spec.ground_truth.key if model.spec.ground_truth else None]
    return ReplicaSpec(
        workspace=version.workspace,
        environment=environment,
        model=version.model,
        version=version.number,
        digest=version.digest,
        artifact=world.artifacts.path(version.digest),
        format=version.format,
        file=version.file,
        signature=version.signature,
        output=version.output,
        threads=serving.threads,
        extra_columns=[name for name in extras if name],
        code_allowed=f"{version.workspace}/{version.model}" in world.code_models,
        batch_rows_max=serving.batching.max_rows if serving.batching else 1,
        batch_wait_ms=serving.batching.max_wait.total_seconds() * 1000 if serving.batching else 0.0,
        memory_mb=serving.memory_mb,
    )


def _replicas(world: World, documents: Documents, operation: Operation) -> Ended | None:
    args = operation.args
    with world.store.read() as tx:
        model = documents.model(tx, args["workspace"], args["model"])
        version = _version(tx, args)
    wanted = replica_spec(world, model, version, args["environment"])
    world.target.ensure(wanted, args["count"])
    ready = [
        r
        for r in world.target.observe()
        if r.ready
        and (r.workspace, r.environment, r.model, r.digest)
        == (wanted.workspace, wanted.environment, wanted.model, wanted.digest)
    ]
    if len(ready) >= args["count"]:
        return Ended()
    failure = world.target.failure(wanted)
    if failure is not None:
        raise TargetError(failure)
    return None


def _stop(world: World, _documents: Documents, operation: Operation) -> Ended:
    args = operation.args
    place = (args["workspace"], args["environment"], args["model"])
    world.target.stop(*place, args["digest"], keep=args.get("keep", 0))
    return Ended()


def _route(world: World, _documents: Documents, _operation: Operation) -> Ended:
    """Hand over the newest configuration, whatever this operation was asked for: an older one would be refused."""
    with world.store.read() as tx:
        newest = tx.newest_route()
    if newest is not None and world.router.generation() != newest[0]:
        world.router.apply(newest[1].encode())
    return Ended()


def _alias(world: World, documents: Documents, operation: Operation) -> Ended:
    args = operation.args
    with world.store.read() as tx:
        model = documents.model(tx, args["workspace"], args["model"])
    registry_of(world, model).set_alias(model.spec.versions.name, args["alias"], args["number"])

    def record(tx: Transaction) -> None:
        tx.put_observed_alias(args["workspace"], args["model"], args["alias"], args["number"])

    return Ended(record=record)


def _gate(world: World, documents: Documents, operation: Operation) -> Ended | None:
    with world.store.read() as tx:
        release = tx.release(operation.args["release"])
        if release is None or release.completion is not None or release.phase is Phase.DEGRADED:
            return Ended(result={"gates": []})
        model = documents.revision(tx, release.document)
        candidate = _version(tx, {**operation.args, "version": release.version})
        production = _version(tx, {**operation.args, "version": release.previous.version}) if release.previous else None
    contest = Contest(
        model=model,
        candidate=candidate,
        production=production,
        candidate_in=release.environment,
        production_in=release.environment,
        name=f"gates-{release.id}",
        at=operation.at,
    )
    return Ended(result={"gates": evaluate_gates(world, contest)})


def _check(world: World, documents: Documents, operation: Operation) -> Ended | None:
    done = check(world, documents, operation, replica_spec)
    return None if done is None else Ended(result=done.result, record=done.record)


def _train(world: World, documents: Documents, operation: Operation) -> Ended | None:
    args = operation.args
    with world.store.read() as tx:
        training = tx.training(args["training"])
        if training is None:
            return Ended(failed="the training is not in the database")
        model = documents.revision(tx, args["document"])
    train = model.spec.train
    if train is None:
        return Ended(failed="the model declares no train section")
    folder = world.jobs / training.id
    folder.mkdir(parents=True, exist_ok=True)
    if training.data_digest is None:
        _cut_data(world, documents, model, training)
    with world.store.read() as tx:
        training = tx.training(training.id) or training
    world.trainer.ensure(_job(world, model, train, training))
    state = world.trainer.poll(training.id)
    if state.state == "running":
        return None
    if state.state == "failed":
        return _training_failed(world, training, state.because, state.record)
    try:
        number = int(str(state.record["version"]))
    except (KeyError, ValueError):
        said = "the command ended well but wrote no version number to STEERSMAN_RUN_RECORD"
        return _training_failed(world, training, said, state.record)
    try:
        version, record_version = register(world, model, number, actor="system", training=training)
    except VersionRefused as error:
        return _training_failed(world, training, error.message, state.record)
    return Ended(
        result={"version": version.number},
        record=lambda tx: _training_done(tx, world, training, version, state.record, record_version),
    )


def _cut_data(world: World, documents: Documents, model: spec.Model, training: Training) -> None:
    """Pin what the training may see: rows whose label was known by then, and none of its holdout."""
    until = None
    if training.purpose is Purpose.RETRAIN and model.spec.holdout and model.spec.holdout.excluded_from_training:
        until = holdout_span(model, training.known_until)[0]
    assert model.spec.train is not None
    source = dataset_source(world, model, model.spec.train.data.dataset)
    snapshot = world.datasets.snapshot(
        source,
        known_until=training.known_until,
        time_from=None,
        time_until=until,
        into=world.jobs / training.id / "data.parquet",
    )
    with world.store.write() as tx:
        tx.save_training(
            msgspec.structs.replace(training, data_digest=snapshot.digest, rows=snapshot.rows, holdout_from=until)
        )


def _job(world: World, model: spec.Model, train: spec.Train, training: Training) -> TrainingJob:
    source = world.document_root / (train.source.directory or ".")
    return TrainingJob(
        id=training.id,
        command=train.command,
        source=source,
        data=world.jobs / training.id / "data.parquet",
        environment={
            **world.train_environment(training.workspace, training.model),
            "STEERSMAN_SEED": str(training.seed),
            "STEERSMAN_MODEL_NAME": model.spec.versions.name,
        },
        timeout_s=train.timeout.total_seconds(),
        memory_mb=train.limits.memory_mb,
        cpu_s=train.limits.cpu.total_seconds() if train.limits.cpu else None,
        threads=train.limits.threads,
        lock=train.lock,
    )


def _training_done(
    tx: Transaction,
    world: World,
    training: Training,
    version: Version,
    record: Mapping[str, object],
    record_version: Callable[[Transaction], None],
) -> None:
    record_version(tx)
    done = msgspec.structs.replace(
        training,
        finished_at=world.clock.now(),
        version=version.number,
        outcome="registered",
        record=dict(record),
    )
    tx.save_training(done)
    tx.append(
        _training_event(
            Action.TRAINING_FINISHED,
            done,
            because=f"registered version {version.number} from {training.rows} rows known by {training.known_until.date()}",
        )
    )


def _training_failed(world: World, training: Training, because: str, record: Mapping[str, object]) -> Ended:
    return Ended(failed=because, record=lambda tx: _record_failure(tx, world, training, because, record))


def _record_failure(
    tx: Transaction, world: World, training: Training, because: str, record: Mapping[str, object]
) -> None:
    failed = msgspec.structs.replace(
        training, finished_at=world.clock.now(), outcome="failed", record={**record, "because": because}
    )
    tx.save_training(failed)
    tx.append(_training_event(Action.TRAINING_FAILED, failed, because=because[:2000]))


def _train_given_up(tx: Transaction, world: World, operation: Operation) -> None:
    """A training that could not even be carried out has failed: its incident goes on, the next one may start."""
    training = tx.training(operation.args["training"])
    if training is not None:
        _record_failure(tx, world, training, operation.error or "it could not be carried out", {})


def _training_event(action: Action, training: Training, *, because: str) -> Event:
    return Event(
        action=action,
        at=training.finished_at or training.started_at,
        actor="system",
        workspace=training.workspace,
        kind="training",
        name=f"{training.model}/{training.purpose}",
        because=because,
        data={
            "purpose": str(training.purpose),
            "incident": training.incident,
            "rows": training.rows,
            "data": training.data_digest,
            "known_until": training.known_until.isoformat(),
            "version": training.version,
        },
    )


def _version(tx: Transaction, args: Mapping[str, Any]) -> Version:
    version = tx.version(args["workspace"], args["model"], args["version"])
    if version is None:
        raise LookupError(f"version {args['version']} of {args['model']} is not registered here")
    return version


GIVEN_UP: dict[OperationKind, Callable[[Transaction, World, Operation], None]] = {
    OperationKind.TRAIN: _train_given_up,
    OperationKind.CHECK: check_given_up,
}
"""What else is written when the last attempt of an operation failed; kinds not named here leave it at that."""

EFFECTS: dict[OperationKind, Effect] = {
    OperationKind.REPLICAS: _replicas,
    OperationKind.STOP: _stop,
    OperationKind.ROUTE: _route,
    OperationKind.ALIAS: _alias,
    OperationKind.GATE: _gate,
    OperationKind.TRAIN: _train,
    OperationKind.CHECK: _check,
}
