"""The report of a replayed year, when the installation keeps one: the loop beside a model that was left alone."""

from dataclasses import dataclass
from typing import Any

import msgspec

from steersman.store.transaction import Transaction

REPORT = "report"
"""Setting of the installation that holds it, in the form `steersman demo --report` writes."""


class Month(msgspec.Struct, frozen=True, kw_only=True):
    month: str
    flights: int
    auc_loop: float | None = None
    auc_static: float | None = None
    log_loss_loop: float | None = None
    log_loss_static: float | None = None

    @property
    def gain(self) -> float | None:
        return None if self.auc_loop is None or self.auc_static is None else self.auc_loop - self.auc_static


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    handled: bool
    how: str = ""


class _Share(msgspec.Struct, frozen=True):
    share: float | None = None


class _Stored(msgspec.Struct, frozen=True):
    requests: int = 0
    request_failures: int = 0
    months: tuple[Month, ...] = ()
    faults: tuple[Fault, ...] = ()
    wall_s: float | None = None
    automated_share: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    requests: int
    failures: int
    months: tuple[Month, ...]
    faults: tuple[Fault, ...]
    wall_s: float | None

    @property
    def gains(self) -> tuple[float, ...]:
        """What the loop's AUC was above the other's, by month."""
        return tuple(month.gain for month in self.months if month.gain is not None)

    @property
    def gain(self) -> float | None:
        """Mean of the monthly gains."""
        return sum(self.gains) / len(self.gains) if self.gains else None

    @property
    def flights(self) -> int:
        return sum(month.flights for month in self.months)


def replay_report(tx: Transaction) -> ReplayReport | None:
    """None where no report was kept, or what was kept is not one."""
    text = tx.setting(REPORT)
    if text is None:
        return None
    try:
        stored = msgspec.json.decode(text, type=_Stored)
    except msgspec.DecodeError:
        return None
    return ReplayReport(
        requests=stored.requests,
        failures=stored.request_failures,
        months=stored.months,
        faults=stored.faults,
        wall_s=stored.wall_s,
    )
