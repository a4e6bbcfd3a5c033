"""Who is calling, signed: the one header the guard believes.

Servers fold `X-Steersman-Identity`, `X_Steersman_Identity` and `x-steersman_identity` into one name somewhere between
socket and handler, so an unsigned identity can always be smuggled in beside ours. Hence a message authentication code
over caller, time, method and target, under a key that is made anew at each start and known to two processes only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

HEADER = "X-Steersman-Identity"
KEY_VARIABLE = "STEERSMAN_GUARD_KEY"
"""Environment variable with the per-start key, hexadecimal; the guard forgets it from its environment once read."""

AGE_MAX_S = 60
"""How old a signature may be. Both processes share one machine's clock; a queue of a busy server is what is allowed for."""

_VERSION = "v1"
_OURS = "xsteersman"


class Kind(StrEnum):
    USER = "user"
    SYSTEM = "system"  # the control server itself: it alone writes protected aliases and tags


class Access(StrEnum):
    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    subject: str
    kind: Kind = Kind.USER
    access: Access = Access.READ


class NotSignedError(Exception):
    """The request carries no identity of ours; the text says what is wrong with it, without the header's content."""


def new_key() -> str:
    """256 bits, hexadecimal."""
    return secrets.token_hex(32)


def is_ours(header_name: str) -> bool:
    """Whether a header, in whatever spelling a server may fold it from, is one only our proxy may set."""
    return header_name.lower().replace("-", "").replace("_", "").startswith(_OURS)


def sign(caller: Caller, *, key: str, method: str, target: str, now_s: float) -> str:
    """The header's value. `target` is path and query as they go over the wire; `now_s` is Unix time."""
    subject = base64.urlsafe_b64encode(caller.subject.encode()).decode().rstrip("=")
    claim = f"{_VERSION}.{caller.kind}.{caller.access}.{subject}.{int(now_s)}"
    return f"{claim}.{_code(claim, key=key, method=method, target=target)}"


def verify(headers: Iterable[tuple[bytes, bytes]], *, key: str, method: str, target: str, now_s: float) -> Caller:
    """The caller our proxy vouches for. Raises `NotSignedError`; two identity headers are as bad as none."""
    found = [value for name, value in headers if is_ours(name.decode("latin-1"))]
    if len(found) != 1:
        raise NotSignedError(f"{len(found)} identity headers, need 1")
    claim, _, code = found[0].decode("latin-1").rpartition(".")
    if not hmac.compare_digest(code.encode(), _code(claim, key=key, method=method, target=target).encode()):
        raise NotSignedError("the signature does not fit the request")
    version, kind, access, subject, signed_at = claim.split(".")
    if version != _VERSION or abs(now_s - int(signed_at)) > AGE_MAX_S:
        raise NotSignedError(f"the signature is older than {AGE_MAX_S} s")
    try:
        name = base64.urlsafe_b64decode(subject + "=" * (-len(subject) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise NotSignedError("the subject cannot be read") from error
    return Caller(subject=name, kind=Kind(kind), access=Access(access))


def _code(claim: str, *, key: str, method: str, target: str) -> str:
    text = "\n".join((claim, method.upper(), target))
    return hmac.new(bytes.fromhex(key), text.encode("latin-1", "replace"), hashlib.sha256).hexdigest()
