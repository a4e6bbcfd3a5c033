"""The control loop: look, decide, act, again; continuously on the wall clock, or from point to point in a replay.

In a living installation four things go on side by side, so that none waits for another: the loop here decides and hands
routes over, `workers` carries out every other effect, one thread measures and watches, one lets the log forget. What one
of them writes wakes the loop. A replay does all of it in one thread and *settles* at each moved point of event time: it
acts until nothing moves any more, every effect carried to its end before the next decision, so that what is decided
depends on event time and never on the machine's speed.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime

from steersman.domain.errors import Unavailable
from steersman.domain.operation import Operation, OperationKind
from steersman.loop.executor import Executor, Reached
from steersman.loop.keeping import Keeping
from steersman.loop.measuring import Measuring
from steersman.loop.reconciler import Reconciler
from steersman.loop.watching import Watching
from steersman.loop.workers import LANES, Workers
from steersman.loop.world import Documents, World
from steersman.ports import LogError

log = logging.getLogger(__name__)

TURN_S = 1.0
"""Wall seconds between two turns of an idle loop."""

MEASURE_S = 5.0
"""Wall seconds between two looks at the inference log; guardrails of a running canary react within it."""

KEEP_S = 60.0
"""Wall seconds between two looks at what the log may forget; that changes once a day."""

HERE: tuple[OperationKind, ...] = tuple(kind for kind, lane in LANES.items() if lane is None)
"""What the loop carries out itself: routes, in milliseconds."""

SETTLE_S = 300.0
"""Wall seconds one point of a replay may take (a training is its longest part) before it is an error, not patience."""

POLL_S = 0.01
"""Wall seconds between two looks at an effect that goes on."""


class Control:
    """One control server's loop over an installation."""

    def __init__(
        self, world: World, documents: Documents, *, owner: str, reached: Reached = lambda _point: None
    ) -> None:
        self._world = world
        self.reconciler = Reconciler(world, documents)
        self.executor = Executor(world, documents, owner=owner, reached=reached)
        self._workers = Workers(self.executor, moved=self.wake)
        self._measuring = Measuring(world, documents)
        self._watching = Watching(world, documents, self.reconciler)
        self._keeping = Keeping(world, documents)
        self._settling = threading.Lock()
        self._wake = threading.Event()
        self._ended = threading.Event()

    # --- on the wall clock

    def run(self) -> None:
        """Turn until `stop`; an error is logged and the next turn starts from what is stored.

        A part that fails, or that takes long, does not keep the others from their turn: with the registry or the log
        out of reach, replicas are still started, routes applied and releases rolled back.
        """
        threading.Thread(target=self._workers.run, name="workers", daemon=True).start()
        for name, pace_s, parts in (
            ("measuring", MEASURE_S, (self._measure, self._watching.turn)),
            ("keeping", KEEP_S, (self._keeping.turn,)),
        ):
            threading.Thread(target=self._repeat, args=(pace_s, *parts), name=name, daemon=True).start()
        while not self._ended.is_set():
            moved = self._survive(self.reconciler.turn)
            moved = self._survive(self._hand_over) or moved
            if not moved:
                self._wake.wait(TURN_S)
                self._wake.clear()

    def _hand_over(self) -> bool:
        """Carry out what was decided about routes, before anything else is looked at; let the workers see the rest."""
        moved = False
        for operation in self.executor.open(kinds=HERE):
            moved = self.executor.attempt(operation) or moved
        self._workers.wake()
        return moved

    def _repeat(self, pace_s: float, *parts: Callable[[], bool]) -> None:
        """Do the parts one after the other, again and again with a pause of `pace_s`; what they write wakes the loop."""
        while not self._ended.wait(pace_s):
            for part in parts:
                if self._survive(part):
                    self.wake()

    def _measure(self) -> bool:
        self._world.log.flush()
        return self._measuring.look()

    @staticmethod
    def _survive(part: Callable[[], bool]) -> bool:
        try:
            return part()
        except Exception:  # the loop outlives whatever an adapter raises
            log.exception("a part of the control loop failed")
            return False

    def wake(self) -> None:
        """Something changed; look soon. Losing it costs a second."""
        self._wake.set()

    def stop(self) -> None:
        self._ended.set()
        self._workers.stop()
        self._wake.set()

    # --- in a replay

    def settle(self, *, progress: Callable[[], None] = lambda: None) -> None:
        """Act until nothing moves at the present point of event time.

        Raises Unavailable when an effect does not end within SETTLE_S; asking again goes on where it stopped.
        """
        deadline = time.monotonic() + SETTLE_S
        with self._settling:
            now = self._world.clock.now()
            self._effects(deadline, lambda operation: operation.at < now or operation.kind is not OperationKind.TRAIN)
            try:
                self._world.log.flush()
            except LogError as error:
                raise Unavailable(f"the inference log could not be committed: {error}") from error
            moved = True
            while moved:
                progress()
                moved = self._measuring.look()
                moved = self._watching.turn() or moved
                moved = self.reconciler.turn() or moved
                moved = self._effects(deadline, lambda operation: not _goes_on(operation, now)) or moved
            try:
                self._keeping.turn()  # last: what this point is decided on may be a day from its end
            except LogError as error:
                raise Unavailable(f"the inference log could not be cleared of old rows: {error}") from error

    def _effects(self, deadline: float, wanted: Callable[[Operation], bool]) -> bool:
        """Carry every wanted open operation to its end."""
        moved = False
        while any(wanted(operation) for operation in self.executor.open()):
            turned = self.executor.turn(wanted)
            moved = moved or turned
            if time.monotonic() > deadline:
                raise Unavailable(f"effects did not end within {SETTLE_S:.0f} s of wall time")
            if not turned:
                time.sleep(POLL_S)
        return moved


def _goes_on(operation: Operation, now: datetime) -> bool:
    """True for a training begun at this very point: it is collected at the next one, however fast the machine is, and
    also where this point is settled a second time after a crash."""
    return operation.kind is OperationKind.TRAIN and operation.begun and operation.at >= now
