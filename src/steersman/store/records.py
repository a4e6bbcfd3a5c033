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
    """One block of evidence about a pair of versions: harm of `compared` against `reference` (digests), above 0 is worse.

    `mode` says how they met (`paired`: on the same requests, `split`: each on its share), `slice` which requests (`""` all,
    else `origin=JFK`). `n` are the pieces the block is made of, and `spread` the sample standard deviation of their single
    harms: None where the metric is no mean of them, and in blocks kept before there was one. Numerators and denominators
    are those of a ratio (precision, recall, F1), likewise.
    """

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
    mode: str = "paired"
    slice: str = ""
    spread: float | None = None
    n_reference: int | None = None
    n_compared: int | None = None
    numerator_reference: float | None = None
    denominator_reference: float | None = None
    numerator_compared: float | None = None
    denominator_compared: float | None = None


class Unmeasured(msgspec.Struct, frozen=True, kw_only=True):
    """A block in which a metric raised instead of giving a number, and what it said."""

    workspace: str
    environment: str
    model: str
    reference: str
    compared: str
    metric: str
    block: datetime
    mode: str
    slice: str
    because: str


class Cohort(msgspec.Struct, frozen=True, kw_only=True):
    """The requests one block of evidence is about, whatever the metric: how many matured, how many have label and score.

    In pairs both arms hold the same requests. `drawn_*` count the units the router drew by lot and `share` is the mean
    probability of the candidate (a split; else 0). `digest` is over the rows as they were read: event, scores, label.
    """

    workspace: str
    environment: str
    model: str
    reference: str
    compared: str
    block: datetime
    mode: str
    slice: str
    matured_reference: int
    matured_compared: int
    labelled_reference: int
    labelled_compared: int
    drawn_reference: int = 0
    drawn_compared: int = 0
    share: float = 0.0
    digest: str


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


def columns_of(record: msgspec.Struct) -> dict[str, Any]:
    """A record's fields as values of columns of the same names; times as ISO text."""
    values = msgspec.structs.asdict(record)
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}
