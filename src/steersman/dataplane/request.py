"""A request under way: what was asked, its rows, the part each version gets, and what came of it."""

from __future__ import annotations

from typing import Any

import msgspec

from steersman.dataplane import protocol, routing, tensors, upstream
from steersman.dataplane.arms import Arm, CompiledRoute
from steersman.dataplane.capture import GIVEN_UP
from steersman.dataplane.exchange import Refusal
from steersman.dataplane.protocol import EnvelopeError, InferEnvelope, Tensor
from steersman.dataplane.tracing import Span

ERROR_CHARS_MAX = 500
"""Of a worker's error text, in the log and in the answer."""


class Asked(msgspec.Struct, gc=False):
    """What a caller wants, read from its protocol. `body` is what workers get: JSON, or JSON and tensors behind it.

    `deadline_s` is what the caller will wait, None where it did not say; `version` a version asked for by number.
    `prediction` asks the worker for what MLflow's own scoring would answer, beside the score. `logged` is what the log
    keeps of a body that has no columns. `span` is its place in the caller's trace, which goes on to the worker and into
    the log.
    """

    body: bytes
    envelope: InferEnvelope
    event_ids: list[str]
    at_us: int
    json_bytes: int | None = None
    deadline_s: float | None = None
    version: str | None = None
    prediction: bool = False
    logged: bytes | None = None
    span: Span | None = None


class Part(msgspec.Struct, gc=False):
    """Rows for one arm; `rows` None means the whole batch as it came."""

    arm: Arm
    rows: list[int] | None
    body: bytes
    json_bytes: int | None
    fallback: bool = False


class PartAnswer(msgspec.Struct, gc=False):
    """What came of a part. `outputs` is raw, empty unless `status` is 200; `logged` is what the log has in their place."""

    part: Part
    status: int = 200
    outputs: bytes = b""
    logged: bytes | None = None
    error: str | None = None
    next_step: str = ""
    latency_ms: float = 0.0

    def refused(self, status: int, body: bytes) -> None:
        """The worker answered with another status than 200."""
        failure = protocol.decode_failure(body)
        self.status = status
        self.error = failure.error[:ERROR_CHARS_MAX] or f"the worker answered {status}"
        self.next_step = failure.next_step[:ERROR_CHARS_MAX]

    def unanswered(self, error: Exception) -> None:
        """No worker answered, not in time, or with something that is no answer."""
        version = f"version {self.part.arm.version}"
        match error:
            case upstream.NoReplicaError():
                self.status, self.error = 503, f"{version}: {error}"
                self.next_step = "try again; if it persists, see whether the version's replicas run"
            case upstream.DeadlineError():
                self.status, self.error = 504, f"{version}: {error}"
                self.next_step = "send fewer rows, or raise the deadline of the model's serving settings"
            case _:
                self.status, self.error = 502, f"{version} answered with something else: {error}"
                self.next_step = "see the log of its worker"

    def given_up(self) -> None:
        """Nobody waits for the answer any more."""
        self.status, self.error = GIVEN_UP, "given up before its answer: the caller left, or the router had to end"

    def refusal(self) -> Refusal:
        return Refusal(
            self.status, self.error or "", self.next_step, retry_after_s=1 if self.status in (429, 503) else None
        )


class Answered(msgspec.Struct, gc=False):
    """What the versions said, before a protocol puts it into its own words. Raw outputs where one version answered.

    `said` are header lines that tell who answered.
    """

    id: str
    version: str
    event_ids: list[str]
    variants: list[str]
    outputs: bytes | list[Tensor]
    said: bytes

    def tensors(self) -> list[Tensor]:
        """Raises EnvelopeError where a worker's outputs are none."""
        return protocol.decode_outputs(self.outputs) if isinstance(self.outputs, bytes) else self.outputs


class Request(msgspec.Struct, gc=False):
    """A request under way: `rows` rows with one of `event_ids` each. `deadline_at` is of the loop's clock."""

    compiled: CompiledRoute
    asked: Asked
    id: str
    event_ids: list[str]
    rows: int
    deadline_at: float
    recorded: bool
    inputs: list[Tensor] | None = None
    entities: list[str] | None = None

    def decoded(self) -> list[Tensor]:
        """The tensors with their data, decoded once; checked to have their shape's number of values."""
        if self.inputs is None:
            self.inputs = tensors.decode_request(self.asked.body, self.asked.json_bytes)
            for tensor in self.inputs:
                width = tensor.shape[1] if len(tensor.shape) == 2 else 1
                if len(tensor.data) != self.rows * width:
                    raise EnvelopeError(f"inputs: {tensor.name}: {len(tensor.data)} values for {self.rows} rows")
        return self.inputs

    def sticky(self) -> list[str]:
        """What each row is hashed by: the `stickyBy` column where it came along and is not null, else the event id."""
        if self.entities is None:
            values = self._column(self.compiled.route.sticky_by)
            self.entities = self.event_ids
            if values is not None:
                self.entities = [
                    event_id if value is None else routing.entity_text(value)
                    for value, event_id in zip(values, self.event_ids, strict=True)
                ]
        return self.entities

    def _column(self, name: str | None) -> list[Any] | None:
        """One column's values; only that one is decoded where it can be told apart."""
        if name is None:
            return None
        envelope = self.asked.envelope
        if self.asked.json_bytes is None and len(envelope.inputs) > 1:
            values = next((protocol.decode_values(one.data) for one in envelope.columns() if one.name == name), None)
        else:
            decoded = self.decoded()
            if len(decoded) == 1 and decoded[0].name != name and name in self.compiled.types:
                decoded = routing.spread(decoded[0], list(self.compiled.types))
            values = next((one.data for one in decoded if one.name == name), None)
        if values is not None and len(values) != self.rows:
            raise EnvelopeError(f"inputs: {name}: {len(values)} values for {self.rows} rows")
        return values

    def part(self, arm: Arm, rows: list[int] | None, *, fallback: bool = False) -> Part:
        if rows is None or len(rows) == self.rows:
            return Part(arm, None, self.asked.body, self.asked.json_bytes, fallback)
        return Part(arm, rows, protocol.encode_request(routing.take(self.decoded(), rows)), None, fallback)

    def to_worker(self, part: Part, left_s: float, span: Span | None, *, head: bytes | None = None) -> bytes:
        """The part as an HTTP request, with the arm's head for inference unless another is given.

        The worker is told how long anybody still waits for its answer.
        """
        lines = b"Content-Type: application/json\r\n"
        if part.json_bytes is not None:
            lines = (
                b"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n" % part.json_bytes
            )
        if self.asked.prediction:
            lines += b"X-Steersman-Prediction: 1\r\n"
        if span is not None:
            lines += span.headers
        body = part.body
        return b"%bX-Steersman-Deadline-Ms: %d\r\n%bContent-Length: %d\r\n\r\n%b" % (
            head or part.arm.head,
            left_s * 1000,
            lines,
            len(body),
            body,
        )
