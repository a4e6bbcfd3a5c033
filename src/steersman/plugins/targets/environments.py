"""The environments versions bring: built once for each set of needs, shared by whoever has the same, collected later.

`environments/<digest>/` in the state directory holds one, `environments/<digest>.json` what is known of its building,
`environments/code/` the one package of ours a worker in it may see. Building is a process beside the control server
(`building`), found again by its lock; it is started by `ensure` and looked at by the next `ensure`, so nothing waits.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from steersman.plugins import processes
from steersman.plugins.targets import building
from steersman.plugins.targets.requirements import Needs, interpreter, needs_of, unsatisfied, worker_requirements
from steersman.ports import ReplicaSpec, TargetError

BACKOFF_S_MAX = 60.0

UV_VARIABLES = ("UV_", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "HOME", "SSL_CERT_FILE")
"""Prefixes of what uv is given of the control server's environment: the index, its credentials, and how to reach it."""

BUILDER = ("-P", "-m", "steersman.plugins.targets.building")


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """`versions` are the digests that need it; `running` that a build was started and has not been looked at since."""

    digest: str
    lacking: str = ""
    versions: tuple[str, ...] = ()
    running: bool = False
    attempt_at: float = 0.0
    log_from: int = 0
    deaths: int = 0
    because: str | None = None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An environment that must be built, and what this installation's own lacks."""

    needs: Needs
    lacking: str

    @property
    def digest(self) -> str:
        return self.needs.digest


class Environments:
    """Below `state`. Its methods are called by one thread at a time."""

    def __init__(self, state: Path) -> None:
        self._root = state / "environments"
        self._logs = state / "logs" / "environments"
        self._artifacts = state / "artifacts" / "sha256"
        self._decided: dict[tuple[str, str, bool], Wanted | None] = {}
        self._children: list[subprocess.Popen[bytes]] = []

    def wanted(self, replica: ReplicaSpec) -> Wanted | None:
        """The environment the version needs; None where this installation's own will do.

        Raises TargetError for requirements that are refused. Decided once a version: what is installed here changes
        with a restart.
        """
        key = (replica.digest, str(replica.format), replica.code_allowed)
        if key not in self._decided:
            needs = needs_of(replica)
            lacking = unsatisfied(needs) if needs is not None else None
            self._decided[key] = None if needs is None or lacking is None else Wanted(needs=needs, lacking=lacking)
        return self._decided[key]

    def ensure(self, wanted: Wanted, version: str) -> bool:
        """Whether the environment stands; begins to build it where nobody does. `version` is the digest that needs it."""
        self._reap()
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        record = self._noted(wanted, version)
        if self._stands(wanted.digest):
            if record.running or record.because is not None:
                self._write(msgspec.structs.replace(record, running=False, because=None, deaths=0))
            return True
        if processes.held(self._lock_path(wanted.digest)):
            return False
        record = self._settled(record)
        waited_s = time.time() - record.attempt_at
        if 0 <= waited_s < min(BACKOFF_S_MAX, 2.0 ** min(record.deaths, 10) / 2 - 1):
            return False
        lock = processes.hold(self._lock_path(wanted.digest))
        if lock is None:
            return False
        try:
            self._start(wanted, record, lock)
        finally:
            os.close(lock)
        return False

    def failure(self, wanted: Wanted) -> str | None:
        """Why the last build came to nothing, in uv's words; None when none did, or the environment stands since."""
        self._reap()
        record = self._read(wanted.digest)
        if record is None or self._stands(wanted.digest):
            return None
        if not processes.held(self._lock_path(wanted.digest)):
            record = self._settled(record)
        return record.because

    def python(self, digest: str) -> Path:
        """The environment's interpreter."""
        return self._root / digest / "bin" / "python"

    def code(self) -> Path:
        """A folder that shows an interpreter the package `steersman` and nothing else of where it is installed."""
        folder = self._root / "code"
        folder.mkdir(parents=True, exist_ok=True)
        package = Path(__file__).resolve().parents[2]
        link = folder / package.name
        if not link.is_symlink() or link.readlink() != package:
            staging = folder / ".new"
            staging.unlink(missing_ok=True)
            staging.symlink_to(package)
            staging.replace(link)
        return folder

    def collect(self, in_use: Iterable[str]) -> None:
        """Remove environments that no stored version needs and no replica runs in, and with them uv's cache."""
        kept = set(in_use)
        for path in self._root.glob("*.json"):
            record = self._read(path.stem)
            if record is None or record.digest in kept or processes.held(self._lock_path(record.digest)):
                continue
            if any((self._artifacts / version.removeprefix("sha256:")).is_dir() for version in record.versions):
                continue
            shutil.rmtree(self._root / record.digest, ignore_errors=True)
            shutil.rmtree(self._root / "cache", ignore_errors=True)
            for left in (self._lock_path(record.digest), self._request_path(record.digest), path):
                left.unlink(missing_ok=True)

    def _start(self, wanted: Wanted, record: _Record, lock: int) -> None:
        """The request, the record, then the process; it holds the lock's descriptor for as long as it builds."""
        request = building.Request(
            uv=_uv(),
            python=interpreter(wanted.needs.python),
            requirements=(*wanted.needs.requirements, *worker_requirements()),
            place=str(self._root / wanted.digest),
            free_bytes_min=building.FREE_BYTES_MIN,
        )
        request_path = self._request_path(wanted.digest)
        processes.write_whole(request_path, msgspec.json.encode(request))
        self._logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = self._log_path(wanted.digest)
        log_from = log.stat().st_size if log.exists() else 0
        self._write(msgspec.structs.replace(record, running=True, attempt_at=time.time(), log_from=log_from))
        with log.open("ab") as output:
            child = subprocess.Popen(
                [sys.executable, *BUILDER, "--request", str(request_path), "--lock", str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=self._environment(os.environ),
                start_new_session=True,
                pass_fds=(lock,),
            )
        self._children.append(child)

    def _environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """What uv sees. Its cache lies on the environments' own disk, so that they share files; no Python is downloaded
        unless the installation says so; and it never compiles, because it would start the new interpreter for that."""
        passed = {name: value for name, value in given.items() if name.upper().startswith(UV_VARIABLES)}
        ours = {"UV_CACHE_DIR": str(self._root / "cache"), "UV_PYTHON_DOWNLOADS": "never"}
        return processes.clean_environment(threads=1) | ours | passed | {"UV_COMPILE_BYTECODE": "0"}

    def _noted(self, wanted: Wanted, version: str) -> _Record:
        """The record, with `version` among those that need it, and no longer among another's."""
        record = self._read(wanted.digest) or _Record(digest=wanted.digest, lacking=wanted.lacking)
        if version not in record.versions:
            for path in self._root.glob("*.json"):
                other = self._read(path.stem)
                if other is not None and version in other.versions:
                    rest = tuple(one for one in other.versions if one != version)
                    self._write(msgspec.structs.replace(other, versions=rest))
            record = msgspec.structs.replace(record, versions=(*record.versions, version))
            self._write(record)
        return record

    def _settled(self, record: _Record) -> _Record:
        """Note how a build ended that is over and left no environment."""
        if not record.running:
            return record
        words = processes.last_words(self._log_path(record.digest), since=record.log_from).splitlines()
        # The first line of uv's is our own path, which has no place in a release's record.
        said = (
            "\n".join(line for line in words if not line.startswith("Using Python")) or "it was ended and said nothing"
        )
        because = f"the version needs {record.lacking}, and an environment for it cannot be built: {said}"
        settled = msgspec.structs.replace(record, running=False, deaths=record.deaths + 1, because=because)
        self._write(settled)
        return settled

    def _stands(self, digest: str) -> bool:
        return (self._root / digest / building.CARD_FILE).is_file()

    def _reap(self) -> None:
        self._children = [child for child in self._children if child.poll() is None]

    def _read(self, digest: str) -> _Record | None:
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            return msgspec.json.decode((self._root / f"{digest}.json").read_bytes(), type=_Record)
        return None

    def _write(self, record: _Record) -> None:
        processes.write_whole(self._root / f"{record.digest}.json", msgspec.json.encode(record))

    def _lock_path(self, digest: str) -> Path:
        return self._root / f"{digest}.lock"

    def _request_path(self, digest: str) -> Path:
        return self._root / f"{digest}.request"

    def _log_path(self, digest: str) -> Path:
        return self._logs / f"{digest}.log"


def _uv() -> str:
    try:
        from uv import find_uv_bin
    except ImportError:
        raise TargetError("the version needs an environment of its own, which uv builds: pip install uv") from None
    return os.fspath(find_uv_bin())
