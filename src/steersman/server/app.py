"""The control server as one ASGI application: console, API, MLflow, behind one door."""

from urllib.parse import quote

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware as Layer
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute

from steersman.console.live import Changes
from steersman.console.pages import FORMS, PAGES, STATIC, Console, Form, Page, Visit, login_page
from steersman.domain.access import Permission, Secret
from steersman.domain.errors import BadRequest, NotAuthenticated, NotFound
from steersman.domain.numbers import number_within
from steersman.loop.commands import Commands
from steersman.plugins.identity.tokens import SESSION_LIFE, Identities, csrf_token
from steersman.server.answers import unwalled
from steersman.server.api import Api, command_of
from steersman.server.guard_proxy import GuardProxy, Refusal
from steersman.server.security import Door, Middleware, Within, embedded, route
from steersman.server.wiring import Assembled, Authentication, wall
from steersman_mlflow_guard.judging import MANUAL_CHANGES

MESSAGE_COOKIE = "steersman_message"
"""What an action did, for the page after the redirect; a sentence of ours, shown escaped, then gone."""

MLFLOW_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def build(assembled: Assembled) -> Starlette:
    """The application of one control server."""
    door = _door(assembled)
    pages = _Pages(assembled, door)
    routes: list[BaseRoute] = [*pages.routes(), *Api(assembled).routes()]
    if assembled.mlflow is not None:
        proxy = GuardProxy(port=assembled.mlflow.port, key=assembled.mlflow.key, on_refused=_Refusals(assembled).keep)
        routes.append(embedded("/mlflow", proxy, MLFLOW_METHODS, permission=Permission.REGISTRY_READ))
    layers = [Layer(Middleware, door=door, authenticator=Authentication(assembled.store))]
    return Starlette(routes=routes, middleware=layers)


def _door(assembled: Assembled) -> Door:
    installation = assembled.installation
    door = Door.loopback(installation.port)
    named = {f"{host}:{installation.port}" for host in (installation.host, *installation.hosts)}
    return Door(hosts=door.hosts | named)


class _Refusals:
    """Keeps what the guard refused in the ledger, before the caller hears of it."""

    def __init__(self, assembled: Assembled) -> None:
        self._commands: Commands = assembled.commands
        self._store = assembled.store
        self._documents = assembled.documents

    async def keep(self, refused: Refusal) -> None:
        if refused.reason not in MANUAL_CHANGES:
            return
        await run_in_threadpool(self._keep, refused)

    def _keep(self, refused: Refusal) -> None:
        name = refused.about.removeprefix("models:/").partition("@")[0].partition("/")[0]
        with self._store.read() as tx:
            governed = [m for m in self._documents.models(tx) if m.spec.versions.name == name]
        workspace = governed[0].metadata.workspace if governed else "default"
        model = governed[0].metadata.name if governed else name or "unknown"
        self._commands.record_manual_change(
            workspace,
            model,
            actor=refused.subject or "unknown",
            because=refused.message[:2000] or refused.reason,
            refused=not refused.let_through,
            data={"reason": refused.reason, "about": refused.about, "method": refused.method, "path": refused.path},
        )


class _Pages:
    """The console's routes: pages, forms, login, the live stream, static files."""

    def __init__(self, assembled: Assembled, door: Door) -> None:
        self._parts = assembled
        self._door = door
        self._console = Console(
            assembled.store,
            assembled.documents,
            key=assembled.verifier_key,
            notes=lambda workspace, model: unwalled(assembled.world.target.observe(), workspace, model),
        )
        self._changes = Changes(assembled.store, assembled.world.clock.now)

    def routes(self) -> list[BaseRoute]:
        found: list[BaseRoute] = [
            route("/login", self.login_form, ["GET"], public=True),
            route("/login", self.login, ["POST"], public=True),
            route("/health/live", self.alive, ["GET"], public=True),
            route("/health/ready", self.ready, ["GET"], public=True),
            route("/static/{path:path}", self.static, ["GET"], public=True),
            route("/live", self.live, ["GET"], permission=Permission.CONSOLE_READ, within=Within.ANY),
            route("/logout", self.logout, ["POST"], permission=Permission.CONSOLE_READ, within=Within.ANY),
        ]
        for page in PAGES:
            within = None if "{workspace}" in page.path else Within.ANY
            found.append(route(page.path, self._page(page), ["GET"], permission=page.permission, within=within))
        for form in FORMS:
            within = None if "{workspace}" in form.path else Within.ANY
            found.append(route(form.path, self._form(form), ["POST"], permission=form.permission, within=within))
        return found

    def _page(self, page: Page):  # type: ignore[no-untyped-def]
        async def show(request: Request) -> Response:
            message = request.cookies.get(MESSAGE_COOKIE, "")
            html = await run_in_threadpool(page.render, self._console, self._visit(request, message))
            response = HTMLResponse(html)
            if message:
                response.delete_cookie(MESSAGE_COOKIE, path="/")
            return response

        return show

    def _visit(self, request: Request, message: str) -> Visit:
        clock = self._parts.world.clock
        session: Secret | None = request.state.session
        return Visit(
            access=request.state.access,
            now=clock.now(),
            rendered_at=wall(),
            replay=clock.replay,
            form_token=csrf_token(session) if session is not None else "",
            path={name: str(value) for name, value in request.path_params.items()},
            query=dict(request.query_params),
            message=message[:300],
        )

    def _form(self, form: Form):  # type: ignore[no-untyped-def]
        async def act(request: Request) -> Response:
            sent = await request.form()
            fields = {name: str(value) for name, value in sent.items()}
            back, said = await run_in_threadpool(self._act, form, request, fields)
            response = RedirectResponse(back, status_code=303)
            response.set_cookie(MESSAGE_COOKIE, said, max_age=30, path="/", httponly=True, samesite="strict")
            return response

        return act

    def _act(self, form: Form, request: Request, fields: dict[str, str]) -> tuple[str, str]:
        """Carry a form's command out; returns the page to go to and what to say there."""
        commands = self._parts.commands
        access = request.state.access
        because, actor = fields.get("because", ""), access.principal.actor
        path = request.path_params
        if "release" in path:
            with self._parts.store.read() as tx:
                release = tx.release(str(path["release"]))
            if release is None or not access.allows(Permission.MODEL_READ, release.workspace):
                raise NotFound("no such release")
            access.require(form.permission, release.workspace)
            command = command_of(commands, form.command, access, release.workspace, full=True)
            after = command(release.id, actor=actor, because=because)  # retry: a new release
            return f"/releases/{after.id}", f"{form.command}: release {after.number}"
        if "incident" in path:
            with self._parts.store.read() as tx:
                incident = tx.incident(str(path["incident"]))
            if incident is None or not access.allows(Permission.MODEL_READ, incident.workspace):
                raise NotFound("no such incident")
            access.require(form.permission, incident.workspace)
            commands.accept_incident(incident.id, actor=actor, because=because)
            return f"/incidents/{incident.id}", "the incident was accepted"
        workspace, model, environment = (
            str(path["workspace"]),
            str(path["model"]),
            fields.get("environment", "production"),
        )
        if form.command == "waive":
            number = number_within(fields.get("version", ""), 1, 10**9)
            if number is None:
                raise BadRequest("no version was chosen")
            waiver = commands.waive(
                workspace, model, number, environment, skip=fields.get("skip", ""), actor=actor, because=because
            )
            back = f"/models/{quote(workspace)}/{quote(model)}?environment={quote(environment)}"
            return f"/releases/{waiver.used_by}" if waiver.used_by else back, f"{waiver.what} may be skipped once"
        if form.command != "rollback":
            raise BadRequest(f"unknown action {form.command}")
        opened = commands.rollback(workspace, model, environment, actor=actor, because=because)
        return f"/releases/{opened.id}", f"rollback to version {opened.version} was opened"

    # --- coming and going

    async def login_form(self, request: Request) -> Response:
        return HTMLResponse(login_page())

    async def login(self, request: Request) -> Response:
        sent = await request.form()
        code = Secret(str(sent.get("code", "")))

        def enter() -> Secret:
            with self._parts.store.write() as tx:
                return Identities(tx.credentials).log_in(code, wall())[1]

        try:
            session = await run_in_threadpool(enter)
        except NotAuthenticated as error:
            return HTMLResponse(login_page(message=f"{error.message}. {error.next_step}"), status_code=401)
        response = RedirectResponse("/", status_code=303)
        self._door.set_session(response, session, int(SESSION_LIFE.total_seconds()))
        return response

    async def logout(self, request: Request) -> Response:
        session: Secret | None = request.state.session
        if session is not None:

            def leave() -> None:
                with self._parts.store.write() as tx:
                    Identities(tx.credentials).log_out(session, wall())

            await run_in_threadpool(leave)
        response = RedirectResponse("/login", status_code=303)
        self._door.clear_session(response)
        return response

    async def live(self, request: Request) -> Response:
        return StreamingResponse(self._changes.open(), media_type="text/event-stream")

    # --- for everybody

    async def alive(self, request: Request) -> Response:
        return Response(b'{"live":true}', media_type="application/json")

    async def ready(self, request: Request) -> Response:
        def check() -> int:
            with self._parts.store.read() as tx:
                return tx.ledger.size()

        await run_in_threadpool(check)
        return Response(msgspec.json.encode({"ready": True}), media_type="application/json")

    async def static(self, request: Request) -> Response:
        file = STATIC.get(str(request.path_params["path"]))
        if file is None:
            raise NotFound("no such file")
        headers = {"cache-control": "public, max-age=31536000, immutable"}
        return Response(file.body, media_type=file.content_type, headers=headers)
