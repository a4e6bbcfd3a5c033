"""What the store keeps beside the records of `domain/`: revisions of documents, and evidence, written once."""

from datetime import datetime
from typing import Any

import msgspec

from steersman.domain.approval import Binding


class Stale(RuntimeError):
    """Somebody else wrote the record since it was read. Read again and decide again; nothing was changed."""


class StoredDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One revision of an applied document; `body` is its canonical JSON."""

    kind: str
    workspace: str
    name: str
    revision: int
    digest: str
    at: datetime
    actor: str
    body: str


class StoredVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence about a release, an incident or a monitor: `body` is the verdict with its numbers."""

    subject: str
    kind: str
    step: int
    at: datetime
    body: dict[str, Any]


class PairBlock(msgspec.Struct, frozen=True, kw_only=True):
    """One block of paired evidence: harm of `compared` against `reference` (digests), above 0 is worse."""

    workspace: str
    environment: str
    model: str
    reference: str
    compared: str
    metric: str
    block: datetime
    harm: float
    value_reference: float
    value_compared: float
    n: int


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """One person's agreement to a step of a release. `withdrawn` says why it counts no longer; rows of 0.1 are not bound."""

    release: str
    step: int
    actor: str
    at: datetime
    because: str
    roles: tuple[str, ...] = ()
    bound: Binding | None = None
    withdrawn: str | None = None


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What one version did in one closed, matured window; metrics carry their n. `profiles` is kept apart, as bytes."""

    workspace: str
    environment: str
    model: str
    digest: str
    version: int
    start: datetime
    end: datetime
    rows: int
    labelled: int = 0
    metrics: dict[str, float] = {}
    drift: dict[str, float] = {}
