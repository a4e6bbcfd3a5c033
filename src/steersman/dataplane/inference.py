"""One inference request, from what was asked to what is answered, whatever protocol the caller speaks.

The path most requests take is short: the envelope is read, the tensors are not, the body goes on as it came, and the
worker's outputs come back as they are. Only where two variants share the traffic are rows told apart, sent in parts and
rejoined in order. Whatever was answered is in the log before the caller hears of it, and so is what the caller did not wait
for: a version too slow for its callers would else look quick. Copies for mirrors run beside.

A candidate that fails with a 5xx does not take its callers down with it: where the model is idempotent (and the route
says `fallback`) stable answers those rows. The failure stays on the candidate's record, where the guardrail reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from time import monotonic

from steersman.dataplane import protocol, routing, upstream
from steersman.dataplane.arms import Arm, CompiledRoute, RouterCounts, said
from steersman.dataplane.capture import LogFullError, Prediction, SegmentWriter
from steersman.dataplane.configuration import BUCKETS
from steersman.dataplane.exchange import Refusal
from steersman.dataplane.privacy import WITHHELD
from steersman.dataplane.protocol import EnvelopeError, Tensor
from steersman.dataplane.request import Answered, Asked, Part, PartAnswer, Request
from steersman.dataplane.tracing import Span

MIRRORS_IN_FLIGHT_MAX = 128
"""Copies under way at one time; in the first form a bound for the whole router."""


class Inference:
    """Answers inference requests; owns the mirrors under way."""

    def __init__(self, log: SegmentWriter, counts: RouterCounts) -> None:
        self.replay = False
        self._log = log
        self._counts = counts
        self._mirrors: set[asyncio.Task[None]] = set()

    async def infer(self, compiled: CompiledRoute, asked: Asked) -> Answered:
        """Ask whoever should answer. Raises Refusal."""
        route = compiled.route
        request = self.admit(compiled, asked)
        self._counts.requests += 1
        self._counts.rows += request.rows
        compiled.in_flight += 1
        try:
            parts = assign(request)
            mirrors = self._start_mirrors(request) if compiled.mirrors else None
            answers = [await self._ask(request, parts[0])] if len(parts) == 1 else await self._ask_all(request, parts)
            if len(answers) > 1 or answers[0].status >= 500:
                answers = await self._fall_back(request, answers)
            if self.replay and mirrors:
                await asyncio.wait(mirrors)
            if route.capture == "durable" and request.recorded:
                await self.sync()
            return self._answer(request, answers)
        except EnvelopeError as error:
            raise malformed(error) from None
        finally:
            compiled.in_flight -= 1

    def admit(self, compiled: CompiledRoute, asked: Asked) -> Request:
        """Let a request in, or raise Refusal where too many are under way."""
        route = compiled.route
        if compiled.in_flight >= route.in_flight_max:
            self._counts.queue_refusals += 1
            raise Refusal(
                429,
                f"{compiled.in_flight} requests for {route.model} are under way",
                "try again later, or raise `queue` and the replicas of the model's serving settings",
                retry_after_s=1,
            )
        ids = asked.event_ids
        recorded = compiled.recorded_below >= BUCKETS or (
            routing.bucket_of("inference-log", ids[0]) < compiled.recorded_below
        )
        if not recorded:
            self._counts.sampled_out_rows += len(ids)
        wait_s = route.deadline_s if asked.deadline_s is None else min(route.deadline_s, asked.deadline_s)
        return Request(compiled, asked, asked.envelope.id or ids[0], ids, len(ids), monotonic() + wait_s, recorded)

    async def _ask_all(self, request: Request, parts: Sequence[Part]) -> list[PartAnswer]:
        return list(await asyncio.gather(*(self._ask(request, part) for part in parts)))

    async def _ask(self, request: Request, part: Part) -> PartAnswer:
        """Ask one arm and put its answer into the log."""
        arm = part.arm
        started = monotonic()
        answer = PartAnswer(part)
        span = None
        if request.asked.span is not None:
            span = request.asked.span.ask(arm.attributes, request.rows if part.rows is None else len(part.rows))
        try:
            response = await upstream.call(
                arm.replicas,
                request.to_worker(part, request.deadline_at - started, span),
                deadline_at=request.deadline_at,
                idempotent=request.compiled.route.idempotent,
            )
            if response.status == 200:
                answer.outputs = protocol.decode_answer(response.body)
                if request.asked.prediction:
                    answer.logged = _without_predictions(answer.outputs)
            else:
                answer.refused(response.status, response.body)
        except (upstream.NoReplicaError, upstream.DeadlineError, EnvelopeError) as error:
            answer.unanswered(error)
        except asyncio.CancelledError:
            answer.given_up()
            with contextlib.suppress(Refusal):  # nobody would hear of it
                self.settled(request, answer, started, span)
            raise
        self.settled(request, answer, started, span)
        return answer

    def settled(self, request: Request, answer: PartAnswer, started: float, span: Span | None = None) -> None:
        """Note how a question that began at `started` (of the loop's clock) ended. Raises as `record`."""
        answer.latency_ms = (monotonic() - started) * 1000
        if span is not None:
            span.end(answer.status, answer.error)
        self.record(request, answer)

    def record(self, request: Request, answer: PartAnswer) -> None:
        """Count an answer and put it into the log. Raises Refusal where the log must have it and takes no more."""
        part, asked, compiled = answer.part, request.asked, request.compiled
        arm, status, latency_ms = part.arm, answer.status, answer.latency_ms
        ids = request.event_ids if part.rows is None else [request.event_ids[row] for row in part.rows]
        arm.counts.answered(status, len(ids), latency_ms)
        if not request.recorded:
            return
        body, json_bytes, error = asked.logged or part.body, part.json_bytes, answer.error
        if (redactor := compiled.redactor) is not None:
            body, json_bytes = redactor.request(body, json_bytes), None
            error = error and WITHHELD
        # By position, in the order of the class: names would cost more than all of the rest.
        record = Prediction(
            compiled.context.id,
            asked.at_us,
            arm.version,
            arm.digest,
            arm.release,
            arm.logged_as,
            None if part.fallback else arm.probability,
            request.id,
            ids,
            body,
            answer.outputs if answer.logged is None else answer.logged,
            status,
            error,
            latency_ms,
            json_bytes,
            None if asked.span is None else asked.span.trace_id,
        )
        durable = compiled.route.capture == "durable"
        try:
            self._log.append(compiled.context, record, durable=durable)
        except LogFullError as error:
            mirrored = arm.role in ("mirror", "challenger")
            if durable and not mirrored:
                self._log.counts.refused_records += 1
                raise _log_full(error) from None
            self._log.counts.dropped_records += 1
            self._log.counts.dropped_rows += len(ids)

    async def sync(self) -> None:
        """Return when what was recorded is on the disk. Raises Refusal when the disk refuses."""
        try:
            await self._log.sync()
        except LogFullError as error:
            raise _log_full(error) from None

    async def _fall_back(self, request: Request, answers: list[PartAnswer]) -> list[PartAnswer]:
        """Let stable answer the rows whose candidate failed with a 5xx, where that is allowed."""
        compiled = request.compiled
        route, stable = compiled.route, compiled.stable
        if stable is None or not (route.idempotent and route.fallback) or request.asked.version is not None:
            return answers
        settled = []
        for answer in answers:
            if answer.status >= 500 and answer.part.arm is not stable and stable.replicas:
                self._counts.fallbacks += 1
                settled.append(await self._ask(request, request.part(stable, answer.part.rows, fallback=True)))
            else:
                settled.append(answer)
        return settled

    def _answer(self, request: Request, answers: Sequence[PartAnswer]) -> Answered:
        for answer in answers:
            if answer.status != 200:
                self._counts.failed += 1
                raise answer.refusal()
        if len(answers) == 1:
            arm = answers[0].part.arm
            return Answered(
                request.id, arm.version, request.event_ids, [arm.role] * request.rows, answers[0].outputs, arm.said
            )
        arms = [answer.part.arm for answer in answers]
        leading = next((arm for arm in arms if arm.role == "stable"), arms[0])
        variants: list[str] = [leading.role] * request.rows
        parts = []
        for answer in answers:
            rows = answer.part.rows or []
            for row in rows:
                variants[row] = answer.part.arm.role
            parts.append((rows, answer.outputs))
        told = [
            ",".join(dict.fromkeys(each)) for each in zip(*((a.version, a.release, a.role) for a in arms), strict=True)
        ]
        outputs = _rejoined(parts, request.rows)
        return Answered(request.id, leading.version, request.event_ids, variants, outputs, said(told))

    def _start_mirrors(self, request: Request) -> list[asyncio.Task[None]]:
        """Start a copy for every mirror. Beyond the bound copies are dropped and counted, except in a replay."""
        started: list[asyncio.Task[None]] = []
        if request.asked.version is not None:
            return started
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
        """Wait for the mirrors under way, not for those that begin meanwhile; returns how many are left after `timeout_s`."""
        if not self._mirrors:
            return 0
        _, left = await asyncio.wait(set(self._mirrors), timeout=timeout_s)
        return len(left)

    async def close(self, timeout_s: float) -> None:
        """Give up the mirrors that take longer than `timeout_s`; then nothing is put into the log any more."""
        if await self.settle(timeout_s):
            for mirror in self._mirrors:
                mirror.cancel()
            await asyncio.wait(set(self._mirrors))


def assign(request: Request) -> list[Part]:
    compiled = request.compiled
    if (version := request.asked.version) is not None:
        return [request.part(compiled.overrides[version], None)]
    if compiled.only is not None:
        return [request.part(compiled.only, None)]
    stable, candidate = compiled.stable, compiled.candidate
    if stable is None or candidate is None:
        raise Refusal(503, f"no version of {compiled.route.model} is live", "release a version first", retry_after_s=10)
    rows_stable, rows_candidate = compiled.splitter.rows(request.sticky())
    split = [(stable, rows_stable), (candidate, rows_candidate)]
    return [request.part(arm, rows) for arm, rows in split if rows]


def _without_predictions(raw: bytes) -> bytes | None:
    """The outputs without what was added for MLflow's protocol; None where nothing was."""
    outputs = protocol.decode_outputs(raw)
    kept = protocol.without_predictions(outputs)
    return protocol.encode_outputs(kept) if len(kept) < len(outputs) else None


def _rejoined(parts: Sequence[tuple[list[int], bytes]], rows: int) -> list[Tensor]:
    try:
        return routing.rejoin([(indices, protocol.decode_outputs(raw)) for indices, raw in parts], rows)
    except EnvelopeError as error:
        raise Refusal(502, f"the variants' answers do not fit together: {error}", "see the versions' outputs") from None


def malformed(error: EnvelopeError) -> Refusal:
    return Refusal(400, str(error), "send an Open Inference Protocol v2 request in JSON")


def _log_full(error: LogFullError) -> Refusal:
    return Refusal(
        503,
        f"the inference log cannot be written: {error}",
        "free disk space below the state directory; the model's capture is durable",
        retry_after_s=5,
    )
