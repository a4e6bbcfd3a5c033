"""Who goes first on a processor that is not enough for all: those whose callers wait.

A nice value alone does not say it. Every process of ours leads a session of its own, and Linux, where it groups sessions
(*autogroup*, on by default wherever no container or service manager has groups of its own), first shares the processor
among sessions, all alike, and compares nice values only within one. Measured, two loops on one core: nice 19 beside nice 0
gets a third to a half of it in another session, and a tenth once its session has the value too. So both are set.

A session's value may be set back to 0 without privilege, which a process's may not: a worker starts in the background and
serves in the foreground.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time

_SESSION = "/proc/{pid}/autogroup"
"""Missing where the kernel groups no sessions; then nice values are compared across all of them."""

NICE = 15
"""Of those who step back: they get what others leave, and beside two that want a whole core a sixtieth of it. Work whose end
somebody waits for therefore has a patience, after which it steps forward."""

HURRIED = 5
"""Of work that has waited too long but not so long that callers should pay with more: a seventh of a core beside the same two."""

TRY_S = 0.02
"""Between two tries: to those without privilege the kernel grants one such change in 0.1 s, on the whole machine."""


class Session:
    """The share of the session that a process leads, this one or a child. Made before the process walls itself in, used
    afterwards as well."""

    def __init__(self, pid: int | None = None) -> None:
        pid = pid or os.getpid()
        self._descriptor = -1
        with contextlib.suppress(OSError):
            if os.getsid(pid) == pid:  # another's session, a person's shell, is not ours to slow down
                self._descriptor = os.open(_SESSION.format(pid=pid), os.O_WRONLY | os.O_CLOEXEC)

    def step_back(self, *, patience_s: float = 0.0) -> bool:
        """Leave the processor to other sessions; False where there is no such thing, or others were first all the time."""
        return self._set(NICE, patience_s)

    def step_forward(self, nice: int = 0, *, patience_s: float = 0.0) -> bool:
        """Take more again; as much as any other session unless another nice value is given."""
        return self._set(nice, patience_s)

    def _set(self, nice: int, patience_s: float) -> bool:
        if self._descriptor < 0:
            return False
        deadline = time.monotonic() + patience_s
        while True:
            try:
                os.write(self._descriptor, str(nice).encode())
            except OSError as error:
                if error.errno != errno.EAGAIN or time.monotonic() >= deadline:
                    return False
                time.sleep(TRY_S)
            else:
                return True

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def step_back() -> Session:
    """Lower this process for good, and its session where it leads one, which may step forward again."""
    os.nice(NICE)
    session = Session()
    session.step_back(patience_s=1.0)
    return session
