"""The trainer `command`: a training run is a command, a folder of code and a file of rows.

The code is copied before it runs, under its digest, so that the record says which bytes trained a version even if the
folder changes the next minute. The run has a folder of its own, `jobs/<id>/`, named after the operation that wanted it:
asking twice finds the same run, and a new control server finds the one that its predecessor started.

A small supervising process (`supervision`) stands by the command; it enforces the limits and writes the result, so that
nothing here has to be alive while a training runs.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from steersman.dataplane.artifacts import tree_digest
from steersman.dataplane.handles import Handle, read_handle
from steersman.domain.errors import BadRequest, LimitReached, Misconfigured, NotFound
from steersman.plugins import processes
from steersman.plugins.trainers.interpreters import lacking, read_by, resolved, search_path, version_of
from steersman.ports import JobState, TrainingJob

SOURCE_FILES_MAX = 2_000
SOURCE_BYTES_MAX = 64 * 1024 * 1024
"""Code is small; data and models belong in a Dataset and in the registry, not beside the training script."""

SOURCE_IGNORED = frozenset(
    {
        ".git",
        ".hg",
        ".venv",
        "venv",
        "__pycache__",
        "node_modules",
        "mlruns",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
    }
)
"""Folders that are not code: history, environments and caches."""

FILE_BYTES_MAX = 4 * 1024**3
"""The longest file a run may write."""

RECORD_BYTES_MAX = 1024 * 1024
"""What a run may say of itself: its version's number and some metrics."""

LOCKS = ("requirements.lock", "uv.lock", "poetry.lock", "requirements.txt")
"""Where a source folder pins its libraries, the first that exists."""

CANCEL_S = 15.0
"""Longer than the supervising process gives the command to end by itself."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}\Z")


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended. `because` says why it was ended from outside, or could not begin."""

    exit_code: int | None = None
    because: str | None = None
    cpu_s: float = 0.0
    memory_mb_peak: float = 0.0
    wall_s: float = 0.0
    log_digest: str | None = None


class CommandTrainer:
    """Runs in the state directory's `jobs/`. `readable` are paths beyond Python's own that a run may read."""

    def __init__(self, state: Path, *, readable: tuple[Path, ...] = ()) -> None:
        self._jobs = state.resolve() / "jobs"
        self._jobs.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._readable = readable
        self._changing = threading.Lock()
        self._children: list[subprocess.Popen[bytes]] = []

    def ensure(self, job: TrainingJob) -> None:
        """Start the run unless it was started before; whether it goes on or has ended, it is not started again.

        Raises BadRequest or LimitReached when its source cannot be copied, Misconfigured when nothing can be started.
        """
        folder = self._folder(job.id)
        with self._changing:
            self._reap()
            if any((folder / trace).exists() for trace in ("supervisor.json", "command.json", "result.json")):
                return
            folder.mkdir(exist_ok=True, mode=0o700)  # its data may lie there already
            lock = processes.hold(folder / "lock")
            if lock is None:
                return
            try:
                self._prepare(job, folder)
                self._start(job, folder, lock)
            finally:
                os.close(lock)

    def poll(self, job_id: str) -> JobState:
        """How the run is. Raises NotFound when none was ever asked for under that id."""
        folder = self._folder(job_id)
        self._reap()
        if not (folder / "job.json").exists():
            raise NotFound(f"no training run {job_id} was started here")
        result = self._result(folder)
        if result is None and processes.held(folder / "lock"):
            return JobState(state="running")
        result = result or self._result(folder) or self._abandoned(folder)
        record = self._record(folder, result)
        said, unreadable = self._said(folder)
        if result.because is None and result.exit_code == 0 and unreadable is None:
            return JobState(state="succeeded", record={**said, **record})
        because = self._because(folder, result, unreadable)
        return JobState(state="failed", record={**said, **record}, because=because)

    def cancel(self, job_id: str) -> None:
        """End the run and everything it started; returns when it is gone. A run that ended stays as it is."""
        folder = self._folder(job_id)
        if not (folder / "job.json").exists() or self._result(folder) is not None:
            return
        supervisor = self._supervisor(folder)
        if supervisor is not None:
            processes.terminate(supervisor, drain_s=CANCEL_S)
        self._reap()
        if self._result(folder) is None:
            cancelled = _Result(because="was cancelled")
            processes.write_whole(folder / "result.json", msgspec.json.encode(cancelled))

    def logs(self, job_id: str, limit_bytes: int = 65536) -> str:
        """The end of what the run said, secrets blotted out."""
        return processes.tail(self._folder(job_id) / "log.txt", limit_bytes)

    def _folder(self, job_id: str) -> Path:
        if not _ID.match(job_id):
            raise BadRequest(
                f"{job_id[:100]!r} is no id of a training run: letters, digits, '.', '_' and '-', at most 100"
            )
        return self._jobs / job_id

    def _prepare(self, job: TrainingJob, folder: Path) -> None:
        """The fresh folder of a run: code as it is now, a working copy of it, and what is asked, without secrets."""
        for name in ("source", "work", "scratch", "reported"):
            _remove(folder / name)
        for name in ("scratch", "reported"):
            (folder / name).mkdir(mode=0o700)
        copy_source(job.source, folder / "source")
        shutil.copytree(folder / "source", folder / "work", copy_function=shutil.copyfile)
        asked = {
            "command": resolved(job.command, job.python),
            "timeout_s": job.timeout_s,
            "memory_mb": job.memory_mb,
            "cpu_s": job.cpu_s,
            "file_bytes_max": FILE_BYTES_MAX,
            "readable": [
                str(path)
                for path in (job.data, *job.readable, *self._readable, *(read_by(job.python) if job.python else ()))
            ],
            "record": {
                "command": list(job.command),
                "code_digest": tree_digest(folder / "source"),
                "lock_digest": lock_digest(folder / "source", job.lock),
                "libraries_digest": libraries_digest(job.python),
                "data_digest": file_digest(job.data),
                "python_version": version_of(job.python),
                "seed": job.environment.get("STEERSMAN_SEED"),
                "variables": sorted(job.environment),
            },
        }
        processes.write_whole(folder / "job.json", msgspec.json.encode(asked))

    def _start(self, job: TrainingJob, folder: Path, lock: int) -> None:
        environment = self._environment(job, folder)
        if (missing := lacking(resolved(job.command, job.python), job.python, folder / "source")) is not None:
            result = _Result(because=f"could not be started: {missing}")
            processes.write_whole(folder / "result.json", msgspec.json.encode(result))
            return
        try:
            with (folder / "supervision.log").open("wb") as complaints:
                child = subprocess.Popen(
                    [sys.executable, "-P", "-m", "steersman.plugins.trainers.supervision", str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=complaints,
                    cwd="/",
                    env=environment,
                    start_new_session=True,
                    pass_fds=(lock,),
                )
        except OSError as error:
            raise Misconfigured(f"cannot start the training run {job.id}: {error.strerror}") from error
        self._children.append(child)
        handle = processes.handle_of(child.pid)
        processes.write_whole(folder / "supervisor.json", msgspec.json.encode(handle))

    def _environment(self, job: TrainingJob, folder: Path) -> dict[str, str]:
        """All that the command sees: the allow-list, what the job declares, and where its data and its record are."""
        for name in job.environment:
            if not _VARIABLE.match(name):
                raise BadRequest(f"{name[:100]!r} is no name of an environment variable")
        scratch = str(folder / "scratch")
        usual = processes.clean_environment(threads=job.threads)
        if job.python is not None:  # nothing of this installation's, which may have been told to look elsewhere
            usual = {name: value for name, value in usual.items() if name != "PYTHONPATH"}
            usual["PATH"] = search_path(job.python)
        return {
            **usual,
            **job.environment,
            "HOME": scratch,
            "TMPDIR": scratch,
            "PYTHONUNBUFFERED": "1",
            "STEERSMAN_DATA": str(job.data.resolve()),
            "STEERSMAN_RUN_RECORD": str(folder / "reported" / "record.json"),
        }

    def _supervisor(self, folder: Path) -> Handle | None:
        """The supervising process, if it lives; found by its argument where nobody could note its pid."""
        handle = read_handle(folder / "supervisor.json")
        if handle is not None:
            return handle if handle.alive() else None
        return processes.find_by_argument(str(folder)) if processes.held(folder / "lock") else None

    def _abandoned(self, folder: Path) -> _Result:
        """A run whose supervising process was killed. The command died with it; what the command started dies here."""
        for trace in ("command.json", "supervisor.json"):
            if (handle := read_handle(folder / trace)) is not None:
                processes.terminate(handle, drain_s=0.0)
        said = processes.last_words(folder / "supervision.log")
        return _Result(
            because="ended unseen: its supervising process was killed, or the machine restarted"
            + (said and f" ({said})")
        )

    def _record(self, folder: Path, result: _Result) -> dict[str, object]:
        """What we know of the run, whatever it says of itself."""
        known: dict[str, object] = {}
        with contextlib.suppress(FileNotFoundError):
            known = msgspec.json.decode((folder / "job.json").read_bytes())["record"]
        measured = {name: getattr(result, name) for name in result.__struct_fields__ if name != "because"}
        return {**known, **measured}

    def _said(self, folder: Path) -> tuple[Mapping[str, object], str | None]:
        """The JSON object the command wrote, and why it cannot be used where it cannot."""
        path = folder / "reported" / "record.json"
        try:
            if path.is_symlink() or not stat.S_ISREG(path.stat().st_mode):
                return {}, "its record is not a regular file"
            if path.stat().st_size > RECORD_BYTES_MAX:
                return {}, f"its record is longer than {RECORD_BYTES_MAX} bytes"
            return msgspec.json.decode(path.read_bytes(), type=dict[str, object]), None
        except FileNotFoundError:
            return {}, None
        except msgspec.DecodeError as error:
            return {}, f"what it wrote to STEERSMAN_RUN_RECORD is no JSON object: {error}"

    def _result(self, folder: Path) -> _Result | None:
        try:
            return msgspec.json.decode((folder / "result.json").read_bytes(), type=_Result)
        except FileNotFoundError:
            return None

    def _because(self, folder: Path, result: _Result, unreadable: str | None) -> str:
        """Why the run failed, in one sentence, and the end of its log."""
        if result.because is not None:
            what = result.because
        elif result.exit_code != 0:
            what = f"{_ending(result.exit_code)} after {result.wall_s:.1f} s"
        else:
            what = unreadable or ""
        said = processes.last_words(folder / "log.txt")
        return f"the training run {what}" + (f"; its log ends:\n{said}" if said else "; it wrote no log")

    def _reap(self) -> None:
        self._children = [child for child in self._children if child.poll() is None]


def _ending(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"was ended by signal {-exit_code}"
    return f"exited with code {exit_code}"


def copy_source(source: Path, into: Path) -> None:
    """Copy a folder of code, regular files only and read-only once there.

    A link that leads to a file of the folder is copied as that file; one that leads out is refused, because what it
    shows is not part of what is reviewed. Raises BadRequest or LimitReached; then nothing is started.
    """
    root = source.resolve()
    if not root.is_dir():
        raise BadRequest(f"the training source {source} is not a folder")
    count = total = 0
    into.mkdir(parents=True, mode=0o700)
    for path in _files(root, root):
        count += 1
        total += path.stat().st_size
        if count > SOURCE_FILES_MAX or total > SOURCE_BYTES_MAX:
            raise LimitReached(
                f"the training source {source} has more than {SOURCE_FILES_MAX} files or "
                f"{SOURCE_BYTES_MAX // 1024**2} MB; keep data and models outside of it"
            )
        target = into / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o444)
    if count == 0:
        raise BadRequest(f"the training source {source} has no files")


def _files(folder: Path, root: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            target = path.resolve()
            if not target.is_relative_to(root) or not target.is_file():
                raise BadRequest(f"{path.relative_to(root)}: a link that leads out of the training source")
            yield path
        elif path.is_dir():
            if path.name not in SOURCE_IGNORED:
                yield from _files(path, root)
        elif path.is_file():
            yield path
        else:
            raise BadRequest(f"{path.relative_to(root)}: neither a file nor a folder")


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def lock_digest(source: Path, named: str | None = None) -> str | None:
    """Digest of the file that pins the libraries, where the source has one.

    Raises BadRequest when a file was `named` and is not a file of the source.
    """
    if named is not None:
        file = (source / named).resolve()
        if not file.is_relative_to(source.resolve()) or not file.is_file():
            raise BadRequest(f"the lock file {named!r} is not in the source", next_step="Correct spec.train.lock.")
        return file_digest(file)
    return next((file_digest(source / name) for name in LOCKS if (source / name).is_file()), None)


@functools.cache
def libraries_digest(python: Path | None = None) -> str:
    """Digest of the libraries that a command run by `python` imports: those this installation has, name and version, or
    what another environment was built from, which is its name."""
    if python is not None:
        return f"sha256:{python.parents[1].name}"
    pins = sorted({f"{each.name}=={each.version}" for each in importlib.metadata.distributions()})
    return "sha256:" + hashlib.sha256("\n".join(pins).encode()).hexdigest()


def _remove(folder: Path) -> None:
    """Remove what an attempt that never started left behind."""
    if folder.exists():
        shutil.rmtree(folder)
