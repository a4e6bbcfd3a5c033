"""Credentials in the database: the same answers as in memory, hashes only, and one winner for a login code."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from steersman.domain.access import Grant, Kind, Permission, Role, Secret
from steersman.domain.credentials import LoginCodeRow, SessionRow, TokenRow, UserRow
from steersman.domain.errors import NotAuthenticated
from steersman.plugins.identity.tokens import CredentialStore, Identities
from steersman.store.database import Store
from steersman.testing.credentials import CredentialsInMemory

NOW = datetime(2026, 3, 1, 9, 30, 0, 123456, tzinfo=UTC)


@pytest.fixture(params=["memory", "database"])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CredentialStore]:
    if request.param == "memory":
        yield CredentialsInMemory()
        return
    store = Store.at(tmp_path)
    with store.write() as transaction:
        yield transaction.credentials
    store.close()


USER = UserRow(subject="ada", grants=(Grant(role=Role.ADMIN), Grant(role=Role.VIEWER, workspace="ops")), created_at=NOW)
TOKEN = TokenRow(
    id="0" * 16,
    hash=bytes(range(32)),
    subject="ci",
    kind=Kind.SERVICE,
    owner="ada",
    roles=(Role.OPERATOR,),
    workspace="ops",
    permissions=(Permission.TRAFFIC_PREDICT,),
    created_at=NOW,
    expires_at=NOW + timedelta(days=90),
)
CODE = LoginCodeRow(hash=b"c" * 32, subject="ada", expires_at=NOW + timedelta(minutes=10))
SESSION = SessionRow(hash=b"s" * 32, subject="ada", created_at=NOW, expires_at=NOW + timedelta(hours=12))


def test_what_is_put_is_what_is_read_and_a_second_put_replaces_it(rows: CredentialStore) -> None:
    assert (rows.user("ada"), rows.token(TOKEN.id), rows.session(SESSION.hash)) == (None, None, None)
    for user in (USER, replace(USER, disabled_at=NOW)):
        rows.put_user(user)
        assert rows.users() == [user] == [rows.user("ada")]
    for token in (replace(TOKEN, permissions=None), replace(TOKEN, revoked_at=NOW)):
        rows.put_token(token)
        assert rows.tokens() == [token] == [rows.token(TOKEN.id)]
    for session in (SESSION, replace(SESSION, ended_at=NOW)):
        rows.put_session(session)
        assert rows.session(SESSION.hash) == session


def test_a_login_code_is_given_out_once(rows: CredentialStore) -> None:
    rows.put_login_code(CODE)
    assert rows.use_login_code(b"x" * 32, NOW) is None
    used = rows.use_login_code(CODE.hash, NOW)
    assert used is not None
    assert used.subject == "ada"
    assert rows.use_login_code(CODE.hash, NOW) is None


def test_of_many_who_present_one_login_code_at_once_a_single_one_gets_in(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    with store.write() as transaction:
        identities = Identities(transaction.credentials)
        identities.set_user("ada", (Grant(role=Role.ADMIN),), NOW)
        code = identities.issue_login_code("ada", NOW)

    def attempt(_: int) -> bool:
        try:
            with store.write() as transaction:
                Identities(transaction.credentials).log_in(code, NOW)
        except NotAuthenticated:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1
    store.close()


def test_a15_no_credential_stands_in_the_files_of_the_database(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    with store.write() as transaction:
        identities = Identities(transaction.credentials)
        identities.set_user("ada", (Grant(role=Role.ADMIN),), NOW)
        _, token = identities.issue_token(subject="ada", kind=Kind.HUMAN, owner="ada", now=NOW, roles=(Role.ADMIN,))
        code = identities.issue_login_code("ada", NOW)
        _, session = identities.log_in(code, NOW)
    with store.read() as transaction:
        access = Identities(transaction.credentials).authenticate_token(token, NOW)
        assert access.allows(Permission.RELEASE_OPEN, "ops")
        Identities(transaction.credentials).authenticate_session(session, NOW)
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("control.db*"))
    assert b'"ada"' in kept
    for secret in (token, code, session):
        assert isinstance(secret, Secret)
        assert secret.reveal().rpartition("_")[2].encode() not in kept
        assert secret.reveal().split("_", 2)[-1].encode() not in kept
    store.close()


def test_codes_and_sessions_that_are_long_over_are_swept_out_by_the_next_one(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    later = NOW + timedelta(days=8)
    with store.write() as transaction:
        rows = transaction.credentials
        rows.put_login_code(CODE)
        rows.put_session(SESSION)
        rows.put_login_code(replace(CODE, hash=b"d" * 32, expires_at=later))
        rows.put_session(replace(SESSION, hash=b"t" * 32, created_at=later, expires_at=later))
        assert rows.session(SESSION.hash) is None
        assert rows.use_login_code(CODE.hash, later) is None
        assert rows.session(b"t" * 32) is not None
    store.close()


def test_a_token_and_its_ledger_entry_stand_or_fall_together(tmp_path: Path) -> None:
    store = Store.at(tmp_path)

    def crash_between() -> None:
        with store.write() as transaction:
            transaction.credentials.put_token(TOKEN)
            raise RuntimeError("crash before the entry was written")

    with pytest.raises(RuntimeError, match="crash"):
        crash_between()
    with store.read() as transaction:
        assert transaction.credentials.tokens() == []
    store.close()
