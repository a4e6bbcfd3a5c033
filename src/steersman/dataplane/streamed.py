"""An answer that comes in pieces: passed on as it comes, and kept as a whole.

The generate extension of the Open Inference Protocol: one row in, server-sent events out. The first piece decides the status;
what the caller has seen by the end is in the log before the end is sent, so an answer that was read to its end is never
missing there. A caller that leaves ends the worker's generator; what it had got is kept with the status 499.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from time import monotonic

import msgspec

from steersman.dataplane import protocol, upstream
from steersman.dataplane.arms import CompiledRoute
from steersman.dataplane.capture import GIVEN_UP
from steersman.dataplane.connection import Stream, UpstreamError
from steersman.dataplane.exchange import Refusal
from steersman.dataplane.inference import Inference, assign
from steersman.dataplane.protocol import EnvelopeError, InferEnvelope, RequestParameters, Tensor
from steersman.dataplane.request import Asked, PartAnswer, Request

KEPT_BYTES_MAX = 1024 * 1024
"""Of one streamed answer in the log: a long generation has some 20 kB. What lies beyond is not kept, and the error says so."""

TEXT_INPUT = "text_input"
OUTPUT = "stream"
"""The name a streamed answer has among the outputs in the log."""


class _Generate(msgspec.Struct, frozen=True):
    text_input: str | None = None
    id: str | None = None
    parameters: RequestParameters | None = None


_generates = msgspec.json.Decoder(_Generate)


def asked(body: bytes, at_us: int) -> Asked:
    """Read a request: `text_input`, or one row of inputs. Raises EnvelopeError."""
    try:
        given = _generates.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EnvelopeError(str(error)) from None
    if given.text_input is None:
        envelope, rows = protocol.decode_envelope(body)
        if rows != 1:
            raise EnvelopeError(f"inputs: {rows} rows; an answer in pieces is of one")
    else:
        envelope = InferEnvelope([], given.id, given.parameters)
    return Asked(body=body, envelope=envelope, event_ids=protocol.event_ids_of(envelope, 1), at_us=at_us)


class Streamed:
    """A stream whose head has come. `pieces` must be iterated to its end or closed."""

    def __init__(
        self, inference: Inference, request: Request, answer: PartAnswer, stream: Stream, started: float
    ) -> None:
        self.event_ids = request.event_ids
        self.said = answer.part.arm.said
        self._inference = inference
        self._request = request
        self._answer = answer
        self._stream = stream
        self._started = started
        self._kept: list[bytes] = []
        self._kept_bytes = 0

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises Refusal where the log must have it and cannot: the caller then gets no end."""
        answer = self._answer
        try:
            async with self._stream as stream:
                async for piece in stream:
                    self._keep(piece)
                    yield piece
        except (UpstreamError, TimeoutError) as error:
            answer.status, answer.error = 502, f"the worker broke off: {error}"
            raise Refusal(502, answer.error, "see the log of its worker") from None
        except (asyncio.CancelledError, GeneratorExit):
            answer.status, answer.error = GIVEN_UP, "the caller left before the end"
            raise
        finally:
            self._request.compiled.in_flight -= 1
            self._record()
        if self._request.recorded and self._request.compiled.route.capture == "durable":
            await self._inference.sync()

    def _keep(self, piece: bytes) -> None:
        room = KEPT_BYTES_MAX - self._kept_bytes
        if room > 0:
            self._kept.append(piece[:room])
        self._kept_bytes += len(piece)

    def _record(self) -> None:
        answer = self._answer
        text = b"".join(self._kept).decode(errors="replace")
        answer.outputs = msgspec.json.encode([Tensor(OUTPUT, "BYTES", [1], [text])])
        answer.latency_ms = (monotonic() - self._started) * 1000
        if self._kept_bytes > KEPT_BYTES_MAX and answer.error is None:
            answer.error = f"{self._kept_bytes} bytes, of which {KEPT_BYTES_MAX} are kept"
        self._inference.record(self._request, answer)


async def open_stream(inference: Inference, compiled: CompiledRoute, given: Asked) -> Streamed:
    """Ask the version that should answer, and return when it begins to. Raises Refusal."""
    request = inference.admit(compiled, given)
    compiled.in_flight += 1
    try:
        [part] = assign(request)
        if not given.envelope.inputs:  # a text has no columns; the log has it as one
            given.logged = protocol.encode_request([Tensor(TEXT_INPUT, "BYTES", [1], [_text(given.body)])])
        started = monotonic()
        answer = PartAnswer(part)
        stream: Stream | None = None
        try:
            left_s = request.deadline_at - started
            stream = await upstream.stream(
                part.arm.replicas,
                request.to_worker(part, left_s, None, head=part.arm.stream_head),
                deadline_at=request.deadline_at,
                idempotent=compiled.route.idempotent,
            )
            if stream.status == 200:
                return Streamed(inference, request, answer, stream, started)
            async with stream as failing:
                body = b"".join([piece async for piece in failing])
            answer.refused(stream.status, body)
        except (upstream.NoReplicaError, upstream.DeadlineError, UpstreamError, TimeoutError) as error:
            answer.unanswered(error)
        except asyncio.CancelledError:
            answer.given_up()
            with contextlib.suppress(Refusal):  # nobody would hear of it
                inference.settled(request, answer, started)
            raise
        inference.settled(request, answer, started)
        raise answer.refusal()
    except EnvelopeError as error:
        compiled.in_flight -= 1
        raise Refusal(400, str(error), "send text_input, or inputs of one row") from None
    except BaseException:
        compiled.in_flight -= 1
        raise


def _text(body: bytes) -> str:
    return _generates.decode(body).text_input or ""
