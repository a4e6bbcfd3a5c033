"""The control server's process: the API and console on one port, the loop in a thread beside it."""

import argparse
import asyncio
import logging
import signal
import sys
import threading
from pathlib import Path

import uvicorn

from steersman.dataplane.handles import write_handle
from steersman.domain.errors import SteersmanError
from steersman.domain.events import Action, Event
from steersman.server.app import build
from steersman.server.embedded_mlflow import read_start
from steersman.server.installation import load
from steersman.server.security import Redacting
from steersman.server.wiring import EMBEDDED, Assembled, assemble

KEEP_ALIVE_S = 75
"""Longer than the idle time of usual proxies and clients, so that they close first."""


def serve(state: Path) -> None:
    """Serve until SIGTERM or SIGINT. Raises SteersmanError when the state directory cannot be opened."""
    installation = load(state)
    mlflow = read_start(state) if EMBEDDED in installation.registries.values() else None
    assembled = assemble(state, installation, mlflow)
    _record_start(assembled)
    config = uvicorn.Config(
        build(assembled),
        host=installation.host,
        port=installation.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        server_header=False,
    )
    server = uvicorn.Server(config)
    if not assembled.world.clock.replay:
        threading.Thread(target=assembled.control.run, name="control-loop", daemon=True).start()
    write_handle(state / "run" / "control.json", port=installation.port)
    try:
        asyncio.run(_until_ended(server))
    finally:
        assembled.control.stop()
        assembled.store.close()


async def _until_ended(server: uvicorn.Server) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    await server.serve()


def _record_start(assembled: Assembled) -> None:
    clock = assembled.world.clock
    with assembled.store.write() as tx:
        tx.append(
            Event(
                action=Action.CONTROL_STARTED,
                at=clock.now(),
                actor="system",
                workspace="*",
                kind="installation",
                name="control",
                because="the control server started and reads everything again",
                data={"replay": clock.replay},
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="steersman.server.control", description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(Redacting())
    try:
        serve(arguments.state)
    except SteersmanError as error:
        sys.exit(f"control: {error.message}\nnext: {error.next_step}")
    except OSError as error:
        sys.exit(f"control: {error}")


if __name__ == "__main__":
    main()
