"""A side effect as a row: the intent is written before the effect, the result after it.

Effects are at-least-once, so every adapter is ensure / poll / cancel under the operation's deterministic `key`:
after a crash the same key adopts what is already running instead of starting a second one.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec


class OperationKind(StrEnum):
    REPLICAS = "replicas"
    STOP = "stop"
    ROUTE = "route"
    ALIAS = "alias"
    GATE = "gate"
    TRAIN = "train"
    CHECK = "check"


class OperationState(StrEnum):
    INTENDED = "intended"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED)


ATTEMPTS_MAX = 5
"""Attempts before an operation counts as failed; with the backoff below about half a minute of trying."""

BACKOFF_S = (0.0, 0.2, 1.0, 5.0, 20.0)
"""Wall seconds to wait before attempt n; the last repeats."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """`epoch` grows with every claim; a result written under an older epoch is refused (fencing). `begun`: its effect was
    made and goes on by itself."""

    id: str
    key: str
    kind: OperationKind
    args: dict[str, Any]
    state: OperationState
    at: datetime
    epoch: int = 0
    attempts: int = 0
    begun: bool = False
    lease_owner: str | None = None
    lease_until: float = 0.0
    not_before: float = 0.0
    result: dict[str, Any] | None = None
    error: str | None = None


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """What a planner asks for. The same key asks only once, whatever became of it."""

    key: str
    kind: OperationKind
    args: dict[str, Any]
