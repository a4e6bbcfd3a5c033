"""A caller's trace goes through; spans of our own reach a real OTLP/HTTP receiver, or are dropped and counted."""

from __future__ import annotations

import gzip
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from steersman.dataplane import tracing
from steersman.dataplane.capture import Prediction, SegmentReader, segments
from steersman.dataplane.tracing import ROUTE_INFER, arm_attributes, request_attributes
from steersman.testing.plane import TOKEN, Plane, tensor

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{SPAN}-01".encode()
ROUTE = request_attributes("ops", "production", "delay")
ARM = arm_attributes("ops", "production", "delay", version="3", release="r7", variant="candidate")


class Collector:
    """An OTLP/HTTP receiver: keeps the spans it is sent; `hold` makes it take its time."""

    def __init__(self) -> None:
        self.spans: list[tuple[dict[str, Any], Any]] = []
        self.hold = threading.Event()
        self.hold.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.hold.wait(20)
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
                    resource = values(sent.resource.attributes)
                    outer.spans += [(resource, span) for scope in sent.scope_spans for span in scope.spans]
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()


def values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


Begin = Callable[..., tracing.Tracing]


@pytest.fixture
def exporting(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Traces of an installation that names the collector, with further `OTEL_*` variables."""
    begun = []

    def start(**variables: str) -> tracing.Tracing:
        known = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "20", **variables}
        for name, value in known.items():
            monkeypatch.setenv(name, value)
        begun.append(tracing.start(known))
        return begun[-1]

    yield start
    collector.hold.set()
    for one in begun:
        one.close()


def request(traces: tracing.Tracing, *headers: tuple[bytes, bytes]) -> tuple[tracing.Span, tracing.Span]:
    """A request that one version answers; its span and that of the question."""
    span = traces.begin(headers, ROUTE_INFER, ROUTE)
    assert span is not None
    asked = span.ask(ARM, 5)
    asked.end(200)
    span.end(200)
    return span, asked


# --- a caller's trace ------------------------------------------------------------------------------------------------


def test_without_a_collector_the_callers_place_is_handed_on_and_nothing_is_imported() -> None:
    code = f"""if True:
        import sys
        from steersman.dataplane import router, tracing
        traces = tracing.start({{}})
        assert traces.begin([(b"accept", b"*/*")], tracing.ROUTE_INFER, {{}}) is None
        span = traces.begin([(b"traceparent", {SAMPLED!r}), (b"tracestate", b"a=1")], tracing.ROUTE_INFER, {{}})
        print(span.trace_id, span.ask({{}}, 1).headers)
        assert not [name for name in sys.modules if name.startswith("opentelemetry")]
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    lines = b"traceparent: " + SAMPLED + b"\r\ntracestate: a=1\r\n"
    assert done.stdout.strip() == f"{TRACE} {lines!r}", done.stderr


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"00",
        SAMPLED.upper(),
        SAMPLED + b"-extra",
        b"ff" + SAMPLED[2:],
        f"00-{'0' * 32}-{SPAN}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        SAMPLED[:-1],
        SAMPLED + b"\n",
    ],
)
def test_what_is_no_place_in_a_trace_is_not_handed_on(given: bytes) -> None:
    assert tracing.parent_of([(b"traceparent", given)]) is None


def test_a_later_version_of_the_header_is_understood_as_far_as_it_is_known() -> None:
    parent = tracing.parent_of([(b"traceparent", b"01" + SAMPLED[2:] + b"-what-comes")])
    assert parent is not None
    assert (parent.trace_id, parent.span_id, parent.flags) == (TRACE, SPAN, 1)


@pytest.mark.parametrize("state", [b"a=" + 600 * b"x", b"a=\x01", b"a=1\r\nx-evil: 1"])
def test_a_tracestate_out_of_bounds_is_left_out_and_the_trace_goes_on(state: bytes) -> None:
    parent = tracing.parent_of([(b"traceparent", SAMPLED), (b"tracestate", state)])
    assert parent is not None
    assert parent.lines == b"traceparent: " + SAMPLED + b"\r\n"


# --- spans -----------------------------------------------------------------------------------------------------------


def test_a_request_and_its_question_reach_the_collector_below_the_callers_span(
    exporting: Begin, collector: Collector
) -> None:
    traces = exporting()
    span, asked = request(traces, (b"traceparent", SAMPLED), (b"tracestate", b"a=1"))
    traces.close()
    [(_, question), (resource, server)] = collector.spans
    assert resource["service.name"] == "steersman-router"
    assert (server.name, server.kind) == (f"POST {ROUTE_INFER}", server.SPAN_KIND_SERVER)
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, SPAN)
    assert (question.kind, question.parent_span_id) == (server.SPAN_KIND_CLIENT, server.span_id)
    assert values(server.attributes) == {
        "http.request.method": "POST",
        "http.route": ROUTE_INFER,
        "url.scheme": "http",
        "http.response.status_code": 200,
        **ROUTE,
    }
    assert values(question.attributes) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        **ARM,
        "steersman.rows": 5,
    }
    assert span.trace_id == TRACE
    sent_on = f"traceparent: 00-{TRACE}-{question.span_id.hex()}-01\r\ntracestate: a=1\r\n"
    assert asked.headers == sent_on.encode()
    assert traces.counts == tracing.TraceCounts(exported=2)


@pytest.mark.parametrize("size", ["many", "\u00b2048", "-1", "1" * 5_000])
def test_a_size_of_the_queue_that_is_no_number_leaves_ours(exporting: Begin, collector: Collector, size: str) -> None:
    traces = exporting(OTEL_BSP_MAX_QUEUE_SIZE=size)
    request(traces)
    traces.close()
    assert len(collector.spans) == 2


def test_a_request_without_a_trace_begins_one(exporting: Begin, collector: Collector) -> None:
    traces = exporting(OTEL_SERVICE_NAME="scores")
    span, _ = request(traces)
    traces.close()
    assert {sent.trace_id.hex() for _, sent in collector.spans} == {span.trace_id}
    assert {resource["service.name"] for resource, _ in collector.spans} == {"scores"}
    assert collector.spans[1][1].parent_span_id == b""


def test_a_failure_is_an_error_of_the_span(exporting: Begin, collector: Collector) -> None:
    traces = exporting()
    span = traces.begin([], ROUTE_INFER, ROUTE)
    assert span is not None
    span.ask(ARM, 1).end(422, "x: not a number")
    span.end(422)
    other = traces.begin([], ROUTE_INFER, ROUTE)
    assert other is not None
    other.end(503, "no replica is running")
    traces.close()
    question, refused, failed = (sent for _, sent in collector.spans)
    assert (question.status.code, question.status.message) == (question.status.STATUS_CODE_ERROR, "x: not a number")
    assert refused.status.code == refused.status.STATUS_CODE_UNSET, "a refused request is no error of the server"
    assert values(failed.attributes)["error.type"] == "503"


def test_what_the_sampler_leaves_out_is_not_sent_and_its_place_goes_on(exporting: Begin, collector: Collector) -> None:
    traces = exporting(OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0")
    unsampled = SAMPLED[:-2] + b"00"
    for headers in ([], [(b"traceparent", unsampled)]):
        _, asked = request(traces, *headers)
        place = tracing.parent_of([(b"traceparent", asked.headers.split()[1])])
        assert place is not None
        assert place.flags & 1 == 0
    request(traces, (b"traceparent", SAMPLED))
    traces.close()
    assert [sent.trace_id.hex() for _, sent in collector.spans] == [TRACE, TRACE]


def test_a_collector_that_is_behind_costs_spans_not_time(exporting: Begin, collector: Collector) -> None:
    traces = exporting(OTEL_BSP_MAX_QUEUE_SIZE="16", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="8")
    collector.hold.clear()
    began = time.monotonic()
    for _ in range(100):
        request(traces)
    assert time.monotonic() - began < 2.0
    assert traces.counts.dropped == 200 - 16
    collector.hold.set()
    traces.close()
    assert (traces.counts.exported, len(collector.spans)) == (16, 16)


def test_a_collector_that_is_away_does_not_hold_up_the_end(exporting: Begin, collector: Collector) -> None:
    collector.close()
    traces = exporting()
    request(traces)
    began = time.monotonic()
    traces.close()
    assert time.monotonic() - began < 6.0
    assert traces.counts.exported == 0


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_an_installation_may_switch_traces_off(exporting: Begin, variables: dict[str, str]) -> None:
    assert exporting(**variables).begin([], ROUTE_INFER, ROUTE) is None


def test_a_missing_library_is_said_and_requests_go_on() -> None:
    code = """if True:
        import sys
        sys.modules["opentelemetry.exporter.otlp.proto.http.trace_exporter"] = None
        from steersman.dataplane import tracing
        print(tracing.start({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}).begin([], "/", {}))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "None"
    assert "pip install 'steersman[otel]'" in done.stderr


def test_a_served_request_is_one_trace_from_its_caller_to_the_worker_and_its_prediction(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    seen = []

    class Worker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(self.headers["traceparent"])
            answer = b'{"outputs": [{"name": "score", "datatype": "FP64", "shape": [1], "data": [0.5]}]}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Worker) as worker, Plane(tmp_path / "state") as plane:
        threading.Thread(target=worker.serve_forever, daemon=True).start()
        plane.router()
        plane.route(plane.variant("stable", "sha256:a", [f"127.0.0.1:{worker.server_port}"], version="3"))
        status, _ = plane.infer({"x": [1.0]}, headers={"traceparent": SAMPLED.decode()})
        assert status == 200
        deadline = time.monotonic() + 20
        while len(collector.spans) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        worker.shutdown()
    server = next(span for _, span in collector.spans if span.kind == span.SPAN_KIND_SERVER)
    question = next(span for _, span in collector.spans if span.kind == span.SPAN_KIND_CLIENT)
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, SPAN)
    assert question.parent_span_id == server.span_id
    assert values(question.attributes)["steersman.version"] == "3"
    assert seen == [f"00-{TRACE}-{question.span_id.hex()}-01"]
    [(_, path)] = segments(tmp_path / "state" / "wal", "router-0")
    logged = [record for _, record in SegmentReader(path, closed=True).records() if isinstance(record, Prediction)]
    assert [record.trace_id for record in logged] == [TRACE]


def test_the_spans_of_a_request_whose_caller_left_are_sent_as_well(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    with socket.create_server(("127.0.0.1", 0)) as worker, Plane(tmp_path / "state") as plane:
        worker.settimeout(20)
        plane.router()
        plane.route(plane.variant("stable", "sha256:a", [f"127.0.0.1:{worker.getsockname()[1]}"]))
        body = msgspec.json.encode({"inputs": [tensor("x", [1.0])]})
        head = f"POST {plane.infer_path} HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer {TOKEN}\r\n"
        with socket.create_connection(("127.0.0.1", plane.port)) as caller:
            caller.sendall(
                f"{head}traceparent: {SAMPLED.decode()}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            )
            asked, _ = worker.accept()
        asked.close()
        deadline = time.monotonic() + 20
        while len(collector.spans) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert [values(span.attributes)["http.response.status_code"] for _, span in collector.spans] == [499, 499]


# --- in a worker -----------------------------------------------------------------------------------------------------


def test_spans_of_a_models_own_code_belong_to_the_callers_trace() -> None:
    provider = TracerProvider()
    made = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(made))
    tracer = provider.get_tracer("a model")
    for headers in ([(b"traceparent", SAMPLED)], []):
        with tracing.model_context(headers), tracer.start_as_current_span("look up features"):
            pass
    inside, alone = made.get_finished_spans()
    assert inside.parent is not None
    assert (f"{inside.parent.trace_id:032x}", f"{inside.parent.span_id:016x}") == (TRACE, SPAN)
    assert alone.parent is None
    assert trace.get_current_span() is trace.INVALID_SPAN
