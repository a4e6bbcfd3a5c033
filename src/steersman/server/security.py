"""The door of the control server: who may knock, how loud, and what each route asks for.

Two parts, each refusing what it does not know. The *middleware* looks at every request before anything is parsed:
its Host (a page elsewhere that rebinds its name to 127.0.0.1 has another one), its Origin when it would change
something, the size of its headers, its credentials. The *route table* is made of `route(...)` and nothing else: a
route names the permission it needs or cannot be constructed, the few public paths are listed here by name, and a
request that did not pass the middleware carries no access and is refused.

A browser session is a cookie (SameSite=Strict, HttpOnly); what changes something under it also needs the session's
form token, which another site can neither read nor guess. Tokens are taken from the Authorization header alone; in an
address they would end in logs and histories, so a request that has one there is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steersman.console.pages import error_page
from steersman.domain.access import EVERY_WORKSPACE, Access, Permission, Secret, redacted
from steersman.domain.errors import BadRequest, LimitReached, NotAllowed, NotAuthenticated, SteersmanError
from steersman.domain.numbers import number_within
from steersman.plugins.identity.tokens import csrf_matches

logger = logging.getLogger(__name__)

HEADERS_MAX = 64
"""Headers of a request; browsers send about 20."""

HEADER_BYTES_MAX = 16 * 1024
"""All header names and values together; a session cookie and a bearer token are below 100 bytes."""

BODY_BYTES_MAX = 1024 * 1024
"""Body of a request unless its route says otherwise: a document is a few kB."""

BODY_SECONDS_MAX = 30.0
"""Wall time for a body to arrive: a client that sends a byte a second must not hold a connection for hours."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

PUBLIC_PATHS: Final = frozenset({"/login", "/health/live", "/health/ready", "/static/{path:path}"})
"""The only paths a route may open to everybody. A longer list is a decision to be seen in review."""

CSRF_FIELD = "csrf_token"
CSRF_HEADER = "x-csrf-token"

SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer browsers send forms with `Origin: null`, which is refused
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
"""Set unless the response set the header itself."""

EMBEDDED_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "font-src 'self' data:; worker-src 'self' blob:; frame-src 'self' blob:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'self'"
    ),
    "x-frame-options": "SAMEORIGIN",
}
"""For an embedded application's user interface: styles inline, frames of its own, scripts still from files only."""


class Authenticator(Protocol):
    """Who is behind a credential. Blocking (it reads a database); raises `NotAuthenticated`."""

    def token(self, presented: Secret) -> Access: ...
    def session(self, presented: Secret) -> Access: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What the middleware has to know of the installation.

    `hosts` are values of the Host header with their port, in lower case, such as `127.0.0.1:7700`; origins follow
    from them. `https` says that browsers reach us by TLS: cookies become Secure and bound to the host.
    """

    hosts: frozenset[str]
    https: bool = False

    @classmethod
    def loopback(cls, port: int) -> Door:
        return cls(hosts=frozenset({f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"}))

    @property
    def origins(self) -> frozenset[str]:
        scheme = "https" if self.https else "http"
        return frozenset(f"{scheme}://{host}" for host in self.hosts)

    @property
    def cookie(self) -> str:
        return "__Host-steersman_session" if self.https else "steersman_session"

    def set_session(self, response: Response, session: Secret, seconds: int) -> None:
        response.set_cookie(
            self.cookie,
            session.reveal(),
            max_age=seconds,
            path="/",
            secure=self.https,
            httponly=True,
            samesite="strict",
        )

    def clear_session(self, response: Response) -> None:
        response.delete_cookie(self.cookie, path="/", secure=self.https, httponly=True, samesite="strict")


class Within(StrEnum):
    """Where a route's permission must hold."""

    WORKSPACE = "workspace"  # in the workspace of the path
    ANY = "any"  # in some workspace; the handler picks rows by `request.state.access.allows`
    INSTALLATION = "installation"  # in every workspace, by a grant on `*`


class Forged(StrEnum):
    """What an unsafe request under a session cookie must show besides its Origin."""

    FORM_TOKEN = "form_token"  # noqa: S105 - the session's token, in a field of the form or a header
    SAME_ORIGIN_JSON = "same_origin_json"  # a JSON body: cross-site forms cannot send one. For embedded applications.


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a route asks for; tests enumerate these."""

    path: str
    methods: frozenset[str]
    permission: Permission | None
    within: Within
    public: bool
    body_bytes_max: int
    forged: Forged


Handler = Callable[[Request], Awaitable[Response]]


class Guarded:
    """An endpoint that looks at access, forged requests and size before its handler sees anything."""

    def __init__(self, handler: Handler, declaration: Declaration) -> None:
        self.handler = handler
        self.declaration = declaration
        self.__name__ = getattr(handler, "__name__", "handler")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, _bounded(scope, receive, self.declaration.body_bytes_max), send)
        try:
            await self._check(request)
            response = await self.handler(request)
        except SteersmanError as error:
            response = refusal(request, error)
        except HTTPException:
            raise  # the application's own pages for these
        except ClientDisconnect:
            return
        except Exception:
            logger.exception("the handler of %s %s failed", request.method, self.declaration.path)
            response = refusal(request, SteersmanError("the server failed while answering"))
        await response(scope, receive, send)

    async def _check(self, request: Request) -> None:
        state = request.scope.get("state", {})
        if not state.get(PASSED):
            raise NotAllowed("the request did not pass the door")
        declaration = self.declaration
        if declaration.permission is not None:
            access: Access | None = state.get("access")
            if access is None:
                raise NotAuthenticated("this needs a token or a login")
            _check_permission(access, declaration, request)
        if request.method not in SAFE_METHODS and state.get("session") is not None:
            await _check_forged(request, state["session"], declaration.forged)


def _check_permission(access: Access, declaration: Declaration, request: Request) -> None:
    permission = declaration.permission
    assert permission is not None
    if declaration.within is Within.ANY:
        if not access.allows_somewhere(permission):
            raise NotAllowed(f"{access.principal.actor} lacks the permission {permission}")
    elif declaration.within is Within.WORKSPACE:
        workspace = request.path_params["workspace"]
        if workspace == EVERY_WORKSPACE:
            raise NotAllowed("no workspace is called *")
        access.require(permission, workspace)
    else:
        access.require(permission, EVERY_WORKSPACE)


async def _check_forged(request: Request, session: Secret, forged: Forged) -> None:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if forged is Forged.SAME_ORIGIN_JSON:
        if content_type == "application/json":
            return  # the middleware has seen the right Origin already
        raise NotAllowed("under a session this takes JSON only", next_step="Send JSON, or use a token.")
    presented = request.headers.get(CSRF_HEADER, "")
    if not presented and content_type == "application/x-www-form-urlencoded":
        field = (await request.form(max_fields=200)).get(CSRF_FIELD)
        presented = field if isinstance(field, str) else ""
    if not csrf_matches(session, presented):
        raise NotAllowed(
            "the form's token is missing or of another session",
            next_step="Open the page again and send the form from there.",
        )


def route(
    path: str,
    handler: Handler,
    methods: Sequence[str],
    *,
    permission: Permission | None = None,
    public: bool = False,
    within: Within | None = None,
    body_bytes_max: int = BODY_BYTES_MAX,
    forged: Forged = Forged.FORM_TOKEN,
) -> Route:
    """The only way to make a route. Raises `ValueError` without a permission, unless the path is a public one.

    `within` is the workspace of the path where the path has `{workspace}`, else the whole installation: a route that
    lists across workspaces says `Within.ANY` and chooses its rows itself.
    """
    if public != (permission is None):
        raise ValueError(f"the route {path} needs a permission, or must be public: exactly one of the two")
    if public and path not in PUBLIC_PATHS:
        raise ValueError(f"the route {path} is not in PUBLIC_PATHS and cannot be public")
    has_workspace = "{workspace}" in path
    within = within or (Within.WORKSPACE if has_workspace else Within.INSTALLATION)
    if (within is Within.WORKSPACE) != has_workspace and within is not Within.ANY:
        raise ValueError(f"the route {path} holds within {within}, which does not fit its path")
    declaration = Declaration(
        path=path,
        methods=frozenset(methods),
        permission=permission,
        within=within,
        public=public,
        body_bytes_max=body_bytes_max,
        forged=forged,
    )
    return Route(path, Guarded(handler, declaration), methods=list(methods), name=None)


class Embedded:
    """Another application behind the door: it refuses by itself, in its own form, and is enumerated like a route.

    Under a session its unsafe requests must be JSON from our own origin. Bodies are its own matter (it streams them).
    Its pages get a policy of their own, since a bundled user interface sets styles inline.
    """

    def __init__(self, app: ASGIApp, declaration: Declaration) -> None:
        self._app = app
        self.declaration = declaration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in EMBEDDED_HEADERS.items():
                    headers[name] = value
            await send(message)

        request = Request(scope, receive)
        state = scope.get("state", {})
        try:
            if not state.get(PASSED):
                raise NotAllowed("the request did not pass the door")
            if request.method not in SAFE_METHODS and state.get("session") is not None:
                await _check_forged(request, state["session"], self.declaration.forged)
        except SteersmanError as error:
            await refusal(request, error)(scope, receive, send)
            return
        await self._app(scope, receive, sending)


def embedded(path: str, app: ASGIApp, methods: Sequence[str], *, permission: Permission) -> Mount:
    """Mount `app`, which must refuse by itself whoever lacks `permission`; the enumeration of routes tries that."""
    declaration = Declaration(
        path=path,
        methods=frozenset(methods),
        permission=permission,
        within=Within.ANY,
        public=False,
        body_bytes_max=0,
        forged=Forged.SAME_ORIGIN_JSON,
    )
    return Mount(path, app=Embedded(app, declaration))


def _bounded(scope: Scope, receive: Receive, bytes_max: int) -> Receive:
    """`receive` that raises `LimitReached` past `bytes_max`, by Content-Length already before the first byte."""
    refused = LimitReached(
        f"the body is larger than {bytes_max} bytes", next_step="Send less at once, or give large things by digest."
    )
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    received, complete = 0, False

    async def bounded() -> Message:
        nonlocal received, complete
        if complete:
            return await receive()
        if number_within(declared, 0, bytes_max) is None:
            raise refused
        try:
            message = await asyncio.wait_for(receive(), BODY_SECONDS_MAX)
        except TimeoutError:
            raise LimitReached(f"the body did not arrive within {BODY_SECONDS_MAX:g} s") from None
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > bytes_max:
                raise refused
        return message

    return bounded


PASSED = "steersman.door.passed"


class Middleware:
    """ASGI middleware around the whole application; see the module's text. It never buffers an answer."""

    def __init__(self, app: ASGIApp, *, door: Door, authenticator: Authenticator) -> None:
        self._app = app
        self._door = door
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        guarded = _with_headers(send)
        try:
            state = await self._admit(Request(scope))
        except SteersmanError as error:
            await refusal(Request(scope), error)(scope, receive, guarded)
            return
        scope.setdefault("state", {}).update(state)
        await self._app(scope, receive, guarded)

    async def _admit(self, request: Request) -> dict[str, Any]:
        headers = request.scope["headers"]
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > HEADERS_MAX or size > HEADER_BYTES_MAX:
            raise LimitReached(f"a request has at most {HEADERS_MAX} headers and {HEADER_BYTES_MAX} bytes of them")
        query = request.scope.get("query_string", b"").decode("latin-1")
        if redacted(query) != query:
            raise BadRequest(
                "a credential stands in the address", next_step="Send it as Authorization: Bearer, revoke this one."
            )
        self._check_host(headers)
        self._check_origin(request)
        access, session = await self._authenticate(request)
        if session is not None and request.method not in SAFE_METHODS and "origin" not in request.headers:
            raise NotAllowed("a request that changes something under a session must say its Origin")
        return {
            PASSED: True,
            "access": access,
            "principal": None if access is None else access.principal,
            "session": session,
        }

    def _check_host(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._door.hosts:
            raise NotAllowed(
                "this server does not answer to the name in the Host header",
                next_step="Use one of its own addresses, or add the name to the setting `server.hosts`.",
            )

    def _check_origin(self, request: Request) -> None:
        if request.method in SAFE_METHODS:
            return
        origins = request.headers.getlist("origin")
        site = request.headers.get("sec-fetch-site", "none")
        if any(origin not in self._door.origins for origin in origins) or site in ("cross-site", "same-site"):
            raise NotAllowed("the request comes from a page of another origin")

    async def _authenticate(self, request: Request) -> tuple[Access | None, Secret | None]:
        """A bearer token wins over a cookie; a wrong credential is refused and never falls back to another."""
        given = request.headers.getlist("authorization")
        if given:
            scheme, _, value = given[0].partition(" ")
            if len(given) > 1 or scheme.lower() != "bearer":
                raise NotAuthenticated("the Authorization header must be one bearer token")
            return await run_in_threadpool(self._authenticator.token, Secret(value.strip())), None
        cookie = request.cookies.get(self._door.cookie)
        if cookie is None:
            return None, None
        session = Secret(cookie)
        try:
            return await run_in_threadpool(self._authenticator.session, session), session
        except NotAuthenticated:
            return None, None  # an old cookie must not keep anybody from the login page


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending


def wants_page(request: Request) -> bool:
    """A browser asks for a page; programs and everything under /api/ get JSON."""
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")


def refusal(request: Request, error: SteersmanError) -> Response:
    """The answer to a refused request: JSON with the error and the next step, or a page for browsers."""
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
    if isinstance(error, LimitReached) or error.status >= 500:
        headers["connection"] = "close"  # the rest of the body is not wanted
    if not wants_page(request):
        return JSONResponse(error.to_wire(), status_code=error.status, headers=headers)
    return HTMLResponse(error_page(error), status_code=error.status, headers=headers)


class Redacting(logging.Filter):
    """Takes credentials out of log records, tracebacks included: by their form, and the `known` ones by value.

    Install it on handlers, not on loggers: a logger's filter does not see what its children log.
    """

    def __init__(self, known: Iterable[Secret] = ()) -> None:
        super().__init__()
        self._known = tuple(known)

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):  # kept as arguments: uvicorn's formatter of access lines reads them
            record.args = tuple(
                redacted(value, self._known) if isinstance(value, str) else value for value in record.args
            )
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = f"{record.msg} {record.args}"
        clean = redacted(message, self._known)
        if clean != message:
            record.msg, record.args = clean, None
        if record.exc_info:
            text = record.exc_text or logging.Formatter().formatException(record.exc_info)
            record.exc_text = redacted(text, self._known)
            record.exc_info = None  # a formatter that renders it anew would bring the secret back
        if record.stack_info:
            record.stack_info = redacted(record.stack_info, self._known)
        return True
