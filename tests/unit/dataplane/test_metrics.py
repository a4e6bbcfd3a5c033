"""One scrape tells of the whole data plane, in a form Prometheus' own parsers read."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from steersman.dataplane import metrics
from steersman.dataplane.arms import RouterCounts
from steersman.dataplane.capture import CaptureCounts
from steersman.dataplane.committer import CommitterCounts
from steersman.dataplane.handles import read_handle
from steersman.dataplane.metrics import LATENCY_BOUNDS_MS, METRICS, Own
from steersman.dataplane.upstream import UpstreamCounts
from steersman.testing.plane import STUMP, TOKEN, Plane, stump


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    folder = tmp_path_factory.mktemp("plane")
    with Plane(folder / "state") as plane:
        digest = plane.store(stump(folder / "tree"))
        worker = plane.worker(digest, **STUMP)
        plane.router()
        plane.committer()
        plane.route(plane.variant("stable", digest, [worker], version="3"))
        for _ in range(8):
            assert plane.infer({"x": [1.0, 2.0], "z": [0.0, 0.0]})[0] == 200
        assert plane.infer({"x": [1.0]})[0] == 422
        plane.flush()
        yield plane


def scrape(plane: Plane, *, accept: str = "text/plain") -> tuple[str, str]:
    """Content type and text of `GET /metrics`."""
    connection = http.client.HTTPConnection("127.0.0.1", plane.port, timeout=30)
    try:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}", "Accept": accept})
        response = connection.getresponse()
        assert response.status == 200
        return response.headers["Content-Type"], response.read().decode()
    finally:
        connection.close()


Labels = dict[str, str]


def samples(text: str) -> dict[str, list[tuple[Labels, float]]]:
    found: dict[str, list[tuple[Labels, float]]] = {}
    for family in plain_text(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


VERSION = {
    "process": "router-0",
    "workspace": "ops",
    "environment": "production",
    "model": "m",
    "version": "3",
    "variant": "stable",
}


def test_what_a_version_did_is_counted_by_status_rows_and_time(plane: Plane) -> None:
    found = samples(scrape(plane)[1])
    by_code = {labels.pop("code"): (labels, value) for labels, value in found["steersman_requests_total"]}
    assert by_code == {"2xx": (VERSION, 8), "4xx": (VERSION, 1)}
    assert found["steersman_rows_total"] == [(VERSION, 17)]
    assert found["steersman_request_duration_seconds_count"] == [(VERSION, 9)]
    buckets = [(float(labels["le"]), value) for labels, value in found["steersman_request_duration_seconds_bucket"]]
    assert [bound for bound, _ in buckets] == [*(ms / 1000 for ms in LATENCY_BOUNDS_MS), float("inf")]
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)
    assert buckets[-1][1] == 9
    assert 0 < found["steersman_request_duration_seconds_sum"][0][1] < 9 * 10


def test_router_committer_log_and_replicas_are_in_one_scrape(plane: Plane) -> None:
    found = samples(scrape(plane)[1])
    by_process = {labels["process"]: value for labels, value in found["steersman_up"]}
    assert by_process == {"router-0": 1, "committer": 1}
    assert found["steersman_router_requests_total"] == [({"process": "router-0"}, 9)]
    assert found["steersman_committer_rows_total"] == [({"process": "committer"}, 17)]
    assert found["steersman_committer_waiting_bytes"] == [({"process": "committer"}, 0)]
    assert found["steersman_capture_dropped_rows_total"] == [({"process": "router-0"}, 0)]
    assert {labels["process"] for labels, _ in found["steersman_process_cpu_seconds_total"]} == set(by_process)
    [(labels, ejected)] = found["steersman_replica_ejected"]
    assert (labels["process"], ejected) == ("router-0", 0)


def test_what_each_worker_uses_is_in_the_scrape(plane: Plane) -> None:
    found = samples(scrape(plane)[1])
    [(labels, cpu_s)] = found["steersman_worker_cpu_seconds_total"]
    [(same, memory)] = found["steersman_worker_resident_memory_bytes"]
    address = labels.pop("address")
    assert address.startswith("unix:/")
    wanted = {"process": "worker", "workspace": "ops", "environment": "production", "model": "m", "version": "3"}
    assert (labels, same) == (wanted, {**wanted, "address": address})
    [worker] = [process.pid for name, process in plane.processes.items() if name.startswith("worker")]
    assert 0.1 < cpu_s < 60
    assert memory == pytest.approx(psutil.Process(worker).memory_info().rss, rel=0.2)


def test_a_worker_that_does_not_answer_is_left_out_and_not_avoided(plane: Plane) -> None:
    [worker] = [process for name, process in plane.processes.items() if name.startswith("worker")]
    worker.send_signal(signal.SIGSTOP)
    try:
        found = samples(scrape(plane)[1])
    finally:
        worker.send_signal(signal.SIGCONT)
    assert "steersman_worker_cpu_seconds_total" not in found
    assert [value for _, value in found["steersman_replica_ejected"]] == [0]


def test_both_text_formats_are_read_by_their_parsers(plane: Plane) -> None:
    kind, text = scrape(plane)
    assert kind.startswith("text/plain; version=0.0.4")
    plain = {sample.name for family in plain_text(text) for sample in family.samples}
    kind, text = scrape(plane, accept="application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert {sample.name for family in open_metrics(text) for sample in family.samples} == plain


def test_a_process_that_does_not_answer_is_down_and_holds_nobody_up(tmp_path: Path) -> None:
    with Plane(tmp_path / "state") as plane:
        plane.router()
        plane.route()
        plane.committer()
        committer = read_handle(plane.state / "run" / "committer.json")
        assert committer is not None
        os.kill(committer.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            found = samples(scrape(plane)[1])
            assert time.monotonic() - began < metrics.ANSWER_S_MAX + 1.5
        finally:
            os.kill(committer.pid, signal.SIGCONT)
    assert {labels["process"]: value for labels, value in found["steersman_up"]} == {"router-0": 1, "committer": 0}
    assert "steersman_committer_rows_total" not in found


@given(st.text())
def test_any_name_survives_the_text_format(name: str) -> None:
    page = metrics._Page()
    page.add("steersman_replica_ejected", 1, process="router-0", address=name)
    [family] = plain_text(page.text(open_metrics=False).decode("utf-8", "surrogatepass"))
    assert family.samples[0].labels["address"] == name


@given(st.floats(min_value=0, max_value=1e6))
def test_a_latency_is_counted_in_the_first_bucket_that_holds_it(latency_ms: float) -> None:
    buckets = metrics.empty_buckets()
    metrics.observe(buckets, latency_ms)
    bounds = (*LATENCY_BOUNDS_MS, float("inf"))
    [at] = [index for index, number in enumerate(buckets) if number]
    assert latency_ms <= bounds[at]
    assert at == 0 or latency_ms > bounds[at - 1]


def test_two_releases_of_one_version_are_one_series(tmp_path: Path) -> None:
    counts: dict[str, Any] = {
        "version": "3",
        "requests": 2,
        "rows": 2,
        "statuses": [0, 0, 2],
        "latencies": [2, *([0] * 15)],
    }
    variant = {"workspace": "ops", "environment": "production", "model": "m", "role": "stable", "counts": counts}
    counters = msgspec.json.encode({"variants": [variant, variant]})
    _, text = asyncio.run(metrics.exposition(tmp_path, Own("router-0", counters)))
    found = samples(text.decode())
    assert found["steersman_rows_total"] == [(VERSION, 4)]
    assert found["steersman_request_duration_seconds_count"] == [(VERSION, 4)]


def test_any_router_tells_of_all_of_them(plane: Plane) -> None:
    second = plane.start("router-1", "--state", str(plane.state), "--number", "1", "--port", "0")
    handle = plane.state / "run" / "router-1.json"
    try:
        deadline = time.monotonic() + 30
        while (card := read_handle(handle)) is None or card.pid != second.pid:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        up = {labels["process"]: value for labels, value in samples(scrape(plane)[1])["steersman_up"]}
        assert up == {"router-0": 1, "router-1": 1, "committer": 1}
    finally:
        plane.stop("router-1", signal.SIGKILL)
    up = {labels["process"]: value for labels, value in samples(scrape(plane)[1])["steersman_up"]}
    assert up == {"router-0": 1, "router-1": 0, "committer": 1}


NOT_AS_COUNTED = {"mirrors_dropped", "mirrors_unreadable", "last_error", "last_commit_ms"}
"""Fields that are told in another form: by reason, as 0 or 1, in seconds."""


@pytest.mark.parametrize(
    ("prefix", "counts"),
    [
        ("router", RouterCounts),
        ("capture", CaptureCounts),
        ("upstream", UpstreamCounts),
        ("committer", CommitterCounts),
    ],
)
def test_everything_that_is_counted_has_a_metric(prefix: str, counts: type[msgspec.Struct]) -> None:
    known = {metric.name for metric in METRICS}
    counted = set(counts.__struct_fields__) - NOT_AS_COUNTED
    assert {f"steersman_{prefix}_{field}_total" for field in counted} <= known


def test_every_metric_is_a_valid_family_of_its_own() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("steersman_")
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.help.endswith("."), metric.name
