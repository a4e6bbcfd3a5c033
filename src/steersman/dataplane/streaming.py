"""Answers in pieces: a generator in a thread, its pieces as server-sent events.

The generate extension of the Open Inference Protocol sends each piece as `data: {json}`. The next piece is asked for when
the last one has been taken, so a slow reader slows the model instead of filling memory, and when the caller leaves, the
generator is closed after the piece it is at. All of one generator runs in one thread: some keep state by thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from steersman.dataplane.exchange import Exchange, header_lines

EVENT_STREAM = header_lines((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"))
_END: Any = object()

Encode = Callable[[Any], bytes]
"""One piece as JSON."""


async def relay(
    exchange: Exchange, pieces: Iterator[Any], encode: Encode, failed: Callable[[Exception], bytes]
) -> None:
    """Send all pieces. What the generator raises before its first piece is raised here; later, `failed` is a last event."""
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(1, thread_name_prefix="stream")
    left = exchange.departure()

    def following() -> bytes | None:
        """In the thread: the next piece as JSON, None after the last."""
        piece = next(pieces, _END)
        return None if piece is _END else encode(piece)

    try:
        event = await loop.run_in_executor(executor, following)
        exchange.begin(200, EVENT_STREAM)
        while event is not None:
            await exchange.send(_event(event))
            coming = loop.run_in_executor(executor, following)
            either: set[asyncio.Future[Any]] = {coming, left}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                coming.cancel()
                return
            try:
                event = coming.result()
            except Exception as error:  # a model may raise anything; the head is sent, so the stream says it
                await exchange.send(_event(failed(error)))
                break
        exchange.end()
    finally:
        executor.submit(_close, pieces)  # after the piece it is at
        executor.shutdown(wait=False)


def _event(content: bytes) -> bytes:
    return b"data: " + content + b"\n\n"


def _close(pieces: Iterator[Any]) -> None:
    close = getattr(pieces, "close", None)
    if close is not None:
        close()
