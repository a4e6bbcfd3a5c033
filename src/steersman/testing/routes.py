"""Enumerates an application's routes and tries each of them without the right to it.

A new route without a permission is the classic hole (attack A7), and a list of routes kept by hand has the same hole.
So the list is the application itself: `undeclared` finds what was not made by `steersman.server.security.route`, and
`admitted` sends a request to every route with every identity that lacks its permission and returns those that got in.

`call` drives an ASGI application directly, without a server and without a client library.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message

from steersman.domain.access import ROLE_PERMISSIONS, Permission, Role
from steersman.server.security import SAFE_METHODS, Declaration, Embedded, Guarded

ANSWER_SECONDS_MAX = 10.0
"""A refusal comes at once; a route that hangs where it should refuse is a finding as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Somebody who tries: the headers that authenticate them, and the permissions they rightly have."""

    name: str
    headers: Mapping[str, str] = field(default_factory=dict)
    permissions: frozenset[Permission] = frozenset()


ANONYMOUS = Identity(name="anonymous")


def viewer(headers: Mapping[str, str]) -> Identity:
    """A viewer of every workspace, authenticated by `headers`."""
    return Identity(name="viewer", headers=headers, permissions=ROLE_PERMISSIONS[Role.VIEWER])


async def call(
    app: ASGIApp,
    method: str,
    path: str,
    *,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    query: str = "",
    host: str = "127.0.0.1:7700",
) -> Answer:
    """One request to an ASGI application. `headers` may repeat; a Host of one's own replaces `host`."""
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    if not any(name == b"host" for name, _ in raw):
        raw.insert(0, (b"host", host.encode()))
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": raw,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 7700),
        "state": {},
    }
    incoming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await asyncio.wait_for(app(scope, receive, send), ANSWER_SECONDS_MAX)
    start = next(message for message in sent if message["type"] == "http.response.start")
    return Answer(
        status=start["status"],
        headers={name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]},
        body=b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body"),
    )


def _walk(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[tuple[str, BaseRoute]]:
    for found in routes:
        path = prefix + getattr(found, "path", "?")
        if isinstance(found, Mount) and found.routes:
            yield from _walk(found.routes, path)
        else:
            yield path, found


def _declaration(found: BaseRoute) -> Declaration | None:
    guarded = found.endpoint if isinstance(found, Route) else found.app if isinstance(found, Mount) else None
    return guarded.declaration if isinstance(guarded, Guarded | Embedded) else None


def declarations(app: Starlette) -> list[tuple[str, Declaration]]:
    """Every declared route with its full path; an embedded application is one, with a path below it."""
    found = []
    for path, each in _walk(app.routes):
        if declaration := _declaration(each):
            found.append((f"{path}/default" if isinstance(each, Mount) else path, declaration))
    return found


def undeclared(app: Starlette) -> list[str]:
    """Paths of whatever was added past `route` and `embedded`: plain routes, applications, sockets. Must be empty."""
    return [path for path, found in _walk(app.routes) if _declaration(found) is None]


def example_path(path: str, names: Mapping[str, str]) -> str:
    """`path` with its parameters filled in: from `names`, else 1 for numbers and `default` for texts."""

    def fill(match: re.Match[str]) -> str:
        name, _, convertor = match[1].partition(":")
        return names.get(name, "1" if convertor in ("int", "float") else "default")

    return re.sub(r"\{([^}]+)\}", fill, path)


async def admitted(
    app: Starlette, identities: Sequence[Identity], *, host: str, names: Mapping[str, str] | None = None
) -> list[str]:
    """Requests that should have been refused and were not, as sentences. Must be empty.

    Each route is tried with each of its methods by each identity without its permission: anonymous must get 401,
    anybody else 403. `host` must be one the application answers to, so that it is the permission that refuses.
    """
    wrong = []
    for path, declaration in declarations(app):
        if declaration.permission is None:
            continue
        for method in sorted(declaration.methods):
            for identity in identities:
                if declaration.permission in identity.permissions:
                    continue
                headers = dict(identity.headers)
                if method not in SAFE_METHODS:
                    headers |= {"Origin": f"http://{host}", "Content-Type": "application/json"}
                answer = await call(
                    app, method, example_path(path, names or {}), headers=list(headers.items()), host=host
                )
                expected = 401 if identity.name == ANONYMOUS.name else 403
                if answer.status != expected:
                    wrong.append(f"{method} {path} answered {identity.name} with {answer.status}, not {expected}")
    return wrong
