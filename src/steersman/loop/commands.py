"""What people ask for: each command is one transaction that changes state and says in the ledger who asked and why.

Commands never touch the world; the loop carries them out. Whether the caller may is decided before (`server.security`),
who may *agree* is decided here, because it depends on the release: not its author, not twice, not for another version.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from steersman.decide.rolling_out import GATES_STEP, pause, resume
from steersman.decide.routing import live, promoted
from steersman.domain import spec
from steersman.domain.documents import canonical, digest, examine, identity
from steersman.domain.errors import (
    BadDocument,
    BadRequest,
    Conflict,
    NotAllowed,
    NotFound,
    Problem,
    Unavailable,
    VersionRefused,
)
from steersman.domain.events import Action, Event
from steersman.domain.incident import Incident, IncidentState, Remedy
from steersman.domain.linting import Finding as LintFinding
from steersman.domain.linting import Level, lint
from steersman.domain.release import Completion, IllegalTransition, Opened, Phase, Release
from steersman.domain.version import Version
from steersman.loop.gathering import valid_approvers
from steersman.loop.opening import give_up, open_release, reason, version_of
from steersman.loop.reconciler import Reconciler, release_event
from steersman.loop.registering import refusal, register
from steersman.loop.world import Documents, World, environment_of
from steersman.ports import LogError, Removed
from steersman.store.records import Approval, StoredDocument
from steersman.store.transaction import Transaction


class Commands:
    """Every command of the API. `actor` is the subject of a verified identity; `because` a reason people can read."""

    def __init__(self, world: World, documents: Documents, reconciler: Reconciler) -> None:
        self._world = world
        self._documents = documents
        self._reconciler = reconciler

    # --- documents

    def apply(self, raw: Sequence[Mapping[str, Any]], *, actor: str, dry_run: bool = False) -> list[dict[str, Any]]:
        """Make documents the declared state: all of them or none. Raises BadDocument with every problem of the first bad one."""
        parsed: list[spec.Document] = []
        for data in raw:
            problems, document = examine(data)
            if document is None or problems:
                raise BadDocument(problems)
            self._refuse_unknown_registry(document)
            self._refuse_unknown_channels(document)
            self._refuse_unreadable_metrics(document)
            parsed.append(document)
        results = []
        with self._world.store.write() as tx:
            for document in parsed:
                findings = self._findings(tx, document, parsed) if isinstance(document, spec.Model) else []
                results.append(self._apply_one(tx, document, findings, actor=actor, dry_run=dry_run))
        return results

    def _findings(self, tx: Transaction, model: spec.Model, applied: Sequence[spec.Document]) -> Sequence[LintFinding]:
        """What the linter says, with the environments as they will be; an error is refused where the mode is `prevent`."""
        workspace = model.metadata.workspace
        environments = {name: environment_of(tx, workspace, name) for name in model.spec.environments}
        environments |= {
            document.metadata.name: document.spec
            for document in applied
            if isinstance(document, spec.Environment) and document.metadata.workspace == workspace
        }
        findings = lint(model, environments=environments, targets={"local": self._world.target.capabilities})
        errors = [f for f in findings if f.level is Level.ERROR]
        refused = [f for f in errors if environments[f.environment].mode is spec.PolicyMode.PREVENT]
        if refused:
            raise BadDocument(
                [Problem(path=f.path, message=f.message) for f in refused],
                next_step="Correct the document; an Environment document with mode: warn lets such errors pass.",
            )
        return findings

    def _refuse_unknown_registry(self, document: spec.Document) -> None:
        """Now, and not when the first version is looked for; only the installation knows which registries there are."""
        known = self._world.registries
        if not isinstance(document, spec.Model) or document.spec.versions.registry in known:
            return
        problem = Problem(
            path="spec.versions.registry",
            message=f"this installation has no registry {document.spec.versions.registry!r}; it has: "
            + (", ".join(sorted(known)) or "none"),
        )
        next_step = "Name one of these, or start `steersman up` with one more (--registry DIR, --mlflow-uri URI)."
        raise BadDocument([problem], next_step=next_step)

    def _refuse_unknown_channels(self, document: spec.Document) -> None:
        known = self._world.notifier.channels
        wanted = document.spec.incidents.notify if isinstance(document, spec.Model) else ()
        has = ", ".join(sorted(known)) or "none"
        problems = [
            Problem(path="spec.incidents", message=f"notify[{index}]: no channel {name!r} here; it has: {has}")
            for index, name in enumerate(wanted)
            if name not in known
        ]
        if problems:
            raise BadDocument(problems, next_step="Start `steersman up` with --notify NAME=env:VARIABLE for it.")

    def _refuse_unreadable_metrics(self, document: spec.Document) -> None:
        """A declared metric is evaluated by what reads the tables, and only that knows what it can read."""
        declared = document.spec.metrics if isinstance(document, spec.Model) else ()
        problems = [
            Problem(path=f"spec.metrics[{index}]", message=f"expression: {because}")
            for index, metric in enumerate(declared)
            if (because := self._world.log.refuse_measure(metric.expression)) is not None
        ]
        if problems:
            raise BadDocument(problems, next_step="Write it as SQL over one row: score, label and input columns.")

    def _apply_one(
        self, tx: Transaction, document: spec.Document, findings: Sequence[LintFinding], *, actor: str, dry_run: bool
    ) -> dict[str, Any]:
        kind, workspace, name = identity(document)
        new_digest = digest(document)
        stored = tx.document(kind, workspace, name)
        result: dict[str, Any] = {
            "kind": kind,
            "workspace": workspace,
            "name": name,
            "digest": new_digest,
            "findings": [{"path": f.path, "level": str(f.level), "message": f.message} for f in findings],
        }
        if stored is not None and stored.digest == new_digest:
            return {**result, "outcome": "unchanged", "revision": stored.revision}
        revision = stored.revision + 1 if stored else 1
        if not dry_run:
            tx.put_document(
                StoredDocument(
                    kind=kind,
                    workspace=workspace,
                    name=name,
                    revision=revision,
                    digest=new_digest,
                    at=self._world.clock.now(),
                    actor=actor,
                    body=canonical(document).decode(),
                )
            )
            because = f"revision {revision} of {kind} {name}"
            tx.append(
                self._event(
                    Action.DOCUMENT_APPLIED,
                    actor,
                    workspace,
                    "document",
                    f"{kind}/{name}",
                    because,
                    {"revision": revision, "digest": new_digest},
                )
            )
        return {**result, "outcome": "created" if stored is None else "changed", "revision": revision}

    # --- versions

    def register(self, workspace: str, name: str, number: int, *, actor: str) -> Version:
        """Bring a registered version's bytes in. Raises VersionRefused after recording the refusal."""
        with self._world.store.read() as tx:
            model = self._documents.model(tx, workspace, name)
            known = tx.version(workspace, name, number)
        if known is not None:
            return known
        try:
            version, record = register(self._world, model, number, actor=actor)
        except VersionRefused as error:
            with self._world.store.write() as tx:
                tx.append(refusal(model, number, world=self._world, actor=actor, because=error.message))
            raise
        with self._world.store.write() as tx:
            record(tx)
        return version

    def retire(self, workspace: str, name: str, number: int, *, actor: str, because: str) -> Version:
        """Take a version out of use for good: it is drained, and cannot be released again or rolled back to.

        Refused while it answers, is on its way, or is what a release that is still verified would go back to.
        """
        with self._world.store.write() as tx:
            version = version_of(tx, workspace, name, number)
            self._refuse_in_use(tx, version)
            if version.retired_at is not None:
                return version
            retired = msgspec.structs.replace(
                version, retired_at=self._world.clock.now(), retired_because=reason(because)
            )
            tx.put_version(retired)
            for environment in {r.environment for r in tx.releases(workspace, name)}:
                challenger = tx.challenger(workspace, name, environment)
                if challenger is not None and challenger.version == number:
                    tx.drop_challenger(workspace, name, environment)
            event_name = f"{name}/{number}"
            data = {"version": number, "digest": version.digest}
            tx.append(self._event(Action.VERSION_RETIRED, actor, workspace, "version", event_name, because, data))
        return retired

    def _refuse_in_use(self, tx: Transaction, version: Version) -> None:
        releases = tx.releases(version.workspace, version.model)
        recovering = {
            incident.release
            for incident in tx.incidents(version.workspace, version.model, open_only=True)
            if incident.state is IncidentState.RECOVERING
        }
        for environment in sorted({r.environment for r in releases}):
            there = [r for r in releases if r.environment == environment]
            serving = live(there)
            used = {r.version for r in there if r.active} | ({serving.version} if serving else set())
            compared = serving is not None and (serving.completion is None or serving.id in recovering)
            if serving is not None and serving.previous is not None and compared:
                used.add(serving.previous.version)
            if version.number in used:
                raise Conflict(
                    f"version {version.number} of {version.model} is in use in {environment}: it answers, is on its "
                    "way, or is what the version that answers is still compared with",
                    next_step=f"See steersman status {version.model}; release another version first, or wait.",
                )

    # --- releases

    def release(
        self,
        workspace: str,
        name: str,
        number: int,
        environment: str,
        *,
        actor: str,
        because: str,
        opened: Opened = Opened.COMMAND,
        incident: str | None = None,
    ) -> Release:
        """Open a release. What happens when one is on its way stands in the document (`concurrency`)."""
        with self._world.store.write() as tx:
            return open_release(
                tx,
                self._world,
                self._documents,
                self._reconciler,
                workspace=workspace,
                name=name,
                number=number,
                environment=environment,
                actor=actor,
                because=because,
                opened=opened,
                incident=incident,
            )

    def approve(self, release_id: str, *, actor: str, because: str) -> Release:
        """Agree to the present step. Not the one who opened it, nor anyone in the version's author chain."""
        with self._world.store.write() as tx:
            release = self._open_release(tx, release_id)
            version = version_of(tx, release.workspace, release.model, release.version)
            if actor in (release.opened_by, *version.author_chain):
                raise NotAllowed(
                    f"{actor} made or opened what is to be approved, and cannot approve it",
                    next_step="Ask somebody else with the role approver.",
                )
            now = self._world.clock.now()
            if actor in valid_approvers(tx.approvals(release.id), release, self._policy(tx, release), now):
                return release
            before_steps = release.phase is Phase.PENDING or release.resumes is Phase.PENDING
            step = GATES_STEP if before_steps else release.step
            tx.add_approval(Approval(release=release.id, step=step, actor=actor, at=now, because=reason(because)))
            data: dict[str, object] = {
                "release": release.number,
                "version": release.version,
                "digest": release.digest,
                "document": release.document,
                "step": step,
            }
            tx.append(release_event(release, Action.RELEASE_APPROVED, at=now, actor=actor, because=because, data=data))
            return release

    def reject(self, release_id: str, *, actor: str, because: str) -> Release:
        """Disagree: the release ends, as Aborted or, if it answered already, as RolledBack."""
        with self._world.store.write() as tx:
            release = self._open_release(tx, release_id)
            now = self._world.clock.now()
            tx.append(release_event(release, Action.RELEASE_REJECTED, at=now, actor=actor, because=reason(because)))
            return give_up(
                tx, self._world, self._reconciler, release, actor=actor, because=f"rejected by {actor}: {because}"
            )

    def abort(self, release_id: str, *, actor: str, because: str) -> Release:
        with self._world.store.write() as tx:
            release = self._open_release(tx, release_id)
            return give_up(
                tx,
                self._world,
                self._reconciler,
                release,
                actor=actor,
                because=f"aborted by {actor}: {reason(because)}",
            )

    def pause(self, release_id: str, *, actor: str, because: str) -> Release:
        with self._world.store.write() as tx:
            release = self._open_release(tx, release_id)
            try:
                move = pause(release, now=self._world.clock.now(), because=f"paused by {actor}: {reason(because)}")
            except IllegalTransition as error:
                raise Conflict(f"a release that is {release.phase} cannot be paused") from error
            return self._reconciler.apply(tx, release, move, actor=actor)

    def resume(self, release_id: str, *, actor: str, because: str) -> Release:
        with self._world.store.write() as tx:
            release = self._open_release(tx, release_id)
            if release.phase is not Phase.PAUSED:
                raise Conflict(f"release {release.number} is {release.phase}, not Paused")
            policy = self._policy(tx, release)
            waits_for_approval = not release.held and (
                release.resumes is Phase.PENDING or isinstance(policy.strategy.steps[release.step], spec.Approval)
            )
            if waits_for_approval:
                raise Conflict(
                    f"release {release.number} waits for an approval, which `resume` does not replace",
                    next_step=f"steersman approve {release.id} --because …",
                )
            move = resume(
                release, policy, now=self._world.clock.now(), because=f"resumed by {actor}: {reason(because)}"
            )
            return self._reconciler.apply(tx, release, move, actor=actor)

    def promote(self, release_id: str, *, actor: str, because: str) -> Release:
        """Go on without the analyses and pauses still to come; gates, approvals and guardrails stand."""
        with self._world.store.write() as tx:
            release = self._open_release(tx, release_id)
            if release.phase not in (Phase.PROGRESSING, Phase.PAUSED) or release.resumes is Phase.PENDING:
                raise Conflict(f"release {release.number} is {release.phase}; only one past its gates can be promoted")
            full = msgspec.structs.replace(release, full=True, because=f"promoted by {actor}: {reason(because)}")
            if release.phase is Phase.PAUSED:
                move = resume(release, self._policy(tx, release), now=self._world.clock.now(), because=full.because)
                after = msgspec.structs.replace(move.release, full=True)
                move = type(move)(release=after, notes=move.notes)
                return self._reconciler.apply(tx, release, move, actor=actor)
            now = self._world.clock.now()
            tx.append(release_event(full, Action.RELEASE_RESUMED, at=now, actor=actor, because=full.because))
            return tx.save_release(release, full)

    def retry(self, release_id: str, *, actor: str, because: str) -> Release:
        """Open the same version again after a release that did not make it."""
        with self._world.store.read() as tx:
            release = self._release(tx, release_id)
        if release.completion in (None, Completion.PROMOTED, Completion.FAST_PROMOTED):
            raise Conflict(
                f"release {release.number} is {release.completion or release.phase}; there is nothing to retry"
            )
        return self.release(
            release.workspace, release.model, release.version, release.environment, actor=actor, because=because
        )

    def rollback(self, workspace: str, name: str, environment: str, *, actor: str, because: str) -> Release:
        """Bring the previous promoted version back: warm, it takes seconds."""
        with self._world.store.write() as tx:
            self._documents.model(tx, workspace, name)
            standing = promoted(tx.releases(workspace, name, environment))
            if not standing:
                raise Conflict(f"no version of {name} was ever promoted in {environment}")
            serving = standing[-1]
            retired = {v.number for v in tx.versions(workspace, name) if v.retired_at is not None}
            earlier = [r for r in standing if r.version != serving.version and r.version not in retired]
            if not earlier:
                raise Conflict(
                    f"there is no version of {name} before version {serving.version} to go back to in {environment}",
                    next_step="Release another version instead.",
                )
            target = earlier[-1]
            data: dict[str, object] = {"from": serving.version, "to": target.version}
            tx.append(
                release_event(
                    serving,
                    Action.ROLLBACK_REQUESTED,
                    at=self._world.clock.now(),
                    actor=actor,
                    because=reason(because),
                    data=data,
                )
            )
            return open_release(
                tx,
                self._world,
                self._documents,
                self._reconciler,
                workspace=workspace,
                name=name,
                number=target.version,
                environment=environment,
                actor=actor,
                because=f"rollback from version {serving.version}: {because}",
                opened=Opened.ROLLBACK,
            )

    # --- incidents

    def accept_incident(self, incident_id: str, *, actor: str, because: str) -> Incident:
        """A person takes the incident as it is; it closes without a remedy."""
        with self._world.store.write() as tx:
            incident = tx.incident(incident_id)
            if incident is None:
                raise NotFound(f"no incident {incident_id}")
            if incident.state is IncidentState.CLOSED:
                return incident
            now = self._world.clock.now()
            after = msgspec.structs.replace(
                incident,
                state=IncidentState.CLOSED,
                resolved_at=now,
                remedy=Remedy.ACCEPT,
                because=f"accepted by {actor}: {reason(because)}",
            )
            tx.append(
                self._event(Action.INCIDENT_ACCEPTED, actor, incident.workspace, "incident", incident.id, because, {})
            )
            return tx.save_incident(incident, after)

    # --- the inference log

    def erase(self, workspace: str, name: str, entity: str, *, actor: str, because: str) -> Removed:
        """Delete one entity's rows of the inference log, for good; done when this returns.

        The request is recorded before, the counts after: an entry of the first kind alone says that it did not get to its
        end and must be asked again. Neither holds the entity's value. Raises Unavailable when the log cannot be changed now.
        """
        if not entity:
            raise BadRequest(
                "no entity", next_step="Name the value of the model's stickyBy column whose rows shall go."
            )
        if entity in because:
            raise BadRequest(
                "the reason names the entity, and the ledger keeps it for ever",
                next_step="Refer to a case number instead.",
            )
        with self._world.store.write() as tx:
            column = self._documents.model(tx, workspace, name).spec.serving.sticky_by
            if column is None:
                raise Conflict(
                    f"the rows of {name} belong to no entity: its document has no serving.stickyBy",
                    next_step="Delete them by date with inferenceLog.retention.",
                )
            requested = Action.LOG_ERASURE_REQUESTED
            tx.append(self._event(requested, actor, workspace, "model", name, reason(because), {"column": column}))
        try:
            removed = self._world.log.erase(workspace, name, column=column, entity=entity)
        except LogError as error:
            raise Unavailable(
                f"the erasure did not get to its end: {error}", next_step="Ask again; what is gone stays gone."
            ) from error
        data = {"predictions": removed.predictions, "labels": removed.labels, "segments": removed.segments}
        with self._world.store.write() as tx:
            tx.append(self._event(Action.LOG_ERASED, actor, workspace, "model", name, reason(because), data))
        return removed

    # --- manual changes

    def record_manual_change(
        self, workspace: str, name: str, *, actor: str, because: str, refused: bool, data: Mapping[str, Any]
    ) -> int:
        """Keep what somebody tried, or did, beside the release process; returns the ledger index."""
        action = Action.MANUAL_CHANGE_REFUSED if refused else Action.MANUAL_CHANGE_OBSERVED
        with self._world.store.write() as tx:
            return tx.append(self._event(action, actor, workspace, "model", name, because, dict(data)))

    # --- small things

    def _policy(self, tx: Transaction, release: Release) -> spec.EnvironmentPolicy:
        model = self._documents.revision(tx, release.document)
        return model.spec.environments.get(release.environment, spec.EnvironmentPolicy())

    def _release(self, tx: Transaction, release_id: str) -> Release:
        release = tx.release(release_id)
        if release is None:
            raise NotFound(f"no release {release_id}", next_step="`steersman status MODEL` names the releases.")
        return release

    def _open_release(self, tx: Transaction, release_id: str) -> Release:
        release = self._release(tx, release_id)
        if release.completion is not None:
            raise Conflict(f"release {release.number} is over: {release.completion}")
        return release

    def _event(
        self,
        action: Action,
        actor: str,
        workspace: str,
        kind: str,
        name: str,
        because: str,
        data: dict[str, Any],
        at: datetime | None = None,
    ) -> Event:
        return Event(
            action=action,
            at=at or self._world.clock.now(),
            actor=actor,
            workspace=workspace,
            kind=kind,
            name=name,
            because=because,
            data=data,
        )
