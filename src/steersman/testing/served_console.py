"""The console on a free port of this machine, from any store, without the rest of the control server.

For browser tests, for screenshots, and for looking at a change of a page: ``python -m steersman.testing.served_console``
serves the sample. There is one visitor and no login, so it listens on the loopback address only. Forms change nothing:
they are kept in `Served.posted` and answered as the real server does, with a redirect to the page.
"""

import asyncio
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from steersman.console.live import Changes
from steersman.console.pages import FORMS, PAGES, STATIC, Console, Page, Visit, error_page, login_page
from steersman.domain.access import Access, Grant, Kind, Principal, Role
from steersman.domain.errors import NotFound, SteersmanError
from steersman.ledger.checkpoint import VerifierKey
from steersman.loop.world import Documents
from steersman.store.database import Store
from steersman.testing.sample import build_sample

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The policy of the real server: inline scripts and styles do not run."""

FORM_TOKEN = "the-form-token-of-this-session"  # noqa: S105 - nothing is protected here


def visitor(*roles: Role) -> Access:
    grants = tuple(Grant(role=role) for role in roles or (Role.OPERATOR, Role.APPROVER))
    return Access(principal=Principal(issuer="test", subject="ada@example.com", kind=Kind.HUMAN), grants=grants)


@dataclass(slots=True)
class Served:
    url: str
    store: Store
    now: datetime
    access: Access
    posted: list[tuple[str, dict[str, str]]] = field(default_factory=list)


def application(served: Served, key: VerifierKey | None) -> Starlette:
    console = Console(served.store, Documents(), key=key)
    changes = Changes(served.store, lambda: served.now)

    def visit(request: Request) -> Visit:
        return Visit(
            access=served.access,
            now=served.now,
            rendered_at=datetime.now(UTC),
            replay=True,
            form_token=FORM_TOKEN,
            path={name: str(value) for name, value in request.path_params.items()},
            query=dict(request.query_params),
            address=str(request.url.path),
            message="Recorded." if "done" in request.query_params else "",
        )

    def page(shown: Page) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            asked = visit(request)
            try:
                return HTMLResponse(await asyncio.to_thread(shown.render, console, asked))
            except SteersmanError as error:
                return HTMLResponse(error_page(error, asked), status_code=error.status)

        return answer

    async def form(request: Request) -> Response:
        fields = {name: str(value) for name, value in (await request.form()).items()}
        served.posted.append((request.url.path, fields))
        return RedirectResponse(request.url.path.rpartition("/")[0] + "?done", status_code=303)

    async def static(request: Request) -> Response:
        found = STATIC.get(request.path_params["name"])
        if found is None:
            return HTMLResponse(error_page(NotFound("there is no such file")), status_code=404)
        return Response(found.body, media_type=found.content_type)

    async def live(_request: Request) -> Response:
        return StreamingResponse(changes.open(), media_type="text/event-stream")

    async def login(_request: Request) -> Response:
        return HTMLResponse(login_page())

    async def with_policy(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call(request)
        response.headers["content-security-policy"] = POLICY
        return response

    return Starlette(
        routes=[
            *(Route(shown.path, page(shown)) for shown in PAGES),
            *(Route(posted.path, form, methods=["POST"]) for posted in FORMS),
            Route("/static/{name}", static),
            Route("/live", live),
            Route("/login", login),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=with_policy)],
    )


@contextmanager
def served(
    store: Store, now: datetime, *, key: VerifierKey | None = None, access: Access | None = None
) -> Iterator[Served]:
    """Serve from a thread of this process until the block ends."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    place = Served(
        url=f"http://127.0.0.1:{listening.getsockname()[1]}", store=store, now=now, access=access or visitor()
    )
    config = uvicorn.Config(application(place, key), log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    ends = time.monotonic() + 10
    while not server.started and time.monotonic() < ends:
        time.sleep(0.02)
    try:
        yield place
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listening.close()


def main() -> None:
    """Serve the sample until Ctrl-C."""
    with tempfile.TemporaryDirectory() as state:
        sample = build_sample(Store.at(Path(state)))
        with served(sample.store, sample.now, key=sample.key) as place:
            print(f"{place.url}/  (Ctrl-C ends)", flush=True)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                return


if __name__ == "__main__":
    main()
