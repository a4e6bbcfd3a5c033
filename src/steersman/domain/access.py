"""Who may do what: principals, roles, permissions and the one table that joins them.

Deny by default: what the table does not grant is refused, and there is no rule that takes a grant away again except
two that protect the four eyes. An admin appoints the approvers, so an admin never approves nor waives; and only people
approve, waive or hand out access, a service never does, because a token is not a pair of eyes.

Everything here is plain data and plain functions, so that the table can be shown on a page and tested by enumeration.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from steersman.domain.errors import BadRequest, NotAllowed

EVERY_WORKSPACE = "*"
"""A grant on this holds in every workspace and for the installation itself. No workspace can have the name."""


class Kind(StrEnum):
    HUMAN = "human"
    SERVICE = "service"
    SYSTEM = "system"


class Role(StrEnum):
    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    VALIDATOR = "validator"
    ADMIN = "admin"


class Permission(StrEnum):
    """Each member is one thing a route or command can ask for; PERMISSIONS says in words what it allows."""

    CONSOLE_READ = "console:read"
    MODEL_READ = "model:read"
    METRICS_READ = "metrics:read"
    LEDGER_READ = "ledger:read"
    REGISTRY_READ = "registry:read"
    REGISTRY_WRITE = "registry:write"
    DOCUMENT_APPLY = "document:apply"
    TRAIN_DEFINE = "train:define"
    VERSION_REGISTER = "version:register"
    VERSION_RETIRE = "version:retire"
    RELEASE_OPEN = "release:open"
    RELEASE_CONTROL = "release:control"
    RELEASE_APPROVE = "release:approve"
    RELEASE_WAIVE = "release:waive"
    RELEASE_ROLLBACK = "release:rollback"
    INCIDENT_ACT = "incident:act"
    TRAFFIC_PREDICT = "traffic:predict"
    TRAFFIC_OVERRIDE = "traffic:override"
    LABEL_WRITE = "label:write"
    LOG_ERASE = "log:erase"
    TOKEN_MANAGE = "token:manage"  # noqa: S105 - the name of a permission
    USER_MANAGE = "user:manage"
    CLOCK_ADVANCE = "clock:advance"


PERMISSIONS: Mapping[Permission, str] = {
    Permission.CONSOLE_READ: "open the pages of the console",
    Permission.MODEL_READ: "read documents, versions, releases, incidents and history",
    Permission.METRICS_READ: "read the figures of the installation itself",
    Permission.LEDGER_READ: "read, verify and export the ledger",
    Permission.REGISTRY_READ: "read the embedded registry: runs, models, artifacts",
    Permission.REGISTRY_WRITE: "log runs and register models in the embedded registry",
    Permission.DOCUMENT_APPLY: "declare models, datasets and environments",
    Permission.TRAIN_DEFINE: "declare a training command, which is code that runs here",
    Permission.VERSION_REGISTER: "take a version in by its digest",
    Permission.VERSION_RETIRE: "retire a version",
    Permission.RELEASE_OPEN: "ask that a version enters an environment",
    Permission.RELEASE_CONTROL: "pause, resume, promote, abort or retry a release",
    Permission.RELEASE_APPROVE: "agree or disagree where a release waits for people",
    Permission.RELEASE_WAIVE: "let one version skip a step, or the environment before, once",
    Permission.RELEASE_ROLLBACK: "bring the previous promoted version back",
    Permission.INCIDENT_ACT: "acknowledge, accept, or choose the remedy of an incident",
    Permission.TRAFFIC_PREDICT: "send prediction requests to the router",
    Permission.TRAFFIC_OVERRIDE: "choose the variant that answers a request",
    Permission.LABEL_WRITE: "send labels to the router",
    Permission.LOG_ERASE: "delete one entity's rows from a model's inference log, for good",
    Permission.TOKEN_MANAGE: "issue and revoke tokens",
    Permission.USER_MANAGE: "add people and give or take roles",
    Permission.CLOCK_ADVANCE: "move the clock of a replay",
}

_READ = {
    Permission.CONSOLE_READ,
    Permission.MODEL_READ,
    Permission.METRICS_READ,
    Permission.LEDGER_READ,
    Permission.REGISTRY_READ,
}
_OPERATE = {
    Permission.REGISTRY_WRITE,
    Permission.DOCUMENT_APPLY,
    Permission.TRAIN_DEFINE,
    Permission.VERSION_REGISTER,
    Permission.VERSION_RETIRE,
    Permission.RELEASE_OPEN,
    Permission.RELEASE_CONTROL,
    Permission.RELEASE_ROLLBACK,
    Permission.INCIDENT_ACT,
    Permission.TRAFFIC_PREDICT,
    Permission.TRAFFIC_OVERRIDE,
    Permission.LABEL_WRITE,
}

FOUR_EYES = frozenset({Permission.RELEASE_APPROVE, Permission.RELEASE_WAIVE})
"""What the second pair of eyes does: never an admin, who appoints them, and never a service."""

ROLE_PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset(_READ),
    Role.OPERATOR: frozenset(_READ | _OPERATE),
    Role.APPROVER: frozenset(_READ | FOUR_EYES),
    Role.VALIDATOR: frozenset(_READ | FOUR_EYES),
    Role.ADMIN: frozenset(Permission) - FOUR_EYES,
}

HUMAN_ONLY = FOUR_EYES | {Permission.TOKEN_MANAGE, Permission.USER_MANAGE}
"""Never granted to a service: approvals, and what would let a leaked token outlive itself."""

if set(PERMISSIONS) != set(Permission) or set(ROLE_PERMISSIONS) != set(Role):
    raise ImportError("a permission or role has no row in steersman.domain.access")

_SUBJECT = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,127}", re.ASCII)


def parse_subject(text: str) -> str:
    """A person's or service's name in the ledger, such as `ada` or `ada@example.com`; raises `BadRequest`.

    Without a colon, so that nobody can be called `system:…` or `service:…`, which the ledger keeps for the others.
    """
    if not _SUBJECT.fullmatch(text):
        raise BadRequest(
            f"the subject {ascii(text)[:60]} is not allowed",
            next_step="Use 1 to 128 characters of a-z, 0-9, '.', '_', '@', '+' and '-', beginning with a letter or digit.",
        )
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An identity, from whichever issuer proved it."""

    issuer: str
    subject: str
    kind: Kind

    @property
    def actor(self) -> str:
        """How the ledger writes it: people by their name, others with their kind in front."""
        return self.subject if self.kind is Kind.HUMAN else f"{self.kind}:{self.subject}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One role in one workspace, or in every one of them (`*`)."""

    role: Role
    workspace: str = EVERY_WORKSPACE

    def covers(self, workspace: str) -> bool:
        return self.workspace in (EVERY_WORKSPACE, workspace)


def allowed(grants: Iterable[Grant], permission: Permission, workspace: str) -> bool:
    """Whether the grants give `permission` in `workspace` (`*`: in the installation as a whole).

    Somebody who is admin there never approves or waives there, whatever else he was granted.
    """
    roles = {grant.role for grant in grants if grant.covers(workspace)}
    if permission in FOUR_EYES and Role.ADMIN in roles:
        return False
    return any(permission in ROLE_PERMISSIONS[role] for role in roles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a request may do: who asks, with which grants, narrowed to a subset of permissions where a token says so.

    `within` are the grants of the person a token belongs to: a token never does what its owner may not do now.
    """

    principal: Principal
    grants: tuple[Grant, ...]
    permissions: frozenset[Permission] | None = None
    within: tuple[Grant, ...] | None = None

    def allows(self, permission: Permission, workspace: str) -> bool:
        if self.principal.kind is not Kind.HUMAN and permission in HUMAN_ONLY:
            return False
        if self.permissions is not None and permission not in self.permissions:
            return False
        if self.within is not None and not allowed(self.within, permission, workspace):
            return False
        return allowed(self.grants, permission, workspace)

    def allows_somewhere(self, permission: Permission) -> bool:
        """In at least one workspace; enough to enter a list, whose rows are then chosen by `allows`."""
        granted = self.grants if self.within is None else (*self.grants, *self.within)
        return any(self.allows(permission, grant.workspace) for grant in granted)

    def roles_with(self, permission: Permission, workspace: str) -> tuple[str, ...]:
        """The roles by which it is allowed there: those of the token, and of the person it belongs to."""
        if not self.allows(permission, workspace):
            return ()
        held = [
            {grant.role for grant in grants if grant.covers(workspace) and permission in ROLE_PERMISSIONS[grant.role]}
            for grants in (self.grants, self.within)
            if grants is not None
        ]
        return tuple(sorted(str(role) for role in set.intersection(*held)))

    def require(self, permission: Permission, workspace: str) -> None:
        """Raises `NotAllowed` naming the permission and the workspace."""
        if not self.allows(permission, workspace):
            where = "this installation" if workspace == EVERY_WORKSPACE else f"workspace {workspace}"
            raise NotAllowed(f"{self.principal.actor} lacks the permission {permission} in {where}")


SECRET_SHOWN = "***"  # noqa: S105 - what is shown in place of one


class Secret:
    """A text that shows itself nowhere: not in `repr`, `str`, format, pickles or comparisons' timing.

    `reveal()` is the only way out, and one greps for it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return f"Secret({SECRET_SHOWN})"

    def __str__(self) -> str:
        return SECRET_SHOWN

    def __format__(self, spec: str) -> str:
        return SECRET_SHOWN

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    __hash__ = None  # type: ignore[assignment]  # a hash would be a second, comparable form of the value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not serialised")


_CREDENTIAL = re.compile(
    r"sm[sc]?_[A-Za-z0-9_-]{8,}"  # our own tokens, sessions and login codes
    r"|(?<=//)[^/@\s:]*:[^/@\s]+(?=@)"  # a password in an address
    r"|(?i:authorization\W{1,4}(?:[a-z]+\s+)?|\bbearer\s+)[A-Za-z0-9._~+/=-]{12,}"
)


def redacted(text: str, known: Iterable[Secret] = ()) -> str:
    """`text` without credentials: those of our own formats, `Authorization` values, and the `known` ones by value."""
    for secret in known:
        if secret:
            text = text.replace(secret.reveal(), SECRET_SHOWN)
    return _CREDENTIAL.sub(SECRET_SHOWN, text)
