"""Unix sockets between our own processes, mode 0600: other users of the machine reach none of them.

Workers answer routers on one, because a port of the loopback interface would answer everybody on the machine, past the
router's tokens and its log; and it costs both ends less than TCP (`docs/decisions/0027`).

The control server steers router and committer over others. There the mode is not enough: a worker runs as the same user,
and it loads hostile files. So each of these has a key beside it (`<socket>.key`), new at every start: a worker's sandbox
cannot read it, and a request without it is refused.

A state directory may lie deep, and a socket address holds 108 bytes: both ends reach the folder through a descriptor.
"""

from __future__ import annotations

import contextlib
import hmac
import http.client
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

KEY_HEADER = "x-steersman-key"

UNIX = "unix:"
"""Begins the address of a Unix socket, before its path; any other address is `host:port`."""


class SocketUnavailableError(Exception):
    """The socket gives no answer."""


class NobodyListensError(SocketUnavailableError):
    """The process behind the socket does not run: it cannot have anything under way."""


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def key_path(path: Path) -> Path:
    return path.with_name(path.name + ".key")


def bind_unix(path: Path) -> socket.socket:
    """Bind `path` afresh; a dead predecessor's socket is removed. Until it listens, whoever connects is refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.setblocking(False)
    before = os.umask(0o177)
    try:
        with _short(path) as address:
            bound.bind(address)
    finally:
        os.umask(before)
    return bound


def bind_beside(handle: Path) -> tuple[socket.socket, str]:
    """A socket for the process that will write `handle`, and its address. No other process ever has the same address, so
    that a configuration from before can lead nobody to a successor. What those before left is removed."""
    for left in handle.parent.glob(f"{handle.stem}.*.sock"):
        left.unlink(missing_ok=True)
    path = handle.resolve().with_name(f"{handle.stem}.{secrets.token_hex(4)}.sock")
    return bind_unix(path), f"{UNIX}{path}"


def listen_unix(path: Path) -> tuple[socket.socket, bytes]:
    """Listen at `path` and write a new key; returns socket and key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = secrets.token_hex(32)
    staging = key_path(path).with_suffix(".new")
    staging.unlink(missing_ok=True)
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key)
    staging.rename(key_path(path))
    listener = bind_unix(path)
    listener.listen(64)
    return listener, key.encode()


def key_matches(headers: Mapping[bytes, bytes], key: bytes) -> bool:
    return hmac.compare_digest(headers.get(KEY_HEADER.encode(), b""), key)


def connect_unix(path: Path, *, timeout_s: float | None) -> socket.socket:
    """A connection to the socket at `path`, whatever the length of the path. Raises OSError.

    With a `timeout_s` of 0 it does not block, and where too many wait to be accepted it fails at once.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        with _short(path) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def connection_to(address: str, *, timeout_s: float) -> http.client.HTTPConnection:
    """A client for the process at `address` (`unix:…` or `host:port`), not connected yet."""
    if address.startswith(UNIX):
        return _UnixConnection(Path(address.removeprefix(UNIX)), timeout_s)
    return http.client.HTTPConnection(address, timeout=timeout_s)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = connect_unix(self._path, timeout_s=self.timeout)


def call_unix(path: Path, method: str, target: str, body: bytes = b"", *, timeout_s: float = 30.0) -> tuple[int, bytes]:
    """One request on a process's socket, blocking; returns status and body.

    Raises NobodyListensError, or SocketUnavailableError when the answer does not come within `timeout_s`.
    """
    connection = _UnixConnection(path, timeout_s)
    try:
        key = key_path(path).read_text()
        connection.request(method, target, body, {KEY_HEADER: key, "Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NobodyListensError(f"{path.name}: nobody listens; the process behind it is starting, or dead") from error
    except (OSError, http.client.HTTPException) as error:
        raise SocketUnavailableError(f"{path.name}: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
