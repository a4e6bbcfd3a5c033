"""Processes that outlive who started them.

Workers and training runs must survive the control server's death and be found again, not started twice. Three facts
make that possible, and the plugins that start processes share them here:

- a *lock file* that the process inherits open: the kernel keeps it locked for exactly as long as the process lives, so
  "is it running?" has an answer even when its starter died between starting it and writing that down;
- pid and start time together, because the kernel gives a pid away again (`steersman.dataplane.handles`);
- a session of its own, so that everything it started can be ended with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import signal
import sys
import time
from pathlib import Path

import psutil

from steersman.dataplane import sandbox
from steersman.dataplane.handles import Handle

LOCK_TRY_S = 0.2
"""Another look at the same lock file holds it for microseconds; after this long its holder is a process that runs."""

START_TOLERANCE_S = 0.05
"""Start times are read twice through floating point; the kernel counts them in hundredths."""

_KILL_ROUNDS_MAX = 50
_POLL_S = 0.02


def clean_environment(*, threads: int) -> dict[str, str]:
    """The allow-listed environment, with a path that begins at this installation's interpreter.

    Thread limits are explicit: numeric libraries start one thread a core unless told otherwise, which on a shared
    machine costs minutes, not milliseconds.
    """
    search = [str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]
    kept = sandbox.allowed_environment(os.environ, threads=threads)
    return {"LANG": "C.UTF-8"} | kept | {"PATH": os.pathsep.join(search)}


def hold(path: Path) -> int | None:
    """Take the lock file at `path` and return its descriptor, to be inherited; None when a living process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_TRY_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                return None
            time.sleep(_POLL_S)


def held(path: Path) -> bool:
    """Whether a living process holds the lock file. Looks without waiting; may see another look as a holder."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def handle_of(pid: int) -> Handle:
    """The identity of a process. Raises psutil.NoSuchProcess."""
    return Handle(pid=pid, started_at=psutil.Process(pid).create_time())


def find_by_argument(argument: str) -> Handle | None:
    """The process that was started with `argument`; for the one case that its starter died before noting its pid."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and argument in process.cmdline():
                return Handle(pid=process.pid, started_at=process.create_time())
    return None


def memory_mb_peak(pid: int) -> float:
    """Largest resident memory the process ever had, MB; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return round(int(found[1]) / 1024, 1) if found else 0.0


def members(handle: Handle) -> list[int]:
    """Pids of the session that `handle` leads, and of all descendants, its own included; empty when it is gone.

    A session that outlived its leader keeps the leader's pid reserved: where a stranger has that pid, the session is
    over, and a session by that number is the stranger's.
    """
    if psutil.pid_exists(handle.pid) and not _is(handle):
        return []
    found = set()
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getsid(pid) == handle.pid:
                found.add(pid)
    if handle.alive():
        with contextlib.suppress(psutil.Error):
            found.update(child.pid for child in psutil.Process(handle.pid).children(recursive=True))
            found.add(handle.pid)
    return sorted(found)


def terminate(handle: Handle, *, drain_s: float) -> None:
    """Ask the process to end, wait `drain_s`, then end it and everything it started. Returns when all are gone."""
    if handle.alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(handle.pid, signal.SIGTERM)
        deadline = time.monotonic() + drain_s
        while handle.alive() and time.monotonic() < deadline:
            _reap(handle.pid)
            time.sleep(_POLL_S)
    for _ in range(_KILL_ROUNDS_MAX):
        living = [pid for pid in members(handle) if _lives(pid)]
        if not living:
            return
        for pid in living:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)
        _reap(handle.pid)


def _is(handle: Handle) -> bool:
    """Whether the pid is still that process, be it a zombie."""
    try:
        return bool(abs(psutil.Process(handle.pid).create_time() - handle.started_at) < START_TOLERANCE_S)
    except psutil.NoSuchProcess:
        return False


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _reap(pid: int) -> None:
    """Collect a child that ended; one adopted after a restart is not ours to collect."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def tail(path: Path, limit_bytes: int, *, since: int = 0) -> str:
    """The end of a text file, at most `limit_bytes`, beginning with a whole line; empty when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(since, size - limit_bytes, 0)
            file.seek(start)
            data = file.read(limit_bytes)
    except FileNotFoundError:
        return ""
    if start > since:
        data = data[data.find(b"\n") + 1 :]
    return data.decode("utf-8", "replace").strip()


def last_words(path: Path, *, since: int = 0, lines: int = 12) -> str:
    """The last lines of a log, for a message; what a dying process said is the best explanation there is."""
    return "\n".join(tail(path, 4096, since=since).splitlines()[-lines:])


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    staging = path.with_name(path.name + ".new")
    staging.write_bytes(data)
    staging.replace(path)


def name_in_path(*parts: str) -> str:
    """A file name for a name of several parts: readable, unique, and within a file system's bounds."""
    digest = hashlib.sha256("/".join(parts).encode()).hexdigest()[:16]
    return f"{parts[-1][:60]}-{digest}"
