"""Desired and observed traffic: which versions run, and who answers what share of requests."""

from datetime import datetime

import msgspec

from steersman.domain.release import Arm


class Mirror(msgspec.Struct, frozen=True, kw_only=True):
    """A version that receives copies; its answers are logged and never returned. `role` is `mirror` or `challenger`."""

    arm: Arm
    role: str
    percent: float = 100.0


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What one model's requests in one environment should meet, decided from releases alone.

    `at_full` are digests that run as many replicas as the one that answers, although they do not: versions kept warm, so
    that going back under load starts nothing, also while they get copies; and both sides of a blue-green switch.
    """

    workspace: str
    model: str
    environment: str
    stable: Arm | None
    candidate: Arm | None = None
    weight_pct: float = 0.0
    mirrors: tuple[Mirror, ...] = ()
    warm: tuple[Arm, ...] = ()
    at_full: tuple[str, ...] = ()
    salt: str = ""

    def serving(self) -> tuple[Arm, ...]:
        """Every version that must run, each once, the most important first."""
        arms: dict[str, Arm] = {}
        for arm in (self.stable, self.candidate, *(mirror.arm for mirror in self.mirrors), *self.warm):
            if arm is not None:
                arms.setdefault(arm.digest, arm)
        return tuple(arms.values())


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One running copy of a version as its target reports it. `started_at` is wall time; `address` is host:port."""

    id: str
    workspace: str
    model: str
    environment: str
    digest: str
    address: str
    ready: bool
    pid: int
    started_at: float
    cpu_s: float = 0.0
    memory_mb_peak: float = 0.0


class Challenger(msgspec.Struct, frozen=True, kw_only=True):
    """The freshly trained version scored beside production, since when, and when the next one is due."""

    workspace: str
    model: str
    environment: str
    version: int
    digest: str
    since: datetime
