"""Identifiers that sort by the time they were made (UUIDv7, RFC 9562 section 5.7).

Randomness lives here and in nothing that decides: an identifier names a record, no outcome depends on it.
"""

import secrets
import time
import uuid


def new_id(prefix: str) -> str:
    """E.g. ``rel-01986f3e…``: the prefix says what is named, so that a stray identifier explains itself."""
    milliseconds = time.time_ns() // 1_000_000
    value = (
        (milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    )
    return f"{prefix}-{uuid.UUID(int=value)}"
