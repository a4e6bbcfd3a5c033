"""Micro-batching: many callers of one row each, a model whose cost is per call more than per row.

    make bench ARGS="batching --rounds 3 --seconds 4"

The same worker twice, batching off and on, 32 connections, a new request as soon as one is answered. Measured at the
worker, which is what batching changes, and through the router, which is what a caller sees. How long a full batch takes is
measured on its own: one request of as many rows, one connection, batching off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import skops.io
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier

from measuring import accounts, load, report
from measuring.report import Target
from steersman.dataplane.configuration import Column
from steersman.testing.plane import TOKEN, Plane, tensor

SEED = 20130301
COLUMNS = [f"x{number:02d}" for number in range(20)]
TREES = 100
CONNECTIONS = 32
BATCH_ROWS_MAX = 32
BATCH_WAIT_MS = 5.0

RATIO_MIN = 3.0

MODELS: dict[str, Callable[[], Any]] = {
    "GradientBoostingClassifier": lambda: GradientBoostingClassifier(n_estimators=TREES, random_state=SEED),
    "HistGradientBoostingClassifier": lambda: HistGradientBoostingClassifier(max_iter=TREES, random_state=SEED),
}
"""scikit-learn's two, saved with skops; the targets are for the first."""


@dataclass(slots=True)
class Found:
    """Rounds of one model at one place (`worker` or `router`); lists by batching off (False) and on (True)."""

    throughput: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    p50_ms: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    p99_ms: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    cpu_us: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    batch_ms: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(self.throughput[True]) / statistics.median(self.throughput[False])

    @property
    def p99_ms_max(self) -> float:
        return 2 * BATCH_WAIT_MS + statistics.median(self.batch_ms)


class Bench:
    """One model behind two workers, and a router that points at one or the other."""

    def __init__(self, plane: Plane, folder: Path, name: str, core: int | None, seconds: float) -> None:
        generator = np.random.default_rng(SEED)
        inputs = generator.normal(size=(4_000, len(COLUMNS)))
        model = MODELS[name]().fit(inputs, inputs[:, 0] * inputs[:, 1] + generator.normal(size=4_000) > 0)
        tree = folder / name
        tree.mkdir()
        skops.io.dump(model, tree / "model.skops")
        self._plane = plane
        self._core = core
        self._seconds = seconds
        self._digest = plane.store(tree)
        self._rows = generator.normal(size=(BATCH_ROWS_MAX, len(COLUMNS))).round(6)
        self._expected = [f"{value:.17g}"[:12].encode() for value in model.predict_proba(self._rows)[:, 1]]
        self._workers = {batching: self._start(batching) for batching in (False, True)}

    def _start(self, batching: bool) -> str:
        settings: dict[str, Any] = {}
        if batching:
            settings = {"batch_rows_max": BATCH_ROWS_MAX, "batch_wait_ms": BATCH_WAIT_MS}
        signature = [{"name": name, "type": "FP64"} for name in COLUMNS]
        return self._plane.start_worker(
            self._digest, format="skops", file="model.skops", signature=signature, **settings
        )

    def _sent(self, path: str) -> list[load.Request]:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return [
            load.post(path, self._body(self._rows[index : index + 1]), headers=headers, expected=expected)
            for index, expected in enumerate(self._expected)
        ]

    def _body(self, rows: np.ndarray[Any, Any]) -> bytes:
        columns = [tensor(name, rows[:, index].tolist()) for index, name in enumerate(COLUMNS)]
        return json.dumps({"inputs": columns}).encode()

    def _run(self, port: int | str, sent: list[load.Request], connections: int) -> load.Outcome:
        outcome = load.run(
            load.Plan(port=port, sent=sent, connections=connections, seconds=self._seconds, core=self._core)
        )
        if outcome.failed:
            raise SystemExit(f"batching: requests failed, so nothing is measured: {outcome.failures}")
        return outcome

    def round(self, found: dict[str, Found]) -> None:
        for batching, worker in self._workers.items():
            address = self._plane.address(worker)
            process = psutil.Process(self._plane.processes[worker].pid)
            self._plane.route(
                self._plane.variant("stable", self._digest, [address]),
                signature=[Column(name=name, type="FP64") for name in COLUMNS],
            )
            places = {"worker": (address, "/v2/models/m/infer"), "router": (self._plane.port, self._plane.infer_path)}
            for place, (where, path) in places.items():
                one = found[place]
                before = accounts.cpu_s([process])
                outcome = self._run(where, self._sent(path), CONNECTIONS)
                one.cpu_us[batching].append((accounts.cpu_s([process]) - before) / outcome.answered * 1e6)
                one.throughput[batching].append(outcome.throughput)
                one.p50_ms[batching].append(outcome.latency_ms_p50)
                one.p99_ms[batching].append(outcome.latency_ms_p99)
                if not batching:
                    whole = load.post(path, self._body(self._rows), headers={"Authorization": f"Bearer {TOKEN}"})
                    one.batch_ms.append(self._run(where, [whole], 1).latency_ms_p50)

    def stop(self) -> None:
        for worker in self._workers.values():
            self._plane.stop(worker)


def measure(rounds: int, seconds: float) -> dict[str, dict[str, Found]]:
    """By model, then by place."""
    _, core = accounts.split_cores()
    found: dict[str, dict[str, Found]] = {}
    with tempfile.TemporaryDirectory(prefix="steersman-batching-") as folder, Plane(Path(folder) / "state") as plane:
        plane.router()
        for name in MODELS:
            found[name] = {"worker": Found(), "router": Found()}
            bench = Bench(plane, Path(folder), name, core, seconds)
            bench.round({"worker": Found(), "router": Found()})  # a warm-up, not kept
            for _ in range(rounds):
                bench.round(found[name])
            bench.stop()
    return found


def judge(found: dict[str, dict[str, Found]]) -> list[Target]:
    name, places = next(iter(found.items()))
    targets = []
    for place, one in places.items():
        p99_ms = statistics.median(one.p99_ms[True])
        promise = f"{name} at the {place}, {CONNECTIONS} connections:"
        targets += [
            Target(
                promise=f"{promise} batching at least triples the requests a second",
                measured=f"{one.ratio:.2f} times",
                met=one.ratio >= RATIO_MIN,
            ),
            Target(
                promise=f"{promise} p99 below twice the longest wait plus a batch's time ({one.p99_ms_max:.1f} ms)",
                measured=f"{p99_ms:.1f} ms",
                met=p99_ms < one.p99_ms_max,
            ),
        ]
    return targets


def page(found: dict[str, dict[str, Found]], rounds: int, seconds: float, machine: str) -> str:
    rows = [
        (name, place, "on" if batching else "off", report.spread(one.throughput[batching], 0),
         report.spread(one.p50_ms[batching], 1), report.spread(one.p99_ms[batching], 1),
         report.spread(one.cpu_us[batching], 0), report.spread(one.batch_ms, 1))
        for name, places in found.items()
        for place, one in places.items()
        for batching in (False, True)
    ]  # fmt: skip
    command = f'make bench ARGS="batching --rounds {rounds} --seconds {seconds:g}"'
    head = ("model", "asked at", "batching", "requests/s", "p50 ms", "p99 ms", "worker's CPU µs", "full batch, ms")
    return f"""
# Micro-batching

For those whose callers send one row each, and many at a time.

{report.today()}, {report.versions(("steersman", "scikit-learn", "numpy"))}.
{machine}.

{report.targets(judge(found))}

{report.table(head, rows)}

## How

`{command}` (median, min–max). Models of {TREES} trees on {len(COLUMNS)} numeric
columns, saved with skops; one worker, one row a request, {CONNECTIONS} connections, every answer checked.
Batching on is `batch_rows_max: {BATCH_ROWS_MAX}, batch_wait_ms: {BATCH_WAIT_MS:g}`. A full batch's time is the median of
one request of {BATCH_ROWS_MAX} rows on one connection without batching. Through the router both bodies are
logged. The load generator polls on the last core; worker and router share the others (on two cores: one), so that at
the router the gain is bounded by the router's own processor time.
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench ARGS=batching", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    arguments = parser.parse_args()
    machine = report.machine()
    found = measure(arguments.rounds, arguments.seconds)
    report.write("batching", page(found, arguments.rounds, arguments.seconds, machine))
    return 0 if all(target.met for target in judge(found)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
