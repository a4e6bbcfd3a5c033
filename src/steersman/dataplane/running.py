"""Coroutines that go on where their news arrive, without a task of the event loop.

A task takes a turn of the loop to begin and another each time what it waits for has come: two calls of the kernel and a
dozen objects a request, where the request itself is a few calls in a row. A `Run` begins in the callback that brought the
request and goes on in the callback that brought the worker's answer (`Arrival`). It waits for anything else, futures
included, as a task does, and `asyncio.current_task()` names it, so that time-outs work inside. Python 3.12 has the first half
of this (`eager_task_factory`).
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import tasks
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_enter: Callable[[asyncio.AbstractEventLoop, Any], None] = tasks._enter_task  # noqa: SLF001 - "Extending" in asyncio's manual
_leave: Callable[[asyncio.AbstractEventLoop, Any], None] = tasks._leave_task  # noqa: SLF001


class Arrival(Generic[T]):
    """One result that one coroutine waits for and a protocol's callback brings. In a task it behaves like a future."""

    __slots__ = ("_asyncio_future_blocking", "_context", "_error", "_loop", "_then", "_value", "settled")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._value: T | None = None
        self._error: BaseException | None = None
        self._then: Callable[[Any], object] | None = None
        self._context: contextvars.Context | None = None
        self.settled = False

    def bring(self, value: T) -> None:
        """The result; the run that waits for it goes on inside this call. What comes after the first is ignored."""
        if not self.settled:
            self._value = value
            self._settle()

    def fail(self, error: BaseException) -> None:
        if not self.settled:
            self._error = error
            self._settle()

    def cancel(self, msg: object = None) -> bool:
        """Whoever waits gets CancelledError. False where it has arrived already."""
        if self.settled:
            return False
        self.fail(asyncio.CancelledError())
        return True

    def _settle(self) -> None:
        self.settled = True
        then = self._then
        if then is None:
            return
        if self._context is None:
            then(self)
        else:
            self._loop.call_soon(then, self, context=self._context)

    def then(self, go_on: Callable[[Any], object] | None) -> None:
        """Have `go_on` called as soon as it has arrived, by whoever brings it; None: nobody waits any more."""
        self._then = go_on

    # --- what tasks know futures by ----------------------------------------------------------------------------------

    def __await__(self) -> Generator[Arrival[T], None, T]:
        if not self.settled:
            self._asyncio_future_blocking = True
            yield self
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def add_done_callback(self, callback: Callable[[Any], object], *, context: contextvars.Context) -> None:
        self._then, self._context = callback, context
        if self.settled:
            self._settle()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


class Run:
    """A coroutine under way. `ended` is called once, after its last step, with what it raised."""

    __slots__ = ("_cancels", "_context", "_coroutine", "_ended", "_loop", "_waits_for", "_wanted")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, None],
        ended: Callable[[Run, BaseException | None], None],
    ) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._ended = ended
        self._context = contextvars.copy_context()
        self._waits_for: Any = None
        self._wanted = False
        """Whether it is to be cancelled at its next step."""
        self._cancels = 0

    def step(self, _arrived: object = None) -> None:
        """Go on until it waits or ends. Never raises but what ends a process."""
        loop = self._loop
        self._waits_for = None
        try:
            _enter(loop, self)
        except RuntimeError:  # brought from within another's step, which must end first
            loop.call_soon(self.step)
            return
        try:
            if self._wanted:
                self._wanted = False
                awaited = self._context.run(self._coroutine.throw, asyncio.CancelledError())
            else:
                awaited = self._context.run(self._coroutine.send, None)
        except StopIteration:
            awaited, over, error = None, True, None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as raised:
            awaited, over, error = None, True, raised
        else:
            over, error = False, None
        finally:
            _leave(loop, self)
        if over:
            self._ended(self, error)
            return
        if awaited is None:  # a bare yield: the others' turn
            loop.call_soon(self.step)
            return
        self._waits_for = awaited
        awaited._asyncio_future_blocking = False  # noqa: SLF001 - what a task does
        if type(awaited) is Arrival:
            awaited.then(self.step)
        else:
            awaited.add_done_callback(self.step)
        if self._wanted:  # it cancelled itself while it ran
            self._wanted = False
            self._cancels -= 1
            self.cancel()

    # --- what `asyncio.timeout` wants of a task -----------------------------------------------------------------------

    def cancel(self, msg: object = None) -> bool:
        """Raise CancelledError where it waits, in a turn of its own: `asyncio.timeout` counts on that."""
        self._cancels += 1
        awaited = self._waits_for
        if type(awaited) is Arrival:
            self._waits_for = None
            awaited.then(None)
            awaited.cancel()  # who would have brought it sees that nobody waits
            self._wanted = True
            self._loop.call_soon(self.step)
        elif awaited is None or not awaited.cancel():
            self._wanted = True
        return True

    def cancelling(self) -> int:
        return self._cancels

    def uncancel(self) -> int:
        self._cancels = max(0, self._cancels - 1)
        return self._cancels
