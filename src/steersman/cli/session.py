"""Which installation a command talks to, and as whom: flags, then the environment, then the state directory."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from steersman.client.credentials import Credentials, read_credentials
from steersman.client.steersman import Steersman

URL_DEFAULT = "http://127.0.0.1:7700"
STATE_DEFAULT = ".steersman"


def state_directory(arguments: argparse.Namespace) -> Path:
    """`--state`, else STEERSMAN_STATE, else `.steersman` here."""
    return Path(arguments.state or os.environ.get("STEERSMAN_STATE") or STATE_DEFAULT)


def connect(arguments: argparse.Namespace) -> Steersman:
    """The installation the command line means.

    The token of the credentials file goes to the address in that file only: with another `--url`, another token.
    """
    url, token, found = _given(arguments)
    if found is not None and (url is None or url.rstrip("/") == found.url.rstrip("/")):
        return Steersman(found.url, token or found.token, router_url=found.router_url)
    return Steersman(url or URL_DEFAULT, token)


def _given(arguments: argparse.Namespace) -> tuple[str | None, str | None, Credentials | None]:
    url = arguments.url or os.environ.get("STEERSMAN_URL") or None
    token = arguments.token or os.environ.get("STEERSMAN_TOKEN") or None
    found = None if url is not None and token is not None else read_credentials(state_directory(arguments))
    return url, token, found
