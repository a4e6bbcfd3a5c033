"""The loop that keeps what is in step with what should be.

It is told nothing: every turn it reads releases and documents, looks at target and router, and does the next thing.
So the path after a crash is the everyday path. It decides nothing itself: `decide.routing` says who should answer,
`decide.rolling_out` what a release does next. What it writes is one transaction per decision, each with its entry in the
ledger; what it wants done in the world it asks for as operations. A turn that finds nothing to do writes nothing, and one
place's trouble keeps no other from its turn.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import msgspec

from steersman.dataplane.configuration import RouterConfiguration, encode
from steersman.decide.rolling_out import Facts, Move, awaited, compares_with_another, plan
from steersman.decide.routing import desired_traffic, live
from steersman.domain import spec
from steersman.domain.events import Action, Event
from steersman.domain.incident import IncidentState
from steersman.domain.operation import Intent, OperationKind, OperationState
from steersman.domain.release import Opened, Phase, Release
from steersman.domain.traffic import Traffic
from steersman.domain.version import Version
from steersman.loop.asking import ask
from steersman.loop.capacity import Capacity, adopted, spare, starts_key, stopping
from steersman.loop.entries import release_event
from steersman.loop.gathering import Seen, gate_key, gather
from steersman.loop.isolation import surviving
from steersman.loop.looking import Look, Place, Plan
from steersman.loop.routes import answering, compile_configuration, serves
from steersman.loop.withdrawing import withdraw_outdated
from steersman.loop.world import Documents, World, environment_of
from steersman.ports import RunningReplica
from steersman.store.records import StoredVerdict
from steersman.store.transaction import Transaction

CHAMPION = "champion"
"""The registry's alias that follows the live release: an output, never an input."""

CORRECTED_AGAIN = timedelta(minutes=10)
"""Event time until a router that still says something else is corrected once more: one of another release of Steersman
may never say the same."""

_decoder = msgspec.json.Decoder(RouterConfiguration)


class Reconciler:
    """Plans for every model and environment of an installation."""

    def __init__(self, world: World, documents: Documents) -> None:
        self._world = world
        self._documents = documents
        self._capacity = Capacity(world)
        self._awaited: dict[str, tuple[str, datetime]] = {}
        self._versions: dict[tuple[str, str, int], Version] = {}
        self._replicas: Sequence[RunningReplica] = ()
        self._corrected_at: datetime | None = None

    def turn(self) -> bool:
        """One pass over everything; True if anything was written. Raises the first error after every place had its turn."""
        errors: list[Exception] = []
        look = self._look(errors)
        with self._world.store.read() as tx:
            plans, unclear = self._plans(tx, errors)
        moved = look.known and surviving(plans, lambda one: self._capacity.start_missing(one, look), errors)
        look, routed, rerouted = self._keep_routed(plans, look)
        moved = surviving(plans, lambda one: self._advance(one, look, routed), errors) or moved or rerouted
        if look.known and routed is not None and routed.generation == look.generation:
            moved = self._capacity.stop_needless(plans, look, routed, unclear=unclear) or moved
        moved = (look.known and self._capacity.end_checks(look)) or moved
        if errors:
            raise errors[0]
        return moved

    def _look(self, errors: list[Exception]) -> Look:
        """What is there. A target that cannot be asked is an error, and no reason to route nobody."""
        bodies = self._world.router.configurations()
        try:
            self._replicas = self._world.target.observe()
        except Exception as error:  # whatever an adapter raises
            errors.append(error)
            return Look.at(self._replicas, bodies, known=False)
        return Look.at(self._replicas, bodies)

    # --- what should be

    def _plans(self, tx: Transaction, errors: list[Exception]) -> tuple[list[Plan], frozenset[Place]]:
        """What every place should be, and the places where that cannot be told: they stay as they are."""
        places: dict[Place, list[Release]] = defaultdict(list)
        for release in tx.releases():
            places[release.workspace, release.model, release.environment].append(release)
        plans, unclear = [], set()
        for place, releases in places.items():
            try:
                plans.append(self._plan(tx, place, releases))
            except Exception as error:  # one model's trouble stays its own
                errors.append(error)
                unclear.add(place)
        return plans, frozenset(unclear)

    def _plan(self, tx: Transaction, place: Place, releases: Sequence[Release]) -> Plan:
        workspace, name, environment = place
        model = self._documents.model(tx, workspace, name)
        serving = live(releases)
        recovering = serving is not None and any(
            incident.release == serving.id and incident.state is IncidentState.RECOVERING
            for incident in tx.incidents(workspace, name, open_only=True)
        )
        traffic = desired_traffic(
            releases,
            lambda release: self._policy(tx, release),
            challenger=tx.challenger(workspace, name, environment),
            keep_warm=model.spec.serving.keep_warm,
            recovering=recovering,
            retired=frozenset(v.number for v in tx.versions(workspace, name) if v.retired_at is not None),
        )
        assert traffic is not None, "places come from releases"
        return Plan(
            place=place,
            model=model,
            traffic=traffic,
            counts=_counts(model, traffic),
            open_releases=tuple(r.id for r in releases if r.completion is None),
        )

    def _policy(self, tx: Transaction, release: Release) -> spec.EnvironmentPolicy:
        document = self._documents.revision(tx, release.document)
        return document.spec.environments.get(release.environment, spec.EnvironmentPolicy())

    # --- who answers

    def _keep_routed(self, plans: Sequence[Plan], look: Look) -> tuple[Look, RouterConfiguration | None, bool]:
        """Write a new configuration when it differs from the newest one, and ask for it to be applied.

        The look without what is being stopped, the newest configuration, and whether anything was written. A stop
        nobody has begun is taken back where its version is wanted again; where one has begun, nobody is sent any more.
        Both are settled in the transaction that routes, so a stop and a route cannot pass each other.
        """
        with self._world.store.write() as tx:
            moved = spare(tx, plans)
            look = look.leaving(stopping(tx))
            newest = tx.newest_route()
            present = _decoder.decode(newest[1]) if newest else RouterConfiguration(generation=0)
            wanted = compile_configuration(
                [one.traffic for one in plans],
                models={one.place: one.model for one in plans},
                versions=self._versions_of(tx, plans),
                look=look,
                present=present,
                replay=self._world.clock.replay,
                tokens=self._world.tokens(),
                adopted=adopted(tx, plans, look),
            )
            if newest is not None and self._is_changed_beside(tx, look, present):
                wanted = wanted or present
            if wanted is not None:
                seen = max((c.generation for c in look.configurations or ()), default=0)
                present = msgspec.structs.replace(wanted, generation=max(present.generation, seen) + 1)
                tx.add_route(present.generation, self._world.clock.now(), encode(present).decode())
                moved = True
            if present.generation == 0:
                return look, None, moved
            if look.generation != present.generation:
                moved = self._ask_route(tx, present.generation) or moved
            return look, present, moved

    def _ask_route(self, tx: Transaction, generation: int) -> bool:
        pending = tx.operations_like(f"route/{generation}/")
        if pending and not pending[-1].state.ended:
            return False
        return self._ask(tx, Intent(key=f"route/{generation}/{len(pending) + 1}", kind=OperationKind.ROUTE, args={}))

    def _versions_of(self, tx: Transaction, plans: Sequence[Plan]) -> dict[str, Version]:
        """Versions by digest; what a number stands for never changes, so each is read once."""
        found = {}
        for one in plans:
            for arm in one.traffic.serving():
                key = (one.place[0], one.place[1], arm.version)
                if key not in self._versions and (version := tx.version(*key)) is not None:
                    self._versions[key] = version
                if key in self._versions:
                    found[arm.digest] = self._versions[key]
        return found

    def _is_changed_beside(self, tx: Transaction, look: Look, present: RouterConfiguration) -> bool:
        """Whether a router has in effect what nobody here gave it; recorded, and to be set right with a new generation."""
        newer = [c for c in look.configurations or () if c.generation > present.generation]
        other = [c for c in look.configurations or () if c.generation == present.generation and c != present]
        now = self._world.clock.now()
        soon = self._corrected_at is not None and now < self._corrected_at + CORRECTED_AGAIN
        if not newer and (not other or soon):
            return False
        self._corrected_at = now
        because = (
            f"a router served a configuration {newer[0].generation} that nobody here wrote; ours goes on after it"
            if newer
            else f"a router's configuration {present.generation} was changed beside us; it is given ours again"
        )
        data: dict[str, object] = {"found": (newer or other)[0].generation, "expected": present.generation}
        tx.append(
            Event(
                action=Action.MANUAL_CHANGE_OBSERVED,
                at=now,
                actor="system",
                workspace="*",
                kind="installation",
                name="router",
                because=because,
                data=data,
            )
        )
        return True

    # --- what each release does next

    def _advance(self, one: Plan, look: Look, routed: RouterConfiguration | None) -> bool:
        """At most one move per release and turn: after a move the world is looked at again.

        Whether there is a move is found out by reading; only then is the database taken for writing, and asked again.
        """
        moved = False
        for release_id in one.open_releases:
            with self._world.store.read() as tx:
                release = tx.release(release_id)
                waits = release is None or not self._step(tx, release, one, look, routed, write=False)
            if waits:
                continue
            with self._world.store.write() as tx:
                release = tx.release(release_id)
                if release is None or self._plan(tx, one.place, tx.releases(*one.place)).traffic != one.traffic:
                    continue  # an earlier move of this turn changed what should be
                moved = self._step(tx, release, one, look, routed, write=True) or moved
        return moved

    def _step(
        self,
        tx: Transaction,
        release: Release,
        one: Plan,
        look: Look,
        routed: RouterConfiguration | None,
        *,
        write: bool,
    ) -> bool:
        """Make the release's next move, or, without `write`, only say whether there is one."""
        facts = self._since(self._facts(tx, release, one, look, routed))
        gates = self._gates_wanted(tx, facts, look)
        move = plan(facts)
        if write and gates is not None:
            self._ask(tx, gates)
        if write and move is not None:
            self.apply(tx, release, move, actor="system")
        return gates is not None or move is not None

    def _facts(
        self, tx: Transaction, release: Release, one: Plan, look: Look, routed: RouterConfiguration | None
    ) -> Facts:
        return gather(
            tx,
            release,
            tx.releases(*one.place),
            self._documents.revision(tx, release.document),
            environment=environment_of(tx, release.workspace, release.environment),
            now=self._world.clock.now(),
            seen=self._seen(tx, release, one, look, routed),
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

    def _seen(
        self, tx: Transaction, release: Release, one: Plan, look: Look, routed: RouterConfiguration | None
    ) -> Seen:
        traffic = one.traffic
        asked = {arm.digest for _role, arm, _weight in answering(traffic)}
        asked |= {release.digest} & {*(mirror.arm.digest for mirror in traffic.mirrors), *traffic.at_full}
        ready = all(sum(r.ready for r in look.of(one.place, digest)) >= one.counts[digest] for digest in asked)
        applied = (
            routed is not None
            and routed.generation == look.generation
            and serves(routed, traffic, digest=release.digest)
        )
        broken = None
        starts = tx.operations_like(starts_key(one.place, release.digest, release.id))
        if starts and starts[-1].state is OperationState.FAILED:
            broken = f"version {release.version} does not start: {starts[-1].error}"
        needed = release.digest in one.counts
        running = bool(look.of(one.place, release.digest))
        return Seen(in_effect=ready and applied, drained=needed or not running, broken=broken)

    def _gates_wanted(self, tx: Transaction, facts: Facts, look: Look) -> Intent | None:
        """Gates need both versions running; they are asked for once per release. A rollback passed them before."""
        release = facts.release
        if release.opened is Opened.ROLLBACK:
            return None
        if release.phase is not Phase.PENDING or facts.gates is not None or not facts.gates_declared:
            return None
        if facts.waits_for is not None or facts.gates_broken is not None or compares_with_another(facts):
            return None
        digests = {release.digest} | ({release.previous.digest} if release.previous else set())
        place = (release.workspace, release.model, release.environment)
        if not all(any(r.ready for r in look.of(place, digest)) for digest in digests):
            return None
        if tx.operation(gate_key(release)) is not None:
            return None
        args = {
            "workspace": release.workspace,
            "model": release.model,
            "environment": release.environment,
            "release": release.id,
        }
        return Intent(key=gate_key(release), kind=OperationKind.GATE, args=args)

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
                    body=item.kept,
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

    def _ask(self, tx: Transaction, intent: Intent) -> bool:
        return ask(tx, intent, at=self._world.clock.now())


def _counts(model: spec.Model, traffic: Traffic) -> dict[str, int]:
    """Replicas each digest needs: all of them for versions that answer or may have to within seconds."""
    full = model.spec.serving.replicas
    answers = {arm.digest for arm in (traffic.stable, traffic.candidate) if arm is not None} | set(traffic.at_full)
    copies = {mirror.arm.digest for mirror in traffic.mirrors}
    counts = {}
    for arm in traffic.serving():
        standby = arm.digest not in copies and arm.digest in {a.digest for a in traffic.warm}
        counts[arm.digest] = full if arm.digest in answers or standby else 1
    return counts
