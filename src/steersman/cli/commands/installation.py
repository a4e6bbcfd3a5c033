"""Commands that run an installation here: `up`, `restart` and `demo`."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import time
from pathlib import Path

from steersman.cli import EXIT_DONE
from steersman.cli.commands.looking import moment
from steersman.cli.session import state_directory
from steersman.domain.errors import Misconfigured, Unavailable

RESTART_S_MAX = 90.0
"""Seconds to wait for the successors; one takes a second, on a busy machine several."""

DRIVER = Path("examples") / "01-flight-delay" / "drive.py"


def up(arguments: argparse.Namespace) -> int:
    """Start the supervisor in this process; returns when it has stopped."""
    try:
        supervisor = importlib.import_module("steersman.server.supervisor")
        place = importlib.import_module("steersman.server.place")
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"the server's package {error.name} is not installed", next_step="Run `pip install 'steersman[server]'`."
        ) from None
    return int(
        supervisor.main(
            state=state_directory(arguments),
            host=arguments.host,
            port=arguments.port,
            router_port=arguments.router_port,
            routers=arguments.routers,
            mlflow_uri=arguments.mlflow_uri,
            mlflow_token=arguments.mlflow_token,
            mlflow_user=arguments.mlflow_user,
            mlflow=not arguments.no_mlflow,
            registry=arguments.registry,
            allow_code=tuple(arguments.allow_code),
            notify=tuple(arguments.notify),
            notify_networks=tuple(arguments.notify_network),
            replay_from=None if arguments.replay_from is None else moment(arguments.replay_from),
            tables=place.tables_of_arguments(
                arguments.tables,
                arguments.tables_endpoint,
                arguments.tables_region,
                arguments.tables_key,
                arguments.tables_secret,
            ),
        )
    )


def restart(arguments: argparse.Namespace) -> int:
    """Ask the supervisor to replace its routers, and wait until each has a successor."""
    from steersman.dataplane.handles import read_handle

    run = state_directory(arguments) / "run"
    supervisor = read_handle(run / "up.json")
    if supervisor is None or not supervisor.alive():
        raise Unavailable(
            f"no `steersman up` runs with the state directory {run.parent}",
            next_step="Name the right one with --state, or start it with `steersman up`: that starts the routers too.",
        )

    def living() -> dict[str, int]:
        cards = {path.stem: read_handle(path) for path in run.glob("router-*.json")}
        return {name: card.pid for name, card in cards.items() if card is not None and card.alive()}

    before = living()
    os.kill(supervisor.pid, signal.SIGHUP)
    deadline = time.monotonic() + RESTART_S_MAX
    while not all(living().get(name, pid) != pid for name, pid in before.items()):
        if time.monotonic() > deadline or not supervisor.alive():
            raise Unavailable(
                "the routers were not all replaced; those that were not serve on",
                next_step="Read what `steersman up` says, and logs/router-0.log in the state directory.",
            )
        time.sleep(0.05)
    for name, pid in sorted(living().items()):
        print(f"{name}: pid {pid}" + (f" took over from pid {before[name]}" if name in before else ""))
    return EXIT_DONE


def demo(arguments: argparse.Namespace) -> int:
    """Become the example's driver, so that Ctrl-C and exit code are its own."""
    rest = arguments.rest if arguments.state is None else [*arguments.rest, "--state", arguments.state]
    for root in (Path(__file__).parents[4], Path.cwd()):
        driver = root / DRIVER
        if driver.is_file():
            sys.stdout.flush()
            os.execv(sys.executable, [sys.executable, str(driver), *rest])  # noqa: S606 - our own script
    raise Misconfigured(
        "the demo is not part of the installed package",
        next_step="Clone the source and run `make demo` there.",
    )
