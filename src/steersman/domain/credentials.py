"""Credentials at rest: what is kept of people, tokens, login codes and sessions. Never a secret, only SHA-256 hashes.

Times are wall time: credentials do not follow a replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from steersman.domain.access import Grant, Kind, Permission, Role

CLOCK_SKEW_MAX = timedelta(minutes=5)
"""How far in the future a token may have been made: clocks of two machines differ, not by more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """A token at rest. `roles` hold in `workspace`; `permissions` narrow them further where given."""

    id: str
    hash: bytes
    subject: str
    kind: Kind
    owner: str
    roles: tuple[Role, ...]
    workspace: str
    permissions: tuple[Permission, ...] | None
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None

    def live(self, now: datetime) -> bool:
        return self.revoked_at is None and self.created_at - CLOCK_SKEW_MAX <= now < self.expires_at


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRow:
    subject: str
    grants: tuple[Grant, ...]
    created_at: datetime
    disabled_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginCodeRow:
    hash: bytes
    subject: str
    expires_at: datetime
    used_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    hash: bytes
    subject: str
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None = None
