"""Routes about people and tokens: each change and its ledger entry commit together; a secret is shown once."""

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from steersman.domain.access import Access, Grant, Kind, Permission, Role
from steersman.domain.credentials import TokenRow, UserRow
from steersman.domain.durations import parse_duration
from steersman.domain.errors import BadRequest
from steersman.domain.events import Action, Event
from steersman.plugins.identity.tokens import TOKEN_LIFE_MAX, Identities
from steersman.server.exchange import body_of, reply
from steersman.server.security import route
from steersman.server.wiring import Assembled, wall
from steersman.store.transaction import Transaction


def people_routes(prefix: str, *, assembled: Assembled) -> list[Route]:
    """Users and tokens. All of them concern the whole installation."""
    people = People(assembled)
    manage_users, manage_tokens = Permission.USER_MANAGE, Permission.TOKEN_MANAGE
    return [
        route(f"{prefix}/tokens", people.tokens, ["GET"], permission=manage_tokens),
        route(f"{prefix}/tokens", people.issue, ["POST"], permission=manage_tokens),
        route(f"{prefix}/tokens/{{token}}", people.revoke, ["DELETE"], permission=manage_tokens),
        route(f"{prefix}/users", people.users, ["GET"], permission=manage_users),
        route(f"{prefix}/users", people.set_user, ["POST"], permission=manage_users),
        route(f"{prefix}/users/{{subject}}/disable", people.disable, ["POST"], permission=manage_users),
        route(f"{prefix}/users/{{subject}}/login-code", people.login_code, ["POST"], permission=manage_users),
    ]


class People:
    def __init__(self, assembled: Assembled) -> None:
        self._store = assembled.store
        self._world = assembled.world

    async def tokens(self, request: Request) -> Response:
        def read() -> list[Any]:
            with self._store.read() as tx:
                return [_token(row) for row in tx.credentials.tokens()]

        return reply(await run_in_threadpool(read))

    async def issue(self, request: Request) -> Response:
        body = await body_of(request)
        access: Access = request.state.access
        try:
            roles = tuple(Role(role) for role in body.get("roles", ()))
            kind = Kind(body.get("kind", "human"))
            chosen = body.get("permissions")
            permissions = tuple(Permission(name) for name in chosen) if chosen is not None else None
            life = parse_duration(str(body["life"])) if "life" in body else TOKEN_LIFE_MAX
        except (ValueError, TypeError) as error:
            raise BadRequest(f"the token cannot be issued: {error}") from None
        subject = str(body.get("subject", ""))

        def issue(tx: Transaction) -> Any:
            row, secret = Identities(tx.credentials).issue_token(
                subject=subject,
                kind=kind,
                owner=subject if kind is Kind.HUMAN else access.principal.subject,
                now=wall(),
                roles=roles,
                workspace=str(body.get("workspace", "*")),
                permissions=permissions,
                life=life,
                issued_by=access,
            )
            self._record(
                tx, Action.TOKEN_ISSUED, access, row.subject, f"token {row.id} for {row.subject}", {"token": row.id}
            )
            return {**_token(row), "secret": secret.reveal()}

        return reply(await run_in_threadpool(self._write, issue), 201)

    async def revoke(self, request: Request) -> Response:
        access: Access = request.state.access
        token_id = str(request.path_params["token"])

        def revoke(tx: Transaction) -> Any:
            row = Identities(tx.credentials).revoke_token(token_id, wall())
            self._record(
                tx, Action.TOKEN_REVOKED, access, row.subject, f"token {row.id} of {row.subject}", {"token": row.id}
            )
            return _token(row)

        return reply(await run_in_threadpool(self._write, revoke))

    async def users(self, request: Request) -> Response:
        def read() -> list[Any]:
            with self._store.read() as tx:
                return [_user(row) for row in tx.credentials.users()]

        return reply(await run_in_threadpool(read))

    async def set_user(self, request: Request) -> Response:
        body = await body_of(request)
        access: Access = request.state.access
        subject = str(body.get("subject", ""))
        try:
            grants = tuple(
                Grant(role=Role(grant["role"]), workspace=str(grant.get("workspace", "*"))) for grant in body["grants"]
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadRequest(f"grants must be a list of {{role, workspace}}: {error}") from None

        def change(tx: Transaction) -> Any:
            row = Identities(tx.credentials).set_user(subject, grants, wall())
            said = [f"{grant.role}@{grant.workspace}" for grant in grants]
            self._record(
                tx, Action.USER_CHANGED, access, subject, f"roles: {', '.join(said) or 'none'}", {"grants": said}
            )
            return _user(row)

        return reply(await run_in_threadpool(self._write, change))

    async def disable(self, request: Request) -> Response:
        access: Access = request.state.access
        subject = str(request.path_params["subject"])

        def disable(tx: Transaction) -> Any:
            row = Identities(tx.credentials).disable_user(subject, wall())
            self._record(tx, Action.USER_CHANGED, access, subject, "disabled", {"disabled": True})
            return _user(row)

        return reply(await run_in_threadpool(self._write, disable))

    async def login_code(self, request: Request) -> Response:
        access: Access = request.state.access
        subject = str(request.path_params["subject"])

        def make(tx: Transaction) -> Any:
            code = Identities(tx.credentials).issue_login_code(subject, wall())
            because = f"{access.principal.actor} made a login code for {subject}"
            self._record(tx, Action.USER_CHANGED, access, subject, because, {"login_code": True})
            return {"subject": subject, "code": code.reveal()}

        return reply(await run_in_threadpool(self._write, make), 201)

    def _write(self, change: Callable[[Transaction], Any]) -> Any:
        with self._store.write() as tx:
            return change(tx)

    def _record(
        self, tx: Transaction, action: Action, access: Access, subject: str, because: str, data: dict[str, Any]
    ) -> None:
        tx.append(
            Event(
                action=action,
                at=self._world.clock.now(),
                actor=access.principal.actor,
                workspace="*",
                kind="user",
                name=subject,
                because=because,
                data=data,
            )
        )


def _token(row: TokenRow) -> dict[str, Any]:
    """A token without its hash."""
    shown = msgspec.to_builtins(row)
    shown.pop("hash", None)
    return dict(shown)


def _user(row: UserRow) -> dict[str, Any]:
    return dict(msgspec.to_builtins(row))
