"""A worker that costs next to nothing: a constant answer to every request, so that a router can be measured alone.

    python bench/measuring/stub.py BODY-FILE SOCKET-FILE

Answers routers on a Unix socket, as workers do, and callers on a port of the loopback interface, which it prints when it
listens on both.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Stub(asyncio.Protocol):
    """Answers one request at a time on a connection."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end)
        if len(self._buffer) - end - 4 >= (int(length[1]) if length else 0):
            self._buffer = b""
            self._transport.write(self._answer)  # type: ignore[attr-defined]


async def main() -> None:
    body = Path(sys.argv[1]).read_bytes()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    answer = head.encode() + body
    loop = asyncio.get_running_loop()
    await loop.create_unix_server(lambda: Stub(answer), sys.argv[2])
    server = await loop.create_server(lambda: Stub(answer), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
