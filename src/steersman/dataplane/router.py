"""The router: the only door to the models, and the process that must not stop.

    python -m steersman.dataplane.router --state DIR [--number 0] [--host 127.0.0.1] [--port 7701 | --fd N]

What it answers is in `gateway`; here is the process around it. Several may serve one installation, each with a number, a
socket `run/router-<number>.sock` for the control server, and a stream of the log for itself. With `--fd` the supervisor owns the
listening socket: while a router restarts, callers wait in its queue, and a successor accepts beside its predecessor before
that one is asked to end. SIGTERM drains: nothing new is accepted, what is under way is answered, kept-alive connections
are told to close.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from pathlib import Path

import uvloop

from steersman.dataplane import sockets, tracing
from steersman.dataplane.capture import LogHeldError, SegmentWriter
from steersman.dataplane.configuration import InvalidConfigurationError
from steersman.dataplane.exchange import Exchange
from steersman.dataplane.gateway import FLUSH_S_MAX, Gateway
from steersman.dataplane.handles import settle_memory, write_handle
from steersman.dataplane.handover import Handover
from steersman.dataplane.handover import door as handover_door
from steersman.dataplane.listening import CONNECTIONS_MAX, EdgeServer, listen_tcp

STREAMS_MAX = 64
"""Streams of the log: one for each router that lives, and one more for each that drains beside its successor."""

PAGE_LOOK_S = 30.0
"""Pause between two looks at the age of the open segment; it may be five minutes old."""


def open_log(folder: Path) -> SegmentWriter:
    """The log's first stream that no living router writes. Raises LogHeldError when all are taken."""
    for number in range(STREAMS_MAX):
        with contextlib.suppress(LogHeldError):
            return SegmentWriter(folder, f"router-{number}")
    raise LogHeldError(f"other routers write all {STREAMS_MAX} streams of the log; stop one first")


async def _turn_pages(log: SegmentWriter) -> None:
    """Without requests nothing else would close an old segment, and what is erased from the tables would stay in it."""
    while True:
        await asyncio.sleep(PAGE_LOOK_S)
        log.turn_page()


async def serve(state: Path, listener: socket.socket, *, number: int = 0) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is under way and close the log."""
    gateway = Gateway(state, log=open_log(state / "wal"), number=number, traces=tracing.start(os.environ))
    gateway.restore()
    name = f"router-{number}"
    admin_socket, key = sockets.listen_unix(state / "run" / f"{name}.sock")
    handover = Handover(handover_door(state, number), listener)

    async def admin_app(exchange: Exchange) -> None:
        await gateway.admin(exchange, key)

    public, admin = EdgeServer(gateway.app, cancel_on_leave=True, counts=gateway.edge), EdgeServer(admin_app)
    ending: list[asyncio.Task[None]] = []

    def stop() -> None:
        public.stop()
        admin.stop()
        ending.append(asyncio.create_task(handover.close()))

    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop)
    write_handle(state / "run" / f"{name}.json", port=listener.getsockname()[1])
    settle_memory()
    pages = asyncio.create_task(_turn_pages(gateway.log))
    await asyncio.gather(public.serve(listener), admin.serve(admin_socket))
    pages.cancel()
    await gateway.inference.close(FLUSH_S_MAX)
    gateway.upstreams.close()
    gateway.log.close()
    gateway.tracing.close()


def _allow_many_connections() -> None:
    """Each caller takes a descriptor and each request under way another; the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * CONNECTIONS_MAX
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(hard, wanted), hard)
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="steersman.dataplane.router", description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--number", type=int, default=0, help="which of the installation's routers this is")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7701)
    parser.add_argument("--fd", type=int, help="a listening socket inherited from the supervisor")
    arguments = parser.parse_args()
    _allow_many_connections()
    try:
        listener = (
            socket.socket(fileno=arguments.fd)
            if arguments.fd is not None
            else listen_tcp(arguments.host, arguments.port)
        )
        uvloop.run(serve(arguments.state, listener, number=arguments.number))
    except (OSError, InvalidConfigurationError, LogHeldError) as error:
        sys.exit(f"router: {error}")


if __name__ == "__main__":
    main()
