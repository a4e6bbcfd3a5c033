"""What runs: starts what is missing, stops what nothing needs, and finds what runs though nobody asked for it.

Everything here only asks, by operations; the executor starts and stops. Traffic goes first: a replica is stopped once no
configuration in effect names it, and a version that is wanted again before its stop was begun is not stopped.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from steersman.dataplane.configuration import RouterConfiguration
from steersman.domain import spec
from steersman.domain.events import Action, Event
from steersman.domain.operation import Intent, OperationKind, OperationState
from steersman.domain.release import Arm
from steersman.loop.asking import ask
from steersman.loop.checking import CHECKS, checked_digests
from steersman.loop.looking import Look, Place, Plan
from steersman.loop.world import World, environment_of
from steersman.ports import RunningReplica
from steersman.store.transaction import Transaction

START_AGAIN_S = 600
"""Event seconds until a version that should run, and could not be started, is tried again."""


class _Noted(msgspec.Struct, frozen=True, kw_only=True):
    """Replicas beside the plan that the ledger tells of already, by id and process."""

    replicas: tuple[str, ...]


class Capacity:
    """Keeps as many replicas of each version as its place needs."""

    def __init__(self, world: World) -> None:
        self._world = world

    # --- what is missing

    def start_missing(self, plan: Plan, look: Look) -> bool:
        """Ask for what is missing; the database is written only where something is."""
        lacking = [
            (arm, present)
            for arm in plan.traffic.serving()
            for present in [look.of(plan.place, arm.digest)]
            if len(present) < plan.counts[arm.digest] or not all(r.ready for r in present)
        ]
        if not lacking:
            return False
        with self._world.store.write() as tx:
            asked = [self._ask_replicas(tx, plan, arm, present) for arm, present in lacking]
        return any(asked)

    def _ask_replicas(self, tx: Transaction, plan: Plan, arm: Arm, present: Sequence[RunningReplica]) -> bool:
        count = plan.counts[arm.digest]
        stops = tx.operations_like(_stop_key(plan.place, arm.digest))
        stopped = sum(stop.state is not OperationState.CANCELLED for stop in stops)  # stopped on purpose is not lost
        prefix = f"{starts_key(plan.place, arm.digest, arm.release)}{stopped}/{count}/"
        earlier = tx.operations_like(prefix)
        if earlier and not earlier[-1].state.ended:
            return False
        now = self._world.clock.now()
        failed = bool(earlier) and earlier[-1].state is OperationState.FAILED
        if failed and (now - earlier[-1].at).total_seconds() < START_AGAIN_S:
            return False  # the release that needs it is told, and gives up; what answered before is tried again later
        workspace, model, environment = plan.place
        if earlier:
            tx.append(
                Event(
                    action=Action.REPLICA_LOST,
                    at=now,
                    actor="system",
                    workspace=workspace,
                    kind="version",
                    name=f"{model}/{arm.version}",
                    because=f"{len(present)} of {count} replicas in {environment} were there; started again",
                    data={"version": arm.version, "environment": environment},
                )
            )
        args = {
            "workspace": workspace,
            "model": model,
            "environment": environment,
            "version": arm.version,
            "digest": arm.digest,
            "count": count,
        }
        return ask(tx, Intent(key=f"{prefix}{len(earlier) + 1}", kind=OperationKind.REPLICAS, args=args), at=now)

    # --- what is too much

    def stop_needless(
        self, plans: Sequence[Plan], look: Look, routed: RouterConfiguration, *, unclear: Collection[Place]
    ) -> bool:
        """Stop what nothing needs, once the configuration in effect no longer sends anything to it.

        `unclear` are places whose plan is not known: nothing of theirs is touched.
        """
        wanted = {version: plan for plan in plans for version in plan.wants()}
        named = addresses_of(routed)
        moved = False
        for (place, digest), replicas in look.versions().items():
            plan = wanted.get((place, digest))
            keep = plan.replicas_max if plan else 0
            if place in unclear or place[2] == CHECKS or not replicas[keep:]:
                continue
            answers = any(replica.address in named for replica in replicas[keep:] if replica.address)
            with self._world.store.write() as tx:
                if is_beside(tx, place, digest, replicas) and policy_of(tx, place) is not spec.ManualChanges.CORRECT:
                    moved = self._note(tx, place, digest, replicas, keep=keep) or moved
                elif not answers:
                    moved = self._stop(tx, place, digest, replicas, keep=keep) or moved
        return moved

    def end_checks(self, look: Look) -> bool:
        """Stop replicas that were started for a check which is over; no traffic ever reached them."""
        there = [version for version in look.versions() if version[0][2] == CHECKS]
        if not there:
            return False
        with self._world.store.write() as tx:
            needed = checked_digests(tx)
            asked = [self.ask_stop(tx, place, digest) for place, digest in sorted(there) if digest not in needed]
        return any(asked)

    def _stop(
        self, tx: Transaction, place: Place, digest: str, replicas: Sequence[RunningReplica], *, keep: int
    ) -> bool:
        if not self.ask_stop(tx, place, digest, keep=keep):
            return False
        if is_beside(tx, place, digest, replicas):
            self._record(tx, place, digest, replicas, keep=keep, done="stopped")
        return True

    def ask_stop(self, tx: Transaction, place: Place, digest: str, *, keep: int = 0) -> bool:
        """Ask for a version's replicas to be stopped, but the first `keep`; False while an earlier stop is open."""
        prefix = _stop_key(place, digest)
        earlier = tx.operations_like(prefix)
        if earlier and not earlier[-1].state.ended:
            return False
        workspace, model, environment = place
        args: dict[str, Any] = {"workspace": workspace, "model": model, "environment": environment, "digest": digest}
        if keep:
            args["keep"] = keep
        intent = Intent(key=f"{prefix}{len(earlier) + 1}", kind=OperationKind.STOP, args=args)
        return ask(tx, intent, at=self._world.clock.now())

    def _note(
        self, tx: Transaction, place: Place, digest: str, replicas: Sequence[RunningReplica], *, keep: int
    ) -> bool:
        """Tell once of what is left as it is."""
        noted = _Noted(replicas=tuple(sorted(f"{r.id} {r.pid}" for r in replicas[keep:])))
        name = f"beside/{_short(digest)}"
        if tx.monitor_state(*place, name, _Noted) == noted:
            return False
        tx.put_monitor_state(*place, name, noted)
        self._record(tx, place, digest, replicas, keep=keep, done="left running")
        return True

    def _record(
        self, tx: Transaction, place: Place, digest: str, replicas: Sequence[RunningReplica], *, keep: int, done: str
    ) -> None:
        workspace, model, environment = place
        version = next((v.number for v in tx.versions(workspace, model) if v.digest == digest), None)
        what = f"version {version}" if version is not None else f"a version nobody registered ({digest[:19]})"
        extra = len(replicas) - keep
        because = f"{extra} replica(s) of {what} run in {environment} though nobody asked for them: {done}"
        tx.append(
            Event(
                action=Action.MANUAL_CHANGE_OBSERVED,
                at=self._world.clock.now(),
                actor="system",
                workspace=workspace,
                kind="model",
                name=model,
                because=because,
                data={"environment": environment, "digest": digest, "found": len(replicas), "expected": keep},
            )
        )


def starts_key(place: Place, digest: str, release: str = "") -> str:
    """Under which starts of a version for one release are kept: another release of it begins with a clean sheet."""
    workspace, model, environment = place
    return f"replicas/{workspace}/{environment}/{model}/{_short(digest)}/{release}{'/' if release else ''}"


def _stop_key(place: Place, digest: str) -> str:
    return f"stop/{'/'.join(place)}/{_short(digest)}/"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:16]


def addresses_of(configuration: RouterConfiguration) -> frozenset[str]:
    """Everywhere a configuration may send a request or a copy."""
    found: set[str] = set()
    for route in configuration.routes:
        for variant in route.variants:
            found.update(variant.addresses)
        for mirror in route.mirrors:
            found.update(mirror.addresses)
        for warm in route.warm:
            found.update(warm.addresses)
    return frozenset(found)


def stopping(tx: Transaction) -> Mapping[tuple[Place, str], int]:
    """Versions that are being stopped right now, and how many replicas of each stay."""
    return {
        _version_of(operation.args): operation.args.get("keep", 0)
        for operation in tx.open_operations()
        if operation.kind is OperationKind.STOP and operation.state is OperationState.RUNNING
    }


def spare(tx: Transaction, plans: Sequence[Plan]) -> bool:
    """Take back stops of versions that are wanted again, where nobody has begun; True if there were any."""
    wanted = frozenset[tuple[Place, str]]().union(*(plan.wants() for plan in plans))
    spared = [
        operation
        for operation in tx.open_operations()
        if operation.kind is OperationKind.STOP
        and operation.state is OperationState.INTENDED
        and not operation.args.get("keep")
        and _version_of(operation.args) in wanted
    ]
    for operation in spared:
        tx.save_operation(msgspec.structs.replace(operation, state=OperationState.CANCELLED))
    return bool(spared)


def _version_of(args: Mapping[str, str]) -> tuple[Place, str]:
    return (args["workspace"], args["model"], args["environment"]), args["digest"]


def is_beside(tx: Transaction, place: Place, digest: str, replicas: Sequence[RunningReplica]) -> bool:
    """Whether more replicas of a version run than were ever asked for here."""
    asked = (operation.args["count"] for operation in tx.operations_like(starts_key(place, digest)))
    return len(replicas) > max(asked, default=0)


def policy_of(tx: Transaction, place: Place) -> spec.ManualChanges:
    return environment_of(tx, place[0], place[2]).manual_changes


def adopted(tx: Transaction, plans: Sequence[Plan], look: Look) -> frozenset[Place]:
    """Places where replicas that somebody added by hand answer requests like the others, because the document says so."""
    return frozenset(
        plan.place
        for plan in plans
        for digest in plan.counts
        if len(found := look.of(plan.place, digest)) > plan.replicas_max
        and policy_of(tx, plan.place) is spec.ManualChanges.ADOPT
        and is_beside(tx, plan.place, digest, found)
    )
