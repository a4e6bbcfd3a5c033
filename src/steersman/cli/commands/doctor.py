"""`doctor`: is this installation able to run, does it run, and what to do when not.

It imports nothing heavy and changes nothing: packages are looked up, not loaded, and a port is tried by connecting.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.metadata
import os
import shutil
import socket
import sqlite3
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from steersman.cli import EXIT_DONE, EXIT_ERROR
from steersman.cli.output import show
from steersman.cli.session import connect, state_directory
from steersman.client.credentials import read_credentials
from steersman.domain.errors import NotAllowed, NotAuthenticated, SteersmanError, Unavailable

PYTHON_MIN = (3, 11)
SQLITE_MIN = (3, 37, 0)
"""STRICT tables; the ledger's database uses them."""

DISK_FREE_BYTES_MIN = 2 * 1024**3
"""Below 2 GiB a day of recorded requests may not fit."""

CLOCK_SKEW_S_MAX = 5.0
"""Tokens and leases are judged by wall time; a larger difference makes them expire wrongly."""

ANSWER_S_MAX = 3.0
"""Seconds a router may take to say that it lives."""

SERVER = (
    "sqlalchemy",
    "starlette",
    "uvicorn",
    "httptools",
    "jinja2",
    "cryptography",
    "deltalake",
    "polars",
    "numpy",
    "psutil",
)
WORKER = {
    "lightgbm": "LightGBM",
    "xgboost-cpu": "XGBoost",
    "onnxruntime": "ONNX",
    "skops": "scikit-learn without pickle",
}


class Check(NamedTuple):
    """One finding: `ok`, `warning` or `failed`, and what to do."""

    check: str
    result: str
    found: str
    next_step: str = ""


def doctor(arguments: argparse.Namespace) -> int:
    """All checks; ends with 1 when one failed."""
    checks = [*_machine(), *_packages(), *_state(state_directory(arguments)), *_servers(arguments)]
    if arguments.output == "json":
        show([check._asdict() for check in checks], "json")
    else:
        for check in checks:
            print(f"{check.result:<8} {check.check}: {check.found}")
            if check.next_step and check.result != "ok":
                print(f"{'':<8} next: {check.next_step}")
    return EXIT_ERROR if any(check.result == "failed" for check in checks) else EXIT_DONE


def _machine() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= PYTHON_MIN
    yield Check("python", "ok" if good else "failed", version, "Install Python 3.11 or later.")
    good = sqlite3.sqlite_version_info >= SQLITE_MIN
    step = "Use a Python built with SQLite 3.37 or later."
    yield Check("sqlite", "ok" if good else "failed", sqlite3.sqlite_version, step)


def _packages() -> Iterator[Check]:
    missing = [name for name in SERVER if _version(name) is None]
    step = "Run `pip install 'steersman[server]'`; the client alone works without."
    yield Check(
        "server packages", "warning" if missing else "ok", f"missing: {', '.join(missing)}" if missing else "all", step
    )
    formats = [f"{what} {version}" for name, what in WORKER.items() if (version := _version(name))]
    step = "Run `pip install 'steersman[worker]'` to serve models."
    yield Check("model formats", "ok" if formats else "warning", ", ".join(formats) or "none", step)
    mlflow = _version("mlflow")
    step = "Run `pip install 'steersman[mlflow]'`, or use your own with `steersman up --mlflow-uri URI`."
    yield Check("mlflow package", "ok" if mlflow else "warning", mlflow or "not installed", step)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _state(state: Path) -> Iterator[Check]:
    nearest = next((path for path in (state, *state.absolute().parents) if path.is_dir()), Path("/"))
    writable = os.access(nearest, os.W_OK)
    found = str(state) if state.is_dir() else f"{state} (not created yet)"
    step = f"Make {nearest} writable, or choose another with --state."
    yield Check("state directory", "ok" if writable else "failed", found, step)
    free = shutil.disk_usage(nearest).free
    step = "Free disk space, or put the state directory on another disk with --state."
    yield Check("disk", "ok" if free >= DISK_FREE_BYTES_MIN else "warning", f"{free / 1024**3:.1f} GiB free", step)
    try:
        present = read_credentials(state) is not None
        step = "It is written at the first `steersman up`; elsewhere set STEERSMAN_URL and STEERSMAN_TOKEN."
        yield Check("credentials", "ok" if present else "warning", "readable by you only" if present else "none", step)
    except SteersmanError as error:
        yield Check("credentials", "failed", error.message, error.next_step)


def _servers(arguments: argparse.Namespace) -> Iterator[Check]:
    try:
        steersman = connect(arguments)
        health = steersman.health()
    except Unavailable as error:
        yield Check("control server", "warning", error.message, error.next_step)
        for port in (7700, 7701):
            taken = _listens("127.0.0.1", port)
            step = f"Stop what uses port {port}, or choose another with --port and --router-port."
            yield Check(
                f"port {port}", "warning" if taken else "ok", "in use by something else" if taken else "free", step
            )
        return
    except SteersmanError as error:
        yield Check("control server", "failed", error.message, error.next_step)
        return
    yield Check("control server", "ok", "answers")
    router = health.get("router")
    if isinstance(router, str):
        parts = urlsplit(router)
        good = _serves(parts.hostname or "", parts.port or 80)
        step = "Read logs/router-0.log in the state directory; `steersman up` restarts it."
        yield Check("router", "ok" if good else "failed", router if good else f"{router} does not answer", step)
    registries = health.get("registries")
    for name, state in (registries if isinstance(registries, dict) else {}).items():
        step = "Read logs/mlflow.log in the state directory, or check what --mlflow-uri or --registry names."
        yield Check(f"registry {name}", "ok" if state["ok"] else "failed", str(state["found"]), step)
    yield from _walls(health)
    yield from _clock(health)
    try:
        models = len(steersman.models())
        yield Check("token", "ok", f"valid; {models} models visible")
    except (NotAuthenticated, NotAllowed) as error:
        yield Check("token", "failed", error.message, error.next_step)


def _walls(health: dict[str, object]) -> Iterator[Check]:
    """Whether a model file that turns hostile could read this machine's other files."""
    workers = health.get("sandbox")
    if not isinstance(workers, dict) or not workers:
        return
    total, without = sum(workers.values()), workers.get("none", 0)
    step = "Run on Linux 5.13 or later with Landlock; until then serve only model files from people you trust."
    if without:
        found = f"{without} of {total} workers run without file walls (sandbox: none)"
        yield Check("workers' walls", "warning", found, step)
    else:
        yield Check("workers' walls", "ok", f"{total} workers see their own files only ({', '.join(workers)})")


def _clock(health: dict[str, object]) -> Iterator[Check]:
    try:
        theirs = datetime.fromisoformat(str(health.get("wall_time")))
        skew_s = abs((datetime.now(UTC) - theirs).total_seconds())
    except (ValueError, TypeError):
        return
    step = "Synchronise the clocks of both machines (NTP)."
    yield Check("clock", "ok" if skew_s <= CLOCK_SKEW_S_MAX else "warning", f"differs by {skew_s:.1f} s", step)


def _serves(host: str, port: int) -> bool:
    """Whether a router answers. That the port takes connections says nothing: the supervisor holds it open."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S_MAX)
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False
