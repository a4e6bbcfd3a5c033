"""A listening socket and the server behind it, from the first connection to the last answer."""

from __future__ import annotations

import asyncio
import socket

from steersman.dataplane.edge import EdgeCounts, EdgeProtocol, EdgeState
from steersman.dataplane.exchange import App

CONNECTIONS_MAX = 2_048
"""Open connections of callers; further ones are answered 503."""

BACKLOG = 2_048
"""Connections the kernel keeps for a process that starts or is busy, up to its own limit (net.core.somaxconn, 4,096)."""

KEEP_ALIVE_S = 75.0
"""Seconds a connection may idle; nginx's figure, longer than what clients and proxies keep theirs for."""

DRAIN_S = 30.0
"""Seconds that what is under way may take once the process is to end."""

IDLE_GRACE_S = 3.0
"""Seconds idle connections stay open after SIGTERM. Enough for what is on its way and for callers with a steady load."""

LAST_ACCEPTED_S = 0.1
"""Seconds a process that is to end still accepts: the kernel resets who waits in the queue of a socket that is closed."""

_LOOK_S = 0.05


class EdgeServer:
    """Serves an app; adds to `counts` what its callers do.

    To end it call `stop`: it stops accepting, answers what still comes on open connections for `idle_grace_s`, and waits
    `drain_s` for what is under way. With `cancel_on_leave` a caller that leaves cancels its request.
    """

    def __init__(
        self,
        app: App,
        *,
        keep_alive_s: float = KEEP_ALIVE_S,
        drain_s: float = DRAIN_S,
        idle_grace_s: float = IDLE_GRACE_S,
        connections_max: int = CONNECTIONS_MAX,
        cancel_on_leave: bool = False,
        counts: EdgeCounts | None = None,
    ) -> None:
        self.state = EdgeState(
            app,
            counts or EdgeCounts(),
            keep_alive_s=keep_alive_s,
            connections_max=connections_max,
            cancel_on_leave=cancel_on_leave,
        )
        self._drain_s = drain_s
        self._idle_grace_s = idle_grace_s
        self._stopped = asyncio.Event()
        self._at_once = False

    def stop(self, *, at_once: bool = False) -> None:
        """Have `serve` end; `at_once` without waiting for anybody."""
        self._at_once = self._at_once or at_once
        self._stopped.set()

    async def serve(self, listener: socket.socket) -> None:
        """Accept and answer until `stop`; closes `listener` before the last answers."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: EdgeProtocol(self.state), sock=listener, backlog=BACKLOG)
        try:
            await self._stopped.wait()
            if not self._at_once:
                await asyncio.sleep(LAST_ACCEPTED_S)
        finally:
            server.close()
            listener.close()
        await self._drain()

    async def _drain(self) -> None:
        """Answer what comes on open connections for the grace; end what is idle; wait for the rest.

        A request that takes longer than the drain is cancelled and its connection closed.
        """
        state = self.state
        state.draining = True
        for connection in list(state.connections):
            connection.last_answer()
        if await self._connections_end(self._idle_grace_s):
            return
        for connection in list(state.connections):
            connection.close_if_idle()
        if await self._connections_end(self._drain_s):
            return
        for run in list(state.runs):
            run.cancel()
        if not await self._connections_end(1.0):
            for connection in list(state.connections):
                connection.transport.abort()

    async def _connections_end(self, seconds: float) -> bool:
        """Wait until no connection and no request is left; False when some are after that time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        state = self.state
        while state.connections or state.runs:
            if loop.time() >= until or self._at_once:
                return False
            await asyncio.sleep(_LOOK_S)
        return True


def listen_tcp(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; otherwise as `bind_tcp`."""
    listener = bind_tcp(host, port, shared=shared)
    listener.listen(BACKLOG)
    return listener


def bind_tcp(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket that does not listen yet; port 0 takes a free one. Raises OSError when the port is in use.

    With `shared` other sockets of this user may listen on the same port, and the kernel deals connections out.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
