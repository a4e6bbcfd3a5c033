"""Load that goes on while everything changes: weights, releases, rollbacks. Does a caller notice?

    make bench ARGS="changes --seconds 600 --releases 10"

The real data plane under Poisson arrivals at 70 % of what it sustains. Quiet phases and changing ones take turns; in a
changing phase versions are released (their workers started, routed as candidate, their weight raised step by step,
promoted, what they replace kept warm and what that replaced drained and stopped), and every second release is rolled back.
No request may fail, and p99 over the changing phases may be at most 1.5 times that over the quiet ones.
"""

from __future__ import annotations

import argparse
import bisect
import json
import math
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from measuring import accounts, load, report
from measuring.report import Target
from measuring.speed import FULL, STEADY_S, Speed
from measuring.timeline import Timeline
from steersman.dataplane.configuration import VariantRoute
from steersman.testing.plane import STUMP, STUMP_SIGNATURE, TOKEN, Plane, stump, tensor

LOAD_SHARE = 0.7
P99_RATIO_MAX = 1.5
MEMORY_GROWTH_MAX = 1.15
CONNECTIONS = 32
WATCHED = ("router", "committer")
"""Whose memory must stay flat; workers come and go."""

WEIGHTS_PCT = (5.0, 10.0, 25.0, 50.0, 75.0)
"""Weight changes of one release, before it is promoted."""

RELEASES_A_ROLLBACK = 2
WARM_UP_S = 3.0
SATURATE_S = 40.0
"""Long enough for most of what goes on beside the callers: commits, merges, the kernel's bringing all of it to the disk."""
SATURATED = 3
"""Times it is saturated."""

WINDOW_S = 5.0
"""The slowest of all these windows counts: the core of a virtual machine may be twice as fast at one moment as at another, and
what it does not always sustain is not what it sustains (`measuring.speed`)."""

UPKEEP_LOOK_S = 0.1
UPKEEP_QUIET_S = 2.0
"""Without a piece of upkeep: none is due (`steersman.dataplane.upkeep` looks once a second)."""

QUIET_SPREAD_MAX = 3.0
"""How many times as slow the slowest quiet phase may be as the fastest, by p99. Beyond it the machine was overloaded without
any change, and to be no slower than that says nothing; to be slower than even the slowest of them says enough."""

SETTLE_S = 3.0
MOMENT_S = 1.0
MOMENTS_SHOWN = 12
"""The slowest, of MOMENT_S each, that the page explains."""

DRAIN_S = 1.0
"""Between the configuration without a version and its worker's SIGTERM: what was sent to it has been answered by then."""


@dataclass(frozen=True, slots=True)
class Version:
    number: int
    digest: str
    worker: str
    address: str


@dataclass(slots=True)
class Done:
    """What was changed, and how long a new version's worker took to be ready."""

    weights: int = 0
    releases: int = 0
    rollbacks: int = 0
    start_s: list[float] = field(default_factory=list)


class Delivery:
    """Releases and rolls back versions of one model on a running plane, as the control server's plans would."""

    def __init__(self, plane: Plane, folder: Path, mark: Callable[[str], None]) -> None:
        self.done = Done()
        self._mark = mark
        self._plane = plane
        self._folder = folder
        self._numbers = 0
        self._stable = self._new()
        self._previous: Version | None = None
        self._route((self._stable, 100.0))

    def _new(self) -> Version:
        self._numbers += 1
        number = self._numbers
        tree = stump(self._folder / f"version-{number}", low=0.25 + number / 1000, high=0.75)
        digest = self._plane.store(tree)
        began = time.monotonic()
        self._mark(f"start {number}")
        worker = self._plane.start_worker(digest, version=str(number), **STUMP)
        address = self._plane.address(worker)
        self._mark(f"ready {number}")
        self.done.start_s.append(time.monotonic() - began)
        return Version(number, digest, worker, address)

    def _route(self, stable: tuple[Version, float], candidate: tuple[Version, float] | None = None) -> None:
        variants = [self._variant("stable", *stable)]
        if candidate is not None:
            variants.append(self._variant("candidate", *candidate))
        self._plane.route(*variants, signature=STUMP_SIGNATURE, sticky_by="who", salt=f"salt-{self._numbers}")

    def _variant(self, role: Literal["stable", "candidate"], version: Version, weight_pct: float) -> VariantRoute:
        return self._plane.variant(
            role,
            version.digest,
            [version.address],
            weight_pct=weight_pct,
            version=str(version.number),
            release=f"r{version.number}",
        )

    def _stop(self, version: Version | None) -> None:
        if version is not None:
            time.sleep(DRAIN_S)
            self._mark(f"stop {version.number}")
            self._plane.stop(version.worker)
            self._mark(f"stopped {version.number}")

    def release(self, wait: Callable[[], None]) -> None:
        """Bring a new version in; `wait` is called before each of its steps."""
        candidate = self._new()
        for weight_pct in WEIGHTS_PCT:
            wait()
            self._mark(f"weight {weight_pct:g}")
            self._route((self._stable, 100.0 - weight_pct), (candidate, weight_pct))
            self.done.weights += 1
        wait()
        self._mark(f"promote {candidate.number}")
        self._route((candidate, 100.0))
        leaving, self._previous, self._stable = self._previous, self._stable, candidate
        self._stop(leaving)
        self.done.releases += 1

    def roll_back(self) -> None:
        """The previous version, still warm, answers again; the one taken back is drained and stopped."""
        assert self._previous is not None
        leaving, self._stable, self._previous = self._stable, self._previous, None
        self._mark(f"roll back {leaving.number}")
        self._route((self._stable, 100.0))
        self._stop(leaving)
        self.done.rollbacks += 1


@dataclass(frozen=True, slots=True)
class Phase:
    changing: bool
    began: float
    ended: float


@dataclass(slots=True)
class Found:
    saturation: float
    rate: float
    phases: list[Phase]
    done: Done
    outcome: load.Outcome
    arrivals: array[float]
    latencies: array[float]
    timeline: Timeline
    speed: Speed

    def memory_mb(self, process: str, phases: Sequence[Phase]) -> float:
        """Largest resident memory while the phases lasted."""
        return self.timeline.memory_mb(process, phases[0].began, phases[-1].ended)

    def growth(self, process: str) -> float:
        """From the first pair of phases to the last; each has commits, merges and a release of every kind."""
        return self.memory_mb(process, self.phases[-2:]) / self.memory_mb(process, self.phases[:2])

    def p99_ms(self, *, changing: bool) -> float:
        return load.quantile(
            sorted(ms for phase in self.phases if phase.changing is changing for ms in self.of(phase)), 0.99
        )

    def undisturbed(self) -> dict[bool, list[float]]:
        """Latencies, sorted, of what arrived in changing phases (True) and in quiet ones when the core had had its full speed."""
        pairs = sorted(zip(self.arrivals, self.latencies, strict=True))
        kept: dict[bool, list[float]] = {True: [], False: []}
        for (at, ms), steady in zip(pairs, self.speed.steady([at for at, _ in pairs]), strict=True):
            if steady and ms >= 0 and self.phases[0].began <= at < self.phases[-1].ended:
                kept[self.phase_at(at).changing].append(ms)
        return {changing: sorted(latencies) for changing, latencies in kept.items()}

    def moments(self) -> list[float]:
        began, ended = self.phases[0].began, self.phases[-1].ended
        return [began + number * MOMENT_S for number in range(int((ended - began) / MOMENT_S))]

    def phase_at(self, at: float) -> Phase:
        return self.phases[max(0, bisect.bisect_right(self.phases, at, key=lambda phase: phase.began) - 1)]

    def of(self, phase: Phase) -> list[float]:
        """Latencies of what arrived in a phase and was answered."""
        pairs = zip(self.arrivals, self.latencies, strict=True)
        return [ms for at, ms in pairs if phase.began <= at < phase.ended and ms >= 0]


def request() -> list[load.Request]:
    """One row each for a hundred entities, so that a weight is met by many."""
    path = "/ops/production/v2/models/m/infer"
    bodies = [
        {"inputs": [tensor("x", [1.0]), tensor("z", [0.0]), tensor("who", [f"entity-{number}"])]}
        for number in range(100)
    ]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return [load.post(path, json.dumps(body).encode(), headers=headers, expected=b"[0.75]") for body in bodies]


def measure(seconds: float, releases: int) -> Found:
    cores, core = accounts.split_cores()
    pairs = math.ceil(releases / RELEASES_A_ROLLBACK)
    phase_s = seconds / (2 * pairs)
    with tempfile.TemporaryDirectory(prefix="steersman-changes-") as folder, Plane(Path(folder) / "state") as plane:
        plane.router()
        plane.committer(interval_s=5.0)
        watched: dict[str, int] = {}

        def living() -> dict[str, int]:
            return {name: process.pid for name, process in list(plane.processes.items())} | watched

        timeline = Timeline(living, cores, elsewhere=("load",))
        delivery = Delivery(plane, Path(folder), timeline.mark)
        trace = Path(folder) / "trace"

        def plan(duration_s: float, rate: float) -> load.Plan:
            return load.Plan(
                port=plane.port, sent=request(), connections=CONNECTIONS, seconds=duration_s, rate=rate, core=core,
                trace=str(trace),
            )  # fmt: skip

        load.run(plan(WARM_UP_S, 0.0))
        plane.flush()
        saturation = math.inf
        for _ in range(SATURATED):
            began = time.monotonic()
            load.run(plan(SATURATE_S, 0.0))
            share = SATURATE_S / (_caught_up(plane) - began)
            saturation = min(saturation, share * _slowest_window(load.read_trace(trace)[0]))
        rate = LOAD_SHARE * saturation
        loading = load.start(plan(10 * seconds, rate))  # it is told when to end
        time.sleep(SETTLE_S)
        watched["load"] = loading.pid
        timeline.start()
        speed = Speed()
        speed.start()
        phases = []
        for number in range(pairs):
            phases.append(_phase(phase_s, None, 0))
            count = min(RELEASES_A_ROLLBACK, releases - number * RELEASES_A_ROLLBACK)
            phases.append(_phase(phase_s, delivery, count))
        timeline.stop()
        speed.stop()
        loading.terminate()
        outcome = load.finish(loading)
        return Found(saturation, rate, phases, delivery.done, outcome, *load.read_trace(trace), timeline, speed)


def _slowest_window(arrivals: Sequence[float]) -> float:
    """Requests a second in the slowest window of a run in which every connection always had one under way."""
    began = min(arrivals)
    counts = [0] * int(SATURATE_S / WINDOW_S)
    for at in arrivals:
        if (number := int((at - began) / WINDOW_S)) < len(counts):
            counts[number] += 1
    return min(counts) / WINDOW_S


def _caught_up(plane: Plane) -> float:
    """When the committer had done, merges included, what it left while callers did not pause: it belongs to the cost."""
    plane.flush()
    at = time.monotonic()
    committer = psutil.Process(plane.processes["committer"].pid)
    while time.monotonic() - at < UPKEEP_QUIET_S:
        if committer.children():
            at = time.monotonic()
        time.sleep(UPKEEP_LOOK_S)
    return at


def _phase(seconds: float, delivery: Delivery | None, releases: int) -> Phase:
    """A phase without changes, or with releases and a rollback spread over it; it lasts as long as they need."""
    began = time.monotonic()
    if delivery is not None:
        step_s = seconds / (releases * (len(WEIGHTS_PCT) + 2))
        for _ in range(releases):
            delivery.release(lambda: time.sleep(step_s))
        delivery.roll_back()
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    return Phase(delivery is not None, began, time.monotonic())


def judge(found: Found) -> list[Target]:
    quiet, changing = found.p99_ms(changing=False), found.p99_ms(changing=True)
    outcome = found.outcome
    reasons = ", ".join(f"{count} {reason}" for reason, count in outcome.failures.items())
    grown = {name: found.growth(name) for name in WATCHED}
    calm = [load.quantile(sorted(found.of(phase)), 0.99) for phase in found.phases if not phase.changing]
    steady = max(calm) <= QUIET_SPREAD_MAX * min(calm)
    unsteady = "" if steady else f", but the quiet phases alone spread from {min(calm):.1f} to {max(calm):.1f} ms"
    missed = changing > P99_RATIO_MAX * (quiet if steady else max(calm))
    return [
        Target(
            promise="no request fails",
            measured=f"{outcome.failed} of {outcome.answered + outcome.failed} {reasons}".strip(),
            met=outcome.failed == 0,
        ),
        Target(
            promise=f"p99 while changing at most {P99_RATIO_MAX:g} times the quiet p99",
            measured=f"{changing / quiet:.2f} times ({changing:.2f} ms, quiet {quiet:.2f} ms{unsteady})",
            met=False if missed else True if steady else None,
        ),
        Target(
            promise=f"largest resident memory in the last two phases at most {MEMORY_GROWTH_MAX:g} times that in the first two",
            measured=", ".join(f"{name} {ratio:.2f} times" for name, ratio in grown.items()),
            met=max(grown.values()) <= MEMORY_GROWTH_MAX,
        ),
    ]


MOMENT_HEAD = ("second", "phase", "p99 ms", "done", "ran", "others", "idle", "router waited", "load waited", "speed")


def slowest(found: Found) -> list[tuple[str, ...]]:
    """The slowest moments, latest last: when, how slow, what was done, who ran and who waited."""
    began = found.phases[0].began
    arrived: dict[int, list[float]] = {}
    for at, ms in zip(found.arrivals, found.latencies, strict=True):
        if at >= began and ms >= 0:
            arrived.setdefault(int((at - began) / MOMENT_S), []).append(ms)
    p99 = {number: load.quantile(sorted(all_ms), 0.99) for number, all_ms in arrived.items()}
    rows = []
    for number in sorted(sorted(p99, key=lambda one: -p99[one])[:MOMENTS_SHOWN]):
        at = began + number * MOMENT_S
        ran, waited, others, idle = found.timeline.between(at, at + MOMENT_S)
        busy = [
            f"{name} {ms:.0f}"
            for name, ms in sorted(ran.items(), key=lambda one: -one[1])
            if ms >= 1 and name != "load"
        ]
        rows.append(
            (
                f"{number * MOMENT_S:.0f}",
                "changing" if found.phase_at(at).changing else "quiet",
                f"{p99[number]:.0f}",
                ", ".join(found.timeline.marked(at - MOMENT_S, at + MOMENT_S)),
                ", ".join(busy),
                f"{others:.0f}",
                f"{idle:.0f}",
                f"{waited.get('router', 0.0):.0f}",
                f"{waited.get('load', 0.0):.0f}",
                f"{found.speed.between(at, at + MOMENT_S):.0%}",
            )
        )
    return rows


def at_full_speed(found: Found) -> str:
    """What the same comparison says where the machine does not play a part."""
    kept = found.undisturbed()
    said = (
        f"The core had had at least {FULL:.0%} of its full speed for {STEADY_S:g} s (`bench/measuring/speed.py`: on a virtual "
        f"machine strangers have a say in it) when {len(kept[False])} of the quiet phases' requests and {len(kept[True])} of the "
        "changing ones' arrived"
    )
    if not kept[False] or not kept[True]:
        return f"{said}, so nothing can be said without the machine's part."
    quiet_ms, changing_ms = load.quantile(kept[False], 0.99), load.quantile(kept[True], 0.99)
    times = changing_ms / quiet_ms
    return f"{said}. Of these p99 is {quiet_ms:.2f} ms quiet and {changing_ms:.2f} ms changing, {times:.2f} times."


def page(found: Found, arguments: argparse.Namespace, machine: str) -> str:
    rows = []
    for phase in found.phases:
        ordered = sorted(found.of(phase))
        middle, high = (f"{load.quantile(ordered, share):.2f}" for share in (0.5, 0.99))
        kind = "changing" if phase.changing else "quiet"
        megabytes = (f"{found.memory_mb(name, [phase]):.0f}" for name in WATCHED)
        rows.append(
            (
                kind,
                f"{phase.ended - phase.began:.0f}",
                str(len(ordered)),
                middle,
                high,
                f"{ordered[-1]:.1f}",
                *megabytes,
            )
        )
    done = found.done
    lasted_s = sum(phase.ended - phase.began for phase in found.phases)
    said = f"{done.weights} weight changes, {done.releases} releases, {done.rollbacks} rollbacks"
    command = f'make bench ARGS="changes --seconds {arguments.seconds:g} --releases {arguments.releases}"'
    return f"""
# Changes under load

For those who release while people call.

{report.today()}, {report.versions(("steersman", "uvicorn", "uvloop", "httptools"))}.
{machine}.

{report.targets(judge(found))}

{found.rate:.0f} requests a second for {lasted_s:.0f} s, {LOAD_SHARE:.0%} of the {found.saturation:.0f} that
{CONNECTIONS} connections reached in the slowest {WINDOW_S:g} of {SATURATED} times {SATURATE_S:g} s, less the share of time that
it then took until all of it was in the tables and no merge was left; {said}.
A new version's worker was ready after {statistics.median(done.start_s):.1f} s (median). {found.outcome.untimed} requests have
no latency: the kernel kept the load generator from its core while they were under way.

{report.table(("phase", "seconds", "requests", "p50 ms", "p99 ms", "longest ms", "router MB", "committer MB"), rows)}

{at_full_speed(found)}

The slowest seconds, what was done in them or in the second before, and milliseconds: of CPU by process, by others of the
machine on the servers' cores and by nobody, and waited for a core by the router and by the load generator (each read four times
a second, so that a quarter may stand in the neighbouring row); and the speed of the core:

{report.table(MOMENT_HEAD, slowest(found))}

## How

`{command}`. Router, committer and workers as processes; requests of
one row with Poisson arrivals over {CONNECTIONS} connections, latency from the arrival, both bodies logged. The load
generator polls on the last core, everything else has the others. On two cores that is one: router, worker, committer
*and every worker that starts* share it, so {LOAD_SHARE:.0%} of saturation leaves {1 - LOAD_SHARE:.0%} of one core for a start,
and p99 says what a start costs its neighbours.
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench ARGS=changes", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of quiet and changing phases together")
    parser.add_argument("--releases", type=int, default=10, help="of five weight changes; every second is undone")
    arguments = parser.parse_args()
    machine = report.machine()
    found = measure(arguments.seconds, arguments.releases)
    report.write("changes", page(found, arguments, machine))
    return 0 if all(target.met for target in judge(found)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
