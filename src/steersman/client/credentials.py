"""The credentials file of a state directory: how a person on the same machine is known without typing a token.

`steersman up` writes it at the first start, readable by its owner only. A file others can read is refused rather than
used, and its token goes to the address in the file and to no other.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from steersman.domain.errors import Misconfigured

FILE = "credentials.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """An installation's addresses and a token for it, which no `repr` shows."""

    url: str
    token: str = field(repr=False)
    router_url: str | None = None


def write_credentials(state: Path, credentials: Credentials) -> Path:
    """Write the file with mode 0600, replacing an older one at once."""
    path = state / FILE
    draft = path.with_suffix(".new")
    body = {"url": credentials.url, "routerUrl": credentials.router_url, "token": credentials.token}
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(body, file)
    draft.replace(path)
    return path


def read_credentials(state: Path) -> Credentials | None:
    """The credentials of a state directory, None when it has none; raises `Misconfigured` when others can read them."""
    path = state / FILE
    try:
        with path.open() as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise Misconfigured(f"{path} can be read by others", next_step=f"Run `chmod 600 {path}`.")
            found = json.load(file)
        router_url = found.get("routerUrl")
        return Credentials(
            url=str(found["url"]), token=str(found["token"]), router_url=None if router_url is None else str(router_url)
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise Misconfigured(
            f"{path} cannot be read: {type(error).__name__}", next_step="Give --url and STEERSMAN_TOKEN instead."
        ) from None
