"""What the store keeps beside the records of `domain/`: revisions of documents, and evidence, written once."""

from datetime import datetime
from typing import Any

import msgspec


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
    release: str
    step: int
    actor: str
    at: datetime
    because: str


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
