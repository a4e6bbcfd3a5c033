"""Commands that run an installation here: `up` and `demo`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from steersman.cli.commands.looking import moment
from steersman.cli.session import state_directory
from steersman.domain.errors import Misconfigured

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
