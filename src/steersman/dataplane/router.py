"""The router: the only door to the models, and the process that must not stop.

    python -m steersman.dataplane.router --state DIR [--host 127.0.0.1] [--port 7701 | --fd N]

Public: `POST /{workspace}/{environment}/v2/models/{model}/infer` (bare: default/production), `POST
/{workspace}/labels/{model}`, `GET /v2/health/live|ready`. On `run/router.sock`: `PUT|GET /configuration`, `GET /counters`,
`POST /flush`. With `--fd` the supervisor owns the listening socket: while a router restarts, callers wait in its backlog.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import socket
import sys
from pathlib import Path

import uvloop

from steersman.dataplane import asgi, sockets, tracing
from steersman.dataplane.asgi import Receive, Scope, Send
from steersman.dataplane.capture import LogHeldError, SegmentWriter
from steersman.dataplane.configuration import InvalidConfigurationError
from steersman.dataplane.gateway import FLUSH_S_MAX, Gateway
from steersman.dataplane.handles import write_handle

STREAM = "router-0"


async def serve(state: Path, listener: socket.socket, stream: str = STREAM) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is under way and close the log."""
    gateway = Gateway(state, log=SegmentWriter(state / "wal", stream), traces=tracing.start(os.environ))
    gateway.restore()
    admin_socket, key = sockets.listen_unix(state / "run" / "router.sock")

    async def admin_app(scope: Scope, receive: Receive, send: Send) -> None:
        await gateway.admin(scope, receive, send, key)

    public, admin = asgi.edge(gateway.app), asgi.edge(admin_app)

    def stop() -> None:
        public.should_exit = admin.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    write_handle(state / "run" / "router.json", port=listener.getsockname()[1])
    gc.collect()
    gc.freeze()
    await asyncio.gather(public.serve(sockets=[listener]), admin.serve(sockets=[admin_socket]))
    await gateway.inference.settle(FLUSH_S_MAX)
    gateway.upstreams.close()
    gateway.log.close()
    gateway.tracing.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="steersman.dataplane.router", description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7701)
    parser.add_argument("--fd", type=int, help="a listening socket inherited from the supervisor")
    arguments = parser.parse_args()
    try:
        listener = (
            socket.socket(fileno=arguments.fd)
            if arguments.fd is not None
            else asgi.listen_tcp(arguments.host, arguments.port)
        )
        uvloop.run(serve(arguments.state, listener))
    except (OSError, InvalidConfigurationError, LogHeldError) as error:
        sys.exit(f"router: {error}")


if __name__ == "__main__":
    main()
