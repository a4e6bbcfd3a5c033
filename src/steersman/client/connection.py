"""HTTP to one address: connections kept open, every wait bounded, every failure one of our errors.

Only the standard library, because whoever logs a prediction should not have to install a web stack for it. A read may go
out on a connection the server has meanwhile closed, and is then repeated on a fresh one; a change is never repeated by
itself, because the first may have arrived: it gets a fresh connection instead.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from steersman.domain.errors import BadRequest, LimitReached, Unavailable, from_wire

ANSWER_BYTES_MAX = 256 * 1024 * 1024
"""Largest answer read into memory: 256 MiB, an export of several years."""

CONNECTIONS_KEPT_MAX = 8
"""Idle connections kept open to one address."""

CHUNK_BYTES = 1024 * 1024

_BROKEN = (ConnectionError, http.client.RemoteDisconnected, http.client.BadStatusLine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A successful answer: its media type and bytes."""

    content_type: str
    body: bytes

    def data(self) -> Any:
        """The JSON it carries; None for an empty body."""
        if not self.body:
            return None
        try:
            return json.loads(self.body)
        except ValueError:
            raise Unavailable(
                "the answer is not JSON, so this is not Steersman's API",
                next_step="Check the address given with --url or STEERSMAN_URL.",
            ) from None


class Connection:
    """A small pool of HTTP connections to one base address; may be used from several threads.

    The token travels in a header, never in an address, and is shown by no `repr`.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._parts = _checked(url)
        self._token = token
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"

    def close(self) -> None:
        """Close what is idle; the object stays usable."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def get(self, path: str, query: Mapping[str, object] | None = None, *, timeout_s: float | None = None) -> Answer:
        """Read; repeated once when a kept connection turns out to be closed."""
        return self.send("GET", path + _query(query), timeout_s=timeout_s)

    def post(
        self,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        repeatable: bool = False,
    ) -> Answer:
        """Change; `repeatable` says that doing it twice acts once."""
        encoded = json.dumps({} if body is None else body, separators=(",", ":")).encode()
        return self.send("POST", path, encoded, headers=headers, timeout_s=timeout_s, repeatable=repeatable)

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        repeatable: bool = False,
    ) -> Answer:
        """One request; raises the error the server names, or `Unavailable` when there is no answer in time."""
        sent = {"Accept": "application/json", **(headers or {})}
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token}"
        reuse = repeatable or method == "GET"
        with self._failures(timeout_s):
            connection, fresh = self._take(reuse=reuse, timeout_s=timeout_s)
            try:
                answer = self._exchange(connection, method, path, body, sent)
            except _BROKEN:
                connection.close()
                if fresh:
                    raise
                connection, _ = self._take(reuse=False, timeout_s=timeout_s)
                answer = self._exchange(connection, method, path, body, sent)
            return answer
        raise AssertionError("unreachable")

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> Answer:
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, body=body, headers=dict(headers))
            response = connection.getresponse()
            content = _read(response)
        except BaseException:
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            self._give(connection)
        if response.status >= 400:
            raise from_wire(response.status, _loose_json(content))
        if response.status >= 300:
            raise Unavailable(
                f"{self.url} redirects, which Steersman's API does not do",
                next_step="Check the address given with --url or STEERSMAN_URL.",
            )
        return Answer(content_type=response.headers.get_content_type(), body=content)

    def _take(self, *, reuse: bool, timeout_s: float | None) -> tuple[http.client.HTTPConnection, bool]:
        timeout = self.timeout_s if timeout_s is None else timeout_s
        with self._lock:
            kept = self._idle.pop() if reuse and self._idle else None
        if kept is not None and kept.sock is not None:
            kept.sock.settimeout(timeout)
            return kept, False
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=timeout, context=context), True
        return http.client.HTTPConnection(host, port, timeout=timeout), True

    def _give(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < CONNECTIONS_KEPT_MAX:
                self._idle.append(connection)
                return
        connection.close()

    @contextlib.contextmanager
    def _failures(self, timeout_s: float | None) -> Iterator[None]:
        """What the network does to a request, as errors a caller can act on."""
        timeout = self.timeout_s if timeout_s is None else timeout_s
        try:
            yield
        except TimeoutError:
            raise Unavailable(f"{self.url} did not answer within {timeout:g} s") from None
        except ConnectionRefusedError:
            raise Unavailable(
                f"nothing listens at {self.url}",
                next_step="Start Steersman with `steersman up`, or give its address with --url or STEERSMAN_URL.",
            ) from None
        except socket.gaierror:
            raise Unavailable(f"the host of {self.url} is not known", next_step="Check the address.") from None
        except (OSError, http.client.HTTPException) as error:
            reason = type(error).__name__ if not str(error) else str(error)
            raise Unavailable(f"the connection to {self.url} broke: {reason}") from None


def segment(text: str) -> str:
    """One segment of a path, quoted so that a name can never become two."""
    if text in ("", ".", ".."):
        raise BadRequest(f"{text!r} is not a name")
    return quote(text, safe="@:+=-._~")


def _query(query: Mapping[str, object] | None) -> str:
    given = {key: str(value) for key, value in (query or {}).items() if value is not None}
    return "?" + urlencode(given) if given else ""


def _checked(url: str) -> SplitResult:
    next_step = "Give an address such as http://127.0.0.1:7700 with --url or STEERSMAN_URL."
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise BadRequest("the address is not a URL", next_step=next_step) from None
    if parts.username is not None or parts.password is not None:
        raise BadRequest("an address must not carry a secret", next_step="Give the token with STEERSMAN_TOKEN.")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadRequest(f"{url!r} is not the address of a server", next_step=next_step)
    return parts


def _read(response: http.client.HTTPResponse) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := response.read(CHUNK_BYTES):
        size += len(chunk)
        if size > ANSWER_BYTES_MAX:
            raise LimitReached(
                f"the answer is larger than {ANSWER_BYTES_MAX // 1024**2} MiB",
                next_step="Ask for less, for example with --limit.",
            )
        chunks.append(chunk)
    return b"".join(chunks)


def _loose_json(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None
