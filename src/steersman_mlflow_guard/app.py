"""`create_app`, named by the entry point `mlflow.app: steersman-guard`: MLflow's server with the guard inside.

Two layers. The outer one (ASGI) sees every request first: it wants a canonical path and our signed identity, and hands
to FastAPI's routers only the few native routes the inventory allows; everything else goes to MLflow's Flask application,
where a hook judges the rule that Flask itself matched. So neither a second spelling of a path nor a route that a new
MLflow brings can get past: what the inventory does not name has nowhere to go.
"""

from __future__ import annotations

import contextvars
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from steersman_mlflow_guard import paths
from steersman_mlflow_guard.artifacts import ArtifactIndex
from steersman_mlflow_guard.identity import KEY_VARIABLE, Caller, Kind, NotSignedError, is_ours, verify
from steersman_mlflow_guard.judging import Asked, Objection, Reason, judge, let_through
from steersman_mlflow_guard.protection import FILE_VARIABLE, REGISTRAR_TAG, ProtectionFile
from steersman_mlflow_guard.routes import FLASK, NATIVE, Decision

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

REFUSED_HEADER = "X-Steersman-Refused"
"""On a refusal: the reason's code."""
WARNED_HEADER = "X-Steersman-Warned"
"""On an answer that warn mode let through: the reason's code."""
SUBJECT_HEADER = "X-Steersman-Subject"
"""Beside either: what it was about, percent-encoded."""

_caller: contextvars.ContextVar[Caller | None] = contextvars.ContextVar("steersman_caller", default=None)


def create_app() -> Application:
    """What uvicorn's factory mode calls inside the server process. Fails when the key or the file is not named."""
    key = os.environ.pop(KEY_VARIABLE, "")  # forgotten here, so that nothing MLflow starts can sign
    protection_file = os.environ.get(FILE_VARIABLE, "")
    if len(key) != 64 or not protection_file:
        raise RuntimeError(
            f"the guard needs {KEY_VARIABLE} and {FILE_VARIABLE}; it is started by `steersman up`, not by hand"
        )
    from mlflow.server import app as flask_app
    from mlflow.server import handlers
    from mlflow.server.fastapi_app import create_fastapi_app

    protection = ProtectionFile(Path(protection_file))
    index = ArtifactIndex(handlers._get_model_registry_store)  # noqa: SLF001 - MLflow's own plug-ins reach it so
    FlaskGuard(flask_app, protection=protection, index=index).install()
    native = create_fastapi_app(flask_app)
    mounted = [route for route in native.routes if getattr(route, "path", None) == "" and hasattr(route, "app")]
    if len(mounted) != 1:
        raise RuntimeError("this MLflow mounts its Flask application elsewhere; the guard does not know this version")
    return OuterGuard(native, mounted[0].app, key=key, protection=protection, index=index)


class OuterGuard:
    """The ASGI layer: identity, canonical paths, native routes."""

    def __init__(
        self, native: Application, flask: Application, *, key: str, protection: ProtectionFile, index: ArtifactIndex
    ) -> None:
        self._native = native
        self._flask = flask
        self._key = key
        self._protection = protection
        self._index = index
        self._routes = [(method, _pattern(template), decision) for (method, template), decision in NATIVE.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._native(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        if reason := paths.objection(raw_path):
            await _refuse(Objection(reason=Reason.BAD_PATH, message=f"{reason}; send it in its plain form"), send)
            return
        query: bytes = scope["query_string"]
        target = (raw_path + b"?" + query if query else raw_path).decode("latin-1")
        try:
            caller = verify(scope["headers"], key=self._key, method=scope["method"], target=target, now_s=time.time())
        except NotSignedError:
            message = "This MLflow is reached through Steersman's address only (its path is /mlflow), with your token."
            await _refuse(Objection(reason=Reason.NO_IDENTITY, message=message), send, status=401)
            return
        scope["headers"] = [(name, value) for name, value in scope["headers"] if not is_ours(name.decode("latin-1"))]
        _caller.set(caller)
        await self._pass(caller, scope, receive, send)

    async def _pass(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._matched(scope["method"], scope["path"])
        if found is None:
            await self._flask(scope, receive, send)
            return
        from starlette.concurrency import run_in_threadpool

        decision, asked = found
        protection = self._protection.current()
        if objection := await run_in_threadpool(
            judge, decision, asked, caller=caller, protection=protection, index=self._index
        ):
            if not let_through(objection, protection):
                await _refuse(objection, send)
                return
            send = _warning(objection, send)
        await self._native(scope, receive, send)

    def _matched(self, method: str, path: str) -> tuple[Decision, Asked] | None:
        for known, pattern, decision in self._routes:
            if known == method and (match := pattern.fullmatch(path)):
                return decision, Asked(fields=match.groupdict())
        return None


def _pattern(template: str) -> re.Pattern[str]:
    """A FastAPI template as a regular expression; `{x:path}` spans segments."""
    parts = re.split(r"\{(\w+)(:path)?\}", template)
    pattern = re.escape(parts[0])
    for name, spans, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        pattern += f"(?P<{name}>{'.*' if spans else '[^/]+'}){re.escape(literal)}"
    return re.compile(pattern, re.DOTALL)


class FlaskGuard:
    """The hook inside MLflow's Flask application, keyed on the rule Flask matched."""

    def __init__(self, flask_app: Any, *, protection: ProtectionFile, index: ArtifactIndex) -> None:
        self._app = flask_app
        self._protection = protection
        self._index = index

    def install(self) -> None:
        """First of all hooks: nothing of MLflow runs for a request that is refused."""
        self._app.before_request_funcs.setdefault(None, []).insert(0, self.before)
        self._app.after_request_funcs.setdefault(None, []).append(self.after)

    def before(self) -> Any:
        from flask import g, request

        caller = _caller.get()
        if caller is None:
            return _flask_refusal(Objection(reason=Reason.NO_IDENTITY, message="no identity"), status=401)
        method = "GET" if request.method == "HEAD" else request.method
        decision = FLASK.get((method, request.url_rule.rule)) if request.url_rule is not None else None
        if decision is None:
            message = "Steersman does not know this route of MLflow and refuses it."
            return _flask_refusal(Objection(reason=Reason.UNKNOWN_ROUTE, message=message))
        try:
            asked = _asked(decision, request)
        except Exception as error:  # whatever MLflow's parser raises: not understood
            message = f"The request cannot be read ({type(error).__name__})."
            return _flask_refusal(Objection(reason=Reason.MALFORMED, message=message), status=400)
        protection = self._protection.current()
        objection = judge(decision, asked, caller=caller, protection=protection, index=self._index)
        if objection is None:
            return None
        if not let_through(objection, protection):
            return _flask_refusal(objection, status=400 if objection.reason is Reason.MALFORMED else 403)
        g.steersman_warned = objection
        return None

    def after(self, response: Any) -> Any:
        from flask import g, request

        if warned := g.get("steersman_warned"):
            response.headers[WARNED_HEADER] = warned.reason.value
            response.headers[SUBJECT_HEADER] = quote(warned.subject)
        decision = FLASK.get((request.method, request.url_rule.rule)) if request.url_rule is not None else None
        if decision in _CHANGES_VERSIONS and response.status_code < 400:
            self._index.forget()
            if decision is Decision.VERSION_CREATE:
                self._sign_registration(response)
        return response

    def _sign_registration(self, response: Any) -> None:
        """Keep who registered a version: they may not approve its release, and MLflow itself does not know them."""
        from mlflow.entities.model_registry import ModelVersionTag
        from mlflow.server import handlers

        caller = _caller.get()
        if caller is None or caller.kind is Kind.SYSTEM:
            return
        version = json.loads(response.get_data())["model_version"]
        store: Any = handlers._get_model_registry_store()  # noqa: SLF001
        tag: Any = ModelVersionTag
        store.set_model_version_tag(version["name"], version["version"], tag(REGISTRAR_TAG, caller.subject))


_CHANGES_VERSIONS = frozenset(
    {Decision.VERSION_CREATE, Decision.VERSION_DELETE, Decision.MODEL_DELETE, Decision.MODEL_RENAME}
)

_MESSAGES = {
    Decision.EXPERIMENT_CREATE: "CreateExperiment",
    Decision.EXPERIMENT_DELETE: "DeleteExperiment",
    Decision.RUN_DELETE: "DeleteRun",
    Decision.MODEL_CREATE: "CreateRegisteredModel",
    Decision.MODEL_RENAME: "RenameRegisteredModel",
    Decision.MODEL_DELETE: "DeleteRegisteredModel",
    Decision.MODEL_TAG: "SetRegisteredModelTag",
    Decision.MODEL_UNTAG: "DeleteRegisteredModelTag",
    Decision.VERSION_CREATE: "CreateModelVersion",
    Decision.VERSION_STAGE: "TransitionModelVersionStage",
    Decision.VERSION_DELETE: "DeleteModelVersion",
    Decision.VERSION_TAG: "SetModelVersionTag",
    Decision.VERSION_UNTAG: "DeleteModelVersionTag",
    Decision.ALIAS_SET: "SetRegisteredModelAlias",
    Decision.ALIAS_DELETE: "DeleteRegisteredModelAlias",
}
"""The protobuf message that MLflow's handler of each judged route reads its request into (a test compares them)."""

_FIELDS = (
    "name", "version", "alias", "key", "source", "artifact_location", "experiment_id", "run_id"
)  # fmt: skip


def _asked(decision: Decision, request: Any) -> Asked:
    """The request's values, read by MLflow's own parser: what the handler will see, whatever the spelling."""
    if decision is Decision.ARTIFACT_WRITE:
        from mlflow.utils import uri

        safe: Any = uri.validate_path_is_safe
        path = safe(request.view_args["artifact_path"])
        return Asked(fields={"artifact_path": path}, deletes=request.method == "DELETE")
    if decision is Decision.LOGGED_MODEL_DELETE:
        return Asked(fields={"model_id": request.view_args["model_id"]})
    if decision not in _MESSAGES:
        return Asked(fields={})
    from mlflow.protos import model_registry_pb2, service_pb2
    from mlflow.server import handlers

    kind = _MESSAGES[decision]
    message_class = getattr(model_registry_pb2, kind, None) or getattr(service_pb2, kind)
    parse: Any = handlers._get_request_message  # noqa: SLF001 - to read what MLflow will read is the point
    message = parse(message_class())
    known = {field.name for field in message.DESCRIPTOR.fields}
    fields = {name: str(getattr(message, name)) for name in _FIELDS if name in known and message.HasField(name)}
    return Asked(fields=fields, tags=tuple(tag.key for tag in message.tags) if "tags" in known else ())


def _body(objection: Objection) -> bytes:
    """MLflow's own form of an error, so that its clients raise the message."""
    code = "UNAUTHENTICATED" if objection.reason is Reason.NO_IDENTITY else "PERMISSION_DENIED"
    return json.dumps({"error_code": code, "message": objection.message}).encode()


def _flask_refusal(objection: Objection, *, status: int = 403) -> Any:
    from flask import Response

    headers = {REFUSED_HEADER: objection.reason.value, SUBJECT_HEADER: quote(objection.subject)}
    return Response(_body(objection), status=status, headers=headers, mimetype="application/json")


async def _refuse(objection: Objection, send: Send, *, status: int = 403) -> None:
    body = _body(objection)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *_marks(REFUSED_HEADER, objection),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _warning(objection: Objection, send: Send) -> Send:
    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_marks(WARNED_HEADER, objection)]
        await send(message)

    return marked


def _marks(header: str, objection: Objection) -> list[tuple[bytes, bytes]]:
    marks = {header: objection.reason.value, SUBJECT_HEADER: quote(objection.subject)}
    return [(name.lower().encode(), value.encode()) for name, value in marks.items()]
