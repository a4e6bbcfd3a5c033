"""What a worker watches in itself: that it still moves, and that it does not grow without end.

A model can hang in C code that holds the interpreter's lock; then no Python in the process runs, and nothing in it can
answer or end it. `faulthandler` has a thread of its own outside of the lock: a heartbeat of the event loop keeps putting
off its alarm, and when the heartbeat stays away, it writes every thread's stack to the log and ends the process. A model
that leaks is ended in good order: no new connections, what is under way is finished, and an exit code that says why. In
both cases the target starts the replica again.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

BEAT_S = 1.0
"""Between two heartbeats; re-arming the alarm costs some 0.1 ms."""

DEADLINES = 2.0
"""A prediction gets this many times the longest deadline a caller gave, or `hang_s`, whichever is longer: until the
deadline somebody waits for it, and a slow version must be told from one that hangs."""

_MIB = 1024**2
_RESIDENT = 1  # the second number of /proc/self/statm, in pages


USAGE_PATH = "/v2/usage"
"""Where a worker says what it uses."""


class Usage(msgspec.Struct, frozen=True):
    """Of one process: CPU since it began, user and system, and resident memory now."""

    cpu_s: float
    memory_bytes: int


class Watch:
    """The heartbeat of one worker. `busy_since` tells when a prediction in another thread began, by `time.monotonic`."""

    def __init__(
        self,
        *,
        hang_s: float,
        memory_mb: int | None,
        busy_since: Callable[[], float | None],
        over_memory: Callable[[str], None],
    ) -> None:
        self._hang_s = hang_s
        self._memory_mb = memory_mb
        self._busy_since = busy_since
        self._over_memory = over_memory

    def beat(self) -> None:
        """Put off the alarm, look at the memory, and come again. Call it once, in the event loop's thread."""
        self._arm()
        if self._memory_mb is not None and (found := memory_mb()) > self._memory_mb:
            self._over_memory(f"{found:.0f} MB in use, more than the model's memoryMb of {self._memory_mb}")
            self._memory_mb = None
        asyncio.get_running_loop().call_later(BEAT_S, self.beat)

    def allow(self, deadline_s: float) -> None:
        """A caller waits this long: a prediction may take it without being taken for one that hangs."""
        if deadline_s * DEADLINES > self._hang_s:
            self._hang_s = deadline_s * DEADLINES
            self._arm()

    def _arm(self) -> None:
        since = self._busy_since()
        left_s = self._hang_s if since is None else since + self._hang_s - time.monotonic()
        faulthandler.dump_traceback_later(max(left_s, 0.001), exit=True)


def memory_mb() -> float:
    """Resident memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[_RESIDENT])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB


def own_usage() -> bytes:
    """As the body of an answer."""
    spent = os.times()
    return msgspec.json.encode(Usage(round(spent.user + spent.system, 3), int(memory_mb() * _MIB)))
