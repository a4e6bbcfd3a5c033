"""The HTTP API under `/api/v1`: thin handlers over commands and answers, each route with its permission.

A handler reads its arguments, calls one command or one question in a worker thread, and returns plain data. Errors are
the tree of `domain/errors.py`, turned into answers at the door. Nothing is decided here.
"""

import asyncio
import io
import tarfile
import tempfile
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from steersman.domain.access import Access, Permission
from steersman.domain.durations import parse_duration
from steersman.domain.errors import BadRequest, NotFound
from steersman.domain.numbers import number_within
from steersman.domain.release import Phase, Release
from steersman.ledger.proofs import verify_export, write_export
from steersman.loop.clock import ReplayClock
from steersman.loop.commands import Commands
from steersman.server import answers
from steersman.server.checks import check_routes
from steersman.server.exchange import body_of, field, number_of, reply
from steersman.server.people import people_routes
from steersman.server.planning import plan
from steersman.server.security import Within, route
from steersman.server.wiring import Assembled, checkpoint, wall

PREFIX = "/api/v1"
MODEL = f"{PREFIX}/models/{{workspace}}/{{model}}"

DOCUMENTS_BYTES_MAX = 4 * 1024 * 1024

Handler = Callable[[Request], Awaitable[Response]]


def moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"{text[:40]!r} is no time", next_step="Write RFC 3339: 2026-03-01T12:00:00Z.") from None
    if found.tzinfo is None:
        raise BadRequest("the time needs an offset, e.g. 2026-03-01T12:00:00Z")
    return found


def access_of(request: Request) -> Access:
    access: Access = request.state.access
    return access


def actor_of(request: Request) -> str:
    return access_of(request).principal.actor


class Api:
    """Handlers over one assembled control server."""

    def __init__(self, assembled: Assembled) -> None:
        self._parts = assembled
        self._commands = assembled.commands
        self._store = assembled.store
        self._documents = assembled.documents
        self._now = assembled.world.clock.now

    def routes(self) -> list[Route]:
        """Every route of the API with its permission."""
        p = Permission
        any_workspace = Within.ANY
        return [
            route(f"{PREFIX}/health", self.health, ["GET"], permission=p.MODEL_READ, within=any_workspace),
            route(
                f"{PREFIX}/documents",
                self.apply,
                ["POST"],
                permission=p.DOCUMENT_APPLY,
                within=any_workspace,
                body_bytes_max=DOCUMENTS_BYTES_MAX,
            ),
            route(f"{PREFIX}/models", self.models, ["GET"], permission=p.MODEL_READ, within=any_workspace),
            route(MODEL, self.model, ["GET"], permission=p.MODEL_READ),
            route(f"{MODEL}/versions", self.versions, ["GET"], permission=p.MODEL_READ),
            route(f"{MODEL}/versions", self.register, ["POST"], permission=p.VERSION_REGISTER),
            *check_routes(f"{MODEL}/versions/{{number}}/checks", assembled=self._parts),
            route(f"{MODEL}/versions/{{number}}/retire", self.retire, ["POST"], permission=p.VERSION_RETIRE),
            route(f"{MODEL}/plan", self.plan, ["POST"], permission=p.MODEL_READ),
            route(f"{MODEL}/history", self.history, ["GET"], permission=p.MODEL_READ),
            route(f"{MODEL}/releases", self.releases, ["GET"], permission=p.MODEL_READ),
            route(f"{MODEL}/releases", self.release, ["POST"], permission=p.RELEASE_OPEN),
            route(f"{MODEL}/rollback", self.rollback, ["POST"], permission=p.RELEASE_ROLLBACK),
            route(f"{MODEL}/waivers", self.waivers, ["GET"], permission=p.MODEL_READ),
            route(f"{MODEL}/waivers", self.waive, ["POST"], permission=p.RELEASE_WAIVE),
            route(f"{MODEL}/log/erase", self.erase, ["POST"], permission=p.LOG_ERASE),
            route(f"{MODEL}/incidents", self.incidents, ["GET"], permission=p.MODEL_READ),
            route(f"{MODEL}/monitors", self.monitors, ["GET"], permission=p.MODEL_READ),
            route(f"{MODEL}/windows", self.windows, ["GET"], permission=p.MODEL_READ),
            route(f"{MODEL}/trainings", self.trainings, ["GET"], permission=p.MODEL_READ),
            route(
                f"{PREFIX}/releases/{{release}}",
                self.one_release,
                ["GET"],
                permission=p.MODEL_READ,
                within=any_workspace,
            ),
            *(
                route(
                    f"{PREFIX}/releases/{{release}}/{decision}",
                    self.decide(decision, permission),
                    ["POST"],
                    permission=permission,
                    within=any_workspace,
                )
                for decision, permission in DECISIONS.items()
            ),
            route(
                f"{PREFIX}/incidents/{{incident}}",
                self.incident,
                ["GET"],
                permission=p.MODEL_READ,
                within=any_workspace,
            ),
            route(
                f"{PREFIX}/incidents/{{incident}}/accept",
                self.accept,
                ["POST"],
                permission=p.INCIDENT_ACT,
                within=any_workspace,
            ),
            route(f"{PREFIX}/kpis", self.kpis, ["GET"], permission=p.METRICS_READ),
            route(f"{PREFIX}/ledger", self.ledger, ["GET"], permission=p.LEDGER_READ),
            route(f"{PREFIX}/ledger/checkpoint", self.checkpoint, ["GET"], permission=p.LEDGER_READ),
            route(f"{PREFIX}/ledger/export", self.export, ["GET"], permission=p.LEDGER_READ),
            route(f"{PREFIX}/ledger/verify", self.verify, ["POST"], permission=p.LEDGER_READ),
            route(f"{PREFIX}/clock", self.clock, ["GET"], permission=p.MODEL_READ, within=any_workspace),
            route(f"{PREFIX}/clock", self.advance, ["POST"], permission=p.CLOCK_ADVANCE),
            route(f"{PREFIX}/report", self.report, ["POST"], permission=p.CLOCK_ADVANCE),
            *people_routes(PREFIX, assembled=self._parts),
        ]

    # --- the installation

    async def health(self, request: Request) -> Response:
        world, installation = self._parts.world, self._parts.installation
        generation = await run_in_threadpool(world.router.generation)
        registries = await run_in_threadpool(answers.registries, world.registries)
        return reply(
            {
                "url": installation.url,
                "router": installation.router_url,
                "router_generation": generation,
                "registries": registries,
                "sandbox": answers.sandbox(await run_in_threadpool(world.target.observe)),
                "replay": world.clock.replay,
                "at": world.clock.now().isoformat(),
                "wall_time": wall().isoformat(),
            }
        )

    async def clock(self, request: Request) -> Response:
        clock = self._parts.world.clock
        return reply({"at": clock.now().isoformat(), "replay": clock.replay})

    async def advance(self, request: Request) -> Response:
        """Move a replay to a moment and act until nothing moves; safe to repeat."""
        to = moment(field(await body_of(request), "to", str))
        clock = self._parts.world.clock
        if not isinstance(clock, ReplayClock):
            raise BadRequest("this installation lives on the wall clock; only a replay's clock can be moved")

        def move() -> None:
            if to != clock.now():
                clock.move(to)
            self._parts.control.settle()

        await run_in_threadpool(move)
        return reply({"at": clock.now().isoformat(), "replay": True})

    async def report(self, request: Request) -> Response:
        """Keep the report of a replay's driver, which the console shows beside what it knows itself."""
        body = await body_of(request)

        def keep() -> None:
            with self._store.write() as tx:
                tx.put_setting("report", msgspec.json.encode(body).decode())

        await run_in_threadpool(keep)
        return reply({"kept": True})

    # --- documents, versions

    async def apply(self, request: Request) -> Response:
        body = await body_of(request)
        documents = field(body, "documents", list)
        access = access_of(request)
        for document in documents:
            if not isinstance(document, dict):
                raise BadRequest("each document must be a JSON object")
            metadata = document.get("metadata")
            workspace = str(metadata.get("workspace", "default")) if isinstance(metadata, dict) else "default"
            access.require(Permission.DOCUMENT_APPLY, workspace)
            spec = document.get("spec")
            if isinstance(spec, dict) and (spec.get("train") is not None or spec.get("tests") is not None):
                access.require(Permission.TRAIN_DEFINE, workspace)
        dry_run = field(body, "dryRun", bool, default=False)
        results = await run_in_threadpool(self._commands.apply, documents, actor=actor_of(request), dry_run=dry_run)
        return reply({"documents": results})

    async def models(self, request: Request) -> Response:
        access = access_of(request)

        def read() -> list[Any]:
            with self._store.read() as tx:
                found = [
                    m for m in self._documents.models(tx) if access.allows(Permission.MODEL_READ, m.metadata.workspace)
                ]
                return [answers.model_line(tx, self._documents, m, now=self._now()) for m in found]

        return reply(await run_in_threadpool(read))

    async def model(self, request: Request) -> Response:
        """What `model_status` says, and what is to be known about the workers that run now."""
        workspace, name = self._place(request)
        replicas = await run_in_threadpool(self._parts.world.target.observe)
        return await self._about_model(
            request,
            lambda tx, m: {
                **answers.model_status(tx, self._documents, m, now=self._now()),
                "notes": answers.unwalled(replicas, workspace, name),
            },
        )

    async def versions(self, request: Request) -> Response:
        return await self._about_model(
            request,
            lambda tx, m: [answers.plain(v) for v in tx.versions(m.metadata.workspace, m.metadata.name)][::-1],
        )

    async def register(self, request: Request) -> Response:
        number = field(await body_of(request), "number", int)
        workspace, model = self._place(request)
        version = await run_in_threadpool(self._commands.register, workspace, model, number, actor=actor_of(request))
        return reply(answers.plain(version), 201)

    async def retire(self, request: Request) -> Response:
        workspace, model = self._place(request)
        because = field(await body_of(request), "reason", str)
        version = await run_in_threadpool(
            self._commands.retire,
            workspace,
            model,
            number_of(request, "number"),
            actor=actor_of(request),
            because=because,
        )
        return reply(answers.plain(version))

    # --- releases

    async def plan(self, request: Request) -> Response:
        body = await body_of(request)
        version = field(body, "version", int)
        environment = field(body, "environment", str, default="production")
        known = {"version": version, "environment": environment, "now": self._now()}
        known["replicas"] = await run_in_threadpool(self._parts.world.target.observe)
        return await self._about_model(request, lambda tx, m: plan(tx, self._documents, m, **known))

    async def history(self, request: Request) -> Response:
        at = request.query_params.get("at")
        environment = request.query_params.get("environment")
        return await self._about_model(
            request,
            lambda tx, m: answers.history(tx, m, environment=environment, at=moment(at) if at else None),
        )

    async def releases(self, request: Request) -> Response:
        return await self._about_model(
            request,
            lambda tx, m: [answers.plain(r) for r in tx.releases(m.metadata.workspace, m.metadata.name)][::-1],
        )

    async def release(self, request: Request) -> Response:
        body = await body_of(request)
        workspace, model = self._place(request)
        number = field(body, "version", int)
        environment = field(body, "environment", str, default="production")
        because = field(body, "because", str)
        hotfix = field(body, "hotfix", bool, default=False)

        def open_one() -> Release:
            actor = actor_of(request)
            self._commands.register(workspace, model, number, actor=actor)
            return self._commands.release(
                workspace, model, number, environment, actor=actor, because=because, hotfix=hotfix
            )

        return reply(answers.plain(await run_in_threadpool(open_one)), 201)

    async def rollback(self, request: Request) -> Response:
        body = await body_of(request)
        workspace, model = self._place(request)
        release = await run_in_threadpool(
            self._commands.rollback,
            workspace,
            model,
            field(body, "environment", str, default="production"),
            actor=actor_of(request),
            because=field(body, "because", str),
        )
        return reply(answers.plain(release), 201)

    async def waivers(self, request: Request) -> Response:
        return await self._about_model(
            request,
            lambda tx, m: [answers.plain(w) for w in tx.agreements.waivers(m.metadata.workspace, m.metadata.name)][
                ::-1
            ],
        )

    async def waive(self, request: Request) -> Response:
        body = await body_of(request)
        workspace, model = self._place(request)
        try:
            life = parse_duration(field(body, "expires", str, default="7d"))
        except ValueError as error:
            raise BadRequest(f"expires {error}") from None
        waiver = await run_in_threadpool(
            self._commands.waive,
            workspace,
            model,
            field(body, "version", int),
            field(body, "environment", str, default="production"),
            skip=field(body, "skip", str),
            actor=actor_of(request),
            because=field(body, "because", str),
            life=life,
        )
        return reply(answers.plain(waiver), 201)

    async def erase(self, request: Request) -> Response:
        """Delete one entity's rows of the inference log; the value goes no further than into the deletion."""
        body = await body_of(request)
        workspace, model = self._place(request)
        removed = await run_in_threadpool(
            self._commands.erase,
            workspace,
            model,
            field(body, "entity", str),
            actor=actor_of(request),
            because=field(body, "because", str),
        )
        return reply(answers.plain(removed))

    async def one_release(self, request: Request) -> Response:
        release = await run_in_threadpool(self._release, request, Permission.MODEL_READ)
        return reply(await run_in_threadpool(self._told, release))

    def _told(self, release: Release) -> dict[str, Any]:
        with self._store.read() as tx:
            told = answers.release_status(tx, self._documents, release, now=self._now())
        return {**told, "blocked": release.phase is Phase.PAUSED}

    def decide(self, decision: str, permission: Permission) -> Handler:
        """A handler for one decision about a release; the permission must hold in the release's workspace."""

        async def handle(request: Request) -> Response:
            body = await body_of(request)
            because, full = field(body, "because", str), field(body, "full", bool, default=False)
            release = await run_in_threadpool(self._release, request, permission)
            command = command_of(self._commands, decision, access_of(request), release.workspace, full=full)
            after = await run_in_threadpool(command, release.id, actor=actor_of(request), because=because)
            return reply(await run_in_threadpool(self._told, after))

        return handle

    def _release(self, request: Request, permission: Permission) -> Release:
        release_id = str(request.path_params["release"])
        with self._store.read() as tx:
            release = tx.release(release_id)
        if release is None or not access_of(request).allows(Permission.MODEL_READ, release.workspace):
            raise NotFound(f"no release {release_id[:80]}", next_step="`steersman status MODEL` names the releases.")
        access_of(request).require(permission, release.workspace)
        return release

    # --- watching

    async def incidents(self, request: Request) -> Response:
        return await self._about_model(
            request,
            lambda tx, m: [answers.plain(i) for i in tx.incidents(m.metadata.workspace, m.metadata.name)][::-1],
        )

    async def incident(self, request: Request) -> Response:
        found = await run_in_threadpool(self._incident, request, Permission.MODEL_READ)

        def read() -> dict[str, Any]:
            with self._store.read() as tx:
                findings = [f for f in tx.findings(found.workspace, found.model) if f.incident == found.id]
            return {**answers.plain(found), "findings": [answers.plain(f) for f in findings]}

        return reply(await run_in_threadpool(read))

    async def accept(self, request: Request) -> Response:
        because = field(await body_of(request), "because", str)
        found = await run_in_threadpool(self._incident, request, Permission.INCIDENT_ACT)
        after = await run_in_threadpool(
            self._commands.accept_incident, found.id, actor=actor_of(request), because=because
        )
        return reply(answers.plain(after))

    def _incident(self, request: Request, permission: Permission) -> Any:
        incident_id = str(request.path_params["incident"])
        with self._store.read() as tx:
            found = tx.incident(incident_id)
        if found is None or not access_of(request).allows(Permission.MODEL_READ, found.workspace):
            raise NotFound(f"no incident {incident_id[:80]}")
        access_of(request).require(permission, found.workspace)
        return found

    async def monitors(self, request: Request) -> Response:
        return await self._about_model(request, answers.monitors)

    async def windows(self, request: Request) -> Response:
        def read(tx: Any, model: Any) -> list[Any]:
            place = (model.metadata.workspace, model.metadata.name)
            found = [w for e in model.spec.environments for w in tx.evidence.windows(place[0], e, place[1])]
            return [answers.plain(w) for w in found][::-1]

        return await self._about_model(request, read)

    async def trainings(self, request: Request) -> Response:
        return await self._about_model(
            request,
            lambda tx, m: [answers.plain(t) for t in tx.trainings(m.metadata.workspace, m.metadata.name)][::-1],
        )

    async def kpis(self, request: Request) -> Response:
        def read() -> dict[str, Any]:
            with self._store.read() as tx:
                models = self._documents.models(tx)
                releases = tx.releases()
                until = self._parts.world.clock.now()
                since = min((r.opened_at for r in releases), default=until)
                return answers.kpis(tx, models, since=since, until=until)

        return reply(await run_in_threadpool(read))

    # --- the ledger

    async def ledger(self, request: Request) -> Response:
        query = request.query_params
        start = number_within(query.get("from", "0"), 0, 10**12)
        limit = number_within(query.get("limit", "100"), 1, 10_000)
        if start is None or limit is None:
            raise BadRequest("`from` is an index from 0 on, `limit` a number from 1 to 10000")

        def read() -> list[Any]:
            with self._store.read() as tx:
                return [answers.ledger_entry(row) for row in tx.ledger.rows(start, limit)]

        return reply(await run_in_threadpool(read))

    async def checkpoint(self, request: Request) -> Response:
        note = await run_in_threadpool(checkpoint, self._parts)
        return reply({"checkpoint": note, "vkey": str(self._parts.verifier_key)})

    async def export(self, request: Request) -> Response:
        content = await run_in_threadpool(self._exported)
        return Response(content, media_type="application/x-tar")

    def _exported(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            self._write_export(Path(folder) / "ledger")
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as archive:
                archive.add(Path(folder) / "ledger", arcname="ledger")
            return packed.getvalue()

    def _write_export(self, folder: Path) -> int:
        note = checkpoint(self._parts)
        size = int(note.split("\n")[1])
        with self._store.read() as tx:
            bodies = [row.body for row in tx.ledger.rows(0, size)]
        return write_export(folder, bodies, note, self._parts.verifier_key)

    async def verify(self, request: Request) -> Response:
        """Export and verify as an outsider would; the answer says what was compared."""

        def check() -> dict[str, Any]:
            with tempfile.TemporaryDirectory() as folder:
                entries = self._write_export(Path(folder) / "ledger")
                found = verify_export(Path(folder) / "ledger", key=self._parts.verifier_key)
                note = (Path(folder) / "ledger" / "checkpoint").read_text()
            return {"verified": found.ok, "entries": entries, "because": found.because, "checkpoint": note}

        return reply(await asyncio.to_thread(check))

    # --- small things

    @staticmethod
    def _place(request: Request) -> tuple[str, str]:
        return str(request.path_params["workspace"]), str(request.path_params["model"])

    async def _about_model(self, request: Request, read: Callable[[Any, Any], Any]) -> Response:
        workspace, name = self._place(request)

        def question() -> Any:
            with self._store.read() as tx:
                return read(tx, self._documents.model(tx, workspace, name))

        return reply(await run_in_threadpool(question))


def command_of(
    commands: Commands, decision: str, access: Access, workspace: str, *, full: bool
) -> Callable[..., Release]:
    """The command behind a decision, with what only the door knows: by which roles somebody agrees."""
    command: Callable[..., Release] = getattr(commands, decision)
    if decision == "approve":
        return partial(command, roles=access.roles_with(Permission.RELEASE_APPROVE, workspace))
    return partial(command, full=full) if decision == "promote" else command


DECISIONS: dict[str, Permission] = {
    "approve": Permission.RELEASE_APPROVE,
    "withdraw": Permission.RELEASE_APPROVE,
    "reject": Permission.RELEASE_APPROVE,
    "pause": Permission.RELEASE_CONTROL,
    "resume": Permission.RELEASE_CONTROL,
    "abort": Permission.RELEASE_CONTROL,
    "retry": Permission.RELEASE_CONTROL,
    "promote": Permission.RELEASE_CONTROL,
}
"""What people may say about a release, and the permission it takes."""
