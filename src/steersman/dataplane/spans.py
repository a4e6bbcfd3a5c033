"""Spans of the router, made with OpenTelemetry's SDK and sent by OTLP over HTTP.

Imported only where an installation names a collector. The names are those of OpenTelemetry's semantic conventions for
HTTP (a server span a request, a client span a question to a worker) plus `steersman.*` for what those do not know: model,
version, release, variant, rows. A predictor is no generative model, so nothing here claims `gen_ai.*`; a model's own code
may, below the context it is given.

A request never waits for a collector. Finished spans go to a thread through a bounded queue; when it is full they are
dropped and counted. Sampling, queue, batch and time-outs are the SDK's standard variables.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from steersman import __version__
from steersman.dataplane.tracing import Attributes, Parent, Span, TraceCounts, header_lines, remote_context
from steersman.domain.numbers import number_within

QUEUE_SPANS_MAX = 2048
"""Finished spans waiting or being sent, unless OTEL_BSP_MAX_QUEUE_SIZE says otherwise; about 2 kB each."""

SPANS_MAX = 1_000_000
"""What that variable may ask for at most: 2 GB. Another text than a number up to here leaves ours, as the SDK does it."""

CLOSE_S_MAX = 3.0
"""Seconds the last spans may take when the process ends; a collector that is away must not hold up a restart."""

SERVICE = "steersman-router"


class _Counted(SpanExporter):
    """An exporter whose results are counted; called from the queue's thread only."""

    def __init__(self, inner: SpanExporter, counts: TraceCounts) -> None:
        self.finished = 0
        self._inner = inner
        self._counts = counts

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._inner.export(spans)
        except Exception:
            self._counts.failed += len(spans)
            raise
        finally:
            self.finished += len(spans)
        if result is SpanExportResult.SUCCESS:
            self._counts.exported += len(spans)
        else:
            self._counts.failed += len(spans)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()


class _Bounded(SpanProcessor):
    """Drops and counts what the queue behind it would silently push out; called from the event loop's thread only."""

    def __init__(self, inner: SpanProcessor, exporter: _Counted, counts: TraceCounts, *, spans_max: int) -> None:
        self._inner = inner
        self._exporter = exporter
        self._counts = counts
        self._spans_max = spans_max
        self._handed_on = 0

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        self._inner.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        if context is None or not context.trace_flags.sampled:
            return
        if self._handed_on - self._exporter.finished >= self._spans_max:
            self._counts.dropped += 1
            return
        self._handed_on += 1
        self._inner.on_end(span)

    def shutdown(self) -> None:
        self._inner.shutdown()


class Exporting:
    """Makes spans. `environment` is the process's own: the SDK reads the standard variables by itself."""

    def __init__(self, environment: Mapping[str, str], counts: TraceCounts) -> None:
        exporter = _Counted(OTLPSpanExporter(), counts)
        spans_max = number_within(environment.get("OTEL_BSP_MAX_QUEUE_SIZE", ""), 1, SPANS_MAX) or QUEUE_SPANS_MAX
        queue = BatchSpanProcessor(exporter, max_queue_size=spans_max)
        name = environment.get("OTEL_SERVICE_NAME") or SERVICE
        resource = Resource.create({"service.name": name, "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(_Bounded(queue, exporter, counts, spans_max=spans_max))
        self._tracer = self._provider.get_tracer("steersman", __version__)

    def begin(self, parent: Parent | None, route: str, attributes: Attributes) -> Span:
        around = Context() if parent is None else _around(remote_context(parent))
        span = self._tracer.start_span(
            f"POST {route}",
            context=around,
            kind=trace.SpanKind.SERVER,
            attributes={"http.request.method": "POST", "http.route": route, "url.scheme": "http", **attributes},
        )
        return _Recorded(self._tracer, span, parent.tracestate if parent is not None else b"", server=True)

    def close(self) -> None:
        ender = threading.Thread(target=self._provider.shutdown, daemon=True)
        ender.start()
        ender.join(CLOSE_S_MAX)


def _around(context: trace.SpanContext) -> Context:
    return trace.set_span_in_context(trace.NonRecordingSpan(context))


class _Recorded(Span):
    """A span that is sent. `headers` name it as the parent of what the worker does."""

    __slots__ = ("_server", "_span", "_tracer", "_tracestate")

    def __init__(self, tracer: trace.Tracer, span: trace.Span, tracestate: bytes, *, server: bool) -> None:
        own = span.get_span_context()
        traceparent = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}".encode()
        super().__init__(f"{own.trace_id:032x}", header_lines(traceparent, tracestate))
        self._tracer = tracer
        self._span = span
        self._tracestate = tracestate
        self._server = server

    def ask(self, attributes: Attributes, rows: int) -> Span:
        span = self._tracer.start_span(
            "POST",
            context=_around(self._span.get_span_context()),
            kind=trace.SpanKind.CLIENT,
            attributes={"http.request.method": "POST", **attributes, "steersman.rows": rows},
        )
        return _Recorded(self._tracer, span, self._tracestate, server=False)

    def end(self, status: int, error: str | None = None) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500 or (status >= 400 and not self._server):
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(trace.StatusCode.ERROR, error)
        self._span.end()
