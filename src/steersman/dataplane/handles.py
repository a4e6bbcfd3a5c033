"""A process's calling card in `run/`: who it is, so that it can be found, adopted or stopped after others died.

A pid alone is not an identity, the kernel gives it away again; pid and start time are. Whoever stops a process compares
both first.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import msgspec
import psutil


class Handle(msgspec.Struct, frozen=True, kw_only=True):
    """`started_at`: the process's start, Unix seconds, as psutil's `create_time` tells it. `ready_cpu_s`: CPU to ready.
    `port` is of who answers on TCP, `address` a worker's, as routers have it."""

    pid: int
    started_at: float
    port: int | None = None
    address: str | None = None
    digest: str | None = None
    sandbox: str | None = None
    ready_cpu_s: float | None = None

    def alive(self) -> bool:
        """Whether that very process still runs."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) < 0.05
            return same and bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


GC_THRESHOLDS = (20_000, 20, 100)
"""How many more containers than were freed begin a collection of the youngest (Python: 700), and how many of those one of the
older. A request makes some hundred that are freed by their counts alone: looking through them costs 5 % and finds nothing."""


def settle_memory() -> None:
    """What was made until now stays for good, so no collection looks at it again; what follows is looked at less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def own_handle(
    *, port: int | None = None, address: str | None = None, digest: str | None = None, sandbox: str | None = None
) -> Handle:
    spent = os.times()
    return Handle(
        pid=os.getpid(),
        started_at=psutil.Process().create_time(),
        port=port,
        address=address,
        digest=digest,
        sandbox=sandbox,
        ready_cpu_s=round(spent.user + spent.system, 3),
    )


def write_handle(path: Path, *, port: int | None = None) -> None:
    """Write this process's handle, replacing a predecessor's in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(path.name + ".new")
    staging.write_bytes(msgspec.json.encode(own_handle(port=port)))
    staging.rename(path)


def read_handle(path: Path) -> Handle | None:
    """The handle, or None while the process has not written a whole one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Handle)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
