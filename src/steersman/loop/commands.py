"""What people ask for: each command is one transaction that changes state and says in the ledger who asked and why.

Commands never touch the world; the loop carries them out. Whether the caller may is decided before (`server.security`),
who may *agree* is decided here, because it depends on the release: not its author, not twice, not for another version.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from steersman.decide.routing import answering_beside, live, promoted
from steersman.decide.steering import pause, promote, resume
from steersman.domain import spec
from steersman.domain.approval import Waiver
from steersman.domain.durations import format_duration
from steersman.domain.errors import BadRequest, Blocked, Conflict, NotFound, Unavailable, VersionRefused
from steersman.domain.events import Action, Event
from steersman.domain.incident import Incident, IncidentState, Remedy
from steersman.domain.operation import Operation
from steersman.domain.release import Cause, Completion, Opened, Phase, Release
from steersman.domain.version import Version
from steersman.loop import agreeing
from steersman.loop.checking import ask_check
from steersman.loop.declaring import Declaring
from steersman.loop.entries import release_event
from steersman.loop.opening import give_up, open_release, reason, version_of
from steersman.loop.reconciler import Reconciler
from steersman.loop.registering import refusal, register
from steersman.loop.world import Documents, World
from steersman.ports import LogError, Removed
from steersman.store.transaction import Transaction


class Commands:
    """Every command of the API. `actor` is the subject of a verified identity; `because` a reason people can read."""

    def __init__(self, world: World, documents: Documents, reconciler: Reconciler) -> None:
        self._world = world
        self._documents = documents
        self._reconciler = reconciler
        self._declaring = Declaring(world)

    # --- documents

    def apply(self, raw: Sequence[Mapping[str, Any]], *, actor: str, dry_run: bool = False) -> list[dict[str, Any]]:
        """Make documents the declared state: all of them or none. Raises BadDocument with every problem of the first bad one."""
        return self._declaring.apply(raw, actor=actor, dry_run=dry_run)

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

    def check(self, workspace: str, name: str, number: int, environment: str, *, actor: str) -> Operation:
        """Run a version's own tests and its gates without a release; the check on its way where there is one."""
        self.register(workspace, name, number, actor=actor)
        with self._world.store.write() as tx:
            return ask_check(
                tx,
                self._world,
                self._documents,
                place=(workspace, name),
                number=number,
                environment=environment,
                actor=actor,
            )

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
        hotfix: bool = False,
    ) -> Release:
        """Open a release. What happens when one is on its way stands in the document (`concurrency`). A `hotfix` passes
        freezes, and one person more must agree."""
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
                hotfix=hotfix,
            )

    def approve(
        self, release_id: str, *, actor: str, because: str, roles: Collection[str] = (spec.ApproverRole.APPROVER,)
    ) -> Release:
        """Agree to the present step by `roles`. Not the one who opened it, nor anyone in the version's author chain."""
        with self._world.store.write() as tx:
            release = self._open_release(tx, release_id)
            if release.phase in (Phase.DEGRADED, Phase.VERIFYING):
                raise Conflict(f"release {release.number} is {release.phase}; there is nothing left to agree to")
            policy, now = self._policy(tx, release), self._world.clock.now()
            agreeing.approve(tx, release, policy, actor=actor, because=because, roles=roles, now=now)
            return release

    def withdraw(self, release_id: str, *, actor: str, because: str) -> Release:
        """Take one's own approval back, while nothing rests on it yet."""
        with self._world.store.write() as tx:
            release = self._open_release(tx, release_id)
            policy, now = self._policy(tx, release), self._world.clock.now()
            agreeing.withdraw(tx, release, policy, actor=actor, because=because, now=now)
            return release

    def waive(
        self,
        workspace: str,
        name: str,
        number: int,
        environment: str,
        *,
        skip: str,
        actor: str,
        because: str,
        life: timedelta = agreeing.WAIVER_LIFE_DEFAULT,
    ) -> Waiver:
        """Let one version skip the environment before, or one step, once."""
        with self._world.store.write() as tx:
            model = self._documents.model(tx, workspace, name)
            version = version_of(tx, workspace, name, number)
            now = self._world.clock.now()
            return agreeing.waive(
                tx, model, version, environment, skip=skip, actor=actor, because=because, life=life, now=now
            )

    def reject(self, release_id: str, *, actor: str, because: str) -> Release:
        """Disagree: the release ends, as Aborted or, if it answered already, as RolledBack."""
        with self._world.store.write() as tx:
            release = self._open_release(tx, release_id)
            now = self._world.clock.now()
            tx.append(release_event(release, Action.RELEASE_REJECTED, at=now, actor=actor, because=reason(because)))
            return give_up(
                tx,
                self._world,
                self._reconciler,
                release,
                actor=actor,
                because=f"rejected by {actor}: {because}",
                cause=Cause.REJECTED,
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
                cause=Cause.ABORTED,
            )

    def pause(self, release_id: str, *, actor: str, because: str) -> Release:
        """Hold a release where it is until a person resumes it."""
        with self._world.store.write() as tx:
            release = self._open_release(tx, release_id)
            move = pause(release, now=self._world.clock.now(), because=f"paused by {actor}: {reason(because)}")
            return self._reconciler.apply(tx, release, move, actor=actor)

    def resume(self, release_id: str, *, actor: str, because: str) -> Release:
        """Let a paused release go on."""
        with self._world.store.write() as tx:
            release = self._open_release(tx, release_id)
            policy, now = self._policy(tx, release), self._world.clock.now()
            move = resume(release, policy, now=now, because=f"resumed by {actor}: {reason(because)}")
            return self._reconciler.apply(tx, release, move, actor=actor)

    def promote(self, release_id: str, *, actor: str, because: str, full: bool = False) -> Release:
        """Go on past the analysis or pause it stands at; `full`: past all still to come. Gates and approvals stand."""
        with self._world.store.write() as tx:
            release = self._open_release(tx, release_id)
            model = self._documents.revision(tx, release.document)
            move = promote(
                release,
                self._policy(tx, release),
                tier=model.spec.tier,
                full=full,
                now=self._world.clock.now(),
                because=f"promoted by {actor}: {reason(because)}",
            )
            return self._reconciler.apply(tx, release, move, actor=actor)

    def retry(self, release_id: str, *, actor: str, because: str) -> Release:
        """Open the same version again after a release that did not make it."""
        with self._world.store.read() as tx:
            release = self._release(tx, release_id)
        if release.completion not in (Completion.ABORTED, Completion.SUPERSEDED, Completion.ROLLED_BACK):
            raise Conflict(
                f"release {release.number} is {release.completion or release.phase}; there is nothing to retry"
            )
        if release.opened is Opened.ROLLBACK:
            raise Conflict(
                f"release {release.number} was a rollback, which is not retried as a release",
                next_step=f"steersman rollback {release.model} --environment {release.environment} --because …",
            )
        return self.release(
            release.workspace,
            release.model,
            release.version,
            release.environment,
            actor=actor,
            because=because,
            hotfix=release.hotfix,
        )

    def rollback(self, workspace: str, name: str, environment: str, *, actor: str, because: str) -> Release:
        """Bring back what answered before: warm, it takes seconds.

        While a release already answers a part of the requests that is the version beside it, and the release is taken back;
        else the version promoted before the present one. Raises Conflict where there is none, Blocked where it was
        replaced longer ago than `rollbackPeriod`.
        """
        with self._world.store.write() as tx:
            model = self._documents.model(tx, workspace, name)
            releases = tx.releases(workspace, name, environment)
            taken_back = answering_beside(releases)
            if taken_back is not None:
                return self._take_back(tx, taken_back, releases, actor=actor, because=because)
            retired = {v.number for v in tx.versions(workspace, name) if v.retired_at is not None}
            serving, target, replaced_at = _to_go_back_to(releases, retired, name, environment)
            policy = model.spec.environments.get(environment, spec.EnvironmentPolicy())
            _refuse_long_ago(policy, target, replaced_at, self._world.clock.now())
            self._request_rollback(tx, serving, target.version, actor=actor, because=because)
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

    def _take_back(
        self, tx: Transaction, release: Release, releases: Sequence[Release], *, actor: str, because: str
    ) -> Release:
        """The version beside it answers alone again, and what was queued behind it does not start."""
        assert release.previous is not None
        self._request_rollback(tx, release, release.previous.version, actor=actor, because=because)
        for queued in releases:
            if queued.active and queued.id != release.id:
                why = "a rollback takes its place"
                give_up(tx, self._world, self._reconciler, queued, actor=actor, because=why, cause=Cause.SUPERSEDED)
        said = f"rolled back by {actor}: {because}"
        return give_up(tx, self._world, self._reconciler, release, actor=actor, because=said, cause=Cause.ABORTED)

    def _request_rollback(self, tx: Transaction, of: Release, to: int, *, actor: str, because: str) -> None:
        data: dict[str, object] = {"from": of.version, "to": to}
        now = self._world.clock.now()
        entry = release_event(of, Action.ROLLBACK_REQUESTED, at=now, actor=actor, because=reason(because), data=data)
        tx.append(entry)

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


def _to_go_back_to(
    releases: Sequence[Release], retired: Collection[int], name: str, environment: str
) -> tuple[Release, Release, datetime]:
    """What answers now, the promoted release before it, and when that one was replaced. Raises Conflict."""
    standing = promoted(releases)
    if not standing:
        raise Conflict(f"no version of {name} was ever promoted in {environment}")
    serving = standing[-1]
    earlier = [i for i, r in enumerate(standing) if r.version != serving.version and r.version not in retired]
    if not earlier:
        raise Conflict(
            f"there is no version of {name} before version {serving.version} to go back to in {environment}",
            next_step="Release another version instead.",
        )
    replaced_at = standing[earlier[-1] + 1].promoted_at
    assert replaced_at is not None
    return serving, standing[earlier[-1]], replaced_at


def _refuse_long_ago(policy: spec.EnvironmentPolicy, target: Release, replaced_at: datetime, now: datetime) -> None:
    """Beyond the period a rollback would be an untested release in a hurry; going through the steps unasked, no rollback."""
    period = policy.rollback_period
    if period is not None and now > replaced_at + period:
        raise Blocked(
            f"version {target.version} was replaced on {replaced_at.date()}, longer ago than rollbackPeriod, "
            f"{format_duration(period)}: it comes back by its steps only",
            next_step=f"steersman release {target.model} {target.version} --environment {target.environment} --hotfix "
            "--because …",
        )
