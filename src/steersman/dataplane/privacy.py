"""What of a request may be kept: columns that are left out of the log, and columns of which only a keyed hash is kept.

It happens in the router, before anything is written: what is dropped or hashed never reaches a disk of ours. The hash is
keyed, so that a list of all possible values does not give them back to whoever reads the tables, and it differs from model
to model and column to column, so that tables cannot be joined on a person. Equal values stay equal: an entity can be
counted, followed and erased. The key lies in the state directory, in no configuration, message or table.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import msgspec

from steersman.dataplane import protocol, routing, tensors
from steersman.dataplane.configuration import Column, LogSettings, Route
from steersman.dataplane.protocol import EnvelopeError, Tensor

KEY_BYTES = 32
HASH_BYTES = 16
"""128 bits: no two values of one column meet, and the column stays a third of a SHA-256's size."""

WITHHELD = "the worker refused the request; its words are withheld because the model's inputs are private"


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


def hashed(key: bytes, place: str, column: str, value: str) -> str:
    """The keyed hash of a value, 32 hexadecimal digits. `place` is `workspace/model`."""
    return hashlib.blake2b(f"{place}/{column}\0{value}".encode(), key=key, digest_size=HASH_BYTES).hexdigest()


def logged_signature(signature: Sequence[Column], settings: LogSettings) -> tuple[Column, ...]:
    """The columns as the log has them: without those dropped, the hashed ones as text."""
    return tuple(
        Column(name=column.name, type="BYTES") if column.name in settings.hash else column
        for column in signature
        if column.name not in settings.drop
    )


class Redactor:
    """Rewrites one model's requests for the log."""

    def __init__(self, route: Route, key: bytes) -> None:
        self._names = [column.name for column in route.signature]
        self._drop = frozenset(route.log.drop)
        self._hash = frozenset(route.log.hash)
        self._place = f"{route.workspace}/{route.model}"
        self._key = key

    def request(self, body: bytes, json_bytes: int | None) -> bytes:
        """The request without what may not be kept, always as JSON; empty where it cannot be read."""
        try:
            if json_bytes is None:
                envelope = protocol.decode_envelope(body)[0]
                columns = envelope.columns()
                if not _is_matrix(columns):
                    return self._columns(columns)
            inputs = tensors.decode_request(body, json_bytes)
            if _is_matrix(inputs):
                inputs = routing.spread(inputs[0], self._names)
            kept = [
                Tensor(one.name, "BYTES", one.shape, self._hashes(one.name, one.data))
                if one.name in self._hash
                else one
                for one in inputs
                if one.name not in self._drop
            ]
            return protocol.encode_request(kept)
        except EnvelopeError:
            return b""

    def entity(self, column: str, value: str) -> str:
        """An entity as the log has it."""
        return hashed(self._key, self._place, column, value) if column in self._hash else value

    def _columns(self, inputs: Sequence[protocol.Envelope]) -> bytes:
        """The usual request: columns that stay are passed on as raw bytes."""
        kept: list[object] = []
        for one in inputs:
            if one.name in self._hash:
                kept.append(
                    Tensor(one.name, "BYTES", one.shape, self._hashes(one.name, protocol.decode_values(one.data)))
                )
            elif one.name not in self._drop:
                kept.append(one)
        return msgspec.json.encode({"inputs": kept})

    def _hashes(self, column: str, values: Sequence[object]) -> list[object]:
        return [
            None if value is None else hashed(self._key, self._place, column, routing.entity_text(value))
            for value in values
        ]


def _is_matrix(inputs: Sequence[protocol.Envelope] | Sequence[Tensor]) -> bool:
    return len(inputs) == 1 and len(inputs[0].shape) == 2 and inputs[0].shape[1] != 1
