"""The whole data plane for Prometheus, from one scrape of any router.

The router that is asked collects from its siblings and from the committer, over their sockets, within a bounded time; who
does not answer shows as `steersman_up{process=…} 0` and its other series are left out. Every series of a counter carries
the process that counted it: a sum made here would fall whenever one process is slow to answer, and a counter that falls
reads as a restart.

The text format is written here: a client library would cost each router 2 MB and 85 ms of CPU at the first scrape for what
are two rules of escaping. Counting costs the path of a request two additions and one bisection, without a lock.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

from steersman.dataplane import sockets
from steersman.dataplane.handles import read_handle
from steersman.dataplane.usage import WorkerUsage

ANSWER_S_MAX = 1.0
"""Seconds a sibling or the committer may take: far more than they need, far less than a scrape's usual 10."""

LATENCY_BOUNDS_MS = (
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1000.0,
    2000.0,
    5000.0,
    10_000.0,
    30_000.0,
)
"""Upper bounds of the latency histogram, steps of about two: from a fast tree model's answer to the default deadline."""

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Kind = Literal["counter", "gauge", "histogram"]


class Metric(msgspec.Struct, frozen=True):
    """One metric: `labels` beside `process`, which every series has."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


_VERSION = ("workspace", "environment", "model", "version", "variant")
_OF_WORKER = ("workspace", "environment", "model", "version", "address")
_ROUTE = ("workspace", "environment", "model")

METRICS = (
    Metric("steersman_up", "gauge", "1 where the process answered this scrape, 0 where it did not."),
    Metric("steersman_process_resident_memory_bytes", "gauge", "Resident memory of the process."),
    Metric("steersman_process_cpu_seconds_total", "counter", "CPU time of the process, user and system."),
    Metric(
        "steersman_requests_total",
        "counter",
        "Requests a version answered, copies for mirrors included, by class of status.",
        (*_VERSION, "code"),
    ),
    Metric(
        "steersman_request_duration_seconds",
        "histogram",
        "Time from the router's question to the version's answer, retries included.",
        _VERSION,
    ),
    Metric("steersman_rows_total", "counter", "Rows a version was asked for.", _VERSION),
    Metric("steersman_in_flight", "gauge", "Requests for a model under way.", _ROUTE),
    Metric("steersman_configuration_generation", "gauge", "Number of the configuration in force."),
    Metric("steersman_router_requests_total", "counter", "Inference requests that were let in."),
    Metric("steersman_router_rows_total", "counter", "Rows of the inference requests that were let in."),
    Metric("steersman_router_labels_total", "counter", "Labels that were taken."),
    Metric("steersman_router_refused_total", "counter", "Requests refused for what they were (status 4xx)."),
    Metric("steersman_router_failed_total", "counter", "Requests a version refused or could not answer."),
    Metric("steersman_router_fallbacks_total", "counter", "Parts answered by stable because the candidate failed."),
    Metric("steersman_router_sampled_out_rows_total", "counter", "Rows that the model's sampling kept out of the log."),
    Metric("steersman_router_queue_refusals_total", "counter", "Requests refused because too many were under way."),
    Metric("steersman_router_mirrors_dropped_total", "counter", "Copies for mirrors that were not sent.", ("reason",)),
    Metric("steersman_upstream_retries_total", "counter", "Questions asked of a second replica."),
    Metric(
        "steersman_upstream_retries_refused_total", "counter", "Repetitions that the budget of retries did not allow."
    ),
    Metric("steersman_upstream_ejections_total", "counter", "Times any replica began to be avoided."),
    Metric("steersman_upstream_outliers_total", "counter", "Of those, for its answers of status 5xx."),
    Metric("steersman_upstream_connect_failures_total", "counter", "Connections a replica did not take."),
    Metric("steersman_upstream_stale_connections_total", "counter", "Kept connections found closed by the replica."),
    Metric("steersman_upstream_timeouts_total", "counter", "Questions without an answer in their time."),
    Metric("steersman_upstream_cancelled_total", "counter", "Questions given up because the caller left."),
    Metric("steersman_replica_in_flight", "gauge", "Requests under way to a replica.", ("address",)),
    Metric("steersman_replica_ejected", "gauge", "1 while a replica is avoided.", ("address",)),
    Metric("steersman_replica_ejections_total", "counter", "Times a replica began to be avoided.", ("address",)),
    Metric("steersman_worker_cpu_seconds_total", "counter", "CPU time of a worker, user and system.", _OF_WORKER),
    Metric("steersman_worker_resident_memory_bytes", "gauge", "Resident memory of a worker.", _OF_WORKER),
    Metric("steersman_capture_records_total", "counter", "Records written to the inference log."),
    Metric("steersman_capture_bytes_total", "counter", "Bytes written to the inference log."),
    Metric("steersman_capture_dropped_records_total", "counter", "Records lost because the log took no more (async)."),
    Metric("steersman_capture_dropped_rows_total", "counter", "Rows of those lost records."),
    Metric("steersman_capture_refused_records_total", "counter", "Requests refused because the log took no more."),
    Metric("steersman_capture_syncs_total", "counter", "Times the log was forced to the disk for waiting requests."),
    Metric("steersman_capture_segments_total", "counter", "Segments of the log that were begun."),
    Metric("steersman_spans_exported_total", "counter", "Spans the collector took."),
    Metric("steersman_spans_dropped_total", "counter", "Spans that were not sent, by reason.", ("reason",)),
    Metric("steersman_committer_waiting_bytes", "gauge", "Bytes of the log that are not in the tables yet."),
    Metric("steersman_committer_failing", "gauge", "1 while the last attempt to commit failed."),
    Metric("steersman_committer_last_commit_seconds", "gauge", "What the last commit took."),
    Metric("steersman_committer_commits_total", "counter", "Commits to the tables."),
    Metric("steersman_committer_rows_total", "counter", "Rows committed to the tables."),
    Metric("steersman_committer_flushes_total", "counter", "Commits somebody asked for."),
    Metric("steersman_committer_damaged_frames_total", "counter", "Records of the log that could not be read."),
    Metric(
        "steersman_committer_torn_bytes_total", "counter", "Bytes of unfinished records, left by writers that died."
    ),
    Metric(
        "steersman_committer_segments_deleted_total", "counter", "Segments deleted after their rows were committed."
    ),
)

_KINDS = {metric.name: metric for metric in METRICS}


def observe(buckets: list[int], latency_ms: float) -> None:
    """Count one latency in `buckets` (from `empty_buckets`); about 0.2 µs."""
    buckets[bisect_left(LATENCY_BOUNDS_MS, latency_ms)] += 1


def empty_buckets() -> list[int]:
    """One count a bound, and one for what is longer."""
    return [0] * (len(LATENCY_BOUNDS_MS) + 1)


class Own(msgspec.Struct, frozen=True):
    """The router that is asked: the name of its socket without `.sock`, its `GET /counters`, and what workers told it."""

    process: str
    counters: bytes
    workers: Sequence[WorkerUsage] = ()


async def exposition(state: Path, own: Own, *, accept: str = "") -> tuple[str, bytes]:
    """Content type and text of one scrape; `accept` is the request's header. Takes at most about ANSWER_S_MAX."""
    processes = {path.stem for path in (state / "run").glob("router-*.sock")} | {"committer"}
    others = sorted(processes - {own.process})
    answers = await asyncio.gather(*(asyncio.to_thread(_ask, state, process) for process in others))
    page = _Page()
    for process, counters in [(own.process, own.counters), *zip(others, answers, strict=True)]:
        known = _decoded(counters)
        page.add("steersman_up", 0 if known is None else 1, process=process)
        _add_process(page, state, process)
        if known is not None:
            (_add_committer if process == "committer" else _add_router)(page, process, known)
    for worker in own.workers:
        of = {"process": "worker", "workspace": worker.workspace, "environment": worker.environment}
        of |= {"model": worker.model, "version": worker.version, "address": worker.address}
        page.add("steersman_worker_cpu_seconds_total", worker.usage.cpu_s, **of)
        page.add("steersman_worker_resident_memory_bytes", worker.usage.memory_bytes, **of)
    open_metrics = "application/openmetrics-text" in accept
    return (OPEN_METRICS if open_metrics else TEXT), page.text(open_metrics=open_metrics)


def _ask(state: Path, process: str) -> bytes | None:
    try:
        path = state / "run" / f"{process}.sock"
        status, body = sockets.call_unix(path, "GET", "/counters", timeout_s=ANSWER_S_MAX)
    except sockets.SocketUnavailableError:
        return None
    return body if status == 200 else None


class _Variant(msgspec.Struct):
    """What one router counted for one version in one role."""

    workspace: str
    environment: str
    model: str
    role: str
    counts: dict[str, Any]


class _InFlight(msgspec.Struct):
    workspace: str
    environment: str
    model: str
    in_flight: int


class _Replica(msgspec.Struct):
    address: str
    ejected: bool = False
    in_flight: int = 0
    ejections: int = 0


class _Counters(msgspec.Struct):
    """`GET /counters` of a router or a committer. Tolerant: during an upgrade a sibling may be of another release."""

    generation: int = 0
    router: dict[str, Any] = {}
    capture: dict[str, Any] = {}
    upstream: dict[str, Any] = {}
    traces: dict[str, Any] = {}
    variants: list[_Variant] = []
    routes: list[_InFlight] = []
    replicas: list[_Replica] = []
    waiting_bytes: int = 0
    committer: dict[str, Any] = {}


def _decoded(counters: bytes | None) -> _Counters | None:
    if counters is None:
        return None
    try:
        return msgspec.json.decode(counters, type=_Counters)
    except msgspec.DecodeError:
        return None


def _add_process(page: _Page, state: Path, process: str) -> None:
    handle = read_handle(state / "run" / f"{process}.json")
    if handle is None or not handle.alive():
        return
    with contextlib.suppress(psutil.Error):
        running = psutil.Process(handle.pid)
        spent = running.cpu_times()
        page.add("steersman_process_resident_memory_bytes", running.memory_info().rss, process=process)
        page.add("steersman_process_cpu_seconds_total", spent.user + spent.system, process=process)


def _add_router(page: _Page, process: str, counters: _Counters) -> None:
    page.add("steersman_configuration_generation", counters.generation, process=process)
    _add_each(page, "steersman_router_", counters.router, process)
    _add_each(page, "steersman_capture_", counters.capture, process)
    _add_each(page, "steersman_upstream_", counters.upstream, process)
    dropped, unreadable = counters.router.get("mirrors_dropped", 0), counters.router.get("mirrors_unreadable", 0)
    page.add("steersman_router_mirrors_dropped_total", dropped - unreadable, process=process, reason="full")
    page.add("steersman_router_mirrors_dropped_total", unreadable, process=process, reason="unreadable")
    if counters.traces:
        page.add("steersman_spans_exported_total", counters.traces.get("exported", 0), process=process)
        for key, reason in (("dropped", "queue_full"), ("failed", "not_taken")):
            page.add("steersman_spans_dropped_total", counters.traces.get(key, 0), process=process, reason=reason)
    for route in counters.routes:
        page.add("steersman_in_flight", route.in_flight, process=process, **_route_labels(route))
    for replica in counters.replicas:
        of = {"process": process, "address": replica.address}
        page.add("steersman_replica_in_flight", replica.in_flight, **of)
        page.add("steersman_replica_ejected", int(replica.ejected), **of)
        page.add("steersman_replica_ejections_total", replica.ejections, **of)
    for variant in counters.variants:
        if not variant.counts.get("requests"):
            continue  # a version that may be asked for by number and never was would add twenty series
        of = {"process": process, **_route_labels(variant)}
        of |= {"version": variant.counts.get("version", ""), "variant": variant.role}
        for hundreds, number in enumerate(variant.counts.get("statuses", [])):
            if number:
                page.add("steersman_requests_total", number, **of, code=f"{hundreds}xx")
        page.add("steersman_rows_total", variant.counts.get("rows", 0), **of)
        if buckets := variant.counts.get("latencies"):
            page.add_histogram(
                "steersman_request_duration_seconds", buckets, variant.counts.get("latency_ms_sum", 0.0) / 1000, of
            )


def _route_labels(of: _Variant | _InFlight) -> dict[str, str]:
    return {"workspace": of.workspace, "environment": of.environment, "model": of.model}


def _add_committer(page: _Page, process: str, counters: _Counters) -> None:
    counted = counters.committer
    page.add("steersman_committer_waiting_bytes", counters.waiting_bytes, process=process)
    page.add("steersman_committer_failing", int(counted.get("last_error") is not None), process=process)
    page.add("steersman_committer_last_commit_seconds", counted.get("last_commit_ms", 0.0) / 1000, process=process)
    _add_each(page, "steersman_committer_", counted, process)


def _add_each(page: _Page, prefix: str, counts: Mapping[str, Any], process: str) -> None:
    """Counters whose metric is called as they are."""
    for key, value in counts.items():
        metric = _KINDS.get(f"{prefix}{key}_total")
        if metric is not None and not metric.labels:
            page.add(metric.name, value, process=process)


Labels = tuple[tuple[str, str], ...]


class _Page:
    """Samples by metric; the same labels twice add up (two releases of one version)."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[Labels, float]] = {name: {} for name in _KINDS}
        self._histograms: dict[str, dict[Labels, tuple[list[int], float]]] = {}

    def add(self, name: str, value: float, **labels: str) -> None:
        samples, key = self._samples[name], tuple(labels.items())
        samples[key] = samples.get(key, 0) + value

    def add_histogram(self, name: str, buckets: list[int], total: float, labels: Mapping[str, str]) -> None:
        histograms, key = self._histograms.setdefault(name, {}), tuple(labels.items())
        before, sum_before = histograms.get(key, (empty_buckets(), 0.0))
        histograms[key] = ([a + b for a, b in zip(before, buckets, strict=False)], sum_before + total)

    def text(self, *, open_metrics: bool) -> bytes:
        """The page. OpenMetrics names a family of counters without `_total` and ends with a mark, else they are alike."""
        lines: list[str] = []
        for metric in METRICS:
            samples, histograms = self._samples[metric.name], self._histograms.get(metric.name, {})
            if not samples and not histograms:
                continue
            family = metric.name.removesuffix("_total") if open_metrics else metric.name
            lines += [f"# HELP {family} {_escaped(metric.help)}", f"# TYPE {family} {metric.kind}"]
            lines += [f"{metric.name}{_braces(labels)} {_number(value)}" for labels, value in samples.items()]
            for labels, (buckets, total) in histograms.items():
                lines += _histogram_lines(metric.name, labels, buckets, total)
        if open_metrics:
            lines.append("# EOF")
        return ("\n".join(lines) + "\n").encode()


def _histogram_lines(name: str, labels: Labels, buckets: Iterable[int], total: float) -> list[str]:
    lines, seen = [], 0
    bounds = [_number(bound / 1000) for bound in LATENCY_BOUNDS_MS] + ["+Inf"]
    for bound, number in zip(bounds, buckets, strict=True):
        seen += number
        lines.append(f"{name}_bucket{_braces((*labels, ('le', bound)))} {seen}")
    return [*lines, f"{name}_count{_braces(labels)} {seen}", f"{name}_sum{_braces(labels)} {_number(total)}"]


def _braces(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value, quote=True)}"' for name, value in labels) + "}"


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(round(value, 9))
