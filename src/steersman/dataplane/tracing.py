"""Where a request stands in its caller's trace.

A caller's `traceparent` (W3C Trace Context) always goes on to the worker, and its trace id into the inference log, so
that a prediction can be found from the request that caused it. That costs one look at the headers and one header line.
Spans of our own are made only where the installation names a collector (`OTEL_EXPORTER_OTLP_ENDPOINT` and the other
standard variables); without it OpenTelemetry is never imported. What makes and sends them is in `spans`.

In the path of a request:

    span = tracing.begin(headers, ROUTE_INFER, compiled.attributes)     # None: no trace, nothing to do
    asked = span.ask(arm.attributes, rows)                              # asked.headers go into the worker's request
    asked.end(200)
    span.end(200)
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

ROUTE_INFER = "/v2/models/{model}/infer"
"""`http.route` of an inference request: the template, so that a collector groups by it."""

TRACESTATE_BYTES_MAX = 512
"""What the recommendation asks everybody to pass on; a longer one is left out as a whole."""

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_VISIBLE = re.compile(rb"[ -~]+")

Headers = Sequence[tuple[bytes, bytes]]
Attributes = Mapping[str, str | int]


class TraceCounts(msgspec.Struct):
    """Spans since the process started: handed to the exporter, dropped because it was behind, refused by the collector."""

    exported: int = 0
    dropped: int = 0
    failed: int = 0


class Parent(msgspec.Struct, frozen=True):
    """The caller's place in its trace, as it came."""

    trace_id: str
    span_id: str
    flags: int
    traceparent: bytes
    tracestate: bytes

    @property
    def lines(self) -> bytes:
        """The header lines that hand it on, each ended."""
        return header_lines(self.traceparent, self.tracestate)


def header_lines(traceparent: bytes, tracestate: bytes) -> bytes:
    state = b"tracestate: " + tracestate + b"\r\n" if tracestate else b""
    return b"traceparent: " + traceparent + b"\r\n" + state


def parent_of(headers: Headers) -> Parent | None:
    """The caller's place; None where it named none, or none that is valid (W3C Trace Context, section 3.2)."""
    for name, value in headers:
        if name == b"traceparent":
            return _parsed(value, headers)
    return None


def _parsed(value: bytes, headers: Headers) -> Parent | None:
    found = _TRACEPARENT.fullmatch(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == b"ff" or (version == b"00" and rest) or not (trace_id.strip(b"0") and span_id.strip(b"0")):
        return None
    state = b",".join(given for name, given in headers if name == b"tracestate")
    if len(state) > TRACESTATE_BYTES_MAX or not _VISIBLE.fullmatch(state):
        state = b""
    return Parent(trace_id.decode(), span_id.decode(), int(flags, 16), value[:55], state)


class Span:
    """A request, or one question to a worker. This one records nothing: it hands the caller's place on.

    `headers` are header lines for the worker's request, each ended by CR LF.
    """

    __slots__ = ("headers", "trace_id")

    def __init__(self, trace_id: str, headers: bytes) -> None:
        self.trace_id = trace_id
        self.headers = headers

    def ask(self, attributes: Attributes, rows: int) -> Span:
        """The question to a worker, as a child; `attributes` are those of the arm (`arm_attributes`)."""
        return self

    def end(self, status: int, error: str | None = None) -> None:
        """Say how it ended: the HTTP status, and for a failure one sentence. Never waits."""


class Recorder(Protocol):
    """What makes spans (`spans.Exporting`)."""

    def begin(self, parent: Parent | None, route: str, attributes: Attributes) -> Span: ...

    def close(self) -> None: ...


class Tracing:
    """The traces of one process."""

    def __init__(self, recorder: Recorder | None = None, counts: TraceCounts | None = None) -> None:
        self.counts = counts if counts is not None else TraceCounts()
        self._recorder = recorder

    def concerns(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether there can be a span for a request with these headers; asking costs less than looking for its place."""
        return self._recorder is not None or b"traceparent" in headers

    def begin(self, headers: Headers, route: str, attributes: Attributes) -> Span | None:
        """The span of a request; None where the caller has no trace and none is recorded."""
        parent = parent_of(headers)
        if self._recorder is not None:
            return self._recorder.begin(parent, route, attributes)
        return None if parent is None else Span(parent.trace_id, parent.lines)

    def close(self) -> None:
        """Send what waits; returns within seconds whether or not the collector takes it."""
        if self._recorder is not None:
            self._recorder.close()


def start(environment: Mapping[str, str]) -> Tracing:
    """Traces as the standard `OTEL_*` variables ask for. What cannot be done is said on stderr, once; requests go on."""
    endpoint = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not endpoint or disabled or environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return Tracing()
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "", "http/protobuf"):
        _say(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}, only http/protobuf is spoken")
        return Tracing()
    try:
        from steersman.dataplane import spans  # the only door to OpenTelemetry's SDK: 120 ms of CPU and 5 MB
    except ImportError as error:
        _say(f"{error}; install it with: pip install 'steersman[otel]'")
        return Tracing()
    counts = TraceCounts()
    return Tracing(spans.Exporting(environment, counts), counts)


def _say(why: str) -> None:
    print(f"traces are not exported: {why}", file=sys.stderr, flush=True)


def request_attributes(workspace: str, environment: str, model: str) -> dict[str, str | int]:
    """What a request's span says of its route; made once a route."""
    return {"steersman.workspace": workspace, "steersman.environment": environment, "steersman.model": model}


def arm_attributes(
    workspace: str, environment: str, model: str, *, version: str, release: str, variant: str
) -> dict[str, str | int]:
    """What the span of a question to a worker says of the version; made once an arm."""
    return request_attributes(workspace, environment, model) | {
        "steersman.version": version,
        "steersman.release": release,
        "steersman.variant": variant,
    }


_NOTHING = contextlib.nullcontext()


def model_context(headers: Headers) -> contextlib.AbstractContextManager[Any]:
    """For a worker: while it is entered, spans that the model's own code makes belong to the caller's trace.

    Costs one look at the headers where the model has not imported OpenTelemetry. Enter it around one request's
    prediction only: a batch joined from several requests belongs to none of their traces.
    """
    if "opentelemetry.trace" not in sys.modules:
        return _NOTHING
    parent = parent_of(headers)
    return _NOTHING if parent is None else _entered(parent)


@contextlib.contextmanager
def _entered(parent: Parent) -> Any:
    from opentelemetry import context, trace

    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(remote_context(parent))))
    try:
        yield
    finally:
        context.detach(token)


def remote_context(parent: Parent) -> Any:
    """The parent as OpenTelemetry's `SpanContext`; imports OpenTelemetry's API."""
    from opentelemetry import trace

    return trace.SpanContext(
        trace_id=int(parent.trace_id, 16),
        span_id=int(parent.span_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(parent.flags),
        trace_state=trace.TraceState.from_header([parent.tracestate.decode()]) if parent.tracestate else None,
    )
