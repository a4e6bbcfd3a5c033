"""Routes about checks of a version: asking for one, and looking at what came out."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from steersman.domain.access import Access, Permission
from steersman.loop.checking import check_status, checks_of
from steersman.server.exchange import body_of, field, number_of, reply
from steersman.server.security import route
from steersman.server.wiring import Assembled


def check_routes(path: str, *, assembled: Assembled) -> list[Route]:
    """Under one version's path."""
    checks = Checks(assembled)
    return [
        route(path, checks.ask, ["POST"], permission=Permission.VERSION_CHECK),
        route(path, checks.listed, ["GET"], permission=Permission.MODEL_READ),
    ]


class Checks:
    def __init__(self, assembled: Assembled) -> None:
        self._parts = assembled

    async def ask(self, request: Request) -> Response:
        """Begin a check, or find the one on its way; a version that is not registered here is taken in first."""
        access: Access = request.state.access
        place = request.path_params
        environment = field(await body_of(request), "environment", str, default="production")
        operation = await run_in_threadpool(
            self._parts.commands.check,
            str(place["workspace"]),
            str(place["model"]),
            number_of(request, "number"),
            environment,
            actor=access.principal.actor,
        )
        return reply(check_status(operation), 202)

    async def listed(self, request: Request) -> Response:
        place = request.path_params
        workspace, model, number = str(place["workspace"]), str(place["model"]), number_of(request, "number")

        def read() -> list[dict[str, Any]]:
            with self._parts.store.read() as tx:
                self._parts.documents.model(tx, workspace, model)
                return checks_of(tx, workspace, model, number)

        return reply(await run_in_threadpool(read))
