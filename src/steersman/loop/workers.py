"""Carries out effects beside the loop that decides: each in a thread of its own, as many at once as there is room for.

A gate scores two versions on a holdout for minutes, a training first copies its data, a version's replica drains for
seconds. None of that may keep a rollback waiting. So the control loop only decides and hands routes over; everything else
is offered here. There is no queue: what is to be done stands in the database, is read anew each time, and what has waited
longest goes first. One model's trouble takes its own places and never the last ones of others.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from steersman.domain.operation import Operation, OperationKind, OperationState
from steersman.loop.executor import Executor

log = logging.getLogger(__name__)

POLL_S = 0.25
"""Wall seconds between two looks at an effect that goes on, and between two looks for new ones while any is open."""

IDLE_S = 1.0
"""Wall seconds between two looks when nothing is open and nobody woke us."""


class Lane(StrEnum):
    """Effects that may keep each other waiting: those that change what runs never wait for those that compute."""

    CAPACITY = "capacity"
    EVIDENCE = "evidence"


LANES: dict[OperationKind, Lane | None] = {
    OperationKind.REPLICAS: Lane.CAPACITY,
    OperationKind.STOP: Lane.CAPACITY,
    OperationKind.ALIAS: Lane.CAPACITY,
    OperationKind.GATE: Lane.EVIDENCE,
    OperationKind.TRAIN: Lane.EVIDENCE,
    OperationKind.CHECK: Lane.EVIDENCE,
    OperationKind.ROUTE: None,
}
"""None: carried out by the control loop itself, right after it was decided, before anything else."""

ROOM: dict[Lane, int] = {Lane.CAPACITY: 16, Lane.EVIDENCE: 4}
"""Threads of a lane at once. A start or a stop mostly waits, for a process to drain or a registry to answer; a gate and a
training's snapshot hold a holdout in memory."""

ROOM_OF_A_MODEL: dict[Lane, int] = {Lane.CAPACITY: 6, Lane.EVIDENCE: 1}
"""How many of them one model may take: its gate that hangs is its own."""

HUNG_S = 600.0
"""Wall seconds after which an effect that did not return gives its place to others. Every adapter has shorter time-outs;
the release or training that waits for it has a deadline of its own."""

HUNG_MAX = 32
"""Threads that may be stuck beyond that before their places are no longer given away. Everything has a limit."""

if set(LANES) != set(OperationKind):
    raise ImportError("a kind of operation has no lane in steersman.loop.workers")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Working:
    lane: Lane
    model: tuple[str, str]
    since: float


class Workers:
    """The threads of one control server that make effects. `moved` is called from them when one has changed something."""

    def __init__(self, executor: Executor, *, moved: Callable[[], None]) -> None:
        self._executor = executor
        self._moved = moved
        self._changing = threading.Lock()
        self._working: dict[str, _Working] = {}
        self._tried: dict[str, float] = {}
        self._wake = threading.Event()
        self._ended = threading.Event()

    def run(self) -> None:
        """Offer work until `stop`; what is under way then is left to the next control server."""
        while not self._ended.is_set():
            try:
                open_ones = self.turn()
            except Exception:  # the database may be busy or closing; what is to be done stands there still
                log.exception("operations could not be read")
                open_ones = 0
            self._wake.wait(POLL_S if open_ones else IDLE_S)
            self._wake.clear()

    def wake(self) -> None:
        """Something was asked for; look soon."""
        self._wake.set()

    def stop(self) -> None:
        self._ended.set()
        self._wake.set()

    def turn(self) -> int:
        """Start what is due and has room, keep the leases of what goes on; how many operations are open."""
        operations = self._executor.open(kinds=(kind for kind, lane in LANES.items() if lane is not None))
        known = {operation.id for operation in operations}
        self._tried = {key: at for key, at in self._tried.items() if key in known}
        for operation in sorted(operations, key=lambda o: self._tried.get(o.id, 0.0)):
            if self._is_working(operation):
                self._executor.renew(operation)
            elif self._due(operation) and self._take_place(operation):
                self._tried[operation.id] = time.monotonic()
                threading.Thread(
                    target=self._carry_out, args=(operation,), name=f"effect-{operation.kind}", daemon=True
                ).start()
        return len(operations)

    def _is_working(self, operation: Operation) -> bool:
        with self._changing:
            return operation.id in self._working

    def _due(self, operation: Operation) -> bool:
        if operation.not_before > time.time():
            return False
        tried = self._tried.get(operation.id)
        return tried is None or operation.state is OperationState.INTENDED or time.monotonic() - tried >= POLL_S

    def _take_place(self, operation: Operation) -> bool:
        lane = LANES[operation.kind]
        assert lane is not None
        model = (str(operation.args.get("workspace")), str(operation.args.get("model")))
        now = time.monotonic()
        with self._changing:
            hung = [w for w in self._working.values() if now - w.since >= HUNG_S]
            excused = hung if len(hung) <= HUNG_MAX else []
            there = [w for w in self._working.values() if w.lane is lane and w not in excused]
            if len(there) >= ROOM[lane] or sum(w.model == model for w in there) >= ROOM_OF_A_MODEL[lane]:
                return False
            self._working[operation.id] = _Working(lane=lane, model=model, since=now)
            return True

    def _carry_out(self, operation: Operation) -> None:
        moved = False
        try:
            moved = self._executor.attempt(operation)
        except Exception:  # the store may be busy or closing; the operation stands and is tried again
            log.exception("an operation could not be carried out")
        finally:
            with self._changing:
                self._working.pop(operation.id, None)
        if moved:
            self._moved()
            self.wake()
