"""Identity of the embedded form: people and services known to this installation, without a password anywhere.

A *token* (`sm_<id>_<secret>`) is for programs and the command line. Its secret has 256 random bits, so a plain SHA-256
is enough at rest and a lookup costs microseconds. It has an owner, a scope and an end, at most 90 days away. A token
never does more than its owner may do at the moment it is used.

A *login code* opens the console: typed into a form (never part of an address), good for ten minutes and one use. The
*session* it opens lives in a cookie; what forms carry against forged requests is derived from that cookie, so that it
is bound to the session and nothing more has to be stored.

All of it works on rows through `CredentialStore`; the one who implements it decides the transaction, so issuing a
token and the ledger's entry about it commit together. Times are wall time: credentials do not follow a replay.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from steersman.dataplane.configuration import TokenHash
from steersman.domain.access import (
    EVERY_WORKSPACE,
    HUMAN_ONLY,
    ROLE_PERMISSIONS,
    Access,
    Grant,
    Kind,
    Permission,
    Principal,
    Role,
    Secret,
    parse_subject,
)
from steersman.domain.credentials import LoginCodeRow, SessionRow, TokenRow, UserRow
from steersman.domain.errors import BadRequest, NotAllowed, NotAuthenticated, NotFound

ISSUER = "steersman"
"""Issuer of identities this installation makes itself."""

TOKEN_LIFE_MAX = timedelta(days=90)
LOGIN_CODE_LIFE = timedelta(minutes=10)
SESSION_LIFE = timedelta(hours=12)
"""A working day; a session is not prolonged by use."""

TOKENS_PER_OWNER_MAX = 100
"""Live tokens one owner may hold; beyond that somebody is issuing in a loop."""

_TOKEN = re.compile(r"sm_([0-9a-f]{16})_([A-Za-z0-9_-]{43})", re.ASCII)
_SESSION = re.compile(r"sms_[A-Za-z0-9_-]{43}", re.ASCII)
_CODE = re.compile(r"smc_[a-z2-7]{26}", re.ASCII)


class CredentialStore(Protocol):
    """The rows, inside the caller's transaction. `put_*` insert, or replace the row with the same key."""

    def put_user(self, row: UserRow) -> None: ...
    def user(self, subject: str) -> UserRow | None: ...
    def users(self) -> list[UserRow]: ...

    def put_token(self, row: TokenRow) -> None: ...
    def token(self, token_id: str) -> TokenRow | None: ...
    def tokens(self) -> list[TokenRow]: ...

    def put_login_code(self, row: LoginCodeRow) -> None: ...

    def use_login_code(self, code_hash: bytes, at: datetime) -> LoginCodeRow | None:
        """Mark the code used and return the row; None when it is unknown or was used before. Atomic."""
        ...

    def put_session(self, row: SessionRow) -> None: ...
    def session(self, session_hash: bytes) -> SessionRow | None: ...


def secret_hash(secret: Secret) -> bytes:
    """SHA-256 of the whole text; enough for 256 random bits, and what the router's configuration carries."""
    return hashlib.sha256(secret.reveal().encode()).digest()


def csrf_token(session: Secret) -> str:
    """What the forms of this session carry; worthless without the session's cookie."""
    return hmac.new(session.reveal().encode(), b"steersman form", hashlib.sha256).hexdigest()


def csrf_matches(session: Secret, presented: str) -> bool:
    return hmac.compare_digest(csrf_token(session).encode(), presented.encode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class Identities:
    """The commands and questions about credentials. `now` is wall time, passed in by the caller."""

    store: CredentialStore

    # --- people --------------------------------------------------------------------------------------------------------

    def set_user(self, subject: str, grants: tuple[Grant, ...], now: datetime) -> UserRow:
        """Add a person or replace their grants; an admin who would also agree to releases is refused."""
        parse_subject(subject)
        for grant in grants:
            if grant.role in (Role.APPROVER, Role.VALIDATOR) and any(
                other.role is Role.ADMIN and (other.covers(grant.workspace) or grant.covers(other.workspace))
                for other in grants
            ):
                raise BadRequest(
                    f"{subject} cannot be admin and {grant.role} of the same workspace",
                    next_step=f"Give the role {grant.role} to another person: two pairs of eyes need two people.",
                )
        existing = self.store.user(subject)
        row = UserRow(subject=subject, grants=grants, created_at=existing.created_at if existing else now)
        self.store.put_user(row)
        return row

    def disable_user(self, subject: str, now: datetime) -> UserRow:
        """From now on none of their sessions and tokens is accepted, nor the tokens of services they own."""
        row = replace(self._user(subject), disabled_at=now)
        self.store.put_user(row)
        return row

    def _user(self, subject: str) -> UserRow:
        found = self.store.user(subject)
        if found is None:
            raise NotFound(f"there is no user {subject}", next_step="`steersman user list` shows those there are.")
        return found

    # --- tokens --------------------------------------------------------------------------------------------------------

    def issue_token(
        self,
        *,
        subject: str,
        kind: Kind,
        owner: str,
        now: datetime,
        roles: tuple[Role, ...],
        workspace: str = EVERY_WORKSPACE,
        permissions: tuple[Permission, ...] | None = None,
        life: timedelta = TOKEN_LIFE_MAX,
        issued_by: Access | None = None,
    ) -> tuple[TokenRow, Secret]:
        """A new token; the secret is shown once and kept nowhere.

        `issued_by` is None only for the first admin, made at the start of an installation. Anybody else can hand out
        only what he holds himself.
        """
        parse_subject(subject)
        holder = self._user(owner)
        if kind is Kind.SYSTEM or (kind is Kind.HUMAN and subject != owner):
            raise BadRequest("a token is a person's own, or a service's with a person as its owner")
        if not roles or not timedelta(0) < life <= TOKEN_LIFE_MAX:
            raise BadRequest(
                f"a token needs a role and an end within {TOKEN_LIFE_MAX.days} days",
                next_step="Give at least one role, and issue a new token before the old one ends.",
            )
        _refuse_escalation(kind, roles, workspace, permissions, holder, issued_by)
        if sum(row.owner == owner and row.live(now) for row in self.store.tokens()) >= TOKENS_PER_OWNER_MAX:
            raise BadRequest(f"{owner} has {TOKENS_PER_OWNER_MAX} live tokens", next_step="Revoke those not in use.")
        token_id = secrets.token_hex(8)
        secret = Secret(f"sm_{token_id}_{secrets.token_urlsafe(32)}")
        row = TokenRow(
            id=token_id,
            hash=secret_hash(secret),
            subject=subject,
            kind=kind,
            owner=owner,
            roles=roles,
            workspace=workspace,
            permissions=permissions,
            created_at=now,
            expires_at=now + life,
        )
        self.store.put_token(row)
        return row, secret

    def revoke_token(self, token_id: str, now: datetime) -> TokenRow:
        """Revoke by id; a second time changes nothing."""
        row = self.store.token(token_id)
        if row is None:
            raise NotFound("there is no such token", next_step="`steersman token list` shows the ids.")
        if row.revoked_at is None:
            row = replace(row, revoked_at=now)
            self.store.put_token(row)
        return row

    def authenticate_token(self, presented: Secret, now: datetime) -> Access:
        """Raises `NotAuthenticated`, with the same words for unknown, wrong and revoked."""
        match = _TOKEN.fullmatch(presented.reveal())
        row = self.store.token(match[1]) if match else None
        stored = row.hash if row is not None else bytes(32)
        if not hmac.compare_digest(stored, secret_hash(presented)) or row is None or row.revoked_at is not None:
            raise NotAuthenticated("the token is not known here")
        if not row.live(now):
            raise NotAuthenticated(
                f"the token {row.id} ended on {row.expires_at:%Y-%m-%d}",
                next_step="Issue a new one: `steersman token issue`.",
            )
        owner = self.store.user(row.owner)
        if owner is None or owner.disabled_at is not None:
            raise NotAuthenticated("the token is not known here")
        return _access_of(row, owner)

    def router_tokens(self, now: datetime) -> tuple[TokenHash, ...]:
        """What the router's configuration may know: hashes of live tokens that may predict or send labels."""
        found = []
        for row in self.store.tokens():
            owner = self.store.user(row.owner)
            if not row.live(now) or owner is None or owner.disabled_at is not None:
                continue
            access = _access_of(row, owner)
            for workspace, names in _traffic_of(access, row.workspace).items():
                found.append(
                    TokenHash(
                        sha256=row.hash.hex(),
                        workspace=None if workspace == EVERY_WORKSPACE else workspace,
                        permissions=names,
                        expires_at=row.expires_at.timestamp(),
                    )
                )
        return tuple(found)

    # --- console -------------------------------------------------------------------------------------------------------

    def issue_login_code(self, subject: str, now: datetime) -> Secret:
        """A code to type into the login form, within ten minutes and once.

        Whoever makes a code for somebody else could use it himself: the caller records who made it for whom.
        """
        if self._user(subject).disabled_at is not None:
            raise NotAllowed(f"the user {subject} is disabled")
        code = Secret("smc_" + base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower())
        self.store.put_login_code(
            LoginCodeRow(hash=secret_hash(code), subject=subject, expires_at=now + LOGIN_CODE_LIFE)
        )
        return code

    def log_in(self, presented: Secret, now: datetime) -> tuple[SessionRow, Secret]:
        """Exchange a login code for a session; the secret goes into the cookie. Raises `NotAuthenticated`."""
        code = Secret(presented.reveal().strip().lower())
        known = _CODE.fullmatch(code.reveal()) is not None
        row = self.store.use_login_code(secret_hash(code), now) if known else None
        user = self.store.user(row.subject) if row is not None else None
        if row is None or now >= row.expires_at or user is None or user.disabled_at is not None:
            raise NotAuthenticated(
                "the login code is not valid, or was used, or is older than 10 minutes",
                next_step="Get a new one: `steersman user login-code`.",
            )
        secret = Secret("sms_" + secrets.token_urlsafe(32))
        session = SessionRow(
            hash=secret_hash(secret), subject=row.subject, created_at=now, expires_at=now + SESSION_LIFE
        )
        self.store.put_session(session)
        return session, secret

    def authenticate_session(self, presented: Secret, now: datetime) -> Access:
        """Raises `NotAuthenticated` when the session is unknown, over, or its person disabled."""
        known = _SESSION.fullmatch(presented.reveal()) is not None
        row = self.store.session(secret_hash(presented)) if known else None
        user = self.store.user(row.subject) if row is not None else None
        over = row is None or row.ended_at is not None or now >= row.expires_at
        if over or user is None or user.disabled_at is not None:
            raise NotAuthenticated("the session is over", next_step="Log in again.")
        principal = Principal(issuer=ISSUER, subject=user.subject, kind=Kind.HUMAN)
        return Access(principal=principal, grants=user.grants)

    def log_out(self, presented: Secret, now: datetime) -> None:
        row = self.store.session(secret_hash(presented))
        if row is not None and row.ended_at is None:
            self.store.put_session(replace(row, ended_at=now))


def _access_of(row: TokenRow, owner: UserRow) -> Access:
    return Access(
        principal=Principal(issuer=ISSUER, subject=row.subject, kind=row.kind),
        grants=tuple(Grant(role=role, workspace=row.workspace) for role in row.roles),
        permissions=None if row.permissions is None else frozenset(row.permissions),
        within=owner.grants,
    )


_TRAFFIC = (
    (Permission.TRAFFIC_PREDICT, "predict"),
    (Permission.TRAFFIC_OVERRIDE, "override"),
    (Permission.LABEL_WRITE, "label"),
    (Permission.METRICS_READ, "metrics"),
)


def _traffic_of(access: Access, scope: str) -> dict[str, tuple[str, ...]]:
    """The router's permissions by workspace; `*` alone when they hold everywhere."""
    workspaces = [scope]
    if scope == EVERY_WORKSPACE:
        workspaces += sorted({grant.workspace for grant in access.within or ()} - {EVERY_WORKSPACE})
    found: dict[str, tuple[str, ...]] = {}
    for workspace in workspaces:
        names = tuple(name for permission, name in _TRAFFIC if access.allows(permission, workspace))
        if names and names != found.get(EVERY_WORKSPACE):
            found[workspace] = names
    return found


def scope_of(kind: Kind, roles: tuple[Role, ...], permissions: tuple[Permission, ...] | None) -> frozenset[Permission]:
    """Every permission a token of these roles, narrowed to `permissions`, can ever have."""
    scope = frozenset().union(*(ROLE_PERMISSIONS[role] for role in roles))
    if permissions is not None:
        scope &= frozenset(permissions)
    return scope if kind is Kind.HUMAN else scope - HUMAN_ONLY


def _refuse_escalation(
    kind: Kind,
    roles: tuple[Role, ...],
    workspace: str,
    permissions: tuple[Permission, ...] | None,
    owner: UserRow,
    issued_by: Access | None,
) -> None:
    """A token carries only what both its owner and its issuer hold, and nobody issues one that acts as another person."""
    for permission in permissions or ():
        if permission not in scope_of(kind, roles, None):
            raise BadRequest(
                f"none of the token's roles gives {permission}" + ("" if kind is Kind.HUMAN else " to a service"),
                next_step="Leave the permission out, or add a role that gives it.",
            )
    holder = Principal(issuer=ISSUER, subject=owner.subject, kind=Kind.HUMAN)
    sources = [Access(principal=holder, grants=owner.grants)]
    if issued_by is not None:
        sources.append(issued_by)  # also for oneself: a narrow token of one's own must not beget a wide one
        if kind is Kind.HUMAN and issued_by.principal.actor != owner.subject:
            raise NotAllowed(f"only {owner.subject} issues tokens that act as {owner.subject}")
    for source in sources:
        for permission in sorted(scope_of(kind, roles, permissions)):
            source.require(permission, workspace)
