"""The small process that stands by a training run while the control server comes and goes.

It starts the command in a session of its own, inside the walls every foreign process gets here (limits, no sight of the
state directory), copies what the command says to a bounded log, ends it at its time-out, and writes `result.json` in one
step when nothing of the run is left alive. Whoever holds the folder knows the rest: while the lock file is held, the run
goes on; a result is the end; neither means that this process was killed.

Orphans of the run become this process's children (Linux's child subreaper), so none escapes by starting over in a
session of its own. The command dies with this process, so a run without supervision cannot go on.

    python -m steersman.plugins.trainers.supervision FOLDER

It knows `job.json` in the folder and its own environment, which is the command's; secrets are in no file. Only the
standard library, our sandbox and our priorities are imported: it stays for hours and should cost nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import math
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from steersman.dataplane import priority, sandbox

LOG_BYTES_MAX = 16 * 1024 * 1024
"""What is kept of a run's output; more is dropped, and the log says so."""

LINE_BYTES_MAX = 64 * 1024
LOOK_S = 0.2
"""How often memory is measured: an allocation of a gigabyte takes longer to fill."""

GRACE_S = 5.0
"""Between asking a run to end and ending it."""

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|KEY", re.IGNORECASE)
_SECRET_CHARS_MIN = 8

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1024**2


def parents() -> dict[int, int]:
    """Parent of every process of this machine, by pid; the dead that wait to be collected are left out."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    found[int(entry)] = int(fields[1])
    return found


def descendants(of: int) -> Iterator[int]:
    """Every living process below `of`."""
    family = parents()
    wanted = {of}
    while wanted:
        wanted = {pid for pid, parent in family.items() if parent in wanted}
        yield from wanted


def memory_mb(of: int) -> float:
    """Resident memory of everything below `of`, MB; pages shared between them count for each."""
    total = 0.0
    for pid in descendants(of):
        with contextlib.suppress(OSError, ValueError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB
    return total


class Log:
    """The command's output, line by line: secrets blotted out, bounded, hashed as it is written."""

    def __init__(self, path: Path, secrets: list[str]) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._secrets = [secret.encode() for secret in secrets]
        self._rest = b""
        self._written = 0
        self._full = False
        self._digest = hashlib.sha256()

    def feed(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._write(line + b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            self._write(self._rest)
            self._rest = b""

    def close(self) -> str:
        """Write what is left and return the digest of the log."""
        if self._rest:
            self._write(self._rest)
        self._file.close()
        return f"sha256:{self._digest.hexdigest()}"

    def _write(self, line: bytes) -> None:
        if self._full:
            return
        for secret in self._secrets:
            line = line.replace(secret, b"[secret]")
        if self._written + len(line) > LOG_BYTES_MAX:
            self._full = True
            line = f"\n[the rest was dropped: a log holds {LOG_BYTES_MAX} bytes]\n".encode()
        self._written += len(line)
        self._digest.update(line)
        self._file.write(line)
        self._file.flush()


class Run:
    """One run of the command, from its start until nothing of it lives."""

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self._folder = folder
        self._job = job
        self._asked_to_end = False
        self._memory_mb = 0.0
        self._began = time.monotonic()
        secrets = [value for name, value in os.environ.items() if _SECRET.search(name)]
        self._log = Log(folder / "log.txt", [value for value in secrets if len(value) >= _SECRET_CHARS_MIN])
        signal.signal(signal.SIGTERM, self._on_end)

    def _on_end(self, _signal: int, _frame: object) -> None:
        self._asked_to_end = True

    def finish(self) -> dict[str, Any]:
        """Run to the end, whatever it is, and tell it: exit code, why it was ended, what it used."""
        because = None
        exit_code = None
        try:
            child = subprocess.Popen(
                self._job["command"],
                cwd=self._folder / "work",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=self._walls(),
            )
        except (OSError, subprocess.SubprocessError) as error:
            because = f"could not be started: {error}"
        else:
            _note_command(self._folder, child.pid)
            because = self._watch(child)
            exit_code = self._end(child)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "exit_code": exit_code,
            "because": because,
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
            "memory_mb_peak": round(max(self._memory_mb, usage.ru_maxrss / 1024), 1),
            "wall_s": round(time.monotonic() - self._began, 3),
            "log_digest": self._log.close(),
        }

    def _watch(self, child: subprocess.Popen[bytes]) -> str | None:
        """Copy output until the command ends; why it must be ended, if it must."""
        assert child.stdout is not None
        output = child.stdout.fileno()
        os.set_blocking(output, False)
        listening, look_at = [output], 0.0
        while True:
            ready, _, _ = select.select(listening, [], [], LOOK_S)
            if ready:
                if data := _read(output):
                    self._log.feed(data)
                else:  # it closed its output and goes on in silence
                    listening = []
            if child.poll() is not None:
                return None
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + LOOK_S
                self._memory_mb = max(self._memory_mb, memory_mb(os.getpid()))
            if (because := self._why_end()) is not None:
                return because

    def _why_end(self) -> str | None:
        if self._asked_to_end:
            return "was cancelled"
        if time.monotonic() - self._began > self._job["timeout_s"]:
            return f"still ran after its time-out of {self._job['timeout_s']:g} s"
        if self._memory_mb > self._job["memory_mb"]:
            return f"used {self._memory_mb:.0f} MB, more than the limit of {self._job['memory_mb']} MB"
        return None

    def _end(self, child: subprocess.Popen[bytes]) -> int:
        """End everything below this process, the orphans too; first kindly, then not. Returns the command's exit code."""
        me = os.getpid()
        deadline = time.monotonic() + (GRACE_S if child.poll() is None else 0.0)
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(LOOK_S / 10)
        while living := list(descendants(me)):
            for pid in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(LOOK_S / 20)
        exit_code = child.wait()
        assert child.stdout is not None
        while data := _read(child.stdout.fileno()):
            self._log.feed(data)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        return exit_code

    def _walls(self) -> Callable[[], None]:
        """What the new process does to itself before it becomes the command. Prepared here, where failing is safe."""
        job, folder = self._job, self._folder
        read = [*sandbox.interpreter_paths(folder), *(Path(path) for path in job["readable"]), folder / "source"]
        write = [folder / "work", folder / "scratch", folder / "reported"]
        libc = ctypes.CDLL(None, use_errno=True)
        # Address space says little (a data frame library reserves gigabytes it never touches), private writable memory
        # is close to what is used; the exact limit is on resident memory, measured above.
        data_bytes = (int(job["memory_mb"]) * 3 // 2 + 256) * 1024**2

        def take_up() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            priority.step_back()  # it computes for minutes or hours on the machine that serves
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes_max"], job["file_bytes_max"]))
            if job["cpu_s"] is not None:
                resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(job["cpu_s"]), math.ceil(job["cpu_s"]) + 2))
            sandbox.restrict_files(read=[path for path in read if path.exists()], write=write)

        return take_up


def _note_command(folder: Path, pid: int) -> None:
    """Leave the command's identity (pid and start, Unix seconds) for whoever must end its session without us."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    booted = re.search(r"^btime (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
    assert booted is not None
    started_at = int(booted[1]) + ticks / os.sysconf("SC_CLK_TCK")
    (folder / "command.json").write_text(json.dumps({"pid": pid, "started_at": started_at}))


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, LINE_BYTES_MAX)
    except BlockingIOError:
        return b""


def main() -> None:
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_bytes())
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    result = Run(folder, job).finish()
    for name in ("work", "scratch"):
        shutil.rmtree(folder / name, ignore_errors=True)
    staging = folder / "result.json.new"
    with staging.open("w") as file:
        json.dump(result, file)
        file.flush()
        os.fsync(file.fileno())
    staging.rename(folder / "result.json")


if __name__ == "__main__":
    main()
