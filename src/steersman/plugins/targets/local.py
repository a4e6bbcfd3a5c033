"""The local target: each replica is a worker process on this machine.

A replica has a deterministic name, workspace/environment/model/digest/slot, and one record in `run/replicas/`, written
as an intent before the process starts. Its lock file stays locked while the worker lives. So whoever looks, this control
server or the next one after a crash, finds the same replicas, adopts those that run and starts only what is missing.

Starting is not waiting: a worker announces itself by its handle file once the model is loaded and warm. One that dies
before that is started again, later each time, and `failure` tells what it said last. A version that needs other libraries
than this installation has is started in an environment of its own (`environments`), once that is built; until then none
of its replicas exists.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import psutil

from steersman.dataplane.handles import Handle, read_handle
from steersman.dataplane.sandbox import SCRATCH
from steersman.plugins import processes
from steersman.plugins.targets.environments import Environments
from steersman.ports import ReplicaSpec, RunningReplica, TargetError

REPLICAS_MAX = 64
"""Replicas of one version on one machine: more than any has cores to serve with."""

DRAIN_S = 10.0
"""Time for the requests in flight; traffic was moved before a replica is stopped."""

BACKOFF_S_MAX = 60.0
YOUNG_S = 30.0
"""A worker that dies younger than this, ready or not, waits longer before it is started again."""

FILE_BYTES_MAX = 64 * 1024 * 1024
"""The longest file a worker may write, its log included; a worker has nothing of its own to keep."""

LOG_KEPT_BYTES = 4 * 1024 * 1024
"""A longer log of earlier attempts is started afresh."""

USAGE_BYTES_MAX = 1024 * 1024
"""About 4,000 replicas; an older file is kept once."""

WORKER = ("-P", "-m", "steersman.dataplane.worker")
"""`-P`: the working directory, here `/`, is no place to import from, nor one a worker's sandbox should open."""

WALLED_WORKER = ("-S", "-P", "-m", "steersman.dataplane.walled")
"""The same in an environment of its own: `-S`, because its packages come behind the walls."""


class _Slot(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one replica. Without `pid` it is an intent; `deaths` counts those in a row that came too soon.

    `libraries` is the digest of the environment of the version's own that it runs in, None in this installation's.
    """

    id: str
    workspace: str
    environment: str
    model: str
    digest: str
    slot: int
    pid: int | None = None
    started_at: float = 0.0
    attempt_at: float = 0.0
    log_from: int = 0
    deaths: int = 0
    because: str | None = None
    libraries: str | None = None

    @property
    def handle(self) -> Handle | None:
        return None if self.pid is None else Handle(pid=self.pid, started_at=self.started_at)

    def is_of(self, workspace: str, environment: str, model: str, digest: str) -> bool:
        return (self.workspace, self.environment, self.model, self.digest) == (workspace, environment, model, digest)


def _in_order(slot: _Slot) -> tuple[str, str, str, str, int]:
    return slot.workspace, slot.environment, slot.model, slot.digest, slot.slot


class LocalTarget:
    """Replicas as processes of this machine, in the state directory's `run/replicas/` and `logs/replicas/`.

    What each used (CPU seconds, peak memory, as last seen) stays in `logs/replicas/usage.jsonl` when it has ended.
    """

    capabilities: frozenset[str] = frozenset({"mirror", "setWeight", "keepWarm"})

    def __init__(self, state: Path, *, drain_s: float = DRAIN_S, worker: tuple[str, ...] = WORKER) -> None:
        """`worker` are the interpreter's arguments that start a worker; tests put a small stand-in there."""
        self._records = state.resolve() / "run" / "replicas"
        self._logs = state.resolve() / "logs" / "replicas"
        self._environments = Environments(state.resolve())
        self._drain_s = drain_s
        self._worker = worker
        self._changing = threading.Lock()
        self._stopping: set[str] = set()
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._seen: dict[str, RunningReplica] = {}
        for folder in (self._records, self._logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def ensure(self, replica: ReplicaSpec, count: int) -> None:
        """Start what is missing to `count` replicas and return without waiting for readiness.

        Raises TargetError when the version cannot even be tried.
        """
        if not 0 <= count <= REPLICAS_MAX:
            raise TargetError(f"{count} replicas of {replica.model}: this target runs 0 to {REPLICAS_MAX} of a version")
        if not replica.artifact.is_dir():
            raise TargetError(
                f"the files of {replica.digest} are not stored here; register version {replica.version} again"
            )
        wanted = self._environments.wanted(replica) if count else None
        with self._changing:
            self._reap()
            if wanted is not None and not self._environments.ensure(wanted, replica.digest):
                return
            for slot in range(count):
                self._ensure_slot(replica, slot, wanted.digest if wanted is not None else None)

    def observe(self) -> list[RunningReplica]:
        """Every replica that is alive, those of a version by their slots. Costs about 0.2 ms each: a few small files of
        `/proc` and of our own."""
        self._reap()
        found = []
        slots = [slot for path in self._records.glob("*.json") if (slot := self._read(path)) is not None]
        for slot in sorted(slots, key=_in_order):
            handle = self._living(slot)
            if handle is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._seen[slot.id] = self._replica(slot, handle)
                    found.append(self._seen[slot.id])
        return found

    def failure(self, replica: ReplicaSpec) -> str | None:
        """Why the last attempt to start this version died before it was ready; None when none did, or one since is."""
        wanted = self._environments.wanted(replica)
        with self._changing:
            self._reap()
            if wanted is not None and (because := self._environments.failure(wanted)) is not None:
                return because
            for slot in self._slots_of(replica.workspace, replica.environment, replica.model, replica.digest):
                settled = self._settle(slot)
                if settled.because is not None and self._announced(settled) is None:
                    return settled.because
        return None

    def interpreter(self, replica: ReplicaSpec) -> Path | None:
        """That of the version's own environment, None where this installation's libraries will do."""
        wanted = self._environments.wanted(replica)
        return None if wanted is None else self._environments.python(wanted.digest)

    def stop(self, workspace: str, environment: str, model: str, digest: str, *, keep: int = 0) -> None:
        """Drain and end all replicas of a version but the first `keep`; returns when they are gone (bounded by the
        drain time-out)."""
        with self._changing:
            going = self._slots_of(workspace, environment, model, digest)
            if keep:
                going = [slot for slot in going if self._living(slot) is not None][keep:]
            slots = [slot for slot in going if slot.id not in self._stopping]
            self._stopping.update(slot.id for slot in slots)
        try:
            self.observe()
            living = [handle for slot in slots if (handle := self._living(slot)) is not None]
            enders = [
                threading.Thread(target=processes.terminate, args=(h,), kwargs={"drain_s": self._drain_s})
                for h in living
            ]
            for ender in enders:
                ender.start()
            for ender in enders:
                ender.join()
        finally:
            with self._changing:
                self._reap()
                for slot in slots:
                    self._note_usage(slot, "stopped")
                    self._forget(slot)
                    self._stopping.discard(slot.id)
                self._environments.collect(self._environments_in_use())

    def _environments_in_use(self) -> set[str]:
        slots = (self._read(path) for path in self._records.glob("*.json"))
        return {slot.libraries for slot in slots if slot is not None and slot.libraries is not None}

    def _ensure_slot(self, replica: ReplicaSpec, number: int, libraries: str | None) -> None:
        fresh = _Slot(
            id="/".join((replica.workspace, replica.environment, replica.model, replica.digest, str(number))),
            workspace=replica.workspace,
            environment=replica.environment,
            model=replica.model,
            digest=replica.digest,
            slot=number,
        )
        slot = self._read(self._record_path(fresh)) or fresh
        if slot.id in self._stopping or self._living(slot) is not None:
            return
        slot = self._settle(slot)
        waited_s = time.time() - slot.attempt_at
        if 0 <= waited_s < min(BACKOFF_S_MAX, 2.0 ** min(slot.deaths, 10) / 2 - 1):
            return
        folder = self._folder(slot)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = processes.hold(self._lock_path(slot))
        if lock is None:
            return
        try:
            self._start(replica, msgspec.structs.replace(slot, libraries=libraries), lock)
        finally:
            os.close(lock)

    def _start(self, replica: ReplicaSpec, slot: _Slot, lock: int) -> None:
        """Intent, process, record; the lock's descriptor goes to the worker, which thereby holds it while it lives."""
        log = self._log_path(slot)
        if log.exists() and log.stat().st_size > LOG_KEPT_BYTES:
            log.unlink()
        log_from = log.stat().st_size if log.exists() else 0
        intent = msgspec.structs.replace(slot, pid=None, started_at=0.0, attempt_at=time.time(), log_from=log_from)
        self._handle_path(slot).unlink(missing_ok=True)
        shutil.rmtree(self._folder(slot) / SCRATCH, ignore_errors=True)
        processes.write_whole(self._spec_path(slot), self._spec(replica, slot))
        self._write(intent)
        argv, variables = self._command(slot.libraries)
        try:
            with log.open("ab") as output:
                child = subprocess.Popen(
                    [*argv, "--spec", str(self._spec_path(slot))],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    env=processes.clean_environment(threads=replica.threads) | variables,
                    start_new_session=True,
                    pass_fds=(lock,),
                )
        except OSError as error:
            raise TargetError(f"cannot start a worker for {slot.id}: {error.strerror}") from error
        self._children[child.pid] = child
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            resource.prlimit(child.pid, resource.RLIMIT_CORE, (0, 0))
            resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
            started = processes.handle_of(child.pid)
            self._write(msgspec.structs.replace(intent, pid=started.pid, started_at=started.started_at))

    def _command(self, libraries: str | None) -> tuple[list[str], dict[str, str]]:
        """How a worker is started, and what its variables have beside the usual."""
        if libraries is None:
            return [sys.executable, *self._worker], {}
        python = self._environments.python(libraries)
        variables = {
            "PYTHONPATH": str(self._environments.code()),
            "PATH": os.pathsep.join((str(python.parent), "/usr/local/bin", "/usr/bin", "/bin")),
        }
        return [str(python), *WALLED_WORKER], variables

    def _spec(self, replica: ReplicaSpec, slot: _Slot) -> bytes:
        return msgspec.json.encode(
            {
                "artifact_dir": str(replica.artifact.resolve()),
                "digest": replica.digest,
                "format": str(replica.format),
                "file": replica.file,
                "signature": [{"name": column.name, "type": column.type} for column in replica.signature],
                "output": replica.output,
                "model": replica.model,
                "version": str(replica.version),
                "threads": replica.threads,
                "extra_columns_allowed": list(replica.extra_columns),
                "code_allowed": replica.code_allowed,
                "batch_rows_max": replica.batch_rows_max,
                "batch_wait_ms": replica.batch_wait_ms,
                "memory_mb": replica.memory_mb,
                "local_port": replica.local_port,
                "handle_file": str(self._handle_path(slot)),
            }
        )

    def _living(self, slot: _Slot) -> Handle | None:
        """The replica's process, if it runs. Adopts one whose starter died before it could note the pid."""
        handle = slot.handle
        if handle is not None:
            return handle if handle.alive() else None
        if not processes.held(self._lock_path(slot)):
            return None
        found = processes.find_by_argument(str(self._spec_path(slot)))
        if found is not None:
            self._write(msgspec.structs.replace(slot, pid=found.pid, started_at=found.started_at))
        return found

    def _announced(self, slot: _Slot) -> Handle | None:
        """What the worker wrote when it was warm, if that was this process with these bytes."""
        card = read_handle(self._handle_path(slot))
        if card is None or card.pid != slot.pid or card.digest != slot.digest or card.address is None:
            return None
        return card

    def _settle(self, slot: _Slot) -> _Slot:
        """Note the death of a replica that was started: how it ended, and whether that came too soon."""
        if slot.attempt_at == 0.0 or slot.pid is None or self._living(slot) is not None:
            return slot
        ready = self._announced(slot) is not None
        because = None
        if not ready:
            said = processes.last_words(self._log_path(slot), since=slot.log_from) or "it said nothing"
            because = f"the worker of {slot.model} version files {slot.digest[:19]} ended before it was ready: {said}"
        soon = not ready or time.time() - slot.started_at < YOUNG_S
        deaths = slot.deaths + 1 if soon else 0
        settled = msgspec.structs.replace(slot, pid=None, started_at=0.0, deaths=deaths, because=because)
        self._write(settled)
        self._note_usage(slot, "died" if ready else "died before it was ready")
        return settled

    def _note_usage(self, slot: _Slot, how: str) -> None:
        seen = self._seen.pop(slot.id, None)
        if seen is None:
            return
        path = self._logs / "usage.jsonl"
        if path.exists() and path.stat().st_size > USAGE_BYTES_MAX:
            path.replace(path.with_name("usage.1.jsonl"))
        line = {
            "replica": seen.id,
            "pid": seen.pid,
            "started_at": slot.started_at,
            "ended": how,
            "cpu_s": seen.cpu_s,
            "memory_mb_peak": seen.memory_mb_peak,
        }
        with path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")

    def _replica(self, slot: _Slot, handle: Handle) -> RunningReplica:
        card = self._announced(slot)
        spent = psutil.Process(handle.pid).cpu_times()
        return RunningReplica(
            id=slot.id,
            workspace=slot.workspace,
            environment=slot.environment,
            model=slot.model,
            digest=slot.digest,
            address=(card.address or "") if card is not None else "",
            ready=card is not None and slot.id not in self._stopping,
            pid=handle.pid,
            cpu_s=round(spent.user + spent.system, 3),
            memory_mb_peak=processes.memory_mb_peak(handle.pid),
            sandbox=card.sandbox if card is not None else None,
            ready_after_s=None if card is None else self._ready_after_s(slot),
        )

    def _ready_after_s(self, slot: _Slot) -> float | None:
        """From the start of the process to the card that it writes once, when it is warm."""
        try:
            written_at = self._handle_path(slot).stat().st_mtime
        except FileNotFoundError:
            return None
        return round(max(written_at - slot.started_at, 0.0), 3)

    def _slots_of(self, workspace: str, environment: str, model: str, digest: str) -> list[_Slot]:
        slots = (self._read(path) for path in self._records.glob("*.json"))
        mine = [slot for slot in slots if slot is not None and slot.is_of(workspace, environment, model, digest)]
        return sorted(mine, key=_in_order)

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                self._children.pop(pid, None)

    def _forget(self, slot: _Slot) -> None:
        shutil.rmtree(self._folder(slot), ignore_errors=True)
        self._record_path(slot).unlink(missing_ok=True)

    def _read(self, path: Path) -> _Slot | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Slot)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _write(self, slot: _Slot) -> None:
        processes.write_whole(self._record_path(slot), msgspec.json.encode(slot))

    # A worker may write in its own folder (its handle) and nowhere else, so the records lie beside the folders.

    def _folder(self, slot: _Slot) -> Path:
        name = processes.name_in_path(slot.workspace, slot.environment, slot.digest, str(slot.slot), slot.model)
        return self._records / name

    def _record_path(self, slot: _Slot) -> Path:
        return self._records / f"{self._folder(slot).name}.json"

    def _lock_path(self, slot: _Slot) -> Path:
        return self._folder(slot) / "lock"

    def _spec_path(self, slot: _Slot) -> Path:
        return self._folder(slot) / "spec.json"

    def _handle_path(self, slot: _Slot) -> Path:
        return self._folder(slot) / "handle.json"

    def _log_path(self, slot: _Slot) -> Path:
        return self._logs / f"{self._folder(slot).name}.log"
