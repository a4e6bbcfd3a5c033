"""What is and what should be, place by place: one observation of the world, and the plan it is compared with."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from steersman.dataplane.configuration import RouterConfiguration
from steersman.domain import spec
from steersman.domain.traffic import Traffic
from steersman.ports import RunningReplica

Place = tuple[str, str, str]
"""Workspace, model, environment: where one version at a time is stable."""

_decoder = msgspec.json.Decoder(RouterConfiguration)


def place_of(replica: RunningReplica) -> Place:
    return replica.workspace, replica.model, replica.environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one place should be: who answers, and how many replicas each digest needs, all of them at most."""

    place: Place
    model: spec.Model
    traffic: Traffic
    counts: Mapping[str, int]
    open_releases: tuple[str, ...]

    @property
    def replicas_max(self) -> int:
        return self.model.spec.serving.replicas

    def wants(self) -> frozenset[tuple[Place, str]]:
        """The versions that must run, as they are found in a look."""
        return frozenset((self.place, arm.digest) for arm in self.traffic.serving())


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """`known` is False where the target could not be asked: `replicas` are then those seen last, good enough to route to
    and not to start or stop any. `configurations` are the routers' own words, None while one of them does not answer.
    """

    replicas: Sequence[RunningReplica]
    configurations: Sequence[RouterConfiguration] | None
    known: bool = True
    _by_digest: Mapping[tuple[Place, str], list[RunningReplica]] = field(default_factory=dict)

    @classmethod
    def at(cls, replicas: Sequence[RunningReplica], bodies: Sequence[bytes] | None, *, known: bool = True) -> "Look":
        configurations = None if bodies is None else [_decoder.decode(body) for body in bodies]
        return cls(replicas=replicas, configurations=configurations, known=known, _by_digest=_indexed(replicas))

    @property
    def generation(self) -> int | None:
        """The generation in effect at every router; None when one does not answer."""
        return min((c.generation for c in self.configurations), default=None) if self.configurations else None

    def of(self, place: Place, digest: str) -> Sequence[RunningReplica]:
        """The replicas of one version in one place, in the target's order."""
        return self._by_digest.get((place, digest), ())

    def versions(self) -> Mapping[tuple[Place, str], Sequence[RunningReplica]]:
        return self._by_digest

    def leaving(self, stopping: Mapping[tuple[Place, str], int]) -> "Look":
        """The same, where replicas that are being stopped count as not ready: nobody may be sent there any more.

        `stopping` says how many of a version's replicas stay.
        """
        if not stopping:
            return self
        going = {replica.id for (place, digest), stay in stopping.items() for replica in self.of(place, digest)[stay:]}
        seen = [msgspec.structs.replace(r, ready=False) if r.id in going else r for r in self.replicas]
        return replace(self, replicas=seen, _by_digest=_indexed(seen))


def _indexed(replicas: Sequence[RunningReplica]) -> dict[tuple[Place, str], list[RunningReplica]]:
    found: dict[tuple[Place, str], list[RunningReplica]] = defaultdict(list)
    for replica in replicas:
        found[place_of(replica), replica.digest].append(replica)
    return dict(found)
