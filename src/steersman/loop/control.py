"""The control loop: look, decide, act, again; continuously on the wall clock, or from point to point in a replay.

Both do the same turns. A living installation takes one whenever something happened or a second has passed. A replay
*settles* at each moved point of event time: it acts until nothing moves any more, every effect carried to its end before
the next decision, so that what is decided depends on event time and never on the machine's speed.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime

from steersman.domain.errors import Unavailable
from steersman.loop.executor import Executor, Reached
from steersman.loop.keeping import Keeping
from steersman.loop.measuring import Measuring
from steersman.loop.reconciler import Reconciler
from steersman.loop.watching import Watching
from steersman.loop.world import Documents, World
from steersman.ports import LogError

log = logging.getLogger(__name__)

TURN_S = 1.0
"""Wall seconds between two turns of an idle loop."""

MEASURE_S = 5.0
"""Wall seconds between two looks at the inference log; guardrails of a running canary react within it."""

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
        self._executor = Executor(world, documents, owner=owner, reached=reached)
        self._measuring = Measuring(world, documents)
        self._watching = Watching(world, documents, self.reconciler)
        self._keeping = Keeping(world, documents)
        self._turning = threading.Lock()
        self._wake = threading.Event()
        self._ended = threading.Event()

    # --- on the wall clock

    def run(self) -> None:
        """Turn until `stop`; an error is logged and the next turn starts from what is stored.

        A part that fails does not keep the others from their turn: with the registry or the log out of reach, replicas
        are still started, routes applied and releases rolled back.
        """
        measured = float("-inf")
        while not self._ended.is_set():
            with self._turning:
                if time.monotonic() - measured >= MEASURE_S:
                    self._survive(self._measure)
                    self._survive(self._watching.turn)
                    self._survive(self._keeping.turn)
                    measured = time.monotonic()
                moved = self.turn()
            if not moved:
                self._wake.wait(TURN_S)
                self._wake.clear()

    def turn(self) -> bool:
        """Decide and act once; True if anything moved."""
        moved = self._survive(self.reconciler.turn)
        return self._survive(self._executor.turn) or moved

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
        self._wake.set()

    # --- in a replay

    def settle(self, *, progress: Callable[[], None] = lambda: None) -> None:
        """Act until nothing moves at the present point of event time.

        Raises Unavailable when an effect does not end within SETTLE_S; asking again goes on where it stopped.
        """
        deadline = time.monotonic() + SETTLE_S
        with self._turning:
            self._effects(deadline, collect_trainings=True)
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
                moved = self._effects(deadline, collect_trainings=False) or moved
            try:
                self._keeping.turn()  # last: what this point is decided on may be a day from its end
            except LogError as error:
                raise Unavailable(f"the inference log could not be cleared of old rows: {error}") from error

    def _effects(self, deadline: float, *, collect_trainings: bool) -> bool:
        """Carry every open operation to its end; trainings asked for at this very point go on beside the next one."""
        moved = False
        before: datetime | None = None if collect_trainings else self._world.clock.now()
        while self._open(before):
            turned = self._executor.turn(training_before=before)
            moved = moved or turned
            if time.monotonic() > deadline:
                raise Unavailable(f"effects did not end within {SETTLE_S:.0f} s of wall time")
            if not turned:
                time.sleep(POLL_S)
        return moved

    def _open(self, training_before: datetime | None) -> bool:
        with self._world.store.read() as tx:
            return any(not self._executor.leaves(operation, training_before) for operation in tx.open_operations())
