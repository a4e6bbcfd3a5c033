"""A small client of MLflow's REST API: pooled connections, time-outs, errors that say what to do.

MLflow's own package takes 2.4 s to import and 850 MB of disk; what a registry needs of it is a dozen requests. Safe from
several threads. Redirects are not followed: a token goes to the address it was given for, and nowhere else.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

from steersman.domain.errors import (
    BadRequest,
    LimitReached,
    Misconfigured,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    SteersmanError,
    Unavailable,
)

TIMEOUT_S = 30.0
"""For each read or write; MLflow needs about 10 ms a request, and seconds when it is busy."""
ANSWER_BYTES_MAX = 32 * 2**20
CHUNK_BYTES = 2**20
IDLE_MAX_S = 4.0
"""uvicorn closes an idle connection after 5 s unless told otherwise."""
POOLED_MAX = 4

SignHeaders = Callable[[str, str], Mapping[str, str]]
"""From method and target to the headers that identify us; called for every request."""


def bearer(token: str) -> SignHeaders:
    """For an MLflow behind a bearer token."""
    return lambda _method, _target: {"Authorization": f"Bearer {token}"}


def basic(user: str, password: str) -> SignHeaders:
    """For an MLflow with its own basic authentication."""
    given = base64.b64encode(f"{user}:{password}".encode()).decode()
    return lambda _method, _target: {"Authorization": f"Basic {given}"}


class MlflowRest:
    """`url` is the tracking address, `http(s)://host[:port][/prefix]`, without user or password in it."""

    def __init__(self, url: str, *, headers: SignHeaders | None = None, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise Misconfigured(
                "The registry's address must be http(s)://host[:port], without user and password in it.",
                next_step="Give the token or password by its own setting.",
            )
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._secure = parts.scheme == "https"
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._headers = headers
        self._timeout_s = timeout_s
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._lock = threading.Lock()

    def get(self, path: str, /, **query: str | int) -> dict[str, Any]:
        return self._json("GET", path, query=query)

    def send(self, method: str, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        return self._json(method, path, body=body)

    def text(self, path: str) -> str:
        with self._exchange("GET", path, None) as response:
            return response.read(ANSWER_BYTES_MAX).decode(errors="replace")

    def download(self, path: str, /, **query: str) -> Iterator[bytes]:
        """The bytes of one file as they arrive; complete, or an error."""
        target = f"{path}?{urlencode(query)}" if query else path
        with self._exchange("GET", target, None) as response:
            while chunk := response.read(CHUNK_BYTES):
                yield chunk
            if response.length:
                raise Unavailable(f"MLflow at {self.url} broke off in the middle of a file.")

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> dict[str, Any]:
        target = f"{path}?{urlencode(query)}" if query else path
        with self._exchange(method, target, None if body is None else json.dumps(body).encode()) as response:
            content = response.read(ANSWER_BYTES_MAX + 1)
        if len(content) > ANSWER_BYTES_MAX:
            raise LimitReached(f"MLflow's answer to {path} is larger than {ANSWER_BYTES_MAX >> 20} MiB.")
        try:
            answer = json.loads(content or b"{}")
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Unavailable(
                f"What answers at {self.url} is no MLflow: {path} is not a JSON object.",
                next_step="Check the registry's address in the settings.",
            )
        return answer

    @contextmanager
    def _exchange(self, method: str, target: str, body: bytes | None) -> Iterator[http.client.HTTPResponse]:
        target = self._prefix + target
        try:
            connection, response = self._sent(method, target, body)
            try:
                if response.status >= 300:
                    raise self._error(response, target)
                yield response
            finally:
                self._give_back(connection, response)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"MLflow at {self.url} does not answer ({type(error).__name__}).",
                next_step="Check that it runs and that the registry's address in the settings is right (`steersman doctor`).",
            ) from error

    def _sent(
        self, method: str, target: str, body: bytes | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        headers = {"Accept": "application/json, */*", **(self._headers(method, target) if self._headers else {})}
        if body is not None:
            headers["Content-Type"] = "application/json"
        pooled = self._pooled()
        if pooled is not None:
            try:
                pooled.request(method, target, body=body, headers=headers)
                return pooled, pooled.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                pooled.close()  # it was closed while idle: the request did not run, once more on a new one
        connection = self._connect()
        try:
            connection.request(method, target, body=body, headers=headers)
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def _connect(self) -> http.client.HTTPConnection:
        if self._secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=context)
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)

    def _pooled(self) -> http.client.HTTPConnection | None:
        with self._lock:
            while self._idle:
                since, connection = self._idle.pop()
                if time.monotonic() - since < IDLE_MAX_S:
                    return connection
                connection.close()
        return None

    def _give_back(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        reusable = response.isclosed() and not response.will_close
        with self._lock:
            if reusable and len(self._idle) < POOLED_MAX:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    def _error(self, response: http.client.HTTPResponse, target: str) -> SteersmanError:
        """The class of the tree that fits MLflow's answer. Its message is the server's, cut; our headers are never in it."""
        content = response.read(64 * 1024)
        try:
            answer = json.loads(content)
            said = f"{answer.get('error_code', '')}: {answer.get('message', '')}"
        except (ValueError, AttributeError):
            said = content[:200].decode(errors="replace")
        path = target.partition("?")[0]
        message = f"MLflow at {self.url} answered {response.status} to {path}: {said[:500]}"
        if response.status == 401:
            return NotAuthenticated(message, next_step="Check the registry's token in the settings.")
        if response.status == 403:
            return NotAllowed(message, next_step="Check what the registry's token may do.")
        if response.status == 404:
            return NotFound(message, next_step="Check the name, and the registry's address in the settings.")
        if response.status in (429, 500, 502, 503, 504):
            return Unavailable(message)
        return BadRequest(message)
