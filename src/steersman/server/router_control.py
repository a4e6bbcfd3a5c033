"""The control server's hand on the routers: one numbered document over unix sockets.

The router serves whatever it was given last, with or without us. So "it does not answer" is no emergency here: the
reconciler asks again, and the next whole configuration says everything.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from steersman.dataplane import protocol, sockets
from steersman.ports import RouterError

TIMEOUT_S = 5.0
"""The router answers in milliseconds; longer means that it is gone or stuck, and a reconciler should not wait for it."""


class _Numbered(msgspec.Struct, frozen=True):
    generation: int


class RouterSockets:
    """The routers of an installation, behind `run/router-<number>.sock`: what is in effect is what all of them have."""

    def __init__(self, state: Path, routers: int = 1, *, timeout_s: float = TIMEOUT_S) -> None:
        self._sockets = [state / "run" / f"router-{number}.sock" for number in range(routers)]
        self._timeout_s = timeout_s

    def generation(self) -> int | None:
        """The generation in effect, the least of all; None when a router does not answer."""
        bodies = self.configurations()
        return None if bodies is None else min(msgspec.json.decode(body, type=_Numbered).generation for body in bodies)

    def configurations(self) -> list[bytes] | None:
        """What each router has in effect; None when one does not answer or says what is no configuration."""
        bodies = [body for socket in self._sockets if (body := self._configuration(socket)) is not None]
        return bodies if len(bodies) == len(self._sockets) else None

    def _configuration(self, socket: Path) -> bytes | None:
        try:
            status, body = self._call(socket, "GET", b"")
            msgspec.json.decode(body, type=_Numbered)
            return body if status == 200 else None
        except (sockets.SocketUnavailableError, msgspec.DecodeError):
            return None

    def apply(self, configuration: bytes) -> None:
        """Hand over a whole configuration to every router. Raises RouterError when one is unreachable or refuses."""
        failures = [said for socket in self._sockets if (said := self._apply(socket, configuration)) is not None]
        if failures:
            raise RouterError("; ".join(failures))

    def _apply(self, socket: Path, configuration: bytes) -> str | None:
        name = socket.stem
        try:
            status, body = self._call(socket, "PUT", configuration)
        except sockets.SocketUnavailableError as error:
            return f"{name} does not answer: {error}"
        if status == 200:
            return None
        said = protocol.decode_failure(body)
        return f"{name} refused the configuration ({status}): {said.error}; {said.next_step}"

    def _call(self, socket: Path, method: str, body: bytes) -> tuple[int, bytes]:
        return sockets.call_unix(socket, method, "/configuration", body, timeout_s=self._timeout_s)
