"""The router alone: processor time a request, and the latency it adds, with both bodies in the write-ahead log.

    make bench ARGS="router --rounds 5 --seconds 4"

The worker behind it is a stub that answers a constant body and costs next to nothing; only the router's process counts.
Latency is compared at half of what the router sustains, with Poisson arrivals, once straight to the stub and once through
the router, in turns. Beside it stands the least a proxy in Python can be (`measuring/bare_proxy.py`): what this machine allows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from measuring import accounts, load, report
from measuring.report import Target
from steersman.dataplane.configuration import Column
from steersman.testing.plane import TOKEN, Plane, tensor

CPU_US_MAX = 150.0
ADDED_MS_P99_MAX = 1.0
CONNECTIONS = (1, 16, 64)
COLUMNS = {"1 KB, 16 columns": 16, "2 KB, 30 columns": 30}
"""Requests of one row; the targets are for the first."""

STUB = Path(load.__file__).with_name("stub.py")
BARE_PROXY = Path(load.__file__).with_name("bare_proxy.py")


@dataclass(slots=True)
class Found:
    """Rounds of one size of request."""

    bytes: int
    cpu_us: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})
    p50_ms: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})
    throughput: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})
    bare_cpu_us: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})
    direct_ms_p99: list[float] = field(default_factory=list)
    routed_ms_p99: list[float] = field(default_factory=list)
    bare_ms_p99: list[float] = field(default_factory=list)
    rate: float = 0.0

    @property
    def added_ms(self) -> float:
        return statistics.median(self.routed_ms_p99) - statistics.median(self.direct_ms_p99)

    @property
    def bare_added_ms(self) -> float:
        return statistics.median(self.bare_ms_p99) - statistics.median(self.direct_ms_p99)


def request_body(columns: int) -> bytes:
    inputs = [tensor(f"x{number:02d}", [round(0.1234567 * (number + 1), 7)]) for number in range(columns)]
    return json.dumps({"inputs": inputs}).encode()


ANSWER = json.dumps(
    {"model_name": "m", "model_version": "1", "outputs": [tensor("score", [0.7310585786300049])]}
).encode()


class Bench:
    """A router and a bare proxy in front of the stub, and the load generator's core."""

    def __init__(
        self,
        plane: Plane,
        core: int | None,
        stub_port: int,
        bare: subprocess.Popen[bytes],
        bare_port: int,
        seconds: float,
    ) -> None:
        self._plane = plane
        self._core = core
        self._ports = {"stub": stub_port, "bare": bare_port, "router": plane.port}
        self._processes = {"bare": psutil.Process(bare.pid), "router": psutil.Process(plane.processes["router"].pid)}
        self._seconds = seconds

    def plan(self, columns: int, connections: int, *, to: str = "router", rate: float = 0.0) -> load.Plan:
        path = self._plane.infer_path if to == "router" else "/v2/models/m/infer"
        sent = load.post(path, request_body(columns), headers={"Authorization": f"Bearer {TOKEN}"}, expected=b"0.73105")
        return load.Plan(
            port=self._ports[to],
            sent=[sent],
            connections=connections,
            seconds=self._seconds,
            rate=rate,
            core=self._core,
        )

    def run(self, plan: load.Plan) -> load.Outcome:
        outcome = load.run(plan)
        if outcome.failed:
            raise SystemExit(f"router: requests failed, so nothing is measured: {outcome.failures}")
        return outcome

    def closed(self, found: Found, columns: int, connections: int) -> None:
        cpu_us, outcome = self._cpu_us(columns, connections, "router")
        found.cpu_us[connections].append(cpu_us)
        found.p50_ms[connections].append(outcome.latency_ms_p50)
        found.throughput[connections].append(outcome.throughput)
        found.bare_cpu_us[connections].append(self._cpu_us(columns, connections, "bare")[0])

    def _cpu_us(self, columns: int, connections: int, to: str) -> tuple[float, load.Outcome]:
        """Processor time of that process, a request, and how the load fared."""
        before = accounts.cpu_s([self._processes[to]])
        outcome = self.run(self.plan(columns, connections, to=to))
        return (accounts.cpu_s([self._processes[to]]) - before) / outcome.answered * 1e6, outcome

    def half_load(self, found: Found, columns: int) -> None:
        found.rate = statistics.median(found.throughput[CONNECTIONS[-1]]) / 2
        kept = {"stub": found.direct_ms_p99, "bare": found.bare_ms_p99, "router": found.routed_ms_p99}
        for to, latencies in kept.items():
            plan = self.plan(columns, CONNECTIONS[-1], to=to, rate=found.rate)
            latencies.append(self.run(plan).latency_ms_p99)


@contextlib.contextmanager
def listening(script: Path, argument: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A script of our own that prints the port it listens on."""
    process = subprocess.Popen([sys.executable, str(script), argument], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def measure(rounds: int, seconds: float) -> dict[str, Found]:
    _, core = accounts.split_cores()
    with tempfile.TemporaryDirectory(prefix="steersman-router-") as folder, Plane(Path(folder) / "state") as plane:
        answer = Path(folder) / "answer.json"
        answer.write_bytes(ANSWER)
        with (
            listening(STUB, str(answer)) as (_, port),
            listening(BARE_PROXY, str(port)) as (bare, bare_port),
        ):
            plane.router()
            bench = Bench(plane, core, port, bare, bare_port, seconds)
            found = {name: Found(len(request_body(columns))) for name, columns in COLUMNS.items()}
            for number in range(-1, rounds):
                for name, columns in COLUMNS.items():
                    signature = [Column(name=f"x{n:02d}", type="FP64") for n in range(columns)]
                    variant = plane.variant("stable", f"sha256:{'0' * 64}", [f"127.0.0.1:{port}"])
                    plane.route(variant, signature=signature)
                    if number < 0:  # warm-up: connections, caches, the first segment
                        for to in ("router", "bare"):
                            load.run(bench.plan(columns, CONNECTIONS[-1], to=to))
                        continue
                    for connections in CONNECTIONS:
                        bench.closed(found[name], columns, connections)
                    bench.half_load(found[name], columns)
            return found


def judge(found: dict[str, Found]) -> list[Target]:
    first = next(iter(found.values()))
    worst = max(statistics.median(values) for values in first.cpu_us.values())
    return [
        Target(
            promise=f"at most {CPU_US_MAX:g} µs CPU a request at 1, 16 and 64 connections, both bodies logged",
            measured=f"{worst:.0f} µs in the worst",
            met=worst <= CPU_US_MAX,
        ),
        Target(
            promise=f"at most {ADDED_MS_P99_MAX:g} ms added at p99, half of saturation, 64 connections",
            measured=f"{first.added_ms:.2f} ms",
            met=first.added_ms <= ADDED_MS_P99_MAX,
        ),
    ]


HALF = (
    "request",
    "requests/s",
    "p99 ms straight to the stub",
    "p99 ms through the router",
    "added",
    "a bare proxy adds",
)


def page(found: dict[str, Found], rounds: int, seconds: float, machine: str) -> str:
    rows = [
        (name, str(count), report.spread(one.cpu_us[count], 0), report.spread(one.bare_cpu_us[count], 0),
         report.spread(one.p50_ms[count]), report.spread(one.throughput[count], 0))
        for name, one in found.items()
        for count in CONNECTIONS
    ]  # fmt: skip
    half = [
        (
            name,
            f"{one.rate:.0f}",
            report.spread(one.direct_ms_p99),
            report.spread(one.routed_ms_p99),
            f"{one.added_ms:.2f}",
            f"{one.bare_added_ms:.2f}",
        )
        for name, one in found.items()
    ]
    return f"""
# The router alone

For those who put a router before their models and ask what that costs.



{report.today()}, {report.versions(("steersman", "uvicorn", "uvloop", "httptools", "msgspec"))}.
{machine}.

{report.targets(judge(found))}

Processor time of the router's process alone, per request of one row, every answer checked; median of {rounds} rounds (min–max):

{report.table(("request", "connections", "CPU µs", "CPU µs of a bare proxy", "p50 ms", "requests/s"), rows)}

Half of the requests a second that 64 connections reached, Poisson arrivals, 64 connections, latency from the arrival:

{report.table(HALF, half)}

## How

`make bench ARGS="router --rounds {rounds} --seconds {seconds:g}"`. A stub answers a constant body in place of the
worker and is not counted. The router checks the token, reads the envelope, picks the version, forwards, and appends request
and answer to its write-ahead log before it replies. The load generator polls on a core of its own; router and stub share
the others (on two cores: one), so requests a second are of both, the CPU figure is the router's. A warm-up is not counted.

The bare proxy (`bench/measuring/bare_proxy.py`), measured in the same run and at the same rate, is what this machine allows: the
same event loop and HTTP parser on both sides and nothing else, no token, no envelope, no log, no deadline.
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench ARGS=router", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    arguments = parser.parse_args()
    machine = report.machine()
    found = measure(arguments.rounds, arguments.seconds)
    report.write("router", page(found, arguments.rounds, arguments.seconds, machine))
    return 0 if all(target.met for target in judge(found)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
