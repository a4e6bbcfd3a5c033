"""References to secrets, resolved at the edge: a document or setting says where a secret lies, never what it is.

`env:NAME` reads an environment variable, `file:/absolute/path` the first line of a file. What comes out is a `Secret`,
which shows itself nowhere; errors name the reference, which is not secret.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from steersman.domain.access import Secret
from steersman.domain.errors import BadRequest, Misconfigured

SECRET_BYTES_MAX = 16 * 1024
"""A certificate chain fits; a file that is no secret at all does not."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)


def read_secret(reference: str) -> Secret:
    """Raises `BadRequest` for what is no reference (without repeating it: it may be the secret itself)."""
    scheme, _, rest = reference.partition(":")
    if scheme == "env" and _VARIABLE.fullmatch(rest):
        value = os.environ.get(rest, "")
    elif scheme == "file" and rest.startswith("/") and "\x00" not in rest:
        try:
            with Path(rest).open("rb") as file:
                raw = file.read(SECRET_BYTES_MAX + 1)
        except OSError as error:
            raise Misconfigured(
                f"the secret {reference} cannot be read: {error.strerror}", next_step="Check the file and its owner."
            ) from None
        if len(raw) > SECRET_BYTES_MAX:
            raise Misconfigured(f"the file of the secret {reference} is larger than {SECRET_BYTES_MAX} bytes")
        value = raw.decode("utf-8", "replace").split("\n", 1)[0].strip()
    else:
        raise BadRequest(
            "a secret is given by reference, and this is none", next_step="Write env:NAME or file:/absolute/path."
        )
    if not value:
        raise Misconfigured(f"the secret {reference} is empty or not set", next_step="Set it, then try again.")
    return Secret(value)
