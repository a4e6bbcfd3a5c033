"""A load generator that costs little and cannot be overtaken by what it measures.

One process, one thread, raw sockets under epoll, requests as bytes made beforehand, keep-alive. It polls without sleeping,
so that its own wake-ups are no part of a latency; it therefore needs a core of its own, and the benchmarks pin it to the
last one and everything measured to the others. *Closed*: every connection sends its next request when it has its answer.
*Open*: arrivals of a Poisson process, seeded, whatever the server does; a latency counts from the arrival, so that a
server that stalls pays for all who came meanwhile.

A core of its own is still the kernel's, and its other tasks take it for some milliseconds now and then (measured: 2 to 3 ms once
a second). Such a *lapse* of the instrument says nothing about the server: no request arrives in it, and a latency of which it may
be more than LAPSE_SHARE_MAX is not kept. How many those were is part of the outcome; their answers count and are looked at.

Every answer is looked at: 200, and the expected bytes in its body. Anything else is counted as a failure with its reason.
"""

from __future__ import annotations

import base64
import json
import math
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from steersman.dataplane import sockets

ANSWER_S_MAX = 30.0
"""A request without an answer for so long has failed; the run goes on without its connection."""

LAPSE_S = 0.001
TURN_S = 0.000_1
"""A turn of the generator that takes LAPSE_S more than TURN_S for each request it sends and each answer it takes was interrupted;
either takes 0.01 to 0.03 ms."""

LAPSE_SHARE_MAX = 0.1
"""Of a latency, that may have been a lapse. A server's long stall is thus seen, however busy the machine is besides."""

RECEIVE_BYTES = 262_144
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_CHUNKS_END = b"0\r\n\r\n"
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A whole HTTP request, and bytes that a right answer's body holds."""

    data: bytes
    expected: bytes = b""


def post(path: str, body: bytes, *, headers: dict[str, str] | None = None, expected: bytes = b"") -> Request:
    sent = {"Host": "127.0.0.1", "Content-Type": "application/json", **(headers or {})}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
    lines.append(f"Content-Length: {len(body)}")
    return Request(data="\r\n".join(lines).encode() + _HEAD_END + body, expected=expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to send. Ends after `requests` answers, `seconds`, or SIGTERM, whichever comes first; `rate` (a second) makes
    it open."""

    port: int | str
    """On the loopback interface; or a worker's address (`steersman.dataplane.sockets`)."""
    sent: Sequence[Request]
    connections: int
    requests: int = 10**9
    seconds: float = 10**6
    rate: float = 0.0
    seed: int = 1
    core: int | None = None
    trace: str = ""
    """A file for every request's arrival (monotonic seconds) and latency (ms; negative: failed), as doubles."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came back. Latencies in ms over the answered requests that were timed."""

    answered: int = 0
    wall_s: float = 0.0
    latency_ms_p50: float = 0.0
    latency_ms_p99: float = 0.0
    latency_ms_max: float = 0.0
    lapses: int = 0
    """Times the generator itself lost its core."""
    untimed: int = 0
    """Answered requests without a latency, because too much of it may have been a lapse."""
    failures: dict[str, int] = field(default_factory=dict)
    load_cpu_s: float = 0.0

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return self.answered / self.wall_s if self.wall_s else 0.0


class _Connection:
    __slots__ = ("arrived", "buffer", "expected", "lost_before_s", "number", "socket")

    def __init__(self, port: int | str) -> None:
        if isinstance(port, str):
            self.socket = sockets.connect_unix(Path(port.removeprefix(sockets.UNIX)), timeout_s=5)
        else:
            self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.number = self.socket.fileno()
        self.buffer = b""
        self.expected = b""
        self.arrived = 0.0
        self.lost_before_s = 0.0
        """By lapses until the request arrived."""


class Generator:
    """Carries out one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._epoll = select.epoll()
        self._busy: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        self._waiting: deque[tuple[float, float]] = deque()
        """Arrivals, and seconds lost by lapses until then."""
        self._arrivals = array("d")
        self._latencies = array("d")
        self._failures: Counter[str] = Counter()
        self._begun = 0
        self._lapses = 0
        self._lost_s = 0.0
        self._untimed = 0
        self._turn_began = 0.0
        self._turn_work = 0
        """Requests sent and answers taken in this turn."""
        self._turn_answers: list[tuple[float, float, float]] = []
        """Of this turn: arrival, latency in ms, and seconds lost until the arrival."""
        self._end = math.inf
        self._chance = random.Random(plan.seed)

    def end(self) -> None:
        """Begin nothing more; what is under way is still awaited."""
        self._end = 0.0

    def run(self) -> Outcome:
        plan = self._plan
        for _ in range(plan.connections):
            self._open()
        cpu = time.process_time()
        began = time.monotonic()
        self._end = began + plan.seconds
        self._begin_turn()
        if plan.rate:
            self._run_open(began)
        else:
            self._run_closed()
        wall_s = time.monotonic() - began
        patience = time.monotonic() + ANSWER_S_MAX
        while self._busy and time.monotonic() < patience:
            self._receive()
            self._end_turn()
        for connection in self._busy.values():
            self._fail(connection.arrived, "no answer")
        return self._outcome(wall_s, time.process_time() - cpu)

    def _run_closed(self) -> None:
        plan = self._plan
        while time.monotonic() < self._end and len(self._latencies) + self._untimed < plan.requests:
            while self._idle and self._begun < plan.requests:
                self._send(self._idle.pop(), time.monotonic(), self._lost_s)
            self._receive()
            self._end_turn()

    def _run_open(self, began: float) -> None:
        plan = self._plan
        arrival = began
        while True:
            now = time.monotonic()
            while arrival <= now and arrival < self._end and self._begun + len(self._waiting) < plan.requests:
                self._waiting.append((arrival, self._lost_s))
                arrival += self._chance.expovariate(plan.rate)
            while self._waiting and self._idle:
                self._send(self._idle.pop(), *self._waiting.popleft())
            if not self._waiting and (arrival >= self._end or self._begun >= plan.requests):
                return
            self._receive()
            arrival += self._end_turn()

    def _end_turn(self) -> float:
        """Keep what the turn's answers took. Returns the seconds that this process was kept from its work in it."""
        lost_s = time.monotonic() - self._turn_began - TURN_S * self._turn_work
        if lost_s < LAPSE_S:
            lost_s = 0.0
        else:
            self._lapses += 1
            self._lost_s += lost_s
        for arrived, latency_ms, lost_before_s in self._turn_answers:
            if (self._lost_s - lost_before_s) * 1000 <= LAPSE_SHARE_MAX * latency_ms:
                self._arrivals.append(arrived)
                self._latencies.append(latency_ms)
            else:
                self._untimed += 1
        self._begin_turn()
        return lost_s

    def _begin_turn(self) -> None:
        self._turn_began = time.monotonic()
        self._turn_work = 0
        self._turn_answers.clear()

    def _open(self) -> None:
        """One more idle connection; a refused one is tried again for a moment, then counts as a failure."""
        try:
            connection = _Connection(self._plan.port)
        except OSError as error:
            self._fail(time.monotonic(), f"connect: {error.strerror or error}")
            time.sleep(0.01)
            return
        finally:
            self._turn_began = time.monotonic()  # the server's time, whatever it took
        self._epoll.register(connection.number, select.EPOLLIN)
        self._idle.append(connection)

    def _send(self, connection: _Connection, arrived: float, lost_before_s: float) -> None:
        sent = self._plan.sent[self._begun % len(self._plan.sent)]
        self._begun += 1
        self._turn_work += 1
        connection.arrived, connection.expected, connection.buffer = arrived, sent.expected, b""
        connection.lost_before_s = lost_before_s
        self._busy[connection.number] = connection
        try:
            written = connection.socket.send(sent.data)
            if written < len(sent.data):  # larger than the socket's buffer: wait for room, it is rare
                connection.socket.setblocking(True)
                connection.socket.sendall(sent.data[written:])
                connection.socket.setblocking(False)
                self._turn_began = time.monotonic()  # the server's time
        except OSError as error:
            self._drop(connection, f"send: {error.strerror or error}")

    def _receive(self) -> None:
        ready = self._epoll.poll(0)
        self._turn_work += len(ready)
        for number, _ in ready:
            connection = self._busy.get(number)
            if connection is None:
                self._close_idle(number)
                continue
            try:
                data = connection.socket.recv(RECEIVE_BYTES)
            except OSError as error:
                self._drop(connection, f"receive: {error.strerror or error}")
                continue
            if not data:
                self._drop(connection, "closed without an answer")
                continue
            connection.buffer = connection.buffer + data if connection.buffer else data
            if (body := _body(connection.buffer)) is not None:
                self._answered(connection, body)

    def _answered(self, connection: _Connection, body: bytes) -> None:
        now = time.monotonic()
        head = connection.buffer
        if head[9:12] != b"200":
            self._fail(connection.arrived, f"status {head[9:12].decode()}: {body[:120].decode(errors='replace')}")
        elif connection.expected not in body:
            self._fail(connection.arrived, f"wrong answer: {body[:120].decode(errors='replace')}")
        else:
            self._turn_answers.append((connection.arrived, (now - connection.arrived) * 1000, connection.lost_before_s))
        del self._busy[connection.number]
        self._idle.append(connection)

    def _drop(self, connection: _Connection, because: str) -> None:
        self._fail(connection.arrived, because)
        del self._busy[connection.number]
        connection.socket.close()
        self._open()

    def _close_idle(self, number: int) -> None:
        """The server closed a connection that carried nothing: replaced, no failure."""
        for connection in [one for one in self._idle if one.number == number]:
            self._idle.remove(connection)
            connection.socket.close()
            self._open()

    def _fail(self, arrived: float, because: str) -> None:
        self._failures[because] += 1
        self._arrivals.append(arrived)
        self._latencies.append(-1.0)

    def _outcome(self, wall_s: float, cpu_s: float) -> Outcome:
        if self._plan.trace:
            with Path(self._plan.trace).open("wb") as file:
                array("d", [len(self._arrivals)]).tofile(file)
                self._arrivals.tofile(file)
                self._latencies.tofile(file)
        answered = sorted(latency for latency in self._latencies if latency >= 0)
        return Outcome(
            answered=len(answered) + self._untimed,
            wall_s=wall_s,
            latency_ms_p50=quantile(answered, 0.5),
            latency_ms_p99=quantile(answered, 0.99),
            latency_ms_max=answered[-1] if answered else 0.0,
            lapses=self._lapses,
            untimed=self._untimed,
            failures=dict(self._failures),
            load_cpu_s=cpu_s,
        )


def _body(data: bytes) -> bytes | None:
    """The body of a response that has arrived whole, else None."""
    end = data.find(_HEAD_END)
    if end < 0:
        return None
    start = end + len(_HEAD_END)
    if (length := _LENGTH.search(data, 0, end)) is not None:
        return data[start:] if len(data) - start >= int(length[1]) else None
    return data[start:] if data.endswith(_CHUNKS_END) else None


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed; 0 where there are none."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def read_trace(path: Path) -> tuple[array[float], array[float]]:
    """Arrivals and latencies that a plan's `trace` wrote."""
    with path.open("rb") as file:
        count = array("d")
        count.fromfile(file, 1)
        arrivals, latencies = array("d"), array("d")
        arrivals.fromfile(file, int(count[0]))
        latencies.fromfile(file, int(count[0]))
    return arrivals, latencies


# --- as a process of its own -----------------------------------------------------------------------------------------


def start(plan: Plan) -> subprocess.Popen[bytes]:
    """Begin a plan in another process."""
    document = asdict(plan)
    document["sent"] = [[base64.b64encode(one.data).decode(), one.expected.decode("latin-1")] for one in plan.sent]
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(json.dumps(document).encode())
    process.stdin.close()
    return process


def finish(process: subprocess.Popen[bytes]) -> Outcome:
    """Wait for a plan's end. Raises RuntimeError when the generator itself failed."""
    assert process.stdout is not None
    with process.stdout:
        answer = process.stdout.read()
    if process.wait() != 0:
        raise RuntimeError(f"the load generator ended with {process.returncode}")
    return Outcome(**json.loads(answer))


def run(plan: Plan) -> Outcome:
    return finish(start(plan))


def main() -> None:
    document = json.load(sys.stdin)
    sent = [Request(data=base64.b64decode(data), expected=ok.encode("latin-1")) for data, ok in document.pop("sent")]
    plan = Plan(sent=sent, **document)
    if plan.core is not None:
        os.sched_setaffinity(0, {plan.core})
    generator = Generator(plan)
    signal.signal(signal.SIGTERM, lambda number, frame: generator.end())
    print(json.dumps(asdict(generator.run())))


if __name__ == "__main__":
    main()
