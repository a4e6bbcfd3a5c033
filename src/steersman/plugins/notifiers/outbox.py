"""Messages wait here and go out one after the other, so that whoever has something to tell never waits for a receiver.

The loop must not stand still because a chat server is slow, nor fill the memory because it is gone: what waits is
bounded, each message has a few attempts, and what is lost is counted and logged. Losing one loses nothing else: the
ledger and the console have it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from steersman.plugins.notifiers.webhook import Delivery

log = logging.getLogger(__name__)

WAITING_MAX = 200
"""Messages that may wait; a day of incidents of a large installation. Further ones are dropped and counted."""

PAUSES_S = (1.0, 5.0)
"""Wall seconds before the second and third attempt of a message; there is no fourth."""


class Channel(Protocol):
    """Where one name's messages go; blocks up to its own deadline and never raises on what the network does."""

    def send(self, message: Mapping[str, object]) -> Delivery: ...


class Outbox:
    """A `Notifier` over named channels. `counts` says how many messages were delivered, failed and dropped."""

    def __init__(
        self, channels: Mapping[str, Channel], *, waiting_max: int = WAITING_MAX, pauses_s: Sequence[float] = PAUSES_S
    ) -> None:
        self._by_name = dict(channels)
        self._pauses_s = tuple(pauses_s)
        self._waiting: queue.Queue[tuple[str, dict[str, object]]] = queue.Queue(maxsize=waiting_max)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self.channels = frozenset(channels)
        self.counts: Counter[str] = Counter()

    def notify(self, channel: str, subject: str, text: str) -> None:
        """Leave a message and return at once."""
        if channel not in self._by_name:
            self._lost("failed", channel, "this installation was started without it (`steersman up --notify`)")
            return
        try:
            self._waiting.put_nowait((channel, {"subject": subject, "text": f"{subject}\n{text}"}))
        except queue.Full:
            self._lost("dropped", channel, f"{self._waiting.maxsize} messages wait already")
            return
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            channel, message = self._waiting.get()
            try:
                self._deliver(channel, message)
            except Exception as error:  # a channel that breaks its promise must not end the others
                self._lost("failed", channel, type(error).__name__)

    def _deliver(self, channel: str, message: Mapping[str, object]) -> None:
        delivery = self._by_name[channel].send(message)
        for pause_s in self._pauses_s:
            if delivery.delivered:
                break
            time.sleep(pause_s)
            delivery = self._by_name[channel].send(message)
        if delivery.delivered:
            self.counts["delivered"] += 1
        else:
            self._lost("failed", channel, delivery.because)

    def _lost(self, how: str, channel: str, because: str) -> None:
        lost = self.counts["failed"] + self.counts["dropped"] + 1
        log.warning("a message to %s was lost, %d so far: %s", channel, lost, because)
        self.counts[how] += 1  # counted once it is said: who sees the count finds the reason in the log
