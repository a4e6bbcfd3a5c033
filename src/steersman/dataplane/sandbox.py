"""What a worker may see: a model file is hostile, so the process that loads it gives up what it does not need.

Two walls, both taken up by the worker itself before it reads the model. The environment keeps an allow-list of variables,
because secrets travel in environments. Landlock (Linux 5.13 and later) then limits the file system to the interpreter,
the libraries and the version's own files: no keys, no database, no other version, no socket's key. Where the kernel does
not offer it, the worker's handle says `sandbox: none`, and the installation shows it.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ENVIRONMENT_ALLOWED = frozenset({"PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "SSL_CERT_FILE"})
"""What an interpreter needs to run; `LC_*` and the thread limits below come with it."""

_THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
)

_ALWAYS = {
    "PYTHONDONTWRITEBYTECODE": "1",
    # ONNX Runtime and MLflow report usage to their makers by default; nobody here agreed to that.
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
}

COMMITTER_ALLOCATOR = {"_RJEM_MALLOC_CONF": "narenas:1,dirty_decay_ms:0,muzzy_decay_ms:0"}
"""Of the committer, for the allocators inside Polars and deltalake: one arena, and what is free goes back at once. By default
they keep it for 10 s and have arenas for several threads, and the process grows with every commit (`docs/decisions/0026`)."""

_SYSTEM_PATHS = (
    *("/usr", "/lib", "/lib64", "/proc", "/sys/devices/system", "/sys/fs/cgroup", "/etc/ld.so.cache", "/etc/localtime"),
    *("/etc/ssl", "/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/passwd", "/etc/mime.types"),
)

SCRATCH = "scratch"
"""The folder beside its handle that a worker in a library environment may write in; who starts the next one empties it."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_CHANGE = sum(1 << bit for bit in range(4, 13))  # remove, make and link entries of every kind
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV


def allowed_environment(given: Mapping[str, str], *, threads: int) -> dict[str, str]:
    """The environment of a worker or a training job: the allow-listed part of `given`, with explicit thread limits."""
    kept = {name: value for name, value in given.items() if name in ENVIRONMENT_ALLOWED or name.startswith("LC_")}
    return kept | {name: str(threads) for name in _THREAD_LIMITS} | _ALWAYS


def interpreter_paths(artifact_dir: Path) -> list[Path]:
    """What Python and its libraries read: prefixes, system libraries, and files of the system without secrets.

    An entry of `sys.path` that holds the state directory (the current folder, usually) would open it all: left out.
    """
    entries = [Path(entry).resolve() for entry in sys.path if entry]
    paths = [entry for entry in entries if not artifact_dir.resolve().is_relative_to(entry)]
    paths += [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent]
    paths.append(Path(__file__).resolve().parents[1])  # where a link shows an environment this package only
    paths += [Path(path) for path in _SYSTEM_PATHS]
    return [path for path in paths if path.exists()]


def restrict_files(*, read: Iterable[Path], write: Iterable[Path]) -> str:
    """Limit this process and its children, for good, to reading `read` and changing `write` (folders or files).

    Returns `landlock/<version>`, or `none` where the kernel has no Landlock. Call it while there is one thread.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return "none"
    handled = _READ | _WRITE_FILE | _CHANGE
    handled |= _REFER if version >= 2 else 0
    handled |= _TRUNCATE if version >= 3 else 0
    handled |= _IOCTL_DEV if version >= 5 else 0
    attributes = struct.pack("=Q", handled)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    if ruleset < 0:
        return "none"
    try:
        for path in read:
            _allow(libc, ruleset, path, _READ & handled)
        for path in write:
            _allow(libc, ruleset, path, (_READ | _WRITE_FILE | _CHANGE | _REFER | _TRUNCATE) & handled)
        for device in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"):
            _allow(libc, ruleset, Path(device), (_READ_FILE | _WRITE_FILE | _IOCTL_DEV) & handled)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
        if libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) != 0:
            raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    finally:
        os.close(ruleset)
    return f"landlock/{version}"


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    if not path.is_dir():
        rights &= _FILE_RIGHTS
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, descriptor)
        if libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, ctypes.c_uint32(0)) != 0:
            raise OSError(ctypes.get_errno(), f"landlock_add_rule {path}")
    finally:
        os.close(descriptor)
