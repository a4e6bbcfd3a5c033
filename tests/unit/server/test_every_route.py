"""Every route of the assembled control server, tried by those who have no right to it.

The list of routes is the application itself, so a route added tomorrow is tried tomorrow. Vertical: anonymous and viewers
are refused what takes more. Horizontal: whoever may do everything in one workspace can neither read nor act in another.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from urllib.parse import urlencode

import pytest
from starlette.applications import Starlette

from steersman.domain.access import Grant, Kind, Role
from steersman.domain.release import Opened, Phase, Release
from steersman.plugins.identity.tokens import Identities
from steersman.server.app import build
from steersman.server.installation import Installation
from steersman.server.wiring import Assembled, assemble, wall
from steersman.testing.routes import ANONYMOUS, Answer, admitted, call, declarations, undeclared, viewer

HOST = "127.0.0.1:7700"
EVERYTHING = ((Role.ADMIN, Role.OPERATOR, Role.VIEWER), (Role.APPROVER, Role.OPERATOR, Role.VIEWER))
"""Nobody is admin and approver at once, so whoever may do everything is two people."""

SECRET = "fares-of-the-others"
"""Name of the model of workspace `theirs`: it may stand in no answer to anybody of `ours`."""

Headers = Mapping[str, str]


def token(parts: Assembled, *, roles: tuple[Role, ...], workspace: str) -> Headers:
    """Headers of a person with these roles in one workspace (`*`: in all)."""
    subject = f"{roles[0]}-of-{workspace.replace('*', 'everywhere')}"
    with parts.store.write() as tx:
        identities = Identities(tx.credentials)
        identities.set_user(subject, tuple(Grant(role=role, workspace=workspace) for role in roles), wall())
        _, secret = identities.issue_token(
            subject=subject, kind=Kind.HUMAN, owner=subject, now=wall(), roles=roles, workspace=workspace
        )
    return {"Authorization": f"Bearer {secret.reveal()}"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembled]:
    """A control server over a new state directory and a directory registry; nothing listens, nothing runs."""
    folder = tmp_path_factory.mktemp("installation")
    registry = folder / "registry"
    registry.mkdir()
    installation = Installation(registries={"directory": f"directory:{registry}"})
    parts = assemble(folder / "state", installation, None)
    for workspace, name in (("ours", "delay"), ("theirs", SECRET)):
        parts.commands.apply([document(workspace, name)], actor="admin")
    yield parts
    parts.store.close()


@pytest.fixture(scope="module")
def app(parts: Assembled) -> Starlette:
    return build(parts)


@pytest.fixture(scope="module", params=EVERYTHING, ids=["admin", "approver"])
def ours(parts: Assembled, request: pytest.FixtureRequest) -> Headers:
    """Somebody who may do everything in workspace `ours`."""
    return token(parts, roles=request.param, workspace="ours")


def document(workspace: str, name: str) -> dict[str, object]:
    return {
        "apiVersion": "steersman/v1",
        "kind": "Model",
        "metadata": {"name": name, "workspace": workspace, "owner": "ops@example.com"},
        "spec": {
            "versions": {"registry": "directory", "name": name},
            "environments": {"production": {"strategy": {"allAtOnce": {}}}},
        },
    }


def ask(app: Starlette, method: str, path: str, headers: Headers, body: object = None, query: str = "") -> Answer:
    sent = {**headers, "Content-Type": "application/json", "Origin": f"http://{HOST}"}
    encoded = b"" if body is None else json.dumps(body).encode()
    return asyncio.run(call(app, method, path, headers=list(sent.items()), body=encoded, query=query, host=HOST))


def test_nothing_was_added_past_the_declarations(app: Starlette) -> None:
    assert undeclared(app) == []
    assert len(declarations(app)) > 40


def test_anonymous_and_viewers_are_refused_everywhere_they_should_be(parts: Assembled, app: Starlette) -> None:
    looking = viewer(token(parts, roles=(Role.VIEWER,), workspace="*"))
    assert asyncio.run(admitted(app, [ANONYMOUS, looking], host=HOST)) == []


def test_who_may_do_everything_in_one_workspace_can_do_nothing_in_another(app: Starlette, ours: Headers) -> None:
    wrong = []
    for path, declaration in declarations(app):
        if declaration.permission is None or "{workspace}" not in path:
            continue
        there = path.replace("{workspace}", "theirs").replace("{name}", SECRET).replace("{model}", SECRET)
        there = there.replace("{number}", "1").replace("{number:int}", "1")
        for method in sorted(declaration.methods):
            answer = ask(app, method, there, ours, {} if method == "POST" else None)
            if answer.status not in (403, 404) or SECRET.encode() in answer.body.replace(there.encode(), b""):
                wrong.append(f"{method} {there}: {answer.status} {answer.body[:200]!r}")
    assert wrong == []


@pytest.mark.parametrize(
    "path", ["/api/v1/models", "/", "/ledger", "/api/v1/ledger", "/api/v1/ledger/export", "/api/v1/kpis"]
)
def test_lists_name_nothing_of_a_workspace_one_is_not_in(app: Starlette, ours: Headers, path: str) -> None:
    answer = ask(app, "GET", path, ours)
    assert answer.status in (200, 403), answer.body
    assert SECRET.encode() not in answer.body


def test_the_same_person_is_let_in_at_home(app: Starlette, ours: Headers) -> None:
    """Otherwise the refusals here would prove nothing."""
    assert ask(app, "GET", "/api/v1/models/ours/delay", ours).status == 200
    assert b"delay" in ask(app, "GET", "/api/v1/models", ours).body


def test_releases_and_incidents_named_by_their_id_are_guarded_by_their_workspace(
    parts: Assembled, app: Starlette, ours: Headers
) -> None:
    release = _release_of_theirs(parts)
    assert ask(app, "GET", f"/api/v1/releases/{release}", ours).status in (403, 404)
    for decision in ("approve", "withdraw", "reject", "pause", "resume", "abort", "retry", "promote"):
        answer = ask(
            app, "POST", f"/api/v1/releases/{release}/{decision}", ours, {"reason": "mine now", "because": "mine"}
        )
        assert answer.status in (403, 404), (decision, answer.body)
    with parts.store.read() as tx:
        found = tx.release(release)
    assert found is not None
    assert found.completion is None


def _release_of_theirs(parts: Assembled) -> str:
    with parts.store.write() as tx:
        known = tx.releases("theirs", SECRET)
        stored = tx.document("Model", "theirs", SECRET)
        assert stored is not None
        release = Release(
            id="rel-theirs",
            workspace="theirs",
            model=SECRET,
            environment="production",
            number=1,
            version=1,
            digest="sha256:" + "0" * 64,
            previous=None,
            document=stored.digest,
            phase=Phase.PENDING,
            step_started_at=parts.world.clock.now(),
            opened=Opened.COMMAND,
            opened_at=parts.world.clock.now(),
            opened_by="somebody",
        )
        if not known:
            tx.add_release(release)
    return release.id


NOT_NUMBERS = ["1" * 5_000, "\u00b2", "\u0663", "-1", "1e3", "0x1", "1_0", " 1", ""]
"""What `int` raises at, or reads as something nobody wrote; the second is a digit to `str.isdigit`."""


@pytest.mark.parametrize("text", NOT_NUMBERS, ids=[one[:8] for one in NOT_NUMBERS])
def test_a_text_that_is_no_number_is_refused_in_words_wherever_a_number_is_read(
    parts: Assembled, app: Starlette, text: str
) -> None:
    admin = token(parts, roles=(Role.ADMIN, Role.OPERATOR, Role.VIEWER), workspace="*")
    for name in ("from", "limit"):
        answer = ask(app, "GET", "/api/v1/ledger", admin, query=urlencode({name: text}))
        assert (answer.status, b"`from` is an index" in answer.body) == (400, True), (name, answer.body)
    if text and "/" not in text:
        for method, behind in (("GET", "checks"), ("POST", "checks"), ("POST", "retire")):
            answer = ask(app, method, f"/api/v1/models/ours/delay/versions/{text}/{behind}", admin, {"reason": "old"})
            assert (answer.status, b"is no version number" in answer.body) == (400, True), (behind, answer.body)
    assert ask(app, "GET", "/ledger", admin, query=urlencode({"page": text})).status == 200


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**400])
def test_a_number_no_database_holds_is_refused_in_words(parts: Assembled, app: Starlette, number: int) -> None:
    admin = token(parts, roles=(Role.ADMIN, Role.OPERATOR, Role.VIEWER), workspace="*")
    approver = token(parts, roles=(Role.APPROVER, Role.VIEWER), workspace="ours")
    for headers, name, behind in (
        (admin, "number", "versions"),
        (admin, "version", "releases"),
        (admin, "version", "plan"),
        (approver, "version", "waivers"),
    ):
        body = {name: number, "because": "known", "skip": "1"}
        answer = ask(app, "POST", f"/api/v1/models/ours/delay/{behind}", headers, body)
        assert (answer.status, b"must be a whole number up to" in answer.body) == (400, True), (behind, answer.body)


def test_a_body_that_is_no_text_is_refused_in_words(parts: Assembled, app: Starlette) -> None:
    admin = token(parts, roles=(Role.ADMIN, Role.OPERATOR, Role.VIEWER), workspace="*")
    sent = {**admin, "Content-Type": "application/json", "Origin": f"http://{HOST}"}
    raw = b'{"documents": "\xff"}'
    answer = asyncio.run(call(app, "POST", "/api/v1/documents", headers=list(sent.items()), body=raw, host=HOST))
    assert (answer.status, b"the body is not JSON" in answer.body) == (400, True), answer.body


def test_documents_of_another_workspace_cannot_be_applied(app: Starlette, ours: Headers) -> None:
    answer = ask(app, "POST", "/api/v1/documents", ours, {"documents": [document("theirs", SECRET)]})
    assert answer.status in (403, 404)
