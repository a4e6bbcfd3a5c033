"""Over HTTP: by which role somebody agrees is what the server knows of them, never what they say; and who may waive."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

import pytest
from starlette.applications import Starlette

from steersman.domain.access import Grant, Kind, Role
from steersman.domain.release import Opened, Phase, Release
from steersman.domain.version import Format, Version
from steersman.plugins.identity.tokens import Identities
from steersman.server.app import build
from steersman.server.installation import Installation
from steersman.server.wiring import Assembled, assemble, wall
from steersman.testing.routes import Answer, call

HOST = "127.0.0.1:7700"
DIGEST = "sha256:" + "0" * 64
MODEL = {
    "apiVersion": "steersman/v1",
    "kind": "Model",
    "metadata": {"name": "delay", "owner": "ops@example.com"},
    "spec": {
        "versions": {"registry": "directory", "name": "delay"},
        "environments": {
            "staging": {},
            "production": {"after": "staging", "approvals": {"required": 2, "roles": ["approver", "validator"]}},
        },
    },
}


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Assembled]:
    (tmp_path / "registry").mkdir()
    installation = Installation(registries={"directory": f"directory:{tmp_path / 'registry'}"})
    parts = assemble(tmp_path / "state", installation, None)
    parts.commands.apply([MODEL], actor="admin")
    now = parts.world.clock.now()
    version = Version(
        workspace="default",
        model="delay",
        number=1,
        digest=DIGEST,
        format=Format.ONNX,
        file="model.onnx",
        signature=(),
        registered_at=now,
        registered_by="ann",
        author_chain=("ann",),
    )
    with parts.store.write() as tx:
        tx.put_version(version)
        stored = tx.document("Model", "default", "delay")
        assert stored is not None
        release = Release(
            id="rel-1",
            workspace="default",
            model="delay",
            environment="production",
            number=1,
            version=1,
            digest=DIGEST,
            previous=None,
            document=stored.digest,
            phase=Phase.PAUSED,
            step=0,
            step_started_at=now,
            opened=Opened.COMMAND,
            opened_at=now,
            opened_by="ann",
            resumes=Phase.PENDING,
        )
        tx.add_release(release)
    yield parts
    parts.store.close()


def person(parts: Assembled, name: str, *held: Role, token: tuple[Role, ...] | None = None) -> Mapping[str, str]:
    with parts.store.write() as tx:
        identities = Identities(tx.credentials)
        identities.set_user(name, tuple(Grant(role=role, workspace="default") for role in held), wall())
        _, secret = identities.issue_token(
            subject=name, kind=Kind.HUMAN, owner=name, now=wall(), roles=token or held, workspace="default"
        )
    return {"Authorization": f"Bearer {secret.reveal()}"}


def post(app: Starlette, path: str, headers: Mapping[str, str], **body: object) -> Answer:
    sent = {**headers, "Content-Type": "application/json", "Origin": f"http://{HOST}"}
    encoded = json.dumps({"because": "read and understood", **body}).encode()
    return asyncio.run(call(app, "POST", f"/api/v1{path}", headers=list(sent.items()), body=encoded, host=HOST))


def roles_kept(parts: Assembled) -> dict[str, tuple[str, ...]]:
    with parts.store.read() as tx:
        return {approval.actor: approval.roles for approval in tx.agreements.approvals("rel-1")}


def test_an_approval_is_kept_with_the_roles_of_token_and_person(parts: Assembled) -> None:
    app = build(parts)
    both = person(parts, "vera", Role.APPROVER, Role.VALIDATOR)
    narrowed = person(parts, "bob", Role.APPROVER, Role.VALIDATOR, token=(Role.VALIDATOR,))
    for headers in (both, narrowed):
        assert post(app, "/releases/rel-1/approve", headers, roles=["validator", "admin"]).status == 200
    assert roles_kept(parts) == {"bob": ("validator",), "vera": ("approver", "validator")}


def test_who_operates_or_administers_neither_approves_nor_waives(parts: Assembled) -> None:
    app = build(parts)
    for headers in (person(parts, "olga", Role.OPERATOR), person(parts, "adam", Role.ADMIN)):
        for path in ("/releases/rel-1/approve", "/releases/rel-1/withdraw", "/models/default/delay/waivers"):
            assert post(app, path, headers, version=1, skip="staging").status == 403, path


def test_a_validator_waives_and_everybody_who_reads_sees_it(parts: Assembled) -> None:
    app = build(parts)
    granted = post(
        app, "/models/default/delay/waivers", person(parts, "vera", Role.VALIDATOR), version=1, skip="staging"
    )
    assert granted.status == 201, granted.body
    waiver = json.loads(granted.body)
    assert (waiver["actor"], waiver["digest"], waiver["skips"], waiver["used_by"]) == ("vera", DIGEST, "staging", None)
    looking = [*person(parts, "leo", Role.VIEWER).items()]
    answer = asyncio.run(call(app, "GET", "/api/v1/models/default/delay/waivers", headers=looking, body=b"", host=HOST))
    assert [w["id"] for w in json.loads(answer.body)] == [waiver["id"]]


def test_a_waiver_given_in_the_console_leads_to_the_release_that_uses_it_or_to_the_model(parts: Assembled) -> None:
    app, headers = build(parts), person(parts, "vera", Role.VALIDATOR)

    def waived(**fields: str) -> Answer:
        sent = {**headers, "Content-Type": "application/x-www-form-urlencoded", "Origin": f"http://{HOST}"}
        body = urlencode({"environment": "production", "because": "read and understood", **fields}).encode()
        return asyncio.run(
            call(app, "POST", "/models/default/delay/waive", headers=list(sent.items()), body=body, host=HOST)
        )

    given = waived(version="1", skip="staging")
    assert (given.status, given.headers.get("location")) == (303, "/models/default/delay?environment=production")
    with parts.store.read() as tx:
        (waiver,) = tx.agreements.waivers("default", "delay")
    assert (waiver.actor, waiver.skips, waiver.because) == ("vera", "staging", "read and understood")
    assert b"no version was chosen" in waived(version="one", skip="staging").body
    assert b"is nothing that can be waived" in waived(version="1", skip="9").body


def test_a_waiver_says_how_long_in_words_that_are_understood(parts: Assembled) -> None:
    app, headers = build(parts), person(parts, "vera", Role.VALIDATOR)
    for expires, said in (("soon", b"must be a duration"), ("91d", b"lasts at most 90d")):
        answer = post(app, "/models/default/delay/waivers", headers, version=1, skip="staging", expires=expires)
        assert answer.status == 400
        assert said in answer.body
