"""A piece of upkeep in a process of its own, which gives all its memory back by ending.

Merging 64 files into one of 16 MB takes 100 MB for a moment, a whole date several times that, and the allocators of the
libraries that do it (jemalloc, one in each) keep what they once had for as long as it pleases them. In the committer's
process that was a third of its memory; here it is gone with the process. Starting one costs 0.2 s of CPU a merge.

    python -m steersman.dataplane.apart --state DIR --table PATH --parent PID [--stale]

It inherits the committer's niceness and environment, and dies with it: by the kernel's hand, whatever the committer
dies of. Killed anywhere it leaves the table as it was, and at most a file nobody refers to, which a vacuum finds. It leads a
session of its own, so that it stays in the background while a late commit steps forward
(`steersman.dataplane.priority`).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
from deltalake.exceptions import DeltaError

from steersman.dataplane import priority, upkeep
from steersman.dataplane.priority import Session
from steersman.dataplane.storage import open_storage
from steersman.dataplane.upkeep import Done

_PR_SET_PDEATHSIG = 1

PATIENCE_S = 60.0
"""Wall seconds of one piece of work, after which it hurries. It is done in half of that where a fifth of a core is left over;
where nothing is, a deletion may wait for it (`upkeep.Upkeep.alone`)."""

GRANTED_S_MAX = 1.0
"""How long a change of the session is asked for again; without privilege the kernel grants few a second, on the whole machine."""


class ApartError(Exception):
    """The process said what went wrong, or ended without an answer; the table can be tried again."""


class _Answer(msgspec.Struct):
    done: Done | None = None
    error: str | None = None


class Apart:
    """An `upkeep.Work` that starts a process and waits for it; one at a time. Raises ApartError."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def __call__(self, path: str, stale: bool) -> Done:
        # The kernel's promise is about the thread that starts a process: this one, which waits for its end.
        argv = [sys.executable, "-P", "-m", __spec__.name, "--state", str(self._state), "--table", path]
        argv += ["--parent", str(os.getpid()), *(["--stale"] if stale else [])]
        with self._guard:
            if self._stopped:
                raise ApartError("the committer is about to end")
            process = self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
            )
        said = _said(process)
        try:
            answer = msgspec.json.decode(said, type=_Answer)
        except msgspec.DecodeError:
            answer = _Answer(error=f"its process ended with {process.returncode}")
        if answer.done is None:
            raise ApartError(f"{path}: {answer.error}")
        return answer.done

    def stop(self) -> None:
        """Kill what is under way, and start nothing more."""
        with self._guard:
            self._stopped = True
            if self._process is not None:
                self._process.kill()


def _said(process: subprocess.Popen[bytes]) -> bytes:
    """What it prints until its end, worked out in the background as long as that goes well."""
    session = Session(process.pid)
    try:
        session.step_back(patience_s=GRANTED_S_MAX)
        try:
            return process.communicate(timeout=PATIENCE_S)[0]
        except subprocess.TimeoutExpired:
            session.step_forward(priority.HURRIED, patience_s=GRANTED_S_MAX)
            return process.communicate()[0]
    finally:
        session.close()


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parser = argparse.ArgumentParser(prog="steersman.dataplane.apart", description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--stale", action="store_true", help="the last vacuum is long ago")
    arguments = parser.parse_args()
    if os.getppid() != arguments.parent:
        sys.exit("apart: the committer died before this process could ask to die with it")
    try:
        answer = _Answer(done=upkeep.work_on(open_storage(arguments.state), arguments.table, arguments.stale))
    except (DeltaError, OSError, ValueError) as error:
        answer = _Answer(error=f"{type(error).__name__}: {error}"[:500])
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
