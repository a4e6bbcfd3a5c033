"""A route with everything looked up that can be looked up once: who can be asked, and what each was asked so far.

Made anew with each configuration; counts and connections are kept across, so that a change of weights costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from steersman.dataplane import metrics, tracing, upstream
from steersman.dataplane.capture import Context, context_of
from steersman.dataplane.configuration import BUCKETS, MirrorRoute, Route, VariantRoute, WarmRoute
from steersman.dataplane.exchange import header_lines
from steersman.dataplane.privacy import Redactor
from steersman.dataplane.routing import Splitter

Role = Literal["stable", "candidate", "mirror", "challenger", "override"]


class VariantCounts(msgspec.Struct):
    """What one variant of one release did since this process started."""

    version: str = ""
    requests: int = 0
    rows: int = 0
    errors: int = 0
    latency_ms_sum: float = 0.0
    latency_ms_max: float = 0.0
    statuses: list[int] = msgspec.field(default_factory=lambda: [0] * 10)
    """Answers by the hundreds of their status."""
    latencies: list[int] = msgspec.field(default_factory=metrics.empty_buckets)

    def answered(self, status: int, rows: int, latency_ms: float) -> None:
        """Count one answer."""
        self.requests += 1
        self.rows += rows
        if status >= 500:
            self.errors += 1
        self.latency_ms_sum += latency_ms
        if latency_ms > self.latency_ms_max:
            self.latency_ms_max = latency_ms
        self.statuses[status // 100] += 1
        metrics.observe(self.latencies, latency_ms)


class RouterCounts(msgspec.Struct):
    requests: int = 0
    rows: int = 0
    labels: int = 0
    refused: int = 0
    queue_refusals: int = 0
    failed: int = 0
    fallbacks: int = 0
    mirrors_dropped: int = 0
    mirrors_unreadable: int = 0
    """Of those dropped: the rows could not be told apart."""
    sampled_out_rows: int = 0


_LOGGED_AS: dict[Role, str] = {
    "mirror": "shadow",
    "challenger": "challenger",
    "stable": "stable",
    "candidate": "candidate",
    "override": "override",
}
"""The variant a role has in the log. A version asked for by number is an `override`: no verdict counts such a row."""


class Arm:
    """A version that can be asked: variant, mirror or warm version of a route, with its replicas and its counts."""

    __slots__ = (
        "attributes",
        "counts",
        "digest",
        "head",
        "logged_as",
        "percent",
        "probability",
        "release",
        "replicas",
        "role",
        "said",
        "splitter",
        "stream_head",
        "version",
    )

    def __init__(
        self,
        route: Route,
        arm: VariantRoute | MirrorRoute | WarmRoute,
        upstreams: upstream.Upstreams,
        counts: VariantCounts,
        *,
        override: bool = False,
    ) -> None:
        self.role: Role = "override" if override or isinstance(arm, WarmRoute) else arm.role
        self.logged_as = _LOGGED_AS[self.role]
        self.version, self.digest, self.release = arm.version, arm.digest, arm.release
        self.percent = 0.0 if self.role == "override" else _percent(arm)
        self.probability = None if self.role == "override" else self.percent / 100
        self.replicas = [upstreams.replica(address) for address in arm.addresses]
        self.counts = counts
        self.splitter = Splitter(f"{route.salt}/{self.role}/{arm.release}", self.percent)
        # What a model may be told: for which role it answers. A version asked for by number answers as if it were live.
        told = "stable" if self.role == "override" else self.role
        lines = f" HTTP/1.1\r\nHost: worker\r\nX-Steersman-Variant: {told}\r\n"
        self.head = f"POST /v2/models/{route.model}/infer{lines}".encode()
        self.stream_head = f"POST /v2/models/{route.model}/generate_stream{lines}".encode()
        self.attributes = tracing.arm_attributes(
            route.workspace,
            route.environment,
            route.model,
            version=arm.version,
            release=arm.release,
            variant=self.role,
        )
        self.said = said((arm.version, arm.release, self.role))


def said(answered_by: Sequence[str]) -> bytes:
    """Header lines that tell a caller the version, the release and the variant. Raises ValueError where one is no header."""
    return header_lines(*zip(_SAID, (one.encode() for one in answered_by), strict=True))


_SAID = (b"x-steersman-version", b"x-steersman-release", b"x-steersman-variant")


def _percent(arm: VariantRoute | MirrorRoute | WarmRoute) -> float:
    match arm:
        case VariantRoute():
            return arm.weight_pct
        case MirrorRoute():
            return arm.percent
        case _:
            return 0.0


class CompiledRoute:
    """A route with everything looked up that can be looked up once. `overrides` has every version with replicas."""

    __slots__ = (
        "attributes",
        "candidate",
        "context",
        "in_flight",
        "mirrors",
        "only",
        "overrides",
        "recorded_below",
        "redactor",
        "route",
        "splitter",
        "stable",
        "types",
    )

    def __init__(
        self,
        route: Route,
        variants: Sequence[Arm],
        mirrors: Sequence[Arm],
        overrides: Mapping[str, Arm],
        redactor: Redactor | None = None,
    ) -> None:
        self.route = route
        self.mirrors = mirrors
        self.overrides = overrides
        self.redactor = redactor
        self.context: Context = context_of(route)
        self.attributes = tracing.request_attributes(route.workspace, route.environment, route.model)
        self.types: dict[str, str] = {column.name: column.type for column in route.signature}
        self.recorded_below = round(route.log.sampling * BUCKETS)
        self.in_flight = 0
        by_role = {arm.role: arm for arm in variants}
        self.stable = by_role.get("stable")
        self.candidate = by_role.get("candidate")
        answering = [arm for arm in variants if arm.percent > 0]
        self.only = answering[0] if len(answering) == 1 else None
        self.splitter = Splitter(route.salt, self.candidate.percent if self.candidate else 0.0)
