"""What a router does with a request: who is let in, which route it meets, what is told to those who steer.

Every public path is an entry of one table, made anew with each configuration: the path, the method, the permission it
takes, and who serves it. What is not in the table is refused. The configuration is swapped atomically, and nobody is needed
to keep serving it: what was accepted is on the disk and read again at the next start. The control server may be down for
an hour; callers do not notice.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from steersman import __version__
from steersman.dataplane import (
    configuration,
    labelling,
    metrics,
    oip,
    privacy,
    protocol,
    scoring,
    sockets,
    streamed,
    tracing,
    usage,
)
from steersman.dataplane.arms import Arm, CompiledRoute, RouterCounts, VariantCounts
from steersman.dataplane.capture import GIVEN_UP, LogFullError, SegmentWriter
from steersman.dataplane.configuration import (
    InvalidConfigurationError,
    MirrorRoute,
    Route,
    RouterConfiguration,
    TokenHash,
    VariantRoute,
    WarmRoute,
)
from steersman.dataplane.edge import EdgeCounts
from steersman.dataplane.exchange import Exchange, Refusal
from steersman.dataplane.inference import Inference, malformed
from steersman.dataplane.privacy import Redactor
from steersman.dataplane.protocol import EnvelopeError
from steersman.dataplane.request import Answered, Asked
from steersman.dataplane.streaming import EVENT_STREAM
from steersman.dataplane.upstream import Upstreams
from steersman.domain.numbers import number_within

BODY_BYTES_MAX = 32 * 1024 * 1024
LABELS_BYTES_MAX = 16 * 1024 * 1024
CONFIGURATION_BYTES_MAX = 16 * 1024 * 1024
BODY_S_MAX = 20.0
"""Seconds a body may take to arrive."""

FLUSH_S_MAX = 60.0
TOKENS_REMEMBERED_MAX = 4_096

EVENT_IDS_IN_HEADER_MAX = 100
"""Event ids told in a header: 3.7 kB of UUIDs. A longer batch has them in the body, or sends ids of its own."""

DEADLINE_MS_MAX = 600_000
EVENT_TIME = b"x-event-time"

_DEFAULT_WORKSPACE, _DEFAULT_ENVIRONMENT = "default", "production"


Named = VariantRoute | MirrorRoute | WarmRoute


class Endpoint(msgspec.Struct, frozen=True, eq=False):
    """One public path of a model. Without a `permission` anybody may call it: it tells health and nothing else."""

    method: str
    permission: str | None
    serve: Callable[[Exchange, Endpoint], Awaitable[None]]
    compiled: CompiledRoute
    version: str | None = None


class StaleGenerationError(Exception):
    """The offered configuration is older than the one in force."""


class Gateway:
    """The state of one router process: configuration, compiled routes, log, counters."""

    def __init__(
        self, state: Path, *, log: SegmentWriter, number: int = 0, traces: tracing.Tracing | None = None
    ) -> None:
        self.counts = RouterCounts()
        self.edge = EdgeCounts()
        self.log = log
        self.tracing = traces or tracing.Tracing()
        self.inference = Inference(log, self.counts)
        self.upstreams = Upstreams()
        self.configuration = RouterConfiguration(generation=0)
        self._state = state
        self._name = f"router-{number}"
        self._path = state / "router" / "config.json"
        self._accepting = asyncio.Lock()
        self._endpoints: dict[str, Endpoint] = {}
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

    async def accept(self, document: bytes) -> None:
        """Persist, then swap. Raises StaleGenerationError, InvalidConfigurationError, or OSError from the disk.

        The same generation is taken again only with the same content, so that a repeated call is harmless. A disk may take
        long: it is waited for beside the loop, which answers callers meanwhile by the configuration before.
        """
        async with self._accepting:
            await self._accept(document)

    async def _accept(self, document: bytes) -> None:
        offered = configuration.decode(document)
        current = self.configuration
        if offered.generation < current.generation or (
            offered.generation == current.generation and current.generation > 0 and offered != current
        ):
            raise StaleGenerationError(f"generation {offered.generation} is refused, {current.generation} is in force")
        if offered == current:
            return
        await asyncio.to_thread(self._persist, configuration.encode(offered))
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
        endpoints: dict[str, Endpoint] = {}
        addresses: set[str] = set()
        counts: dict[tuple[str, str, str, str, str], VariantCounts] = {}
        for route in offered.routes:
            named: tuple[Named, ...] = (*route.variants, *route.mirrors, *route.warm)
            for one in named:
                addresses.update(one.addresses)
            for path, endpoint in self._endpoints_of(self._compiled(route, counts)).items():
                endpoints.setdefault(path, endpoint)  # labels of a model are one path for all its environments
        self._endpoints = endpoints | _alone(endpoints)
        self._variant_counts = counts
        self._tokens = {token.sha256: token for token in offered.tokens}
        self._token_cache = {}
        self.inference.replay = offered.replay
        self.configuration = offered
        self.upstreams.keep_only(addresses)

    def _compiled(self, route: Route, counts: dict[tuple[str, str, str, str, str], VariantCounts]) -> CompiledRoute:
        def arm(one: Named, *, override: bool = False) -> Arm:
            role = "override" if override or isinstance(one, WarmRoute) else one.role
            key = (route.workspace, route.environment, route.model, one.release, role)
            counts[key] = counts.get(key) or self._variant_counts.get(key) or VariantCounts(version=one.version)
            return Arm(route, one, self.upstreams, counts[key], override=override)

        named: tuple[Named, ...] = (*route.warm, *route.mirrors, *reversed(route.variants))
        by_version = {one.version: one for one in named}
        private = bool(route.log.drop or route.log.hash)
        return CompiledRoute(
            route,
            [arm(one) for one in route.variants],
            [arm(one) for one in route.mirrors],
            {version: arm(one, override=True) for version, one in by_version.items() if one.addresses},
            Redactor(route, privacy.load_key(self._state)) if private else None,
        )

    def _endpoints_of(self, compiled: CompiledRoute) -> dict[str, Endpoint]:
        """Every path of one model in one environment; those of the default place also without its name."""
        route = compiled.route
        infer = Endpoint("POST", "predict", self._infer, compiled)
        score = Endpoint("POST", "predict", self._score, compiled)
        model = f"/v2/models/{route.model}"
        scoring = f"/endpoints/{route.model}"
        paths = {
            f"{model}/infer": infer,
            f"{model}/generate_stream": Endpoint("POST", "predict", self._stream, compiled),
            model: Endpoint("GET", "predict", self._metadata, compiled),
            f"{model}/ready": Endpoint("GET", "predict", self._model_ready, compiled),
            f"{scoring}/invocations": score,
            f"{scoring}/ping": Endpoint("GET", None, self._ping, compiled),
            f"{scoring}/health": Endpoint("GET", None, self._ping, compiled),
            f"{scoring}/version": Endpoint("GET", "predict", self._scoring_version, compiled),
            f"/api/2.0{scoring}": Endpoint("GET", "predict", self._describe, compiled),
        }
        for version in compiled.overrides:
            at = f"{model}/versions/{version}"
            paths[f"{at}/infer"] = Endpoint("POST", "override", self._infer, compiled, version)
            paths[at] = Endpoint("GET", "predict", self._metadata, compiled, version)
            paths[f"{at}/ready"] = Endpoint("GET", "predict", self._model_ready, compiled, version)
        prefix = f"/{route.workspace}/{route.environment}"
        found = {prefix + path: endpoint for path, endpoint in paths.items()}
        if (route.workspace, route.environment) == (_DEFAULT_WORKSPACE, _DEFAULT_ENVIRONMENT):
            found |= paths
        if route.labels is not None:
            found[f"/{route.workspace}/labels/{route.model}"] = Endpoint("POST", "label", self._label, compiled)
        return found

    # --- public ------------------------------------------------------------------------------------------------------

    async def app(self, exchange: Exchange) -> None:
        endpoint = self._endpoints.get(exchange.path)
        try:
            if endpoint is None:
                await self._other(exchange)
                return
            if exchange.method != endpoint.method:
                raise Refusal(405, f"{exchange.method} is not allowed here", f"use {endpoint.method}")
            if endpoint.permission is not None:
                self._authorize(exchange.headers, endpoint.compiled.route.workspace, endpoint.permission)
            await endpoint.serve(exchange, endpoint)
        except Refusal as refusal:
            self.counts.refused += refusal.status < 500
            body = None
            if endpoint is not None and endpoint.serve == self._score:
                body = scoring.refusal(refusal)
            exchange.refuse(refusal, body)

    async def _infer(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """The Open Inference Protocol."""
        body = exchange.taken(BODY_BYTES_MAX) if exchange.whole else await self._rest_of(exchange)
        try:
            asked = oip.asked(body, exchange.headers, self._event_time(exchange.headers))
            answered = await self._ask(exchange, endpoint, asked)
            reply, json_bytes = oip.answer(endpoint.compiled.route.model, asked, answered)
        except EnvelopeError as error:
            raise malformed(error) from None
        lines = answered.said + _event_ids(answered.event_ids)
        if json_bytes is None:
            exchange.answer(200, reply, lines)
        else:
            lines += b"%b: %d\r\n" % (oip.JSON_BYTES, json_bytes)
            exchange.answer(200, reply, lines, content_type=oip.BINARY)

    async def _score(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """MLflow's scoring protocol."""
        body = exchange.taken(BODY_BYTES_MAX) if exchange.whole else await self._rest_of(exchange)
        try:
            at_us = self._event_time(exchange.headers)
            asked = scoring.asked(body, exchange.headers, at_us, endpoint.compiled.types)
            answered = await self._ask(exchange, endpoint, asked)
            reply = scoring.predictions(answered.tensors(), len(answered.event_ids))
        except EnvelopeError as error:
            raise Refusal(400, str(error), f"send JSON with one of {', '.join(scoring.FORMATS)}") from None
        exchange.answer(200, reply, answered.said + _event_ids(answered.event_ids))

    async def _stream(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """The generate extension: one row in, server-sent events out."""
        body = exchange.taken(BODY_BYTES_MAX) if exchange.whole else await self._rest_of(exchange)
        try:
            asked = streamed.asked(body, self._event_time(exchange.headers))
        except EnvelopeError as error:
            raise Refusal(400, str(error), "send text_input, or inputs of one row") from None
        asked.deadline_s = _deadline_s(exchange.headers)
        stream = await streamed.open_stream(self.inference, endpoint.compiled, asked)
        await exchange.stream(200, stream.pieces(), EVENT_STREAM + stream.said + _event_ids(stream.event_ids))

    def _rest_of(self, exchange: Exchange) -> Awaitable[bytes]:
        """The body, where it has not arrived with the head."""
        self._given_event_time(exchange.headers)  # a wrong one is told before the body is waited for
        return exchange.body(bytes_max=BODY_BYTES_MAX, timeout_s=BODY_S_MAX)

    def _ask(self, exchange: Exchange, endpoint: Endpoint, asked: Asked) -> Awaitable[Answered]:
        asked.version = endpoint.version
        asked.deadline_s = _deadline_s(exchange.headers)
        compiled = endpoint.compiled
        if self.tracing.concerns(exchange.headers):
            span = self.tracing.begin(exchange.fields, tracing.ROUTE_INFER, compiled.attributes)
            if span is not None:
                return self._traced(compiled, asked, span)
        return self.inference.infer(compiled, asked)

    async def _traced(self, compiled: CompiledRoute, asked: Asked, span: tracing.Span) -> Answered:
        asked.span = span
        try:
            answered = await self.inference.infer(compiled, asked)
        except Refusal as refusal:
            span.end(refusal.status, refusal.error)
            raise
        except asyncio.CancelledError:
            span.end(GIVEN_UP)
            raise
        span.end(200)
        return answered

    async def _metadata(self, exchange: Exchange, endpoint: Endpoint) -> None:
        compiled, version = endpoint.compiled, endpoint.version
        versions = [version] if version is not None else sorted(compiled.overrides)
        exchange.answer(200, oip.model_metadata(compiled.route, versions))

    async def _model_ready(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """Whether somebody would answer: 200 or 503, without asking the workers."""
        ready = _is_ready(endpoint.compiled, endpoint.version)
        exchange.answer(200 if ready else 503, b'{"ready": %s}' % (b"true" if ready else b"false"))

    async def _ping(self, exchange: Exchange, endpoint: Endpoint) -> None:
        exchange.answer(200 if _is_ready(endpoint.compiled, None) else 503, b"\n")

    async def _scoring_version(self, exchange: Exchange, endpoint: Endpoint) -> None:
        exchange.answer(200, __version__.encode())

    async def _describe(self, exchange: Exchange, endpoint: Endpoint) -> None:
        route = endpoint.compiled.route
        path = f"/{route.workspace}/{route.environment}/endpoints/{route.model}/invocations"
        exchange.answer(200, scoring.endpoint_description(route.model, path))

    async def _label(self, exchange: Exchange, endpoint: Endpoint) -> None:
        body = await exchange.body(bytes_max=LABELS_BYTES_MAX, timeout_s=BODY_S_MAX)
        accepted = await self._take_labels(endpoint.compiled, exchange.headers, body)
        exchange.answer(202, b'{"accepted": %d}' % accepted)

    async def _other(self, exchange: Exchange) -> None:
        """What belongs to no model: health for anybody, metadata and figures for those with a token, else 404."""
        path, headers = exchange.path, exchange.headers
        if path in ("/v2/health/live", "/v2/health/ready", "/ping", "/health"):
            _only_get(exchange)
            ready = path.endswith("live") or self.configuration.generation > 0
            said = b'{"%s": %s}' % (path.rpartition("/")[2].encode(), b"true" if ready else b"false")
            exchange.answer(200 if ready else 503, said)
        elif path == "/metrics":
            _only_get(exchange)
            self._authorize(headers, None, "metrics")
            workers = await usage.of_workers(self.configuration.routes, self.upstreams)
            own = metrics.Own(self._name, self.counters(), workers)
            kind, page = await metrics.exposition(
                self._state, own, accept=headers.get(b"accept", b"").decode("latin-1")
            )
            exchange.answer(200, page, content_type=kind.encode())
        elif path in ("/v2", "/v2/"):
            _only_get(exchange)
            self._authorize(headers, None, None)
            exchange.answer(200, oip.server_metadata())
        else:
            self._authorize(headers, None, None)  # others learn nothing about what exists
            raise Refusal(
                404,
                f"nothing is served at {path[:200]}",
                "check workspace, environment, model and version: POST /{workspace}/{environment}/v2/models/{model}/infer",
            )

    def _authorize(self, headers: Mapping[bytes, bytes], workspace: str | None, permission: str | None) -> None:
        value = headers.get(b"authorization", b"")
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
        """The token of an `Authorization` header. Basic is taken as well, the token as the password of any user:
        clients that know no bearer tokens (MLflow's scoring client reads `.netrc`) need not be changed."""
        scheme, _, secret = value.partition(b" ")
        secret = secret.strip()
        if scheme.lower() == b"basic":
            with contextlib.suppress(binascii.Error):
                secret = base64.b64decode(secret, validate=True).partition(b":")[2]
        elif scheme.lower() != b"bearer":
            return None
        if not secret:
            return None
        token = self._tokens.get(hashlib.sha256(secret).hexdigest())
        if token is not None and len(self._token_cache) < TOKENS_REMEMBERED_MAX:
            self._token_cache[value] = token
        return token

    def _event_time(self, headers: Mapping[bytes, bytes]) -> int:
        """Event time of a request: now, unless it is given. In a replay there is no now, so it must be."""
        if EVENT_TIME not in headers and not self.configuration.replay:
            return time.time_ns() // 1000
        at_us = self._given_event_time(headers)
        if at_us is None:
            raise Refusal(400, "this installation replays: the event time is missing", "send X-Event-Time")
        return at_us

    def _given_event_time(self, headers: Mapping[bytes, bytes]) -> int | None:
        value = headers.get(EVENT_TIME)
        if value is None:
            return None
        if not self.configuration.replay:
            raise Refusal(400, "X-Event-Time is accepted in a replay only", "leave the header out")
        try:
            return protocol.parse_instant(value.decode("latin-1"))
        except EnvelopeError as error:
            raise Refusal(400, f"X-Event-Time: {error}", "send it as 2013-03-01T05:00:00Z") from None

    async def _take_labels(self, compiled: CompiledRoute, headers: Mapping[bytes, bytes], body: bytes) -> int:
        settings = compiled.route.labels
        assert settings is not None
        arrival_us = self._given_event_time(headers)
        try:
            record = labelling.record_of(
                compiled, settings, body, arrival_us=arrival_us, replay=self.configuration.replay
            )
        except EnvelopeError as error:
            raise Refusal(400, str(error), 'send {"labels": [{"event_id": "…", "value": 1}]}') from None
        try:
            durable = settings.capture == "durable"
            self.log.append(None, record, durable=durable)
            if durable:
                await self.log.sync()
        except LogFullError as error:
            # A label that is not stored is not accepted in either mode: its sender can send it again.
            self.log.counts.refused_records += 1
            raise Refusal(
                503, f"labels cannot be stored: {error}", "free disk space below the state directory", retry_after_s=5
            ) from None
        self.counts.labels += len(record.values)
        return len(record.values)

    # --- admin -------------------------------------------------------------------------------------------------------

    async def admin(self, exchange: Exchange, key: bytes) -> None:
        try:
            if not sockets.key_matches(exchange.headers, key):
                raise Refusal(401, "the socket's key is missing or wrong", "read it from the file beside the socket")
            match (exchange.method, exchange.path):
                case ("PUT", "/configuration"):
                    body = await exchange.body(bytes_max=CONFIGURATION_BYTES_MAX, timeout_s=BODY_S_MAX)
                    exchange.answer(200, await self._put_configuration(body))
                case ("GET", "/configuration"):
                    exchange.answer(200, configuration.encode(self.configuration))
                case ("GET", "/counters"):
                    exchange.answer(200, self.counters())
                case ("POST", "/flush"):
                    left = await self.inference.settle(FLUSH_S_MAX)
                    body = msgspec.json.encode({"position": self.log.position, "mirrors_in_flight": left})
                    exchange.answer(200 if left == 0 else 504, body)
                case (method, path):
                    raise Refusal(404, f"no {method} {path}", "PUT|GET /configuration, GET /counters, POST /flush")
        except Refusal as refusal:
            exchange.refuse(refusal)

    async def _put_configuration(self, body: bytes) -> bytes:
        try:
            await self.accept(body)
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
                "routes": [
                    {
                        "workspace": one.route.workspace,
                        "environment": one.route.environment,
                        "model": one.route.model,
                        "in_flight": one.in_flight,
                    }
                    for one in {id(e.compiled): e.compiled for e in self._endpoints.values()}.values()
                ],
                "traces": self.tracing.counts,
                "replicas": self.upstreams.health(),
            }
        )


def _alone(endpoints: Mapping[str, Endpoint]) -> dict[str, Endpoint]:
    """MLflow's bare paths, where a place has one model: a scoring server of one's own serves just that."""
    found: dict[str, list[Endpoint]] = {}
    for path, endpoint in endpoints.items():
        prefix, slash, rest = path.partition("/endpoints/")
        _model, _, action = rest.partition("/")
        if slash and action:
            found.setdefault(f"{prefix}/{action}", []).append(endpoint)
    return {path: candidates[0] for path, candidates in found.items() if len(candidates) == 1}


def _only_get(exchange: Exchange) -> None:
    if exchange.method != "GET":
        raise Refusal(405, f"{exchange.method} is not allowed here", "use GET")


def _is_ready(compiled: CompiledRoute, version: str | None) -> bool:
    if version is not None:
        return any(not replica.ejected for replica in compiled.overrides[version].replicas)
    arms = [compiled.only] if compiled.only is not None else [compiled.stable, compiled.candidate]
    return all(arm is not None and any(not replica.ejected for replica in arm.replicas) for arm in arms)


def _event_ids(ids: Sequence[str]) -> bytes:
    """The ids as a header line; none where they are too many, or could not stand in one."""
    if len(ids) > EVENT_IDS_IN_HEADER_MAX:
        return b""
    text = ids[0] if len(ids) == 1 else ",".join(ids)
    return b"%b: %b\r\n" % (scoring.EVENT_IDS, text.encode("ascii")) if text.isascii() and text.isprintable() else b""


def _deadline_s(headers: Mapping[bytes, bytes]) -> float | None:
    given = headers.get(b"x-steersman-deadline-ms")
    if given is None:
        return None
    number = number_within(given, 1, DEADLINE_MS_MAX)
    if number is None:
        raise Refusal(400, "X-Steersman-Deadline-Ms is not a number of milliseconds", f"send 1 to {DEADLINE_MS_MAX}")
    return number / 1000
