"""The control server's hand on the router: one numbered document over a unix socket.

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


class RouterSocket:
    """The router behind `run/router.sock` of a state directory."""

    def __init__(self, state: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._socket = state / "run" / "router.sock"
        self._timeout_s = timeout_s

    def generation(self) -> int | None:
        """The generation in effect; None when the router does not answer."""
        try:
            status, body = self._call("GET", b"")
            return msgspec.json.decode(body, type=_Numbered).generation if status == 200 else None
        except (sockets.SocketUnavailableError, msgspec.DecodeError):
            return None

    def apply(self, configuration: bytes) -> None:
        """Hand over a whole configuration. Raises RouterError when it is unreachable or refuses."""
        try:
            status, body = self._call("PUT", configuration)
        except sockets.SocketUnavailableError as error:
            raise RouterError(f"the router does not answer: {error}") from error
        if status != 200:
            said = protocol.decode_failure(body)
            raise RouterError(f"the router refused the configuration ({status}): {said.error}; {said.next_step}")

    def _call(self, method: str, body: bytes) -> tuple[int, bytes]:
        return sockets.call_unix(self._socket, method, "/configuration", body, timeout_s=self._timeout_s)
