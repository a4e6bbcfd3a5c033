"""One inference request, from its body to its answer.

The path most requests take is short: the envelope is read, the tensors are not, the body goes on as it came, and the
worker's outputs come back as they are. Only where two variants share the traffic are rows told apart, sent in parts and
rejoined in order. Whatever was answered is in the log before the caller hears of it; copies for mirrors run beside.

A candidate that fails with a 5xx does not take its callers down with it: where the model is idempotent (and the route
says `fallback`) stable answers those rows. The failure stays on the candidate's record, where the guardrail reads it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Literal

import msgspec

from steersman.dataplane import metrics, protocol, routing, upstream
from steersman.dataplane.asgi import Refusal
from steersman.dataplane.capture import Context, LogFullError, Prediction, SegmentWriter, context_of
from steersman.dataplane.configuration import MirrorRoute, Route, VariantRoute
from steersman.dataplane.protocol import EnvelopeError, InferEnvelope, Tensor
from steersman.dataplane.routing import Splitter

ERROR_CHARS_MAX = 500
"""Of a worker's error text, in the log and in the answer."""

MIRRORS_IN_FLIGHT_MAX = 128
"""Copies under way at one time; in the first form a bound for the whole router."""

_LOGGED_AS: dict[str, str] = {
    "mirror": "shadow",
    "challenger": "challenger",
    "stable": "stable",
    "candidate": "candidate",
}
"""The variant a role has in the log."""


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


class RouterCounts(msgspec.Struct):
    requests: int = 0
    rows: int = 0
    labels: int = 0
    refused: int = 0
    failed: int = 0
    fallbacks: int = 0
    mirrors_dropped: int = 0
    mirrors_unreadable: int = 0
    """Of those dropped: the rows could not be told apart."""
    queue_refusals: int = 0


class Arm:
    """A version that can be asked: variant or mirror of a route, with its replicas and its counts."""

    __slots__ = (
        "counts",
        "digest",
        "head",
        "percent",
        "probability",
        "release",
        "replicas",
        "role",
        "splitter",
        "version",
    )

    def __init__(
        self, route: Route, arm: VariantRoute | MirrorRoute, upstreams: upstream.Upstreams, counts: VariantCounts
    ) -> None:
        self.role: Literal["stable", "candidate", "mirror", "challenger"] = arm.role
        self.version, self.digest, self.release = arm.version, arm.digest, arm.release
        self.percent = arm.weight_pct if isinstance(arm, VariantRoute) else arm.percent
        self.probability = self.percent / 100
        self.replicas = [upstreams.replica(address) for address in arm.addresses]
        self.counts = counts
        self.splitter = Splitter(f"{route.salt}/{arm.role}/{arm.release}", self.percent)
        self.head = (
            f"POST /v2/models/{route.model}/infer HTTP/1.1\r\nHost: worker\r\nContent-Type: application/json\r\n"
            f"X-Steersman-Variant: {arm.role}\r\nContent-Length: "
        ).encode()


class CompiledRoute:
    """A route with everything looked up that can be looked up once."""

    __slots__ = ("candidate", "context", "in_flight", "mirrors", "only", "route", "splitter", "stable")

    def __init__(self, route: Route, variants: Sequence[Arm], mirrors: Sequence[Arm]) -> None:
        self.route = route
        self.mirrors = mirrors
        self.context: Context = context_of(route)
        self.in_flight = 0
        by_role = {arm.role: arm for arm in variants}
        self.stable = by_role.get("stable")
        self.candidate = by_role.get("candidate")
        answering = [arm for arm in variants if arm.percent > 0]
        self.only = answering[0] if len(answering) == 1 else None
        self.splitter = Splitter(route.salt, self.candidate.percent if self.candidate else 0.0)


class Part(msgspec.Struct):
    """Rows for one arm; `rows` None means the whole batch as it came."""

    arm: Arm
    rows: list[int] | None
    body: bytes
    fallback: bool = False


class PartAnswer(msgspec.Struct):
    part: Part
    status: int
    outputs: bytes
    error: str | None
    next_step: str
    latency_ms: float


class Request(msgspec.Struct):
    """What is known of a request once its envelope was read."""

    compiled: CompiledRoute
    body: bytes
    envelope: InferEnvelope
    id: str
    event_ids: list[str]
    at_us: int
    deadline_at: float
    tensors: list[Tensor] | None = None
    entities: list[str] | None = None

    @property
    def rows(self) -> int:
        return len(self.event_ids)

    def decoded(self) -> list[Tensor]:
        """The tensors with their data, decoded once; checked to have one value a row."""
        if self.tensors is None:
            self.tensors = [
                Tensor(one.name, one.datatype, one.shape, protocol.decode_values(one.data))
                for one in self.envelope.inputs
            ]
            for tensor in self.tensors:
                if len(tensor.data) != self.rows:
                    raise EnvelopeError(f"inputs: {tensor.name}: {len(tensor.data)} values for {self.rows} rows")
        return self.tensors

    def sticky(self) -> list[str]:
        """What each row is hashed by: the `stickyBy` column where it came along and is not null, else the event id."""
        if self.entities is None:
            self.entities = self.event_ids
            name = self.compiled.route.sticky_by
            for one in self.envelope.inputs:
                if one.name == name:
                    values = protocol.decode_values(one.data)
                    if len(values) != self.rows:
                        raise EnvelopeError(f"inputs: {one.name}: {len(values)} values for {self.rows} rows")
                    self.entities = [
                        event_id if value is None else routing.entity_text(value)
                        for value, event_id in zip(values, self.event_ids, strict=True)
                    ]
        return self.entities

    def part(self, arm: Arm, rows: list[int] | None, *, fallback: bool = False) -> Part:
        if rows is None or len(rows) == self.rows:
            return Part(arm, None, self.body, fallback)
        return Part(arm, rows, protocol.encode_request(routing.take(self.decoded(), rows)), fallback)


class Inference:
    """Answers inference requests; owns the mirrors under way."""

    def __init__(self, log: SegmentWriter, counts: RouterCounts) -> None:
        self.replay = False
        self._log = log
        self._counts = counts
        self._mirrors: set[asyncio.Task[None]] = set()

    async def infer(self, compiled: CompiledRoute, body: bytes, at_us: int) -> bytes:
        """The answer's body. Raises Refusal."""
        route = compiled.route
        request = self._admit(compiled, body, at_us)
        self._counts.requests += 1
        self._counts.rows += request.rows
        compiled.in_flight += 1
        try:
            parts = _assign(request)
            mirrors = self._start_mirrors(request)
            answers = [await self._ask(request, parts[0])] if len(parts) == 1 else await self._ask_all(request, parts)
            answers = await self._fall_back(request, answers)
            if self.replay and mirrors:
                await asyncio.wait(mirrors)
            if route.capture == "durable":
                await self._sync()
            return self._answer(request, answers)
        except EnvelopeError as error:
            raise _malformed(error) from None
        finally:
            compiled.in_flight -= 1

    def _admit(self, compiled: CompiledRoute, body: bytes, at_us: int) -> Request:
        route = compiled.route
        if compiled.in_flight >= route.in_flight_max:
            self._counts.queue_refusals += 1
            raise Refusal(
                503,
                f"{compiled.in_flight} requests for {route.model} are under way",
                "try again later",
                retry_after_s=1,
            )
        try:
            envelope, rows = protocol.decode_envelope(body)
            if envelope.id is not None and len(envelope.id) > protocol.ID_CHARS_MAX:
                raise EnvelopeError(f"id: more than {protocol.ID_CHARS_MAX} characters")
            event_ids = protocol.event_ids_of(envelope, rows)
        except EnvelopeError as error:
            raise _malformed(error) from None
        return Request(
            compiled=compiled,
            body=body,
            envelope=envelope,
            id=envelope.id or protocol.uuid7s(1)[0],
            event_ids=event_ids,
            at_us=at_us,
            deadline_at=asyncio.get_running_loop().time() + route.deadline_s,
        )

    async def _ask_all(self, request: Request, parts: Sequence[Part]) -> list[PartAnswer]:
        return list(await asyncio.gather(*(self._ask(request, part) for part in parts)))

    async def _ask(self, request: Request, part: Part) -> PartAnswer:
        """Ask one arm and put its answer into the log."""
        arm = part.arm
        started = time.perf_counter()
        answer = PartAnswer(part, 200, b"", None, "", 0.0)
        try:
            data = arm.head + b"%d\r\n\r\n" % len(part.body) + part.body
            response = await upstream.call(
                arm.replicas,
                data,
                deadline_at=request.deadline_at,
                idempotent=request.compiled.route.idempotent,
            )
            if response.status == 200:
                answer.outputs = protocol.decode_answer(response.body)
            else:
                failure = protocol.decode_failure(response.body)
                answer.status = response.status
                answer.error = failure.error[:ERROR_CHARS_MAX] or f"the worker answered {response.status}"
                answer.next_step = failure.next_step[:ERROR_CHARS_MAX]
        except upstream.NoReplicaError as error:
            answer.status, answer.error = 503, f"version {arm.version}: {error}"
            answer.next_step = "try again; if it persists, see whether the version's replicas run"
        except upstream.DeadlineError as error:
            answer.status, answer.error = 504, f"version {arm.version}: {error}"
            answer.next_step = "send fewer rows, or raise the deadline of the model's serving settings"
        except EnvelopeError as error:
            answer.status, answer.error = 502, f"version {arm.version} answered with something else: {error}"
            answer.next_step = "see the log of its worker"
        answer.latency_ms = (time.perf_counter() - started) * 1000
        self._record(request, answer)
        return answer

    def _record(self, request: Request, answer: PartAnswer) -> None:
        part, arm = answer.part, answer.part.arm
        ids = request.event_ids if part.rows is None else [request.event_ids[row] for row in part.rows]
        counts = arm.counts
        counts.requests += 1
        counts.rows += len(ids)
        counts.errors += answer.status >= 500
        counts.latency_ms_sum += answer.latency_ms
        counts.latency_ms_max = max(counts.latency_ms_max, answer.latency_ms)
        counts.statuses[answer.status // 100] += 1
        metrics.observe(counts.latencies, answer.latency_ms)
        record = Prediction(
            context=request.compiled.context.id,
            at_us=request.at_us,
            version=arm.version,
            digest=arm.digest,
            release=arm.release,
            variant=_LOGGED_AS[arm.role],
            probability=None if part.fallback else arm.probability,
            request_id=request.id,
            event_ids=ids,
            request=part.body,
            outputs=answer.outputs,
            status=answer.status,
            error=answer.error,
            latency_ms=answer.latency_ms,
        )
        try:
            self._log.append(request.compiled.context, record)
        except LogFullError as error:
            mirrored = arm.role in ("mirror", "challenger")
            if request.compiled.route.capture == "durable" and not mirrored:
                self._log.counts.refused_records += 1
                raise _log_full(error) from None
            self._log.counts.dropped_records += 1
            self._log.counts.dropped_rows += len(ids)

    async def _sync(self) -> None:
        try:
            await self._log.sync()
        except LogFullError as error:
            raise _log_full(error) from None

    async def _fall_back(self, request: Request, answers: list[PartAnswer]) -> list[PartAnswer]:
        """Let stable answer the rows whose candidate failed with a 5xx, where that is allowed."""
        compiled = request.compiled
        route, stable = compiled.route, compiled.stable
        if stable is None or not (route.idempotent and route.fallback):
            return answers
        settled = []
        for answer in answers:
            if answer.status >= 500 and answer.part.arm is not stable and stable.replicas:
                self._counts.fallbacks += 1
                settled.append(await self._ask(request, request.part(stable, answer.part.rows, fallback=True)))
            else:
                settled.append(answer)
        return settled

    def _answer(self, request: Request, answers: Sequence[PartAnswer]) -> bytes:
        failed = next((answer for answer in answers if answer.status != 200), None)
        if failed is not None:
            self._counts.failed += 1
            raise Refusal(
                failed.status,
                failed.error or "",
                failed.next_step,
                retry_after_s=1 if failed.status == 503 else None,
            )
        if len(answers) == 1:
            arm = answers[0].part.arm
            variants = [arm.role] * request.rows
            outputs: bytes | list[Tensor] = answers[0].outputs
        else:
            arm = next((a.part.arm for a in answers if a.part.arm.role == "stable"), answers[0].part.arm)
            variants = [arm.role] * request.rows
            parts = []
            for answer in answers:
                rows = answer.part.rows or []
                for row in rows:
                    variants[row] = answer.part.arm.role
                parts.append((rows, answer.outputs))
            outputs = _rejoined(parts, request.rows)
        return protocol.encode_answer(
            request_id=request.id,
            model=request.compiled.route.model,
            version=arm.version,
            event_ids=request.event_ids,
            variants=variants,
            outputs=outputs,
        )

    def _start_mirrors(self, request: Request) -> list[asyncio.Task[None]]:
        """Start a copy for every mirror. Beyond the bound copies are dropped and counted, except in a replay."""
        started = []
        for arm in request.compiled.mirrors:
            if len(self._mirrors) >= MIRRORS_IN_FLIGHT_MAX and not self.replay:
                self._counts.mirrors_dropped += 1
                continue
            task = asyncio.create_task(self._mirror(request, arm))
            self._mirrors.add(task)
            task.add_done_callback(self._mirrors.discard)
            started.append(task)
        return started

    async def _mirror(self, request: Request, arm: Arm) -> None:
        rows: list[int] | None = None
        try:
            if arm.percent < 100:
                _, rows = arm.splitter.rows(request.sticky())
                if not rows:
                    return
            await self._ask(request, request.part(arm, rows))
        except EnvelopeError:  # the caller hears of it from the variant that answers
            self._counts.mirrors_dropped += 1
            self._counts.mirrors_unreadable += 1

    async def settle(self, timeout_s: float) -> int:
        """Wait for the mirrors under way; returns how many are left after `timeout_s`."""
        if self._mirrors:
            await asyncio.wait(set(self._mirrors), timeout=timeout_s)
        return len(self._mirrors)


def _assign(request: Request) -> list[Part]:
    compiled = request.compiled
    if compiled.only is not None:
        return [request.part(compiled.only, None)]
    stable, candidate = compiled.stable, compiled.candidate
    if stable is None or candidate is None:
        raise Refusal(503, f"no version of {compiled.route.model} is live", "release a version first", retry_after_s=10)
    rows_stable, rows_candidate = compiled.splitter.rows(request.sticky())
    split = [(stable, rows_stable), (candidate, rows_candidate)]
    return [request.part(arm, rows) for arm, rows in split if rows]


def _rejoined(parts: Sequence[tuple[list[int], bytes]], rows: int) -> list[Tensor]:
    try:
        return routing.rejoin([(indices, protocol.decode_outputs(raw)) for indices, raw in parts], rows)
    except EnvelopeError as error:
        raise Refusal(502, f"the variants' answers do not fit together: {error}", "see the versions' outputs") from None


def _malformed(error: EnvelopeError) -> Refusal:
    return Refusal(400, str(error), "send an Open Inference Protocol v2 request in JSON")


def _log_full(error: LogFullError) -> Refusal:
    return Refusal(
        503,
        f"the inference log cannot be written: {error}",
        "free disk space below the state directory; the model's capture is durable",
        retry_after_s=5,
    )
