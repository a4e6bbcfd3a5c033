"""Keyed hashes of what a log may know only as *the same* or *another*: names of people, accounts, devices.

A plain hash of a name is undone by hashing all names; a keyed one is not, as long as the key stays where it is:
`keys/inference-log.key` of the state directory, 32 random bytes, readable by its owner only. A value hashes differently in
each model and column, so that hashes of two logs cannot be put side by side. Destroying the key makes every hash in every
log meaningless for good.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

KEY_BYTES = 32
DIGEST_BYTES = 16
"""Two of 2^32 values meet with a chance of 1 in 2^65; 32 letters in the log."""


def hashed(key: bytes, place: str, column: str, value: str) -> str:
    """The value as it stands in the log, in hexadecimal; `place` is `workspace/model`."""
    text = f"{place}/{column}\0{value}".encode()
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES, key=key).hexdigest()


def load_key(state: Path) -> bytes:
    """The installation's key; made at its first use. Raises OSError where it cannot be read or written."""
    path = key_path(state)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staging = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(staging, path)  # whoever is first wins; a rename would replace the key another process already uses
    except FileExistsError:
        pass
    finally:
        staging.unlink()
    return path.read_bytes()


def key_path(state: Path) -> Path:
    return state / "keys" / "inference-log.key"
