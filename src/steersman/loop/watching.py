"""From windows to findings, from findings to incidents, from incidents to remedies and verified recovery.

Like the reconciler it re-reads everything and is told nothing. What a reading means, which incident a finding belongs
to, which remedy fits and when one has helped is decided in `decide.triaging`; here it is gathered, written with its
ledger entry, and asked for.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import msgspec

from steersman.decide import freezing, triaging
from steersman.decide.routing import in_progress, live, promoted
from steersman.domain import spec
from steersman.domain.errors import SteersmanError
from steersman.domain.events import Action, Event
from steersman.domain.identifiers import new_id
from steersman.domain.incident import Finding, Incident, IncidentState, Purpose, Remedy, Training
from steersman.domain.operation import Intent, OperationKind
from steersman.domain.release import Opened, Phase, Release
from steersman.domain.traffic import Challenger
from steersman.domain.verdicts import Outcome
from steersman.loop.aliases import Aliases
from steersman.loop.asking import ask
from steersman.loop.datasets import horizon
from steersman.loop.gathering import present_pairing
from steersman.loop.isolation import every
from steersman.loop.measuring import recovery_pairing
from steersman.loop.monitors import MonitorState, Reading, read_monitors, regret_of
from steersman.loop.observer import differences
from steersman.loop.opening import open_release
from steersman.loop.reconciler import Reconciler
from steersman.loop.weighing import weigh
from steersman.loop.world import Documents, World, environment_of
from steersman.stats.performance import BlockDifferences
from steersman.store.transaction import Transaction

LABELS_NEW_MIN = 500
"""Fewest matured labels, newer than the present version's training data, that make a retraining worth its while."""


class Watching:
    """Watches every model and environment of an installation."""

    def __init__(self, world: World, documents: Documents, reconciler: Reconciler) -> None:
        self._world = world
        self._documents = documents
        self._reconciler = reconciler
        self._aliases = Aliases(world, documents)
        self._messages: list[tuple[str, str, str]] = []

    def turn(self) -> bool:
        """One pass; True if anything was written."""
        with self._world.store.read() as tx:
            places = sorted({(r.workspace, r.model, r.environment) for r in tx.releases()})
        moved = every(places, self._watch)
        return self._aliases.compare() or moved

    def _watch(self, place: tuple[str, str, str]) -> bool:
        with self._world.store.read() as tx:
            model = self._documents.model(tx, place[0], place[1])
            releases = tx.releases(*place)
        serving = live(releases)
        if serving is None:
            return False
        moved = False
        for reading in read_monitors(self._world, self._documents, model, serving):
            moved = self._file(model, serving, reading) or moved
        moved = self._tend(model, serving) or moved
        return self._refresh_challenger(model, serving, releases) or moved

    # --- findings

    def _file(self, model: spec.Model, serving: Release, reading: Reading) -> bool:
        """Keep a monitor's state; a verdict that newly failed becomes a finding."""
        place = (serving.workspace, serving.model, serving.environment)
        with self._writing() as tx:
            before = tx.monitor_state(*place, reading.monitor, MonitorState)
            failed = reading.verdict.outcome is Outcome.FAILED
            known = before is not None and before.open and before.digest == reading.state.digest
            newly = failed and not (known and self._is_tended(tx, serving, reading.monitor))
            tx.put_monitor_state(*place, reading.monitor, msgspec.structs.replace(reading.state, open=failed))
            if not newly:
                return False
            finding = Finding(
                id=new_id("fnd"),
                workspace=serving.workspace,
                model=serving.model,
                environment=serving.environment,
                monitor=reading.monitor,
                kind=reading.kind,
                version=serving.version,
                began_at=reading.began_at,
                found_at=self._world.clock.now(),
                because=reading.verdict.because,
            )
            assigned = triaging.assign(
                finding, tx.incidents(serving.workspace, serving.model), stable_version=serving.version
            )
            if assigned.filing is triaging.Filing.DROP:
                return False
            incident = assigned.incident or self._open_incident(tx, finding)
            tx.add_finding(msgspec.structs.replace(finding, incident=incident))
            self._record(
                tx,
                Action.FINDING_OPENED,
                serving.workspace,
                "monitor",
                f"{serving.model}/{reading.monitor}",
                reading.verdict.because,
                {"incident": incident, "version": serving.version, "filed": assigned.because},
            )
        return True

    @staticmethod
    def _is_tended(tx: Transaction, serving: Release, monitor: str) -> bool:
        """Whether the monitor's last finding about this version is in an open incident, or a person accepted it.

        An incident may close because its remedy helped while the finding, about the remedy's version, goes on: then
        it is a new incident, and not one nobody looks at.
        """
        mine = [
            f
            for f in tx.findings(serving.workspace, serving.model)
            if f.monitor == monitor and f.version == serving.version and f.environment == serving.environment
        ]
        incident = tx.incident(mine[-1].incident) if mine and mine[-1].incident else None
        return incident is not None and (incident.state is not IncidentState.CLOSED or incident.remedy is Remedy.ACCEPT)

    def _open_incident(self, tx: Transaction, finding: Finding) -> str:
        incident = Incident(
            id=new_id("inc"),
            workspace=finding.workspace,
            model=finding.model,
            environment=finding.environment,
            kind=finding.kind,
            state=IncidentState.OPEN,
            version=finding.version,
            began_at=finding.began_at,
            detected_at=finding.found_at,
            because=finding.because,
        )
        tx.add_incident(incident)
        data = {"kind": str(incident.kind), "version": incident.version, "began_at": incident.began_at.isoformat()}
        self._note(tx, incident, Action.INCIDENT_OPENED, finding.because, data)
        return incident.id

    # --- incidents

    def _tend(self, model: spec.Model, serving: Release) -> bool:
        """Do the next thing for each open incident of this model and environment."""
        moved = False
        with self._world.store.read() as tx:
            incidents = [
                i
                for i in tx.incidents(serving.workspace, serving.model, open_only=True)
                if i.environment == serving.environment
            ]
        for incident in incidents:
            with self._writing() as tx:
                current = tx.incident(incident.id)
                if current is None or current.state is IncidentState.CLOSED:
                    continue
                if self._replaced_by_hand(current, serving):
                    self._adopt(tx, current, serving)
                    moved = True
                elif current.state is IncidentState.OPEN:
                    moved = self._triage(tx, model, serving, current) or moved
                elif current.state is IncidentState.REMEDYING:
                    moved = self._remedy(tx, model, current) or moved
                else:
                    moved = self._recover(tx, model, current) or moved
        return moved

    @staticmethod
    def _replaced_by_hand(incident: Incident, serving: Release) -> bool:
        """Whether a person brought another version in before any remedy of the incident was released."""
        tended = incident.release is not None or incident.state is IncidentState.RECOVERING
        later = serving.promoted_at is not None and serving.promoted_at >= incident.detected_at
        return not tended and later and serving.version != incident.version

    def _adopt(self, tx: Transaction, incident: Incident, serving: Release) -> None:
        """Take the release for the remedy: whether it helped is verified as with one of our own."""
        because = f"version {serving.version} was released meanwhile (release {serving.number})"
        remedy = Remedy.ROLLBACK if serving.opened is Opened.ROLLBACK else Remedy.RETRAIN
        after = msgspec.structs.replace(
            incident, state=IncidentState.REMEDYING, remedy=remedy, release=serving.id, because=because
        )
        tx.save_incident(incident, after)
        self._note(tx, incident, Action.INCIDENT_TRIAGED, because, {"remedy": str(remedy)})

    def _triage(self, tx: Transaction, model: spec.Model, serving: Release, incident: Incident) -> bool:
        busy = [
            i
            for i in tx.incidents(serving.workspace, serving.model, open_only=True)
            if i.id != incident.id and i.state is IncidentState.REMEDYING and i.environment == incident.environment
        ]
        if busy:
            return False  # one remedy at a time: the other one replaces the very version this is about
        facts = self._triage_facts(tx, model, serving, incident)
        decided = triaging.triage(facts)
        if decided.action is triaging.Action.WAIT:
            return False
        said = f"{decided.action} {decided.remedy}: {decided.because}"
        if decided.action is triaging.Action.ASK:
            if incident.because == said:
                return False
            tx.save_incident(incident, msgspec.structs.replace(incident, because=said))
            self._note(tx, incident, Action.INCIDENT_TRIAGED, said, {"remedy": str(decided.remedy)})
            return True
        self._note(tx, incident, Action.INCIDENT_TRIAGED, said, {"remedy": str(decided.remedy)})
        if decided.remedy is Remedy.ACCEPT:
            self._close(tx, incident, Action.INCIDENT_CLOSED, decided.because, remedy=Remedy.ACCEPT)
            return True
        remedying = msgspec.structs.replace(
            incident, state=IncidentState.REMEDYING, remedy=decided.remedy, version=serving.version, because=said
        )
        if decided.remedy is Remedy.ROLLBACK:
            standing = promoted(tx.releases(serving.workspace, serving.model, serving.environment))
            target = next(r for r in reversed(standing) if r.version != serving.version)
            release = self._open(tx, target.version, serving, Opened.ROLLBACK, incident, decided.because)
            remedying = msgspec.structs.replace(remedying, release=release.id)
        else:
            training = self._train(tx, model, serving, Purpose.RETRAIN, incident.id, decided.because)
            remedying = msgspec.structs.replace(remedying, training=training.id)
        tx.save_incident(incident, remedying)
        return True

    def _triage_facts(
        self, tx: Transaction, model: spec.Model, serving: Release, incident: Incident
    ) -> triaging.TriageFacts:
        place = (serving.workspace, serving.model, serving.environment)
        monitors = {f.monitor for f in tx.findings(serving.workspace, serving.model) if f.incident == incident.id}
        retrains = [t for t in tx.trainings(serving.workspace, serving.model) if t.purpose is Purpose.RETRAIN]
        version = tx.version(serving.workspace, serving.model, serving.version)
        since = (version.trained_until if version else None) or serving.promoted_at or serving.opened_at
        windows = tx.evidence.windows(serving.workspace, serving.environment, serving.model)
        states = {m.name: tx.monitor_state(*place, m.name, MonitorState) for m in model.spec.monitors}
        nulls: dict[str, float] = {}
        for state in states.values():
            if state is not None and state.digest == serving.digest:
                nulls.update(state.null_changes)
        return triaging.TriageFacts(
            now=self._world.clock.now(),
            incident=incident,
            mode=model.spec.retrain.mode if model.spec.train else spec.RetrainMode.OFF,
            monitor_retrains=bool(monitors & set(model.spec.retrain.on)),
            cooldown=model.spec.retrain.cooldown,
            retrained_at=max((t.started_at for t in retrains), default=None),
            labels_new=sum(w.labelled for w in windows if w.start >= since),
            labels_needed=LABELS_NEW_MIN,
            breaks=triaging.data_breaks(nulls),
            promotion=self._promotion(tx, model, serving) if model.spec.incidents.rollback_when in monitors else None,
            rollback_window=_verified_for(model, self._policy(tx, serving)),
            frozen=freezing.frozen(
                model.spec.environments.get(serving.environment, spec.EnvironmentPolicy()),
                environment_of(tx, serving.workspace, serving.environment),
                self._world.clock.now(),
            ),
            regret=regret_of(tx, model, serving),
        )

    def _promotion(self, tx: Transaction, model: spec.Model, serving: Release) -> triaging.RecentPromotion | None:
        """How the version that answers compares, while it is verified, with the one it replaced; None where it does not.

        Of several metrics the worst one is told: one in which the replaced version is surely better suffices.
        """
        policy = self._policy(tx, serving)
        declared = self._documents.revision(tx, serving.document).spec.metrics
        pairing = present_pairing(serving, policy, declared) if serving.phase is Phase.VERIFYING else None
        if pairing is None or serving.previous is None or serving.promoted_at is None:
            return None
        bake = next(step for step in policy.strategy.steps if isinstance(step, spec.Bake) and step.metrics)
        exact = msgspec.structs.replace(bake, margin=0.0, slices=())
        verdicts = [weigh(tx, pairing, metric, exact) for metric in pairing.metrics]
        worst = next((verdict for verdict in verdicts if verdict.outcome is Outcome.FAILED), verdicts[0])
        return triaging.RecentPromotion(
            promoted_at=serving.promoted_at, previous=serving.previous.version, against_previous=worst
        )

    def _policy(self, tx: Transaction, release: Release) -> spec.EnvironmentPolicy:
        document = self._documents.revision(tx, release.document)
        return document.spec.environments.get(release.environment, spec.EnvironmentPolicy())

    def _train(
        self, tx: Transaction, model: spec.Model, serving: Release, purpose: Purpose, incident: str | None, because: str
    ) -> Training:
        now = self._world.clock.now()
        earlier = tx.trainings(serving.workspace, serving.model)
        training = Training(
            id=new_id("run"),
            workspace=serving.workspace,
            model=serving.model,
            environment=serving.environment,
            purpose=purpose,
            incident=incident,
            started_at=now,
            known_until=now,
            seed=len(earlier) + 1,
        )
        tx.add_training(training)
        stored = tx.document("Model", serving.workspace, serving.model)
        assert stored is not None
        args = {
            "workspace": serving.workspace,
            "model": serving.model,
            "training": training.id,
            "document": stored.digest,
        }
        ask(tx, Intent(key=f"train/{training.id}", kind=OperationKind.TRAIN, args=args), at=now)
        data = {"purpose": str(purpose), "incident": incident, "known_until": now.isoformat(), "seed": training.seed}
        name = f"{serving.model}/{purpose}"
        self._record(tx, Action.TRAINING_STARTED, serving.workspace, "training", name, because, data)
        return training

    def _remedy(self, tx: Transaction, model: spec.Model, incident: Incident) -> bool:
        """Follow the remedy: the training into a release, the release to its promotion or its end."""
        if incident.release is None:
            return self._release_trained(tx, model, incident)
        release = tx.release(incident.release)
        assert release is not None
        if release.promoted_at is not None and release.degraded_at is None:
            now = self._world.clock.now()
            after = msgspec.structs.replace(
                incident,
                state=IncidentState.RECOVERING,
                remedied_at=now,
                version=release.version,
                because=f"version {release.version} answers; recovery is being verified in pairs",
            )
            tx.save_incident(incident, after)
            return True
        if release.completion is not None:
            return self._reopen(tx, incident, f"release {release.number} ended {release.completion}: {release.because}")
        return False

    def _release_trained(self, tx: Transaction, model: spec.Model, incident: Incident) -> bool:
        training = tx.training(incident.training) if incident.training else None
        if training is None or training.outcome == "running":
            return False
        if training.version is None:
            return self._reopen(tx, incident, f"training failed: {training.record.get('because', '')}")
        if model.spec.retrain.mode is not spec.RetrainMode.AUTO:
            return False  # a person releases what was registered
        releases = tx.releases(incident.workspace, incident.model, incident.environment)
        serving = live(releases)
        assert serving is not None
        because = f"remedy of the {incident.kind} incident: {incident.because}"
        try:
            release = self._open(tx, training.version, serving, Opened.REMEDY, incident, because)
        except SteersmanError as error:
            if in_progress(releases) is not None:
                return False  # `concurrency: reject` holds it back; it is asked for again when that one is over
            return self._reopen(tx, incident, f"version {training.version} cannot be released: {error.message}")
        tx.save_incident(incident, msgspec.structs.replace(incident, release=release.id))
        return True

    def _reopen(self, tx: Transaction, incident: Incident, because: str) -> bool:
        after = msgspec.structs.replace(
            incident,
            state=IncidentState.OPEN,
            attempts=incident.attempts + 1,
            training=None,
            release=None,
            remedy=Remedy.NONE,
            because=because,
        )
        tx.save_incident(incident, after)
        self._note(
            tx, incident, Action.INCIDENT_TRIAGED, f"the remedy did not help: {because}", {"attempts": after.attempts}
        )
        return True

    def _recover(self, tx: Transaction, model: spec.Model, incident: Incident) -> bool:
        release = tx.release(incident.release) if incident.release else None
        assert release is not None
        if release.degraded_at is not None:
            return self._reopen(tx, incident, f"version {release.version} was taken back: {release.because}")
        if release.opened is Opened.ROLLBACK or release.previous is None:
            self._close(tx, incident, Action.INCIDENT_CLOSED, "the previous version answers again")
            return True
        serving = live(tx.releases(incident.workspace, incident.model, incident.environment))
        if serving is not None and serving.id != release.id:
            self._close(tx, incident, Action.INCIDENT_CLOSED, f"release {serving.number} replaced the remedy's version")
            return True
        recovery = triaging.judge_recovery(recovery_blocks(tx, model, release))
        if recovery.action is triaging.RecoveryAction.WAIT:
            return False
        if recovery.action is triaging.RecoveryAction.ESCALATE:
            return self._reopen(tx, incident, f"recovery not verified: {recovery.because}")
        self._note(tx, incident, Action.INCIDENT_RECOVERED, recovery.because, {"version": release.version})
        self._close(tx, incident, Action.INCIDENT_CLOSED, recovery.because)
        return True

    def _close(
        self, tx: Transaction, incident: Incident, action: Action, because: str, *, remedy: Remedy | None = None
    ) -> None:
        now = self._world.clock.now()
        after = msgspec.structs.replace(
            incident,
            state=IncidentState.CLOSED,
            resolved_at=now,
            remedy=remedy or incident.remedy,
            because=because,
        )
        tx.save_incident(incident, after)
        data = {"kind": str(incident.kind), "remedy": str(after.remedy), "version": incident.version}
        self._note(tx, incident, action, because, data)

    def _open(
        self, tx: Transaction, version: int, serving: Release, opened: Opened, incident: Incident, because: str
    ) -> Release:
        return open_release(
            tx,
            self._world,
            self._documents,
            self._reconciler,
            workspace=serving.workspace,
            name=serving.model,
            number=version,
            environment=serving.environment,
            actor="system",
            because=because[:2000],
            opened=opened,
            incident=incident.id,
        )

    # --- challengers

    def _refresh_challenger(self, model: spec.Model, serving: Release, releases: Sequence[Release]) -> bool:
        """Keep a freshly trained version beside production; drop one that production has overtaken."""
        monitor = next((m for m in model.spec.monitors if isinstance(m, spec.ChallengerMonitor)), None)
        if monitor is None or model.spec.train is None:
            return False
        place = (serving.workspace, serving.model, serving.environment)
        now = self._world.clock.now()
        with self._world.store.write() as tx:
            challenger = tx.challenger(*place)
            if challenger is not None and serving.promoted_at and challenger.since < serving.promoted_at:
                tx.drop_challenger(*place)
                return True
            runs = [t for t in tx.trainings(serving.workspace, serving.model) if t.environment == serving.environment]
            if any(t.outcome == "running" for t in runs):
                return False
            fresh = [t for t in runs if t.purpose is Purpose.CHALLENGER and t.version is not None]
            newest = fresh[-1] if fresh else None
            if newest is not None and self._takes_place(newest, challenger, serving):
                return self._set_challenger(tx, newest)
            trained = max((t.started_at for t in runs), default=serving.promoted_at or serving.opened_at)
            on_its_way = in_progress(releases) is not None
            if on_its_way or now < trained + monitor.refresh:
                return False
            because = f"the newest training is {(now - trained).days} days old, refresh is {monitor.refresh.days}"
            self._train(tx, model, serving, Purpose.CHALLENGER, None, because)
        return True

    @staticmethod
    def _takes_place(training: Training, challenger: Challenger | None, serving: Release) -> bool:
        newer = challenger is None or training.version != challenger.version
        after = challenger is None or (training.finished_at or training.started_at) > challenger.since
        overtaken = serving.promoted_at is not None and training.started_at < serving.promoted_at
        return newer and after and not overtaken

    def _set_challenger(self, tx: Transaction, training: Training) -> bool:
        assert training.version is not None
        version = tx.version(training.workspace, training.model, training.version)
        assert version is not None
        tx.put_challenger(
            Challenger(
                workspace=training.workspace,
                model=training.model,
                environment=training.environment,
                version=version.number,
                digest=version.digest,
                since=self._world.clock.now(),
            )
        )
        because = f"version {version.number}, trained on what was known by {training.known_until.date()}"
        data = {"version": version.number, "digest": version.digest}
        name = f"{training.model}/{training.environment}"
        self._record(tx, Action.CHALLENGER_SET, training.workspace, "model", name, because, data)
        return True

    # --- people and ledger

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Transaction]:
        """One transaction; what it says about incidents is told once it stands."""
        self._messages.clear()
        with self._world.store.write() as tx:
            yield tx
        for channel, subject, text in self._messages:
            self._world.notifier.notify(channel, subject, text)

    def _note(
        self,
        tx: Transaction,
        incident: Incident,
        action: Action,
        because: str,
        data: Mapping[str, object] | None = None,
    ) -> None:
        self._record(
            tx,
            action,
            incident.workspace,
            "incident",
            f"{incident.model}/{incident.kind}",
            because,
            {"incident": incident.id, **(data or {})},
        )
        subject = f"{incident.workspace}/{incident.model} in {incident.environment}: {action} ({incident.kind})"
        model = self._documents.model(tx, incident.workspace, incident.model)
        self._messages += [(channel, subject, because) for channel in model.spec.incidents.notify]

    def _record(
        self,
        tx: Transaction,
        action: Action,
        workspace: str,
        kind: str,
        name: str,
        because: str,
        data: Mapping[str, object],
    ) -> None:
        tx.append(
            Event(
                action=action,
                at=self._world.clock.now(),
                actor="system",
                workspace=workspace,
                kind=kind,
                name=name,
                because=because,
                data=dict(data),
            )
        )


def _verified_for(model: spec.Model, policy: spec.EnvironmentPolicy) -> timedelta:
    """How long a promoted release is Verifying: its bake, and until the last labels of it are there."""
    bake = next((step for step in policy.strategy.steps if isinstance(step, spec.Bake)), None)
    return bake.duration + horizon(model) if bake is not None else timedelta()


def recovery_blocks(tx: Transaction, model: spec.Model, release: Release) -> BlockDifferences:
    """The remedy's version against the replaced one, by matured block, in the metric the bake judges."""
    pairing = recovery_pairing(model, release)
    assert pairing is not None
    blocks = tx.evidence.pair_blocks(
        pairing.workspace,
        pairing.environment,
        pairing.model,
        reference=pairing.reference,
        compared=pairing.compared,
        metric=pairing.metrics[0],
        since=pairing.since,
    )
    return differences(pairing.metrics[0], blocks)
