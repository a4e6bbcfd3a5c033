"""Telling open pages that something changed: one stream of server-sent events a page.

An event carries no content, only how large the ledger is and where the event clock stands; the page then fetches
itself again and takes over what differs. So what one sees live is exactly what one would see after a reload, made by
the same code under the same permissions, and a page whose stream breaks is merely older, which it says.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

from steersman.console import wording
from steersman.domain.errors import LimitReached
from steersman.store.database import Store

GATHERED_S = 0.7
"""Wall seconds in which further changes join an event: a replay commits hundreds of times a second."""

LOOKED_EVERY_S = 3.0
"""Wall seconds after which a stream looks by itself: the clock of a replay moves without an entry in the ledger."""

SILENT_LOOKS_MAX = 5
"""Looks without a change before a comment is sent, so that proxies between keep the connection: 15 s."""

STREAMS_MAX = 200
"""Open streams of one server: each is a connection and a few kB."""


class Changes:
    """Hands every open stream a hint after each commit; made once by the server."""

    def __init__(self, store: Store, now: Callable[[], datetime], *, streams_max: int = STREAMS_MAX) -> None:
        self._store = store
        self._now = now
        self._streams_max = streams_max
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        store.on_commit(self._hint)

    def _hint(self) -> None:
        """Called by whichever thread committed."""
        for loop, event in list(self._waiting):
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:
                self._waiting.discard((loop, event))  # its loop has ended

    def position(self) -> tuple[int, str]:
        """Size of the ledger and event time: when neither moved, no page changed."""
        with self._store.read() as tx:
            return tx.ledger.size(), wording.machine(self._now().astimezone(UTC))

    def open(self) -> AsyncIterator[bytes]:
        """The bytes of one stream, without end. Raises LimitReached when too many are open."""
        if len(self._waiting) >= self._streams_max:
            raise LimitReached(
                f"{self._streams_max} pages are open at once",
                next_step="Close some, or reload by hand: pages work without.",
            )
        return self._stream()

    async def _stream(self) -> AsyncIterator[bytes]:
        event = asyncio.Event()
        place = (asyncio.get_running_loop(), event)
        self._waiting.add(place)
        last: tuple[int, str] | None = None
        silent = 0
        try:
            yield b"retry: 2000\n\n"
            while True:
                position = await asyncio.to_thread(self.position)
                silent += 1
                if position != last:
                    last, silent = position, 0
                    yield _event(*position)
                elif silent >= SILENT_LOOKS_MAX:
                    silent = 0
                    yield b": nothing changed\n\n"
                try:
                    await asyncio.wait_for(event.wait(), LOOKED_EVERY_S)
                    await asyncio.sleep(GATHERED_S)
                except TimeoutError:
                    pass
                event.clear()
        finally:
            self._waiting.discard(place)


def _event(size: int, at: str) -> bytes:
    data = json.dumps({"size": size, "at": at})
    return f"event: changed\nid: {size}\ndata: {data}\n\n".encode()
