"""Event time, for the loops: the wall clock in a living installation, a persisted hand in a replay.

Whether an installation replays is decided once, when its state directory is made, and never changes: every page and
export can therefore say which it is. Wall time (leases, time-outs, tokens) is not this module's business.
"""

from datetime import UTC, datetime
from typing import Protocol

from steersman.domain.errors import BadRequest, Conflict
from steersman.store.database import Store

MODE = "clock_mode"
POSITION = "clock_at"


class Clock(Protocol):
    replay: bool

    def now(self) -> datetime:
        """Event time, aware UTC."""
        ...


class WallClock:
    """Event time is the time on the wall."""

    replay = False

    def now(self) -> datetime:
        return datetime.now(UTC)


class ReplayClock:
    """Event time stands still until it is moved, only forwards, and survives a restart."""

    replay = True

    def __init__(self, store: Store, *, start: datetime) -> None:
        self._store = store
        with store.write() as tx:
            stored = tx.setting(POSITION)
            if stored is None:
                tx.put_setting(POSITION, start.isoformat())
        self._at = start if stored is None else datetime.fromisoformat(stored)

    def now(self) -> datetime:
        return self._at

    def move(self, to: datetime) -> None:
        """Raises BadRequest for a naive time or one before the present: history is not replayed twice."""
        if to.tzinfo is None:
            raise BadRequest("the clock needs a time with an offset, e.g. 2013-03-01T00:00:00Z")
        if to < self._at:
            raise BadRequest(
                f"the clock stands at {self._at.isoformat()} and only moves forwards, got {to.isoformat()}"
            )
        with self._store.write() as tx:
            tx.put_setting(POSITION, to.isoformat())
        self._at = to


def open_clock(store: Store, *, replay_from: datetime | None) -> Clock:
    """The installation's clock. Raises Conflict when it was made for the other kind."""
    wanted = "wall" if replay_from is None else "replay"
    with store.write() as tx:
        stored = tx.setting(MODE)
        if stored is None:
            tx.put_setting(MODE, wanted)
    if stored not in (None, wanted):
        raise Conflict(
            f"this state directory belongs to a {stored} installation and cannot become a {wanted} one",
            next_step="Start with another --state directory.",
        )
    return WallClock() if replay_from is None else ReplayClock(store, start=replay_from)
