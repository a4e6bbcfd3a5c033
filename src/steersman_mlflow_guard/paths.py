"""Canonical request paths: one spelling each, or no entry.

Every bypass of a guard in front of MLflow was a second spelling of a path: `//api`, `%2F`, `..`, `%252e`, `\\`, `;x`.
Routers and file stores decode and merge in their own ways, so what has two spellings is refused before any of them.
"""

from __future__ import annotations

import re

PATH_BYTES_MAX = 4096
"""Longer than any path MLflow's clients make (artifact paths end at 250 characters a name)."""

_ALLOWED = re.compile(rb"/[A-Za-z0-9\-._~!$&'()*+,=:@/%<>\[\]]*")
_ENCODED = re.compile(rb"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_STRUCTURAL = frozenset(b"/\\;%#?") | frozenset(range(0x20)) | {0x7F}


def objection(raw_path: bytes) -> str | None:
    """Why this path, as it came over the wire without its query, is not canonical; None when it is."""
    if len(raw_path) > PATH_BYTES_MAX:
        return f"the path is longer than {PATH_BYTES_MAX} bytes"
    if not _ALLOWED.fullmatch(raw_path):
        return "the path has a character that must not stand in one"
    if b"//" in raw_path:
        return "the path has an empty segment (//)"
    if any(segment in (b".", b"..") for segment in raw_path.split(b"/")):
        return "the path has a dot segment"
    encoded = [int(match, 16) for match in _ENCODED.findall(raw_path)]
    if len(encoded) != raw_path.count(b"%"):
        return "the path has a malformed percent-encoding"
    if any(byte in _STRUCTURAL for byte in encoded):
        return "the path encodes a separator or a control character"
    if any(byte in _UNRESERVED for byte in encoded):
        return "the path encodes a character that needs no encoding"
    try:
        _ENCODED.sub(lambda match: bytes([int(match[1], 16)]), raw_path).decode()
    except UnicodeDecodeError:
        return "the path is not UTF-8"
    return None
