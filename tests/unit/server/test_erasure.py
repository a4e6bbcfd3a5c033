"""Erasing an entity through the API: a real control server's routes, a real committer, and only who may."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from steersman.domain.access import Grant, Kind, Role
from steersman.plugins.identity.tokens import Identities
from steersman.ports import Span
from steersman.server.app import build
from steersman.server.installation import Installation
from steersman.server.wiring import Assembled, assemble, wall
from steersman.testing.log import SCOPE, Written
from steersman.testing.plane import Plane
from steersman.testing.routes import Answer, call

DOCUMENT = {
    "apiVersion": "steersman/v1",
    "kind": "Model",
    "metadata": {"name": "m", "workspace": "ops", "owner": "ops@example.com"},
    "spec": {
        "versions": {"registry": "directory", "name": "m"},
        "serving": {"stickyBy": "who"},
        "groundTruth": {"column": "late", "key": "who", "horizon": "6h"},
    },
}


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Assembled]:
    (tmp_path / "registry").mkdir()
    installation = Installation(registries={"directory": f"directory:{tmp_path / 'registry'}"})
    parts = assemble(tmp_path / "state", installation, None)
    parts.commands.apply([DOCUMENT], actor="admin")
    yield parts
    parts.store.close()


def erase(parts: Assembled, role: Role, body: Mapping[str, str]) -> Answer:
    with parts.store.write() as tx:
        identities = Identities(tx.credentials)
        identities.set_user(str(role), (Grant(role=role),), wall())
        _, secret = identities.issue_token(
            subject=str(role), kind=Kind.HUMAN, owner=str(role), now=wall(), roles=(role,)
        )
    headers = [("Authorization", f"Bearer {secret.reveal()}"), ("Content-Type", "application/json")]
    path = "/api/v1/models/ops/m/log/erase"
    return asyncio.run(call(build(parts), "POST", path, headers=headers, body=json.dumps(body).encode()))


def test_an_admin_erases_an_entity_and_the_labels_about_it(parts: Assembled) -> None:
    with Plane(parts.state) as plane:
        plane.committer()
        written = Written(parts.state)
        written.predict(["mine", "other"], written.day(0), [0.5, 0.25], who=["ada-4711", "N2"])
        written.label_entity("ada-4711", written.day(0, 1), 1.0, written.day(1))
        written.label_entity("N2", written.day(0, 1), 0.0, written.day(1))
        plane.flush()
        log = parts.world.log
        before = log.answered(SCOPE, Span(written.day(0), written.day(1)), as_of=written.day(2), digest="a")
        assert sorted(before.labels.tolist()) == [0.0, 1.0]
        answer = erase(parts, Role.ADMIN, {"entity": "ada-4711", "because": "case 17"})
        assert answer.status == 200, answer.body
        told = json.loads(answer.body)
        assert (told["predictions"], told["labels"]) == (1, 1)
        after = log.answered(SCOPE, Span(written.day(0), written.day(1)), as_of=written.day(2), digest="a")
        assert after.labels.tolist() == [0.0]
    with parts.store.read() as tx:
        assert all(b"ada-4711" not in row.body for row in tx.ledger.rows(0))


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.APPROVER])
def test_nobody_else_may(parts: Assembled, role: Role) -> None:
    answer = erase(parts, role, {"entity": "ada-4711", "because": "case 17"})
    assert answer.status == 403, answer.body


def test_without_a_committer_it_says_that_it_did_not_get_to_its_end(parts: Assembled) -> None:
    answer = erase(parts, Role.ADMIN, {"entity": "ada-4711", "because": "case 17"})
    assert answer.status == 503
    assert b"did not get to its end" in answer.body
    assert b"ada-4711" not in answer.body
