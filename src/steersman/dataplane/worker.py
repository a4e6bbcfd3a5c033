"""A worker: one process, one version, loaded by digest.

It is told everything by a file (`--spec`), reads the version's files once more and compares their digest, walls itself in
(`sandbox`), loads, warms up with the version's own input example, and only then writes its handle: a handle that can be
read means ready. It answers the Open Inference Protocol and nothing else, on a Unix socket of its user. A model that raises
answers 500 with the error's text and the process stays; one that hangs or outgrows its memory ends the process (`watch`),
which its target starts again. SIGTERM ends it after what is under way.

    python -m steersman.dataplane.worker --spec FILE

Exit codes: 2 the version may not be loaded (digest, format, types) or fails on its own example, 1 it cannot be loaded or
hangs (the stacks are in the log), 3 it used more memory than it was allowed.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from steersman.dataplane import artifacts, priority, sandbox
from steersman.dataplane.priority import Session

MESSAGE_CHARS_MAX = 1_000

PATIENCE_S = 10.0
"""Wall seconds of a start, after which it takes its full share of the processor: on a machine that leaves it nothing a version
still becomes ready, as a cold rollback needs."""

REFUSED = 2
FAILED = 1
OVER_MEMORY = 3


def main(session: Session | None = None, bound: tuple[socket.socket, str] | None = None) -> None:
    """`session` and `bound` (`sockets.bind_beside`) are given by who walled this process in before."""
    parser = argparse.ArgumentParser(prog="steersman.dataplane.worker", description=__doc__)
    parser.add_argument("--spec", type=Path, required=True)
    document = parser.parse_args().spec.read_bytes()
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setsid()
    session = session or Session()
    session.step_back()
    signal.signal(signal.SIGALRM, lambda _number, _frame: session.step_forward())
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)  # no thread: one made before the walls would stay outside of them
    # Thread limits and the clean environment must stand before a numeric library is imported.
    threads = int(msgspec.json.decode(document).get("threads", 1))
    environment = sandbox.allowed_environment(os.environ, threads=threads)
    os.environ.clear()
    os.environ.update(environment)
    _run(document, threads, session, bound)


def _run(document: bytes, threads: int, session: Session, bound: tuple[socket.socket, str] | None) -> None:
    _gently(_import_libraries, threads)
    import uvloop

    from steersman.dataplane import formats, serving
    from steersman.dataplane.batches import ModelError
    from steersman.dataplane.loading import RefusedModelError, WorkerSpec, load

    try:
        spec = msgspec.json.decode(document, type=WorkerSpec)
        root = Path(spec.artifact_dir)
        artifacts.verify(root, spec.digest)
        # Bound and opened now, used when warm: afterwards the sandbox shows no path outside the version.
        door = serving.Door.of(spec, bound)
        walls = _wall_in(root, temporary=spec.format in formats.CODE_FORMATS)
        model = _gently(lambda: load(spec), threads)
    except (artifacts.ArtifactError, RefusedModelError, formats.UnknownFormatError, msgspec.DecodeError) as error:
        _leave(REFUSED, f"refused: {error}")
    except (ModelError, OSError, ImportError) as error:
        _leave(FAILED, f"cannot load the model: {error}")
    except Exception as error:  # whatever a model's own code raises while it loads
        _leave(FAILED, f"cannot load the model: {type(error).__name__}: {error}")
    try:
        stopped_because = uvloop.run(serving.serve(spec, model, door, walls, session))
    except RefusedModelError as error:
        _leave(REFUSED, f"refused: {error}")
    except OSError as error:
        _leave(FAILED, f"cannot listen on {door.address}: {error}")
    if stopped_because is not None:
        _leave(OVER_MEMORY, f"stopped: {stopped_because}")


T = TypeVar("T")


def _gently(work: Callable[[], T], threads: int) -> T:
    """Do it in a thread of its own that steps back, and return what it returns or raise what it raises.

    For kernels that group no sessions: a process cannot take its nice value back, but the thread that serves never had it.
    Not where the version may use several numeric threads: those that a library starts at its import would keep it.
    """
    if threads > 1:
        return work()

    def lower() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), priority.NICE)

    with ThreadPoolExecutor(1, initializer=lower) as executor:
        return executor.submit(work).result()


def _import_libraries() -> None:
    import uvloop  # noqa: F401

    from steersman.dataplane import loading, serving  # noqa: F401


def _wall_in(root: Path, *, temporary: bool) -> str:
    """Restrict this process to what it needs, for good. Models with code of their own get a scratch folder."""
    write = []
    if temporary:
        scratch = tempfile.mkdtemp(prefix="steersman-worker-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        os.environ["TMPDIR"] = os.environ["HOME"] = tempfile.tempdir = scratch
        write = [Path(scratch)]
    return sandbox.restrict_files(read=[*sandbox.interpreter_paths(root), root], write=write)


def _leave(code: int, message: str) -> NoReturn:
    print(f"worker: {message[:MESSAGE_CHARS_MAX]}", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
