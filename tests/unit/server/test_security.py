"""The door and the route table: attacks A7 (a route without permission) and A20 (forged requests, rebinding)."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware as With
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from uvicorn.logging import AccessFormatter

from steersman.domain.access import Access, Grant, Kind, Permission, Role, Secret
from steersman.domain.errors import Conflict
from steersman.plugins.identity.tokens import SESSION_LIFE, Identities, csrf_token
from steersman.server.security import (
    EMBEDDED_HEADERS,
    PUBLIC_PATHS,
    SECURITY_HEADERS,
    Door,
    Forged,
    Middleware,
    Redacting,
    Within,
    embedded,
    route,
)
from steersman.testing.credentials import CredentialsInMemory
from steersman.testing.routes import ANONYMOUS, Answer, admitted, call, declarations, undeclared, viewer

HOST = "127.0.0.1:7700"
ORIGIN = f"http://{HOST}"
NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)
FORM = "application/x-www-form-urlencoded"
CANARY = "canary-42ab91"


class Known:
    """The authenticator over rows in memory, at a fixed time."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    def token(self, presented: Secret) -> Access:
        return self._identities.authenticate_token(presented, NOW)

    def session(self, presented: Secret) -> Access:
        return self._identities.authenticate_session(presented, NOW)


async def whoami(request: Request) -> Response:
    return JSONResponse({"who": request.state.principal and request.state.principal.actor})


async def write(request: Request) -> Response:
    form = await request.form() if request.headers.get("content-type") == FORM else {}
    return JSONResponse({"wrote": form.get("name", "") if form else (await request.body()).decode()})


async def listing(request: Request) -> Response:
    access: Access = request.state.access
    return JSONResponse([name for name in ("ops", "risk") if access.allows(Permission.MODEL_READ, name)])


async def crash(_: Request) -> Response:
    raise RuntimeError(f"database password {CANARY} in the message")


async def conflict(_: Request) -> Response:
    raise Conflict("the release has ended")


async def stream(_: Request) -> Response:
    async def events() -> Any:
        yield b"data: 1\n\n"
        yield b"data: 2\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def registry(scope: Any, receive: Any, send: Any) -> None:
    """An application of its own, which refuses by itself."""
    access: Access | None = scope["state"]["access"]
    status = 401 if access is None else 200 if access.allows_somewhere(Permission.REGISTRY_READ) else 403
    await PlainTextResponse("registry", status)(scope, receive, send)


ROUTES = [
    route("/login", whoami, ["GET"], public=True),
    route("/login", write, ["POST"], public=True),
    route("/health/live", whoami, ["GET"], public=True),
    route("/", whoami, ["GET"], permission=Permission.CONSOLE_READ),
    route("/api/v1/models", listing, ["GET"], permission=Permission.MODEL_READ, within=Within.ANY),
    route("/api/v1/{workspace}/releases", write, ["POST"], permission=Permission.RELEASE_OPEN),
    route("/api/v1/{workspace}/releases/{number:int}/approve", write, ["POST"], permission=Permission.RELEASE_APPROVE),
    route("/api/v1/clock", write, ["POST"], permission=Permission.CLOCK_ADVANCE, body_bytes_max=100),
    route("/{workspace}/incidents/{name}", write, ["POST", "DELETE"], permission=Permission.INCIDENT_ACT),
    route("/json/{path:path}", write, ["POST"], permission=Permission.REGISTRY_READ, forged=Forged.SAME_ORIGIN_JSON),
    embedded("/mlflow", registry, ["GET", "POST"], permission=Permission.REGISTRY_READ),
    route("/crash", crash, ["GET"], permission=Permission.METRICS_READ),
    route("/conflict", conflict, ["GET"], permission=Permission.METRICS_READ),
    route("/live", stream, ["GET"], permission=Permission.CONSOLE_READ),
]


class House:
    """An application with an admin, an operator of ops, a viewer and an approver, and the headers of each."""

    def __init__(self, door: Door | None = None, routes: list[Any] | None = None) -> None:
        self.door = door or Door.loopback(7700)
        self.identities = Identities(CredentialsInMemory())
        self.identities.set_user("ada", (Grant(role=Role.ADMIN),), NOW)
        self.identities.set_user("olga", (Grant(role=Role.OPERATOR, workspace="ops"),), NOW)
        self.identities.set_user("vera", (Grant(role=Role.VIEWER),), NOW)
        self.identities.set_user("paul", (Grant(role=Role.APPROVER),), NOW)
        self.app = Starlette(
            routes=routes or ROUTES,
            middleware=[With(Middleware, door=self.door, authenticator=Known(self.identities))],
        )

    def bearer(self, subject: str, role: Role, workspace: str = "*") -> dict[str, str]:
        _, secret = self.identities.issue_token(
            subject=subject, kind=Kind.HUMAN, owner=subject, now=NOW, roles=(role,), workspace=workspace
        )
        return {"Authorization": f"Bearer {secret.reveal()}"}

    def session(self, subject: str) -> Secret:
        return self.identities.log_in(self.identities.issue_login_code(subject, NOW), NOW)[1]

    def call(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> Answer:
        return asyncio.run(call(self.app, method, path, headers=list((headers or {}).items()), **more))

    def form(self, session: Secret, **headers: str) -> dict[str, str]:
        return {"Cookie": f"{self.door.cookie}={session.reveal()}", "Origin": ORIGIN, "Content-Type": FORM} | headers


# --- A7: every route asks for a permission ---------------------------------------------------------------------------


def test_a7_a_route_without_a_permission_cannot_be_constructed() -> None:
    with pytest.raises(ValueError, match="exactly one of the two"):
        route("/secret", whoami, ["GET"])
    with pytest.raises(ValueError, match="exactly one of the two"):
        route("/login", whoami, ["GET"], permission=Permission.MODEL_READ, public=True)


def test_a7_only_the_listed_paths_can_be_public() -> None:
    with pytest.raises(ValueError, match="PUBLIC_PATHS"):
        route("/metrics", whoami, ["GET"], public=True)
    assert {"/login", "/health/live", "/health/ready", "/static/{path:path}"} == PUBLIC_PATHS


def test_a7_every_route_refuses_anonymous_and_viewer_what_they_lack() -> None:
    house = House()
    identities = [ANONYMOUS, viewer(house.bearer("vera", Role.VIEWER))]
    assert undeclared(house.app) == []
    assert len(declarations(house.app)) == len(ROUTES)
    assert asyncio.run(admitted(house.app, identities, host=HOST)) == []


def test_a7_the_enumeration_finds_routes_added_past_the_table() -> None:
    async def plain(_: Request) -> Response:
        return PlainTextResponse("open")

    inner = Mount("/sub", routes=[Route("/a", plain), *ROUTES[3:4]])
    house = House(routes=[*ROUTES, Route("/plain", plain), inner, Mount("/app", app=plain)])
    assert undeclared(house.app) == ["/plain", "/sub/a", "/app"]


def test_a7_the_enumeration_reports_a_route_that_lets_somebody_in() -> None:
    open_house = House(routes=[route("/w", whoami, ["GET"], permission=Permission.MODEL_READ)])
    impostor = viewer(open_house.bearer("vera", Role.VIEWER))
    lacking = type(impostor)(name="nobody", headers=impostor.headers)
    found = asyncio.run(admitted(open_house.app, [lacking], host=HOST))
    assert found == ["GET /w answered nobody with 200, not 403"]


def test_a7_without_the_middleware_every_route_refuses() -> None:
    bare = Starlette(routes=ROUTES)
    for path in ("/", "/login", "/api/v1/models"):
        assert asyncio.run(call(bare, "GET", path)).status == 403


def test_a8_a_workspace_in_the_path_is_the_one_the_permission_must_hold_in() -> None:
    house = House()
    olga = house.bearer("olga", Role.OPERATOR, "ops")
    assert house.call("POST", "/api/v1/ops/releases", olga).status == 200
    for other in ("risk", "*", "OPS", "ops%2f", ""):
        assert house.call("POST", f"/api/v1/{other}/releases", olga).status in (403, 404)


def test_a8_a_listing_across_workspaces_shows_only_those_granted() -> None:
    house = House()
    assert json.loads(house.call("GET", "/api/v1/models", house.bearer("olga", Role.OPERATOR, "ops")).body) == ["ops"]
    # Without `Within.ANY` a route of no workspace is one of the installation, which a grant on `ops` does not open.
    assert house.call("GET", "/", house.bearer("olga", Role.OPERATOR, "ops")).status == 403


def test_a9_an_admin_gets_403_where_a_release_is_approved() -> None:
    house = House()
    path = "/api/v1/ops/releases/1/approve"
    assert house.call("POST", path, house.bearer("ada", Role.ADMIN)).status == 403
    assert house.call("POST", path, house.bearer("paul", Role.APPROVER)).status == 200


# --- A20: forged requests and rebinding ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7700",
        "127.0.0.1",
        "127.0.0.1:80",
        "localhost.evil.example:7700",
        "",
        "127.0.0.1:7700@evil",
        "0.0.0.0:7700",
    ],
)
def test_a20_a_rebound_name_reaches_nothing_not_even_public_pages(host: str) -> None:
    house = House()
    for path in ("/login", "/health/live", "/"):
        answer = house.call("GET", path, house.bearer("ada", Role.ADMIN), host=host)
        assert answer.status == 403
        assert b"Host header" in answer.body


def test_a20_two_host_headers_are_refused() -> None:
    house = House()
    answer = asyncio.run(call(house.app, "GET", "/login", headers=[("Host", HOST), ("Host", "evil.example")]))
    assert answer.status == 403


@pytest.mark.parametrize("host", [HOST, "localhost:7700", "[::1]:7700", "LOCALHOST:7700"])
def test_the_servers_own_names_are_answered(host: str) -> None:
    assert House().call("GET", "/login", host=host).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Origin": "https://127.0.0.1:7700"},
        {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"},
        {"Origin": ORIGIN, "Sec-Fetch-Site": "same-site"},
        {"Origin": f"{ORIGIN}.evil.example"},
    ],
)
def test_a20_a_page_of_another_origin_changes_nothing(headers: dict[str, str]) -> None:
    house = House()
    session = house.session("ada")
    forged = house.form(session, **{"X-CSRF-Token": csrf_token(session)}) | headers
    assert house.call("POST", "/api/v1/ops/releases", forged).status == 403
    assert house.call("POST", "/login", headers).status == 403
    assert house.call("POST", "/api/v1/ops/releases", house.bearer("ada", Role.ADMIN) | headers).status == 403


def test_a20_a_session_without_origin_changes_nothing() -> None:
    house = House()
    session = house.session("ada")
    headers = house.form(session, **{"X-CSRF-Token": csrf_token(session)})
    del headers["Origin"]
    assert house.call("POST", "/api/v1/ops/releases", headers).status == 403


def test_a_form_with_its_sessions_token_is_accepted_and_the_handler_still_reads_it() -> None:
    house = House()
    session = house.session("ada")
    body = f"name=v3&csrf_token={csrf_token(session)}".encode()
    answer = house.call("POST", "/api/v1/ops/releases", house.form(session), body=body)
    assert (answer.status, json.loads(answer.body)) == (200, {"wrote": "v3"})


@pytest.mark.parametrize("kind", ["missing", "empty", "another session's", "twice", "a file"])
def test_a20_a_form_without_its_sessions_token_is_refused(kind: str) -> None:
    house = House()
    session, other = house.session("ada"), house.session("ada")
    body = {
        "missing": b"name=v3",
        "empty": b"csrf_token=",
        "another session's": f"csrf_token={csrf_token(other)}".encode(),
        "twice": f"csrf_token={csrf_token(session)}&csrf_token=x".encode(),
        "a file": b'--b\r\nContent-Disposition: form-data; name="csrf_token"; filename="x"\r\n\r\nx\r\n--b--\r\n',
    }[kind]
    headers = house.form(session)
    if kind == "a file":
        headers["Content-Type"] = "multipart/form-data; boundary=b"
    answer = house.call("POST", "/api/v1/ops/releases", headers, body=body)
    assert answer.status == 403
    assert "form's token" in json.loads(answer.body)["error"]["message"]


def test_a20_an_embedded_application_may_send_json_from_our_origin_and_nothing_else() -> None:
    house = House()
    session = house.session("ada")
    headers = house.form(session, **{"X-CSRF-Token": csrf_token(session)})
    for path in ("/mlflow/search", "/json/search"):
        assert house.call("POST", path, headers | {"Content-Type": "application/json"}).status == 200
        for content_type in (FORM, "text/plain", "multipart/form-data; boundary=b", ""):
            assert house.call("POST", path, headers | {"Content-Type": content_type}).status == 403


def test_an_embedded_application_has_a_policy_of_its_own_and_no_scripts_inline() -> None:
    house = House()
    answer = house.call("GET", "/mlflow/", house.bearer("vera", Role.VIEWER))
    assert (answer.body, answer.headers["content-security-policy"]) == (
        b"registry",
        EMBEDDED_HEADERS["content-security-policy"],
    )
    assert "script-src 'self';" in EMBEDDED_HEADERS["content-security-policy"]


def test_a7_an_embedded_application_that_lets_anybody_in_is_reported() -> None:
    house = House(routes=[embedded("/open", PlainTextResponse("hello"), ["GET"], permission=Permission.REGISTRY_READ)])
    assert asyncio.run(admitted(house.app, [ANONYMOUS], host=HOST)) == [
        "GET /open/default answered anonymous with 200, not 401"
    ]


def test_a_token_needs_no_form_token_because_no_browser_sends_it_unasked() -> None:
    house = House()
    assert house.call("POST", "/api/v1/ops/releases", house.bearer("ada", Role.ADMIN), body=b"x").status == 200


def test_the_session_cookie_is_strict_unreadable_and_bound_to_the_host_under_tls() -> None:
    for door, expected in (
        (Door.loopback(7700), "steersman_session="),
        (Door(hosts=frozenset({"steersman.example"}), https=True), "__Host-steersman_session="),
    ):
        response = Response()
        door.set_session(response, Secret("sms_x"), int(SESSION_LIFE.total_seconds()))
        cookie = response.headers["set-cookie"]
        assert cookie.startswith(expected)
        assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
        assert ("Secure" in cookie) == door.https
        assert "Domain" not in cookie


# --- authentication --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Bearer x", "Basic YTpi", "bearer sm_0_0", "Token x", "Bearer sm_a, Bearer b"],
)
def test_a_wrong_credential_is_401_and_never_falls_back_to_a_good_cookie(authorization: str) -> None:
    house = House()
    headers = house.form(house.session("ada"), Authorization=authorization)
    answer = house.call("GET", "/", headers)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_an_old_cookie_is_anonymous_so_that_one_can_log_in_again() -> None:
    house = House()
    headers = {"Cookie": "steersman_session=sms_old"}
    assert house.call("GET", "/login", headers).status == 200
    assert house.call("GET", "/", headers).status == 401


def test_handlers_see_who_asks() -> None:
    house = House()
    assert json.loads(house.call("GET", "/", house.bearer("vera", Role.VIEWER)).body) == {"who": "vera"}
    assert json.loads(house.call("GET", "/login").body) == {"who": None}


def test_a_refusal_is_json_with_a_next_step_for_programs_and_a_page_for_browsers() -> None:
    house = House()
    error = json.loads(house.call("GET", "/").body)["error"]
    assert (error["code"], bool(error["nextStep"])) == ("not_authenticated", True)
    page = house.call("GET", "/", {"Accept": "text/html,*/*"})
    assert page.status == 401
    assert page.headers["content-type"].startswith("text/html")
    assert b'<a href="/login">' in page.body
    assert house.call("GET", "/api/v1/models", {"Accept": "text/html"}).headers["content-type"] == "application/json"


def test_a21_what_a_caller_wrote_is_escaped_on_the_page_of_a_refusal() -> None:
    house = House()
    headers = house.bearer("olga", Role.OPERATOR, "ops") | {"Accept": "text/html"}
    answer = house.call("POST", "/<script>/incidents/x", headers)
    assert answer.status == 403
    assert b"<script>" not in answer.body
    assert b"&lt;script&gt;" in answer.body


def test_errors_of_handlers_keep_their_status_and_surprises_say_nothing() -> None:
    house = House()
    vera = house.bearer("vera", Role.VIEWER)
    assert house.call("GET", "/conflict", vera).status == 409
    crashed = house.call("GET", "/crash", vera)
    assert crashed.status == 500
    assert CANARY.encode() not in crashed.body


# --- headers and bounds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/login", "/", "/nowhere", "/api/v1/models"])
def test_every_answer_carries_the_security_headers(path: str) -> None:
    answer = House().call("GET", path)
    assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == dict(SECURITY_HEADERS)
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "script-src 'self';" in answer.headers["content-security-policy"]


def test_an_answer_that_streams_is_passed_on_piece_by_piece() -> None:
    house = House()
    assert house.call("GET", "/live", house.bearer("vera", Role.VIEWER)).body == b"data: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize("headers", [{f"X-{number}": "1" for number in range(70)}, {"X-Long": "x" * 20_000}])
def test_a14_too_many_or_too_large_headers_are_refused_before_anything_else(headers: dict[str, str]) -> None:
    assert House().call("GET", "/login", headers).status == 429


def test_a14_a_body_past_the_routes_bound_is_refused_by_length_or_while_it_arrives() -> None:
    house = House()
    ada = house.bearer("ada", Role.ADMIN)
    assert house.call("POST", "/api/v1/clock", ada, body=b"x" * 100).status == 200
    assert house.call("POST", "/api/v1/clock", ada, body=b"x" * 101).status == 429
    assert house.call("POST", "/api/v1/clock", ada | {"Content-Length": str(10**12)}, body=b"x").status == 429


def test_a14_a_body_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steersman.server.security.BODY_SECONDS_MAX", 0.05)
    house = House()
    sent: list[dict[str, Any]] = []

    async def never() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", HOST.encode())]
    headers += [(k.lower().encode(), v.encode()) for k, v in house.bearer("ada", Role.ADMIN).items()]
    scope = {"type": "http", "method": "POST", "path": "/api/v1/clock", "headers": headers, "query_string": b""}
    scope |= {"server": ("127.0.0.1", 7700), "scheme": "http", "http_version": "1.1", "root_path": ""}
    app: Callable[..., Awaitable[None]] = house.app
    asyncio.run(app(scope, never, send))
    assert sent[0]["status"] == 429


def test_websockets_are_closed_unopened() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    asyncio.run(House().app({"type": "websocket", "path": "/", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


# --- A15: no credential in addresses, answers, logs ------------------------------------------------------------------


def test_a15_a_token_in_the_address_is_refused_and_not_repeated() -> None:
    house = House()
    secret = house.bearer("ada", Role.ADMIN)["Authorization"].removeprefix("Bearer ")
    for query in (f"token={secret}", f"x=1&access_token={secret}", secret):
        answer = house.call("GET", "/", query=query)
        assert answer.status == 400
        assert secret.encode() not in answer.body


def test_a15_no_credential_reaches_a_log_not_even_in_a_traceback() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(Redacting([Secret(CANARY)]))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        house = House()
        vera = house.bearer("vera", Role.VIEWER)
        token = vera["Authorization"].removeprefix("Bearer ")
        house.call("GET", "/crash", vera)
        logging.getLogger("access").warning("%s %s", "GET", f"/x?token={token}")
        logging.getLogger("object").warning("%s %r", {"token": token}, [token], stack_info=True)
        try:
            raise ValueError(f"refused {token}")
        except ValueError:
            logging.getLogger("error").exception("with %s", {"Authorization": f"Bearer {token}"})
    finally:
        root.removeHandler(handler)
    logged = stream.getvalue()
    assert "RuntimeError: database password ***" in logged
    assert "Traceback" in logged
    assert token not in logged
    assert CANARY not in logged


def test_a15_a_broken_log_line_is_redacted_rather_than_lost() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, f"%d {CANARY}", ("no number",), None)
    assert Redacting([Secret(CANARY)]).filter(record)
    assert CANARY not in str(record.msg)


def test_a15_access_lines_of_the_http_server_are_redacted_and_still_formatted() -> None:
    arguments = ("127.0.0.1:5", "GET", "/x?token=sm_0123456789abcdef_secret", "1.1", 400)
    record = logging.LogRecord("uvicorn.access", logging.INFO, __file__, 1, '%s - "%s %s HTTP/%s" %d', arguments, None)
    Redacting().filter(record)
    line = AccessFormatter('%(client_addr)s "%(request_line)s" %(status_code)s', use_colors=False).format(record)
    assert line == '127.0.0.1:5 "GET /x?token=*** HTTP/1.1" 400 Bad Request'
