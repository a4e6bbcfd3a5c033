"""The least a proxy in Python can be: it parses both sides and passes bodies on. What a router costs beyond it, it costs for
what it does; what a router costs up to it, the machine, the kernel and the interpreter ask.

    python bench/measuring/bare_proxy.py UPSTREAM-SOCKET-FILE

The same loop and the same parser as the router's. No token is checked, nothing is read or logged, nobody has a deadline, a
connection that breaks is not noticed. Prints its port when it listens.
"""

from __future__ import annotations

import asyncio
import sys

import httptools
import uvloop

ASK = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: worker\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class Upstream(asyncio.Protocol):
    """A connection to the worker; one request at a time."""

    def __init__(self) -> None:
        self.caller: Caller | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        assert self.caller is not None
        caller, body, self._body = self.caller, self._body, b""
        caller.idle.append(self)
        caller.transport.write(ANSWER % (len(body), body))


class Caller(asyncio.Protocol):
    """A caller's connection."""

    def __init__(self, worker: str, idle: list[Upstream]) -> None:
        self.idle = idle
        self._worker = worker
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Headers are made into objects, as whoever needs one of them has to."""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        if self.idle:
            self._pass_on(self.idle.pop(), body)
        else:
            self._connecting = asyncio.ensure_future(self._connect(body))

    async def _connect(self, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, upstream = await loop.create_unix_connection(Upstream, self._worker)
        self._pass_on(upstream, body)

    def _pass_on(self, upstream: Upstream, body: bytes) -> None:
        upstream.caller = self
        upstream.transport.write(ASK % (len(body), body))


async def main() -> None:
    worker, idle = sys.argv[1], list[Upstream]()
    server = await asyncio.get_running_loop().create_server(lambda: Caller(worker, idle), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
