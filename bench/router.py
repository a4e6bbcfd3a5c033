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
from measuring.speed import FULL, STEADY_S, Speed
from steersman.dataplane import sockets
from steersman.dataplane.configuration import Column
from steersman.testing.plane import TOKEN, Plane, tensor

CPU_US_MAX = 150.0
ADDED_MS_P99_MAX = 1.0
CONNECTIONS = (1, 16, 64)
COLUMNS = {"1 KB, 16 columns": 16, "2 KB, 30 columns": 30}
"""Requests of one row; the targets are for the first."""

STUB = Path(load.__file__).with_name("stub.py")
BARE_PROXY = Path(load.__file__).with_name("bare_proxy.py")


Trace = tuple[list[float], list[float]]
"""Arrivals, in order, and their latencies in ms."""


@dataclass(slots=True)
class Half:
    """Rounds at half of what a server sustains: requests a second, and p99 in ms."""

    rates: list[float] = field(default_factory=list)
    direct_ms_p99: list[float] = field(default_factory=list)
    """Straight to the stub, at the same rate."""
    ms_p99: list[float] = field(default_factory=list)
    """Through the server."""

    @property
    def added_ms(self) -> float:
        return statistics.median(self.ms_p99) - statistics.median(self.direct_ms_p99)

    def cells(self) -> tuple[str, ...]:
        rate, direct, through = (
            report.spread(self.rates, 0),
            report.spread(self.direct_ms_p99),
            report.spread(self.ms_p99),
        )
        return rate, direct, through, f"{self.added_ms:.2f}"


@dataclass(slots=True)
class Found:
    """Rounds of one size of request."""

    bytes: int
    cpu_us: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})
    p50_ms: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})
    throughput: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})
    bare_cpu_us: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})
    half: Half = field(default_factory=Half)
    bare_half: Half = field(default_factory=Half)
    """Of what the bare proxy itself sustains."""
    bare_ms_p99: list[float] = field(default_factory=list)
    """Through the bare proxy, at half of what the router sustains."""
    direct: list[Trace] = field(default_factory=list)
    routed: list[Trace] = field(default_factory=list)
    """Of half of what the router sustains."""
    untimed: int = 0
    timed: int = 0
    """Of the latencies at half of saturation, through the router: how many a lapse of the load generator took away."""

    def at_full_speed(self, speed: Speed) -> str:
        """What the router added where the core had had its full speed for a while, over all rounds; and of how many requests."""
        p99 = []
        for traces in (self.direct, self.routed):
            kept = sorted(
                ms
                for arrivals, latencies in traces
                for steady, ms in zip(speed.steady(arrivals), latencies, strict=True)
                if steady
            )
            p99.append(load.quantile(kept, 0.99))
        return f"{p99[1] - p99[0]:.2f} ({len(kept)})" if kept else "never"

    @property
    def bare_added_ms(self) -> float:
        return statistics.median(self.bare_ms_p99) - statistics.median(self.half.direct_ms_p99)


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
        trace: Path,
    ) -> None:
        self._trace = trace
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
            trace=str(self._trace) if rate else "",
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
        bare_cpu_us, bare = self._cpu_us(columns, connections, "bare")
        found.bare_cpu_us[connections].append(bare_cpu_us)
        if connections == CONNECTIONS[-1]:
            found.bare_half.rates.append(bare.throughput / 2)

    def _cpu_us(self, columns: int, connections: int, to: str) -> tuple[float, load.Outcome]:
        """Processor time of that process, a request, and how the load fared."""
        before = accounts.cpu_s([self._processes[to]])
        outcome = self.run(self.plan(columns, connections, to=to))
        return (accounts.cpu_s([self._processes[to]]) - before) / outcome.answered * 1e6, outcome

    def _traced(self) -> Trace:
        pairs = sorted(zip(*load.read_trace(self._trace), strict=True))
        return [at for at, _ in pairs], [ms for _, ms in pairs]

    def _ms_p99(self, columns: int, to: str, rate: float) -> float:
        return self.run(self.plan(columns, CONNECTIONS[-1], to=to, rate=rate)).latency_ms_p99

    def half_load(self, found: Found, columns: int) -> None:
        """Half of what the router has just reached: a shared machine is faster at one moment than at the next."""
        half, bare = found.half, found.bare_half
        rate = found.throughput[CONNECTIONS[-1]][-1] / 2
        half.rates.append(rate)
        bare.ms_p99.append(self._ms_p99(columns, "bare", bare.rates[-1]))
        bare.direct_ms_p99.append(self._ms_p99(columns, "stub", bare.rates[-1]))
        found.bare_ms_p99.append(self._ms_p99(columns, "bare", rate))
        half.direct_ms_p99.append(self._ms_p99(columns, "stub", rate))
        found.direct.append(self._traced())
        outcome = self.run(self.plan(columns, CONNECTIONS[-1], rate=rate))
        half.ms_p99.append(outcome.latency_ms_p99)
        found.routed.append(self._traced())
        found.untimed += outcome.untimed
        found.timed += outcome.answered - outcome.untimed


@contextlib.contextmanager
def listening(script: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A script of our own that prints the port it listens on."""
    process = subprocess.Popen([sys.executable, str(script), *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def measure(rounds: int, seconds: float) -> tuple[dict[str, Found], Speed]:
    _, core = accounts.split_cores()
    with tempfile.TemporaryDirectory(prefix="steersman-router-") as folder, Plane(Path(folder) / "state") as plane:
        answer = Path(folder) / "answer.json"
        answer.write_bytes(ANSWER)
        worker = str(Path(folder) / "stub.sock")
        with (
            listening(STUB, str(answer), worker) as (_, port),
            listening(BARE_PROXY, worker) as (bare, bare_port),
        ):
            plane.router()
            speed = Speed()
            speed.start()
            bench = Bench(plane, core, port, bare, bare_port, seconds, Path(folder) / "trace")
            found = {name: Found(len(request_body(columns))) for name, columns in COLUMNS.items()}
            for number in range(-1, rounds):
                for name, columns in COLUMNS.items():
                    signature = [Column(name=f"x{n:02d}", type="FP64") for n in range(columns)]
                    variant = plane.variant("stable", f"sha256:{'0' * 64}", [f"{sockets.UNIX}{worker}"])
                    plane.route(variant, signature=signature)
                    if number < 0:  # warm-up: connections, caches, the first segment
                        for to in ("router", "bare"):
                            load.run(bench.plan(columns, CONNECTIONS[-1], to=to))
                        continue
                    for connections in CONNECTIONS:
                        bench.closed(found[name], columns, connections)
                    bench.half_load(found[name], columns)
            speed.stop()
            return found, speed


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
            measured=f"{first.half.added_ms:.2f} ms",
            met=first.half.added_ms <= ADDED_MS_P99_MAX,
        ),
    ]


BARE_HALF = ("request", "requests/s", "p99 ms straight to the stub", "p99 ms through the bare proxy", "added")

HALF = (
    "request",
    "requests/s",
    "p99 ms straight to the stub",
    "p99 ms through the router",
    "added",
    "a bare proxy adds",
    "added at full speed (requests)",
)


def page(found: dict[str, Found], speed: Speed, rounds: int, seconds: float, machine: str) -> str:
    rows = [
        (name, str(count), report.spread(one.cpu_us[count], 0), report.spread(one.bare_cpu_us[count], 0),
         report.spread(one.p50_ms[count]), report.spread(one.throughput[count], 0))
        for name, one in found.items()
        for count in CONNECTIONS
    ]  # fmt: skip
    half = [
        (name, *one.half.cells(), f"{one.bare_added_ms:.2f}", one.at_full_speed(speed)) for name, one in found.items()
    ]
    bare_half = [(name, *one.bare_half.cells()) for name, one in found.items()]
    return f"""
# The router alone

For those who put a router before their models and ask what that costs.

{report.today()}, {report.versions(("steersman", "uvicorn", "uvloop", "httptools", "msgspec"))}.
{machine}.

{report.targets(judge(found))}

Processor time of the router's process alone, per request of one row, every answer checked; median of {rounds} rounds (min–max):

{report.table(("request", "connections", "CPU µs", "CPU µs of a bare proxy", "p50 ms", "requests/s"), rows)}

Half of the requests a second that 64 connections had just reached, Poisson arrivals, 64 connections, latency from the arrival:

{report.table(HALF, half)}

{sum(one.untimed for one in found.values())} of the {sum(one.timed + one.untimed for one in found.values())} requests that went
through the router have no latency here: the kernel kept the load generator from its core while they were under way. *At full
speed*: of the requests of all rounds that arrived when the core had had at least {FULL:.0%} of the best speed of this run for
{STEADY_S:g} s (`bench/measuring/speed.py`: on a virtual machine strangers have a say in it).

How long a queue is depends on how busy its server is, and how long that takes on what a request costs. So here is the bare
proxy as busy as the router was above: at half of what *its* 64 connections had just reached.

{report.table(BARE_HALF, bare_half)}

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
    found, speed = measure(arguments.rounds, arguments.seconds)
    report.write("router", page(found, speed, arguments.rounds, arguments.seconds, machine))
    return 0 if all(target.met for target in judge(found)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
