"""Tokens, login codes and sessions: what is kept, how long it holds, and every way to get more than was given."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.domain.access import EVERY_WORKSPACE, Access, Grant, Kind, Permission, Role, Secret, redacted
from steersman.domain.credentials import TokenRow
from steersman.domain.errors import BadRequest, NotAllowed, NotAuthenticated
from steersman.plugins.identity.tokens import (
    TOKEN_LIFE_MAX,
    Identities,
    csrf_matches,
    csrf_token,
)
from steersman.testing.credentials import CredentialsInMemory

NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)
DAY = timedelta(days=1)


def installation() -> tuple[CredentialsInMemory, Identities]:
    """Ada is admin, Olga operates ops, Paul approves, Vera looks."""
    rows = CredentialsInMemory()
    identities = Identities(rows)
    identities.set_user("ada", (Grant(role=Role.ADMIN),), NOW)
    identities.set_user("olga", (Grant(role=Role.OPERATOR, workspace="ops"),), NOW)
    identities.set_user("paul", (Grant(role=Role.APPROVER),), NOW)
    identities.set_user("vera", (Grant(role=Role.VIEWER),), NOW)
    return rows, identities


def own_token(identities: Identities, subject: str, role: Role, **more: object) -> tuple[TokenRow, Secret]:
    return identities.issue_token(subject=subject, kind=Kind.HUMAN, owner=subject, now=NOW, roles=(role,), **more)  # type: ignore[arg-type]


def session_of(identities: Identities, subject: str) -> tuple[Access, Secret]:
    _, secret = identities.log_in(identities.issue_login_code(subject, NOW), NOW)
    return identities.authenticate_session(secret, NOW), secret


def test_a_token_authenticates_its_owner_within_its_scope() -> None:
    _, identities = installation()
    _, secret = own_token(identities, "olga", Role.OPERATOR, workspace="ops")
    access = identities.authenticate_token(secret, NOW)
    assert access.principal.actor == "olga"
    assert access.allows(Permission.RELEASE_OPEN, "ops")
    assert not access.allows(Permission.RELEASE_OPEN, "risk")


def test_a_token_has_256_random_bits_and_only_its_hash_is_kept() -> None:
    rows, identities = installation()
    row, secret = own_token(identities, "ada", Role.ADMIN)
    assert len(secret.reveal().split("_", 2)[2]) == 43  # 32 bytes in base64url
    assert len(row.hash) == 32
    assert secret.reveal().split("_", 2)[2] not in repr(rows)


@given(at=st.integers(0), replacement=st.characters(codec="ascii"))
def test_no_changed_token_is_accepted(at: int, replacement: str) -> None:
    _, identities = installation()
    _, secret = own_token(identities, "ada", Role.ADMIN)
    text = secret.reveal()
    at %= len(text)
    changed = text[:at] + replacement + text[at + 1 :]
    if changed == text:
        return
    with pytest.raises(NotAuthenticated):
        identities.authenticate_token(Secret(changed), NOW)


def test_unknown_wrong_and_revoked_tokens_are_refused_with_the_same_words() -> None:
    _, identities = installation()
    row, secret = own_token(identities, "ada", Role.ADMIN)
    identities.revoke_token(row.id, NOW)
    wrong = Secret(f"sm_{row.id}_{'A' * 43}")
    unknown = Secret(f"sm_{'0' * 16}_{'A' * 43}")
    said = set()
    for presented in (secret, wrong, unknown, Secret(""), Secret("sm_"), Secret(secret.reveal() + "\n")):
        with pytest.raises(NotAuthenticated) as refused:
            identities.authenticate_token(presented, NOW)
        said.add(refused.value.message)
    assert said == {"the token is not known here"}


def test_a_token_ends_and_cannot_be_made_to_last_longer_than_90_days() -> None:
    _, identities = installation()
    _, secret = own_token(identities, "ada", Role.ADMIN, life=30 * DAY)
    identities.authenticate_token(secret, NOW + 30 * DAY - timedelta(seconds=1))
    with pytest.raises(NotAuthenticated, match="ended on 2026-03-31"):
        identities.authenticate_token(secret, NOW + 30 * DAY)
    for life in (TOKEN_LIFE_MAX + timedelta(seconds=1), timedelta(0), -DAY):
        with pytest.raises(BadRequest, match="90 days"):
            own_token(identities, "ada", Role.ADMIN, life=life)


def test_a_token_does_less_as_soon_as_its_owner_may_do_less() -> None:
    _, identities = installation()
    _, secret = own_token(identities, "olga", Role.OPERATOR, workspace="ops")
    identities.set_user("olga", (Grant(role=Role.VIEWER, workspace="ops"),), NOW)
    access = identities.authenticate_token(secret, NOW)
    assert not access.allows(Permission.RELEASE_OPEN, "ops")
    assert access.allows(Permission.MODEL_READ, "ops")
    identities.disable_user("olga", NOW)
    with pytest.raises(NotAuthenticated):
        identities.authenticate_token(secret, NOW)


def test_a8_nobody_issues_a_token_that_can_do_more_than_its_owner() -> None:
    _, identities = installation()
    with pytest.raises(NotAllowed, match="vera lacks"):
        own_token(identities, "vera", Role.OPERATOR)
    with pytest.raises(NotAllowed, match="olga lacks"):
        own_token(identities, "olga", Role.OPERATOR, workspace=EVERY_WORKSPACE)
    with pytest.raises(NotAllowed, match="olga lacks"):
        own_token(identities, "olga", Role.OPERATOR, workspace="risk")


def test_a8_a_narrow_token_does_not_beget_a_wide_one() -> None:
    _, identities = installation()
    _, narrow = own_token(identities, "ada", Role.ADMIN, permissions=(Permission.TOKEN_MANAGE, Permission.MODEL_READ))
    access = identities.authenticate_token(narrow, NOW)
    with pytest.raises(NotAllowed):
        own_token(identities, "ada", Role.ADMIN, issued_by=access)
    own_token(identities, "ada", Role.ADMIN, permissions=(Permission.MODEL_READ,), issued_by=access)


def test_a9_an_admin_issues_no_token_that_acts_as_another_person() -> None:
    _, identities = installation()
    admin, _ = session_of(identities, "ada")
    for subject, role in (("paul", Role.APPROVER), ("vera", Role.VIEWER)):
        with pytest.raises(NotAllowed):
            own_token(identities, subject, role, issued_by=admin)
    with pytest.raises(BadRequest, match="own"):
        identities.issue_token(subject="paul", kind=Kind.HUMAN, owner="ada", now=NOW, roles=(Role.ADMIN,))


@pytest.mark.parametrize("agreeing", [Role.APPROVER, Role.VALIDATOR])
def test_a9_nobody_is_admin_and_approver_of_the_same_workspace(agreeing: Role) -> None:
    _, identities = installation()
    for first, second in ((EVERY_WORKSPACE, "ops"), ("ops", EVERY_WORKSPACE), ("ops", "ops")):
        grants = (Grant(role=Role.ADMIN, workspace=first), Grant(role=agreeing, workspace=second))
        with pytest.raises(BadRequest, match=f"admin and {agreeing}"):
            identities.set_user("eve", grants, NOW)


def service_token(identities: Identities, **more: object) -> tuple[TokenRow, Secret]:
    admin, _ = session_of(identities, "ada")
    given: dict[str, object] = {"roles": (Role.OPERATOR,), "workspace": "ops"}
    return identities.issue_token(
        subject="ci",
        kind=Kind.SERVICE,
        owner="ada",
        now=NOW,
        issued_by=admin,
        **(given | more),  # type: ignore[arg-type]
    )


def test_a_service_has_a_token_with_an_owner_and_says_so_in_the_ledger() -> None:
    _, identities = installation()
    row, secret = service_token(identities)
    access = identities.authenticate_token(secret, NOW)
    assert (row.owner, access.principal.actor) == ("ada", "service:ci")
    assert access.allows(Permission.REGISTRY_WRITE, "ops")
    assert not access.allows(Permission.TOKEN_MANAGE, "ops")


def test_a_permission_no_role_of_the_token_gives_is_refused_rather_than_ignored() -> None:
    _, identities = installation()
    with pytest.raises(BadRequest, match="none of the token's roles gives user:manage to a service"):
        service_token(identities, roles=(Role.ADMIN,), permissions=(Permission.USER_MANAGE,))


def test_the_router_learns_hashes_of_live_tokens_that_may_send_traffic() -> None:
    rows, identities = installation()
    _, predicting = service_token(identities, permissions=(Permission.TRAFFIC_PREDICT,))
    own_token(identities, "vera", Role.VIEWER)
    own_token(identities, "ada", Role.ADMIN)
    revoked, _ = service_token(identities)
    identities.revoke_token(revoked.id, NOW)
    known = identities.router_tokens(NOW)
    assert [(token.workspace, token.permissions) for token in known] == [
        ("ops", ("predict",)),
        (None, ("metrics",)),
        (None, ("predict", "override", "label", "metrics")),
    ]
    assert identities.router_tokens(NOW + TOKEN_LIFE_MAX) == ()
    assert predicting.reveal() not in repr(known) + repr(rows)
    identities.disable_user("ada", NOW)
    assert [token.permissions for token in identities.router_tokens(NOW)] == [("metrics",)], "vera's is left"


def test_a_login_code_works_once_and_for_ten_minutes() -> None:
    _, identities = installation()
    code = identities.issue_login_code("vera", NOW)
    late = identities.issue_login_code("vera", NOW)
    identities.log_in(Secret(f"  {code.reveal().upper()}\n"), NOW + timedelta(minutes=9))
    for presented, now in ((code, NOW), (late, NOW + timedelta(minutes=10)), (Secret("smc_x"), NOW)):
        with pytest.raises(NotAuthenticated, match="not valid"):
            identities.log_in(presented, now)


def test_a_late_login_code_is_used_up_by_the_attempt() -> None:
    _, identities = installation()
    late = identities.issue_login_code("vera", NOW)
    for now in (NOW + timedelta(minutes=10), NOW):
        with pytest.raises(NotAuthenticated):
            identities.log_in(late, now)


def test_a_session_ends_after_a_day_of_work_by_logging_out_and_with_its_person() -> None:
    _, identities = installation()
    _, first = session_of(identities, "vera")
    _, second = session_of(identities, "vera")
    with pytest.raises(NotAuthenticated):
        identities.authenticate_session(first, NOW + timedelta(hours=12))
    identities.log_out(first, NOW)
    with pytest.raises(NotAuthenticated):
        identities.authenticate_session(first, NOW)
    identities.authenticate_session(second, NOW)
    identities.disable_user("vera", NOW)
    with pytest.raises(NotAuthenticated):
        identities.authenticate_session(second, NOW)
    with pytest.raises(NotAllowed):
        identities.issue_login_code("vera", NOW)


def test_credentials_of_one_kind_are_not_accepted_as_another() -> None:
    _, identities = installation()
    _, token = own_token(identities, "ada", Role.ADMIN)
    _, session = session_of(identities, "ada")
    with pytest.raises(NotAuthenticated):
        identities.authenticate_session(token, NOW)
    with pytest.raises(NotAuthenticated):
        identities.authenticate_token(session, NOW)
    with pytest.raises(NotAuthenticated):
        identities.log_in(token, NOW)


def test_a_form_token_belongs_to_one_session() -> None:
    _, identities = installation()
    _, first = session_of(identities, "vera")
    _, second = session_of(identities, "vera")
    assert csrf_matches(first, csrf_token(first))
    assert not csrf_matches(first, csrf_token(second))
    assert not csrf_matches(first, "")
    assert not csrf_matches(first, "\ud800")
    assert first.reveal() not in csrf_token(first)


def test_a15_no_credential_appears_in_rows_errors_or_logs(caplog: pytest.LogCaptureFixture) -> None:
    rows, identities = installation()
    _, token = own_token(identities, "ada", Role.ADMIN)
    code = identities.issue_login_code("vera", NOW)
    _, session = identities.log_in(code, NOW)
    said = []
    with caplog.at_level(logging.DEBUG):
        for attempt in (
            lambda: identities.authenticate_token(token, NOW + TOKEN_LIFE_MAX),
            lambda: identities.authenticate_session(session, NOW + DAY),
            lambda: identities.log_in(code, NOW),
            lambda: identities.authenticate_token(Secret(token.reveal()[:-1]), NOW),
        ):
            try:
                attempt()
            except NotAuthenticated as refused:
                said += [str(refused), repr(refused), refused.next_step, str(refused.to_wire())]
                logging.getLogger("test").exception("refused")
    assert len(said) == 16
    everything = "\n".join([*said, repr(rows), repr(identities), caplog.text])
    for secret in (token, code, session):
        assert secret.reveal() not in everything
        assert redacted(f"x {secret.reveal()} y") == "x *** y"
