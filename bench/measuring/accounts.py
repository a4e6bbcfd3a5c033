"""The kernel's accounts: processor time and memory of everything a benchmark started.

What a server costs is what all of its processes cost, also those it started and forgot. The benchmark makes itself the
*subreaper*: a process whose parent ends becomes its child, so that the tree below the benchmark, less the load generator,
is the server, whole. Nothing is subtracted.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterable

import psutil

END_S_MAX = 15.0
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make this process the parent of whatever its descendants leave behind (Linux's `prctl`)."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def split_cores() -> tuple[set[int], int | None]:
    """Pin this process, and so all it starts, to every core but the last, which is the load generator's.

    Returns the servers' cores and the generator's; None where there is only one core.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return set(cores), None
    os.sched_setaffinity(0, set(cores[:-1]))
    return set(cores[:-1]), cores[-1]


def tree() -> list[psutil.Process]:
    """Every living descendant of this process."""
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return found


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """User and system seconds, with those of children that have ended and were waited for."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def cpu_s_by_pid(pids: Collection[int]) -> dict[int, float]:
    return {pid: cpu_s([psutil.Process(pid)]) for pid in pids}


def memory_mb(processes: Iterable[psutil.Process]) -> float:
    """Resident memory, summed (pages that processes share count in each)."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 1e6


def end_all() -> None:
    """End every descendant: asked first, killed after END_S_MAX."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + END_S_MAX
        for process in tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        while time.monotonic() < deadline and (left := tree()):
            psutil.wait_procs(left, timeout=0.2)
        if not tree():
            return
