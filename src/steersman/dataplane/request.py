"""A request under way: what was asked, its rows, the part each version gets, and what came of it."""

from __future__ import annotations

from typing import Any

import msgspec

from steersman.dataplane import protocol, routing, tensors
from steersman.dataplane.arms import Arm, CompiledRoute
from steersman.dataplane.protocol import EnvelopeError, InferEnvelope, Tensor
from steersman.dataplane.tracing import Span


class Asked(msgspec.Struct, kw_only=True):
    """What a caller wants, read from its protocol. `body` is what workers get: JSON, or JSON and tensors behind it.

    `deadline_s` is what the caller will wait, None where it did not say; `version` a version asked for by number.
    `prediction` asks the worker for what MLflow's own scoring would answer, beside the score. `span` is its place
    in the caller's trace, which goes on to the worker and into the log.
    """

    body: bytes
    envelope: InferEnvelope
    event_ids: list[str]
    at_us: int
    json_bytes: int | None = None
    deadline_s: float | None = None
    version: str | None = None
    prediction: bool = False
    span: Span | None = None


class Part(msgspec.Struct):
    """Rows for one arm; `rows` None means the whole batch as it came."""

    arm: Arm
    rows: list[int] | None
    body: bytes
    json_bytes: int | None
    fallback: bool = False


class PartAnswer(msgspec.Struct):
    part: Part
    status: int
    outputs: bytes
    error: str | None
    next_step: str
    latency_ms: float


class Answered(msgspec.Struct):
    """What the versions said, before a protocol puts it into its own words. Raw outputs where one version answered."""

    id: str
    version: str
    event_ids: list[str]
    variants: list[str]
    outputs: bytes | list[Tensor]
    said: tuple[tuple[bytes, bytes], ...]

    def tensors(self) -> list[Tensor]:
        """Raises EnvelopeError where a worker's outputs are none."""
        return protocol.decode_outputs(self.outputs) if isinstance(self.outputs, bytes) else self.outputs


class Request(msgspec.Struct):
    """A request under way."""

    compiled: CompiledRoute
    asked: Asked
    id: str
    deadline_at: float
    recorded: bool
    inputs: list[Tensor] | None = None
    entities: list[str] | None = None

    @property
    def event_ids(self) -> list[str]:
        return self.asked.event_ids

    @property
    def rows(self) -> int:
        return len(self.asked.event_ids)

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
        inputs = self.asked.envelope.inputs
        if self.asked.json_bytes is None and len(inputs) > 1:
            values = next((protocol.decode_values(one.data) for one in inputs if one.name == name), None)
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

    def to_worker(self, part: Part, left_s: float, span: Span | None) -> bytes:
        """The part as an HTTP request. The worker is told how long anybody still waits for its answer."""
        asked = self.asked
        head = part.arm.head + b"X-Steersman-Deadline-Ms: %d\r\n" % (left_s * 1000)
        if asked.prediction:
            head += b"X-Steersman-Prediction: 1\r\n"
        if span is not None:
            head += span.headers
        if part.json_bytes is None:
            head += b"Content-Type: application/json\r\n"
        else:
            head += (
                b"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n" % part.json_bytes
            )
        return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(part.body), part.body)
