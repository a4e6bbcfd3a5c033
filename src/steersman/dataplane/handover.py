"""A listening socket outlives the process that accepts on it.

The supervisor owns the public listening sockets and hands them to the routers it starts, so a router may die without one
connection being refused: callers wait in the kernel's queue until the next router accepts. When the supervisor itself is
killed, its routers still hold the sockets, and the next supervisor asks for them back: each router answers on
`run/listener-<number>.sock` with a copy of its descriptor, to whoever shows the key that lies beside the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
from pathlib import Path

from steersman.dataplane import sockets

ASK_S_MAX = 2.0
"""Seconds either side waits for the other; both are on this machine and answer at once."""

_GIVEN = b"listener"


def door(state: Path, number: int) -> Path:
    """Where router `number` gives its listening socket back."""
    return state / "run" / f"listener-{number}.sock"


class Handover:
    """Gives a copy of `listener` to whoever knows the key, until `close`."""

    def __init__(self, path: Path, listener: socket.socket) -> None:
        self._listener = listener.dup()
        self._door, self._key = sockets.listen_unix(path)
        self._task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asking, _ = await loop.sock_accept(self._door)
            with asking, contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(ASK_S_MAX):
                    given = await loop.sock_recv(asking, 4096)
                if hmac.compare_digest(given, self._key):
                    socket.send_fds(asking, [_GIVEN], [self._listener.fileno()])

    async def close(self) -> None:
        """Let go of the socket: a process that accepts no more must not keep others waiting on it."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._door.close()
        self._listener.close()


def fetch(path: Path) -> socket.socket | None:
    """The listening socket of the process behind `path`; None when it does not give one."""
    try:
        key = sockets.key_path(path).read_bytes()
        with sockets.connect_unix(path, timeout_s=ASK_S_MAX) as asking:
            asking.sendall(key)
            said, descriptors, _, _ = socket.recv_fds(asking, len(_GIVEN), 1, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None
    if said != _GIVEN or not descriptors:
        return None
    return socket.socket(fileno=descriptors[0])
