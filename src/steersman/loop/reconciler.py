"""The loop that keeps what is in step with what should be.

It is told nothing: every turn it reads releases and documents, looks at target and router, and does the next thing.
So the path after a crash is the everyday path. It decides nothing itself: `decide.routing` says who should answer,
`decide.rolling_out` what a release does next. What it writes is one transaction per decision, each with its entry in the
ledger; what it wants done in the world it asks for as operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from steersman.decide.rolling_out import Facts, Move, awaited, compares_with_another, plan, verdict_data
from steersman.decide.routing import desired_traffic, live
from steersman.domain import spec
from steersman.domain.events import Action, Event
from steersman.domain.identifiers import new_id
from steersman.domain.incident import IncidentState
from steersman.domain.operation import Intent, Operation, OperationKind, OperationState
from steersman.domain.release import Arm, Phase, Release
from steersman.domain.traffic import Traffic
from steersman.loop.checking import CHECKS, checked_digests
from steersman.loop.entries import release_event
from steersman.loop.gathering import Seen, gate_key, gather
from steersman.loop.isolation import every
from steersman.loop.routes import answering, compile_configuration, serves
from steersman.loop.withdrawing import withdraw_outdated
from steersman.loop.world import Documents, World, environment_of
from steersman.ports import RunningReplica
from steersman.store.records import StoredVerdict
from steersman.store.transaction import Transaction

CHAMPION = "champion"
"""The registry's alias that follows the live release: an output, never an input."""

START_AGAIN = timedelta(minutes=10)
"""Event time until a version that should run, and could not be started, is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One observation of the world, before anything is decided."""

    replicas: Sequence[RunningReplica]
    generation: int | None


class Reconciler:
    """Plans for every model and environment of an installation."""

    def __init__(self, world: World, documents: Documents) -> None:
        self._world = world
        self._documents = documents
        self._awaited: dict[str, tuple[str, datetime]] = {}

    def turn(self) -> bool:
        """One pass over everything; True if anything was written."""
        look = Look(replicas=self._world.target.observe(), generation=self._world.router.generation())
        with self._world.store.read() as tx:
            places = sorted({(r.workspace, r.model, r.environment) for r in tx.releases()})
            traffics = {place: self._traffic(tx, *place) for place in places}
        moved = self._keep_running(traffics, look)
        moved = self._keep_routed(traffics, look) or moved
        moved = every(traffics.items(), lambda item: self._advance(*item[0], item[1], look)) or moved
        moved = self._end_checks(look) or moved
        return self._keep_tidy(traffics, look) or moved

    # --- what should be

    def _traffic(self, tx: Transaction, workspace: str, model: str, environment: str) -> Traffic:
        document = self._documents.model(tx, workspace, model)
        releases = tx.releases(workspace, model, environment)
        serving = live(releases)
        recovering = serving is not None and any(
            incident.release == serving.id and incident.state is IncidentState.RECOVERING
            for incident in tx.incidents(workspace, model, open_only=True)
        )
        traffic = desired_traffic(
            releases,
            lambda release: self._policy(tx, release),
            challenger=tx.challenger(workspace, model, environment),
            keep_warm=document.spec.serving.keep_warm,
            recovering=recovering,
            retired=frozenset(v.number for v in tx.versions(workspace, model) if v.retired_at is not None),
        )
        assert traffic is not None, "places come from releases"
        return traffic

    def _policy(self, tx: Transaction, release: Release) -> spec.EnvironmentPolicy:
        document = self._documents.revision(tx, release.document)
        return document.spec.environments.get(release.environment, spec.EnvironmentPolicy())

    def _counts(self, tx: Transaction, traffic: Traffic) -> dict[str, int]:
        """Replicas each digest needs: all of them for versions that answer or may have to within seconds."""
        document = self._documents.model(tx, traffic.workspace, traffic.model)
        full = document.spec.serving.replicas
        answering = {arm.digest for arm in (traffic.stable, traffic.candidate) if arm is not None}
        answering |= set(traffic.at_full)
        copies = {mirror.arm.digest for mirror in traffic.mirrors}
        counts = {}
        for arm in traffic.serving():
            spare = arm.digest in copies or arm.digest not in {a.digest for a in traffic.warm}
            counts[arm.digest] = full if arm.digest in answering or not spare else 1
        return counts

    def _keep_running(self, traffics: dict[tuple[str, str, str], Traffic], look: Look) -> bool:
        moved = False
        for traffic in traffics.values():
            with self._world.store.write() as tx:
                counts = self._counts(tx, traffic)
                for arm in traffic.serving():
                    present = [r for r in look.replicas if _is(r, traffic, arm.digest)]
                    if len(present) >= counts[arm.digest] and all(r.ready for r in present):
                        continue
                    moved = self._ask_replicas(tx, traffic, arm, counts[arm.digest], present) or moved
        return moved

    def _ask_replicas(
        self,
        tx: Transaction,
        traffic: Traffic,
        arm: Arm,
        count: int,
        present: Sequence[RunningReplica],
    ) -> bool:
        place = (traffic.workspace, traffic.model, traffic.environment)
        stopped = len(tx.operations_like(_stop_key(place, arm.digest)))  # what was stopped on purpose is not lost
        prefix = f"{_replicas_key(traffic, arm.digest, arm.release)}{stopped}/{count}/"
        earlier = tx.operations_like(prefix)
        if earlier and not earlier[-1].state.ended:
            return False
        failed = bool(earlier) and earlier[-1].state is OperationState.FAILED
        if failed and self._world.clock.now() < earlier[-1].at + START_AGAIN:
            return False  # the release that needs it is told, and gives up; what answered before is tried again later
        if earlier:
            tx.append(
                Event(
                    action=Action.REPLICA_LOST,
                    at=self._world.clock.now(),
                    actor="system",
                    workspace=traffic.workspace,
                    kind="version",
                    name=f"{traffic.model}/{arm.version}",
                    because=f"{len(present)} of {count} replicas in {traffic.environment} were there; started again",
                    data={"version": arm.version, "environment": traffic.environment},
                )
            )
        args = {
            "workspace": traffic.workspace,
            "model": traffic.model,
            "environment": traffic.environment,
            "version": arm.version,
            "digest": arm.digest,
            "count": count,
        }
        intent = Intent(key=f"{prefix}{len(earlier) + 1}", kind=OperationKind.REPLICAS, args=args)
        return self._ask(tx, intent)

    def _keep_routed(self, traffics: dict[tuple[str, str, str], Traffic], look: Look) -> bool:
        """Write a new configuration when it differs from the newest one, and ask for it to be applied."""
        with self._world.store.write() as tx:
            newest = tx.newest_route()
            models = {place: self._documents.model(tx, place[0], place[1]) for place in traffics}
            versions = {
                arm.digest: tx.version(traffic.workspace, traffic.model, arm.version)
                for traffic in traffics.values()
                for arm in traffic.serving()
            }
            body = compile_configuration(
                list(traffics.values()),
                models=models,
                versions={digest: version for digest, version in versions.items() if version is not None},
                replicas=look.replicas,
                newest=newest,
                replay=self._world.clock.replay,
                tokens=self._world.tokens(),
            )
            generation = newest[0] if newest else 0
            if body is not None:
                generation += 1
                tx.add_route(generation, self._world.clock.now(), body)
            if generation == 0 or look.generation == generation:
                return body is not None
            pending = tx.operations_like(f"route/{generation}/")
            if pending and not pending[-1].state.ended:
                return body is not None
            intent = Intent(key=f"route/{generation}/{len(pending) + 1}", kind=OperationKind.ROUTE, args={})
            return self._ask(tx, intent) or body is not None

    # --- what each release does next

    def _advance(self, workspace: str, model: str, environment: str, traffic: Traffic, look: Look) -> bool:
        """At most one move per release and turn: after a move the world is looked at again."""
        moved = False
        with self._world.store.read() as tx:
            open_releases = [r.id for r in tx.releases(workspace, model, environment) if r.completion is None]
        for release_id in open_releases:
            with self._world.store.write() as tx:
                release = tx.release(release_id)
                if release is None or self._traffic(tx, workspace, model, environment) != traffic:
                    continue  # an earlier move of this turn changed what should be
                facts = self._since(self._facts(tx, release, traffic, look))
                moved = self._ask_for_gates(tx, facts, look) or moved
                move = plan(facts)
                if move is not None:
                    self.apply(tx, release, move, actor="system")
                    moved = True
        return moved

    def _facts(self, tx: Transaction, release: Release, traffic: Traffic, look: Look) -> Facts:
        document = self._documents.revision(tx, release.document)
        releases = tx.releases(release.workspace, release.model, release.environment)
        return gather(
            tx,
            release,
            releases,
            document,
            environment=environment_of(tx, release.workspace, release.environment),
            now=self._world.clock.now(),
            seen=self._seen(tx, release, traffic, look),
        )

    def _since(self, facts: Facts) -> Facts:
        """The facts with how long the release has been waiting for the world, as far as this process has seen it.

        Kept in memory only: while no control server was there nobody acted, and that time is not held against a release.
        """
        what = awaited(facts)
        if what is None:
            self._awaited.pop(facts.release.id, None)
            return facts
        known, since = self._awaited.get(facts.release.id, ("", facts.now))
        self._awaited[facts.release.id] = (what, since if known == what else facts.now)
        return replace(facts, awaited_since=self._awaited[facts.release.id][1])

    def _seen(self, tx: Transaction, release: Release, traffic: Traffic, look: Look) -> Seen:
        counts = self._counts(tx, traffic)
        asked = {arm.digest for _role, arm, _weight in answering(traffic)}
        asked |= {release.digest} & {*(mirror.arm.digest for mirror in traffic.mirrors), *traffic.at_full}
        ready = all(
            sum(r.ready for r in look.replicas if _is(r, traffic, digest)) >= counts[digest] for digest in asked
        )
        newest = tx.newest_route()
        applied = (
            newest is not None and newest[0] == look.generation and serves(newest[1], traffic, digest=release.digest)
        )
        broken = None
        starts = tx.operations_like(_replicas_key(traffic, release.digest, release.id))
        if starts and starts[-1].state is OperationState.FAILED:
            broken = f"version {release.version} does not start: {starts[-1].error}"
        needed = release.digest in counts
        running = any(_is(r, traffic, release.digest) for r in look.replicas)
        return Seen(in_effect=ready and applied, drained=needed or not running, broken=broken)

    def _ask_for_gates(self, tx: Transaction, facts: Facts, look: Look) -> bool:
        """Gates need both versions running; they are asked for once per release."""
        release = facts.release
        if release.phase is not Phase.PENDING or facts.gates is not None or not facts.gates_declared:
            return False
        if facts.waits_for is not None or facts.gates_broken is not None or compares_with_another(facts):
            return False
        digests = {release.digest} | ({release.previous.digest} if release.previous else set())
        place = (release.workspace, release.model, release.environment)
        ready = {r.digest for r in look.replicas if r.ready and _place(r) == place}
        if not digests <= ready:
            return False
        args = {
            "workspace": release.workspace,
            "model": release.model,
            "environment": release.environment,
            "release": release.id,
        }
        return self._ask(tx, Intent(key=gate_key(release), kind=OperationKind.GATE, args=args))

    def apply(self, tx: Transaction, before: Release, move: Move, *, actor: str) -> Release:
        """Write a move: the release, its evidence, and its entries in the ledger."""
        after = tx.save_release(before, move.release)
        now = self._world.clock.now()
        for item in move.evidence:
            tx.add_verdict(
                StoredVerdict(
                    subject=after.id,
                    kind=item.kind,
                    step=before.step,
                    at=now,
                    body={**verdict_data(item.name, item.verdict), "name": item.name},
                )
            )
        for note in move.notes:
            tx.append(release_event(after, note.action, at=now, actor=actor, because=note.because, data=note.data))
        if after.previous != before.previous:
            withdraw_outdated(tx, after, actor=actor, now=now)
        if after.phase is Phase.VERIFYING and before.phase is not Phase.VERIFYING:
            self._project_alias(tx, after)
        if after.completion is not None and before.phase is Phase.DEGRADED and before.promoted_at is not None:
            self._project_alias(tx, after)
        return after

    def _project_alias(self, tx: Transaction, release: Release) -> None:
        """Let the registry's `champion` follow what is live now."""
        serving = live(tx.releases(release.workspace, release.model, release.environment))
        if release.environment != "production":
            return
        args = {
            "workspace": release.workspace,
            "model": release.model,
            "alias": CHAMPION,
            "number": serving.version if serving else None,
        }
        self._ask(tx, Intent(key=f"alias/{release.id}/{release.phase}", kind=OperationKind.ALIAS, args=args))

    # --- capacity, after traffic

    def _keep_tidy(self, traffics: dict[tuple[str, str, str], Traffic], look: Look) -> bool:
        """Stop replicas nothing needs, once the applied configuration no longer sends anything to them."""
        moved = False
        with self._world.store.write() as tx:
            newest = tx.newest_route()
            if newest is None or newest[0] != look.generation:
                return False
            for replica in {(_place(r), r.digest): r for r in look.replicas}.values():
                traffic = traffics.get(_place(replica))
                if replica.environment == CHECKS:
                    continue
                wanted = {arm.digest for arm in traffic.serving()} if traffic else set()
                if replica.digest in wanted or f'"{replica.address}"' in newest[1]:
                    continue
                moved = self._ask_stop(tx, replica) or moved
        return moved

    def _end_checks(self, look: Look) -> bool:
        """Stop replicas that were started for a check which is over; no traffic ever reached them."""
        there = {(_place(r), r.digest): r for r in look.replicas if r.environment == CHECKS}
        if not there:
            return False
        moved = False
        with self._world.store.write() as tx:
            needed = checked_digests(tx)
            for (_, digest), replica in sorted(there.items()):
                if digest not in needed:
                    moved = self._ask_stop(tx, replica) or moved
        return moved

    def _ask_stop(self, tx: Transaction, replica: RunningReplica) -> bool:
        prefix = _stop_key(_place(replica), replica.digest)
        earlier = tx.operations_like(prefix)
        if earlier and not earlier[-1].state.ended:
            return False
        args = {
            "workspace": replica.workspace,
            "model": replica.model,
            "environment": replica.environment,
            "digest": replica.digest,
        }
        return self._ask(tx, Intent(key=f"{prefix}{len(earlier) + 1}", kind=OperationKind.STOP, args=args))

    def _ask(self, tx: Transaction, intent: Intent) -> bool:
        return ask(tx, intent, at=self._world.clock.now())


def ask(tx: Transaction, intent: Intent, *, at: datetime) -> bool:
    """Write an intent as an operation; False if the same key was asked for before."""
    operation = Operation(
        id=new_id("op"),
        key=intent.key,
        kind=intent.kind,
        args=intent.args,
        state=OperationState.INTENDED,
        at=at,
    )
    return tx.add_operation(operation)


def _replicas_key(traffic: Traffic, digest: str, release: str) -> str:
    """Under which starts of a version for one release are kept: another release of it begins with a clean sheet."""
    place = f"{traffic.workspace}/{traffic.environment}/{traffic.model}"
    return f"replicas/{place}/{digest.removeprefix('sha256:')[:16]}/{release}/"


def _stop_key(place: tuple[str, str, str], digest: str) -> str:
    return f"stop/{'/'.join(place)}/{digest.removeprefix('sha256:')[:16]}/"


def _place(replica: RunningReplica) -> tuple[str, str, str]:
    return replica.workspace, replica.model, replica.environment


def _is(replica: RunningReplica, traffic: Traffic, digest: str) -> bool:
    place = (traffic.workspace, traffic.model, traffic.environment)
    return _place(replica) == place and replica.digest == digest
