"""Signed checkpoints: one short text that fixes the whole history up to a size (C2SP tlog-checkpoint, signed-note).

A checkpoint is worth what it is compared with. Kept in a second place that the operator of the database cannot write
(a ticket, a mail, an object store with a lock), it shows any later rewriting, even by somebody who holds both the
database and the signing key. Kept only beside the database it shows accidents.

Ed25519 keys; the key's name is the log's origin. The private key is a PEM file of mode 0600, and a file that others
can read is refused, because a signature by a key that leaked proves nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from steersman.ledger.merkle import HASH_BYTES, SIZE_MAX

ED25519_TYPE = b"\x01"
"""Signature type of plain Ed25519 in signed-note."""

NOTE_BYTES_MAX = 64 * 1024
"""Largest note: 16 post-quantum signatures of 5 kB would still fit, and a parser's work stays bounded."""

SIGNATURES_MAX = 64

_SIGNATURE_LINE = re.compile(r"— (?P<name>[^\s+]+) (?P<signature>[A-Za-z0-9+/]+={0,2})")
_KEY = re.compile(r"(?P<name>[^\s+]+)\+(?P<id>[0-9a-f]{8})\+(?P<key>[A-Za-z0-9+/]+={0,2})")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


class CheckpointError(ValueError):
    """A checkpoint, note or key is malformed or does not verify; the message names the first thing wrong."""


def decode_base64(text: str, what: str) -> bytes:
    """Strict base64: the one encoding of the bytes, so that no second spelling of a note can exist."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CheckpointError(f"{what} is not base64") from error
    if base64.b64encode(raw).decode() != text:
        raise CheckpointError(f"{what} is not in the canonical form of base64")
    return raw


def _key_name(name: str) -> str:
    if not name or "+" in name or any(character.isspace() for character in name) or not name.isprintable():
        raise CheckpointError(f"a key's name has no spaces and no plus sign, got {name!r}")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """The public half, as published: ``<name>+<key id>+<base64 of type and key>``."""

    name: str
    public: bytes

    def __post_init__(self) -> None:
        _key_name(self.name)
        if len(self.public) != 32:
            raise CheckpointError(f"an Ed25519 public key has 32 bytes, got {len(self.public)}")

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519_TYPE + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(ED25519_TYPE + self.public).decode()}"

    @classmethod
    def of(cls, origin: str, key: Ed25519PrivateKey) -> VerifierKey:
        return cls(name=origin, public=key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        match = _KEY.fullmatch(text.strip("\n"))
        if match is None:
            raise CheckpointError("a verifier key reads <name>+<8 hexadecimal digits>+<base64>")
        raw = decode_base64(match["key"], "the verifier key")
        if raw[:1] != ED25519_TYPE:
            raise CheckpointError(f"the verifier key has signature type {raw[:1].hex()}, only Ed25519 (01) is known")
        key = cls(name=match["name"], public=raw[1:])
        if key.key_id.hex() != match["id"]:
            raise CheckpointError(f"the verifier key says id {match['id']}, its bytes give {key.key_id.hex()}")
        return key


def generate_key(path: Path) -> Ed25519PrivateKey:
    """Make a signing key and store it as PEM with mode 0600; raises ``FileExistsError`` rather than replace a key."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a signing key; refuses one that group or others can read."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise CheckpointError(f"the signing key {path.name} has mode {mode:04o}: others can read it; chmod 600 it")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path.name} is no PEM file of an unencrypted private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CheckpointError(f"{path.name} holds another kind of key than Ed25519")
    return key


def sign_note(text: str, name: str, key: Ed25519PrivateKey) -> str:
    """A signed note of ``text``, which ends in a newline."""
    if not text.endswith("\n") or any(character < " " and character != "\n" for character in text):
        raise CheckpointError("a note's text ends in a newline and has no other control characters")
    key_id = VerifierKey.of(name, key).key_id
    signature = base64.b64encode(key_id + key.sign(text.encode())).decode()
    return f"{text}\n— {name} {signature}\n"


def verify_note(note: str, key: VerifierKey) -> str:
    """The text of ``note``; raises ``CheckpointError`` unless ``key`` signed it. Signatures by others are ignored."""
    if len(note.encode("utf-8", "replace")) > NOTE_BYTES_MAX:
        raise CheckpointError(f"the note is larger than {NOTE_BYTES_MAX} bytes")
    if any(character < " " and character != "\n" for character in note):
        raise CheckpointError("the note has control characters")
    head, separator, tail = note.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise CheckpointError("the note lacks the empty line before its signatures, or the newline at its end")
    text, lines = head + "\n", tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise CheckpointError(f"the note has more than {SIGNATURES_MAX} signatures")
    verified = False
    for line in lines:
        match = _SIGNATURE_LINE.fullmatch(line)
        if match is None:
            raise CheckpointError("a signature line of the note is malformed")
        raw = decode_base64(match["signature"], "a signature of the note")
        if match["name"] != key.name or raw[:4] != key.key_id:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(raw[4:], text.encode())
        except (InvalidSignature, UnicodeEncodeError) as error:
            raise CheckpointError(f"the signature by {key.name} does not verify") from error
        verified = True
    if not verified:
        raise CheckpointError(f"the note has no signature by {key.name} with key id {key.key_id.hex()}")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A log's state: ``size`` entries, and the root of the tree over them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def sign_checkpoint(origin: str, size: int, root: bytes, key: Ed25519PrivateKey) -> str:
    """The signed note to store and to publish. Costs about 50 us."""
    if not 0 <= size <= SIZE_MAX or len(root) != HASH_BYTES:
        raise CheckpointError(f"a checkpoint has a size of 0..{SIZE_MAX} and a root of {HASH_BYTES} bytes")
    return sign_note(Checkpoint(origin=_key_name(origin), size=size, root=root).text(), origin, key)


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a note's text or a whole note *without verifying it*; trust it only after ``verify_checkpoint``."""
    lines = text.split("\n")
    if len(lines) < 4 or not lines[0]:
        raise CheckpointError("a checkpoint has three lines: origin, size, root")
    if not _SIZE.fullmatch(lines[1]) or int(lines[1]) > SIZE_MAX:
        raise CheckpointError("the checkpoint's size is no decimal number without leading zeros")
    root = decode_base64(lines[2], "the checkpoint's root")
    if len(root) != HASH_BYTES:
        raise CheckpointError(f"the checkpoint's root has {len(root)} bytes, not {HASH_BYTES}")
    return Checkpoint(origin=lines[0], size=int(lines[1]), root=root)


def verify_checkpoint(note: str, key: VerifierKey) -> Checkpoint:
    """Raises ``CheckpointError`` unless ``key`` signed it and the origin is the key's name."""
    checkpoint = parse_checkpoint(verify_note(note, key))
    if checkpoint.origin != key.name:
        raise CheckpointError(f"the checkpoint is of {checkpoint.origin}, the key of {key.name}")
    return checkpoint
