"""One timer for many deadlines: most of what waits is answered long before, and a timer each would be set for nothing."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol


class Waiting(Protocol):
    """What has a deadline: `due_at` is of the loop's clock; `expire` is called once after it."""

    due_at: float

    def expire(self) -> None: ...


class Deadlines:
    """The deadlines of what is under way. The timer stands at the first of them, or earlier where that one was met."""

    def __init__(self) -> None:
        self._waiting: set[Waiting] = set()
        self._looks_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, one: Waiting) -> None:
        """Expire it at its `due_at`, unless it is forgotten before."""
        self._waiting.add(one)
        if one.due_at < self._looks_at:
            self._look_at(one.due_at)

    def forget(self, one: Waiting) -> None:
        self._waiting.discard(one)

    def _look_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        self._looks_at = math.inf
        now = asyncio.get_running_loop().time()
        for one in [one for one in self._waiting if one.due_at <= now]:
            self._waiting.discard(one)
            one.expire()
        if self._waiting:  # what expired may have begun something new, with a timer of its own
            first = min(one.due_at for one in self._waiting)
            if first < self._looks_at:
                self._look_at(first)
