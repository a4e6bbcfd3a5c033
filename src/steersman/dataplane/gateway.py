"""What a router does with a request: who is let in, which route it meets, what is told to those who steer.

It holds one configuration, swapped atomically, and needs nobody to keep serving it: what it accepted is on the disk and
read again at the next start. The control server may be down for an hour; callers do not notice.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from pathlib import Path

import msgspec

from steersman.dataplane import asgi, configuration, protocol, sockets
from steersman.dataplane.asgi import Receive, Refusal, Scope, Send
from steersman.dataplane.capture import Labels, LogFullError, SegmentWriter
from steersman.dataplane.configuration import (
    InvalidConfigurationError,
    MirrorRoute,
    RouterConfiguration,
    TokenHash,
    VariantRoute,
)
from steersman.dataplane.edge import EdgeCounts
from steersman.dataplane.inference import Arm, CompiledRoute, Inference, RouterCounts, VariantCounts
from steersman.dataplane.upstream import Upstreams

BODY_BYTES_MAX = 32 * 1024 * 1024
LABELS_BYTES_MAX = 16 * 1024 * 1024
CONFIGURATION_BYTES_MAX = 16 * 1024 * 1024
BODY_S_MAX = 20.0
"""Seconds a body may take to arrive."""

FLUSH_S_MAX = 60.0
TOKENS_REMEMBERED_MAX = 4_096

_DEFAULT_WORKSPACE, _DEFAULT_ENVIRONMENT = "default", "production"


class StaleGenerationError(Exception):
    """The offered configuration is older than the one in force."""


class Gateway:
    """The state of one router process: configuration, compiled routes, log, counters."""

    def __init__(self, state: Path, *, log: SegmentWriter) -> None:
        self.counts = RouterCounts()
        self.edge = EdgeCounts()
        self.log = log
        self.inference = Inference(log, self.counts)
        self.upstreams = Upstreams()
        self.configuration = RouterConfiguration(generation=0)
        self._path = state / "router" / "config.json"
        self._infer_paths: dict[str, CompiledRoute] = {}
        self._label_paths: dict[str, CompiledRoute] = {}
        self._variant_counts: dict[tuple[str, str, str, str, str], VariantCounts] = {}
        self._tokens: dict[str, TokenHash] = {}
        self._token_cache: dict[bytes, TokenHash] = {}

    # --- configuration -----------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Take up the last accepted configuration, if there is one. Raises InvalidConfigurationError when damaged."""
        try:
            document = self._path.read_bytes()
        except FileNotFoundError:
            return
        self._apply(configuration.decode(document))

    def accept(self, document: bytes) -> None:
        """Persist, then swap. Raises StaleGenerationError, InvalidConfigurationError, or OSError from the disk.

        The same generation is taken again only with the same content, so that a repeated call is harmless.
        """
        offered = configuration.decode(document)
        current = self.configuration
        if offered.generation < current.generation or (
            offered.generation == current.generation and current.generation > 0 and offered != current
        ):
            raise StaleGenerationError(f"generation {offered.generation} is refused, {current.generation} is in force")
        if offered == current:
            return
        self._persist(configuration.encode(offered))
        self._apply(offered)

    def _persist(self, document: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        staging = self._path.with_suffix(f".{os.getpid()}.new")  # other routers write the same file
        descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(document)
            file.flush()
            os.fsync(file.fileno())
        staging.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _apply(self, offered: RouterConfiguration) -> None:
        infer: dict[str, CompiledRoute] = {}
        labels: dict[str, CompiledRoute] = {}
        addresses: set[str] = set()
        counts: dict[tuple[str, str, str, str, str], VariantCounts] = {}
        for route in offered.routes:
            arms: list[Arm] = []
            named: tuple[VariantRoute | MirrorRoute, ...] = (*route.variants, *route.mirrors)
            for arm in named:
                key = (route.workspace, route.environment, route.model, arm.release, arm.role)
                counts[key] = self._variant_counts.get(key) or VariantCounts()
                addresses.update(arm.addresses)
                arms.append(Arm(route, arm, self.upstreams, counts[key]))
            compiled = CompiledRoute(route, arms[: len(route.variants)], arms[len(route.variants) :])
            infer[f"/{route.workspace}/{route.environment}/v2/models/{route.model}/infer"] = compiled
            if (route.workspace, route.environment) == (_DEFAULT_WORKSPACE, _DEFAULT_ENVIRONMENT):
                infer[f"/v2/models/{route.model}/infer"] = compiled
            if route.labels is not None:
                labels.setdefault(f"/{route.workspace}/labels/{route.model}", compiled)
        self._infer_paths, self._label_paths = infer, labels
        self._variant_counts = counts
        self._tokens = {token.sha256: token for token in offered.tokens}
        self._token_cache = {}
        self.inference.replay = offered.replay
        self.configuration = offered
        self.upstreams.keep_only(addresses)

    # --- public ------------------------------------------------------------------------------------------------------

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            path: str = scope["path"]
            if (compiled := self._infer_paths.get(path)) is not None:
                self._method(scope, "POST")
                headers = scope["headers"]
                self._authorize(headers, compiled.route.workspace, "predict")
                at_us = self._event_time(headers)
                body = await asgi.read_body(scope, receive, bytes_max=BODY_BYTES_MAX, timeout_s=BODY_S_MAX)
                if at_us is None:
                    at_us = self._now_us()
                await asgi.reply(send, 200, await self.inference.infer(compiled, body, at_us))
            elif (compiled := self._label_paths.get(path)) is not None:
                self._method(scope, "POST")
                self._authorize(scope["headers"], compiled.route.workspace, "label")
                body = await asgi.read_body(scope, receive, bytes_max=LABELS_BYTES_MAX, timeout_s=BODY_S_MAX)
                accepted = await self._take_labels(compiled, scope["headers"], body)
                await asgi.reply(send, 202, b'{"accepted": %d}' % accepted)
            elif path in ("/v2/health/live", "/v2/health/ready"):
                self._method(scope, "GET")
                ready = path.endswith("live") or self.configuration.generation > 0
                await asgi.reply(
                    send,
                    200 if ready else 503,
                    b'{"%s": %s}' % (path.rpartition("/")[2].encode(), b"true" if ready else b"false"),
                )
            else:
                self._unknown(scope)
        except Refusal as refusal:
            self.counts.refused += refusal.status < 500
            await asgi.refuse(send, refusal)

    def _method(self, scope: Scope, allowed: str) -> None:
        if scope["method"] != allowed:
            raise Refusal(405, f"{scope['method']} is not allowed here", f"use {allowed}")

    def _unknown(self, scope: Scope) -> None:
        """404, but only to those who may call something: others learn nothing about what exists."""
        self._authorize(scope["headers"], None, None)
        raise Refusal(
            404,
            f"nothing is served at {scope['path'][:200]}",
            "check workspace, environment and model: POST /{workspace}/{environment}/v2/models/{model}/infer",
        )

    def _authorize(self, headers: list[tuple[bytes, bytes]], workspace: str | None, permission: str | None) -> None:
        value = next((value for name, value in headers if name == b"authorization"), b"")
        token = self._token_cache.get(value) or self._look_up(value)
        if token is None or (token.expires_at is not None and token.expires_at <= time.time()):
            raise Refusal(
                401, "no valid bearer token", "send `Authorization: Bearer <token>`; `steersman token` makes one"
            )
        if workspace is not None and token.workspace not in (None, workspace):
            raise Refusal(403, "the token is for another workspace", "use a token of this workspace")
        if permission is not None and permission not in token.permissions:
            raise Refusal(403, f"the token lacks the permission {permission}", f"use a token with {permission}")

    def _look_up(self, value: bytes) -> TokenHash | None:
        scheme, _, secret = value.partition(b" ")
        if scheme.lower() != b"bearer" or not secret:
            return None
        token = self._tokens.get(hashlib.sha256(secret.strip()).hexdigest())
        if token is not None and len(self._token_cache) < TOKENS_REMEMBERED_MAX:
            self._token_cache[value] = token
        return token

    def _event_time(self, headers: list[tuple[bytes, bytes]]) -> int | None:
        value = next((value for name, value in headers if name == b"x-event-time"), None)
        if value is None:
            return None
        if not self.configuration.replay:
            raise Refusal(400, "X-Event-Time is accepted in a replay only", "leave the header out")
        try:
            return protocol.parse_instant(value.decode("latin-1"))
        except protocol.EnvelopeError as error:
            raise Refusal(400, f"X-Event-Time: {error}", "send it as 2013-03-01T05:00:00Z") from None

    def _now_us(self) -> int:
        """Event time of what carries none: now. In a replay there is no now, so it must be said."""
        if self.configuration.replay:
            raise Refusal(400, "this installation replays: the event time is missing", "send X-Event-Time")
        return time.time_ns() // 1000

    async def _take_labels(self, compiled: CompiledRoute, headers: list[tuple[bytes, bytes]], body: bytes) -> int:
        route = compiled.route
        settings = route.labels
        assert settings is not None
        arrival_us = self._event_time(headers)
        try:
            request = protocol.decode_labels(body)
            ats_us = []
            values = []
            for label in request.labels:
                value = float(label.value)
                _check_value(value, settings)
                values.append(value)
                ats_us.append(self._label_time(label.at, arrival_us))
        except protocol.EnvelopeError as error:
            raise Refusal(400, str(error), 'send {"labels": [{"event_id": "…", "value": 1}]}') from None
        record = Labels(
            workspace=route.workspace,
            model=route.model,
            source=request.source,
            event_ids=[label.event_id for label in request.labels],
            ats_us=ats_us,
            values=values,
        )
        try:
            self.log.append(None, record)
            if settings.capture == "durable":
                await self.log.sync()
        except LogFullError as error:
            # A label that is not stored is not accepted in either mode: its sender can send it again.
            self.log.counts.refused_records += 1
            raise Refusal(
                503, f"labels cannot be stored: {error}", "free disk space below the state directory", retry_after_s=5
            ) from None
        self.counts.labels += len(values)
        return len(values)

    def _label_time(self, at: str | None, arrival_us: int | None) -> int:
        if at is None:
            return self._now_us() if arrival_us is None else arrival_us
        if not self.configuration.replay:
            raise protocol.EnvelopeError("labels: `at` is accepted in a replay only")
        return protocol.parse_instant(at)

    # --- admin -------------------------------------------------------------------------------------------------------

    async def admin(self, scope: Scope, receive: Receive, send: Send, key: bytes) -> None:
        try:
            if not sockets.key_matches(scope["headers"], key):
                raise Refusal(401, "the socket's key is missing or wrong", "read it from the file beside the socket")
            match (scope["method"], scope["path"]):
                case ("PUT", "/configuration"):
                    body = await asgi.read_body(scope, receive, bytes_max=CONFIGURATION_BYTES_MAX, timeout_s=BODY_S_MAX)
                    await asgi.reply(send, 200, self._put_configuration(body))
                case ("GET", "/configuration"):
                    await asgi.reply(send, 200, configuration.encode(self.configuration))
                case ("GET", "/counters"):
                    await asgi.reply(send, 200, self.counters())
                case ("POST", "/flush"):
                    left = await self.inference.settle(FLUSH_S_MAX)
                    body = msgspec.json.encode({"position": self.log.position, "mirrors_in_flight": left})
                    await asgi.reply(send, 200 if left == 0 else 504, body)
                case (method, path):
                    raise Refusal(404, f"no {method} {path}", "PUT|GET /configuration, GET /counters, POST /flush")
        except Refusal as refusal:
            await asgi.refuse(send, refusal)

    def _put_configuration(self, body: bytes) -> bytes:
        try:
            self.accept(body)
        except StaleGenerationError as error:
            raise Refusal(409, str(error), "read GET /configuration and send a newer generation") from None
        except InvalidConfigurationError as error:
            raise Refusal(400, str(error), "correct the document") from None
        except OSError as error:
            raise Refusal(
                503, f"the configuration cannot be stored: {error.strerror}", "free disk space", retry_after_s=5
            ) from None
        return msgspec.json.encode({"generation": self.configuration.generation})

    def counters(self) -> bytes:
        return msgspec.json.encode(
            {
                "generation": self.configuration.generation,
                "router": self.counts,
                "edge": self.edge,
                "upstream": self.upstreams.counts,
                "capture": self.log.counts,
                "variants": [
                    {"workspace": w, "environment": e, "model": m, "release": release, "role": role, "counts": counts}
                    for (w, e, m, release, role), counts in self._variant_counts.items()
                ],
                "replicas": self.upstreams.health(),
            }
        )


def _check_value(value: float, settings: configuration.LabelSettings) -> None:
    if not math.isfinite(value):
        raise protocol.EnvelopeError("labels: a value is not finite")
    low, high = settings.value_min, settings.value_max
    if (low is not None and value < low) or (high is not None and value > high):
        raise protocol.EnvelopeError(f"labels: the value {value:g} is outside {low}..{high}")
