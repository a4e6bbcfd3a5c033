"""The table of roles, and the rules no grant gets around."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.domain.access import (
    EVERY_WORKSPACE,
    FOUR_EYES,
    HUMAN_ONLY,
    ROLE_PERMISSIONS,
    Access,
    Grant,
    Kind,
    Permission,
    Principal,
    Role,
    Secret,
    allowed,
    parse_subject,
    redacted,
)
from steersman.domain.errors import BadRequest, NotAllowed

WORKSPACES = st.sampled_from(["ops", "risk", EVERY_WORKSPACE])
GRANTS = st.lists(st.builds(Grant, role=st.sampled_from(Role), workspace=WORKSPACES), max_size=5).map(tuple)
PERMISSION = st.sampled_from(Permission)


def access(*grants: Grant, kind: Kind = Kind.HUMAN, **more: object) -> Access:
    principal = Principal(issuer="steersman", subject="ada", kind=kind)
    return Access(principal=principal, grants=grants, **more)  # type: ignore[arg-type]


@given(permission=PERMISSION, workspace=WORKSPACES)
def test_nobody_may_do_anything_without_a_grant(permission: Permission, workspace: str) -> None:
    assert not allowed((), permission, workspace)


@pytest.mark.parametrize(
    ("role", "may_not"),
    [
        (Role.VIEWER, set(Permission) - {p for p in Permission if p.value.endswith(":read")}),
        (
            Role.OPERATOR,
            {
                Permission.RELEASE_APPROVE,
                Permission.RELEASE_WAIVE,
                Permission.TOKEN_MANAGE,
                Permission.USER_MANAGE,
                Permission.CLOCK_ADVANCE,
                Permission.LOG_ERASE,
            },
        ),
        (
            Role.APPROVER,
            set(Permission) - {p for p in Permission if p.value.endswith(":read")} - FOUR_EYES,
        ),
        (
            Role.VALIDATOR,
            set(Permission) - {p for p in Permission if p.value.endswith(":read")} - FOUR_EYES,
        ),
        (Role.ADMIN, {Permission.RELEASE_APPROVE, Permission.RELEASE_WAIVE}),
    ],
)
def test_each_role_lacks_exactly_what_the_table_says(role: Role, may_not: set[Permission]) -> None:
    assert set(Permission) - ROLE_PERMISSIONS[role] == may_not


@given(grants=GRANTS, permission=PERMISSION)
def test_a8_a_grant_in_one_workspace_is_none_in_another(grants: tuple[Grant, ...], permission: Permission) -> None:
    elsewhere = tuple(grant for grant in grants if grant.workspace not in ("ops", EVERY_WORKSPACE))
    assert not allowed(elsewhere, permission, "ops")
    local = tuple(grant for grant in grants if grant.workspace != EVERY_WORKSPACE)
    assert not allowed(local, permission, EVERY_WORKSPACE)


@given(grants=GRANTS, workspace=WORKSPACES)
def test_a9_an_admin_never_approves_whatever_else_was_granted(grants: tuple[Grant, ...], workspace: str) -> None:
    assert not allowed((*grants, Grant(role=Role.ADMIN)), Permission.RELEASE_APPROVE, workspace)


@given(grants=GRANTS, workspace=WORKSPACES, permission=st.sampled_from(sorted(HUMAN_ONLY)))
def test_a9_a_service_never_approves_nor_hands_out_access(
    grants: tuple[Grant, ...], workspace: str, permission: Permission
) -> None:
    for kind in (Kind.SERVICE, Kind.SYSTEM):
        assert not access(*grants, kind=kind).allows(permission, workspace)


@given(grants=GRANTS, within=GRANTS, permission=PERMISSION, workspace=WORKSPACES, subset=st.sets(PERMISSION))
def test_a8_narrowing_never_widens(
    grants: tuple[Grant, ...],
    within: tuple[Grant, ...],
    permission: Permission,
    workspace: str,
    subset: set[Permission],
) -> None:
    if access(*grants, within=within, permissions=frozenset(subset)).allows(permission, workspace):
        assert permission in subset
        assert allowed(within, permission, workspace)
        assert allowed(grants, permission, workspace)


@given(grants=GRANTS, within=GRANTS, permission=PERMISSION)
def test_somewhere_means_in_a_workspace_one_can_name(
    grants: tuple[Grant, ...], within: tuple[Grant, ...], permission: Permission
) -> None:
    asked = access(*grants, within=within)
    somewhere = any(asked.allows(permission, workspace) for workspace in ("ops", "risk", EVERY_WORKSPACE))
    assert asked.allows_somewhere(permission) == somewhere


def test_a_refusal_names_who_what_and_where() -> None:
    with pytest.raises(NotAllowed, match="ada lacks the permission release:open in workspace ops"):
        access(Grant(role=Role.VIEWER)).require(Permission.RELEASE_OPEN, "ops")


@pytest.mark.parametrize("subject", ["system:reconciler", "service:ci", "", "Ada", "a b", "a\n", "-x", "x" * 200])
def test_nobody_can_be_called_what_the_ledger_keeps_for_others(subject: str) -> None:
    with pytest.raises(BadRequest):
        parse_subject(subject)


def test_the_ledger_tells_people_from_services() -> None:
    assert access().principal.actor == "ada"
    assert access(kind=Kind.SERVICE).principal.actor == "service:ada"


CANARY = "canary-8c1f0e"


def test_a15_a_secret_shows_itself_nowhere() -> None:
    secret = Secret(CANARY)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>40}", f"{[secret]} { ({'k': secret}) }", ascii(secret)]
    assert not any(CANARY in text for text in shown)
    for leak in (json.dumps, pickle.dumps, copy.deepcopy, hash):
        with pytest.raises(TypeError):
            leak(secret)  # type: ignore[operator]
    assert secret.reveal() == CANARY
    assert secret == Secret(CANARY)
    assert secret != Secret("other")
    assert secret != CANARY


@pytest.mark.parametrize(
    "text",
    [
        "GET /login?code=smc_abcdefghijklmnopqrstuvwxyz",
        "token sm_0123456789abcdef_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA is bad",
        "cookie sms_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "headers {'Authorization': 'Bearer abcdefghijklmnop'}",
        "Authorization: Basic YWRhOnNlY3JldA==",
        "fetching https://ada:hunter2@example.com/x",
    ],
)
def test_a15_credentials_are_taken_out_of_text_by_their_form(text: str) -> None:
    clean = redacted(text)
    assert "***" in clean
    assert not any(part in clean for part in ("abcdefghij", "AAAAAAAA", "YWRhOn", "hunter2"))


@pytest.mark.parametrize("text", ["the basic arithmetic of bearer tokens", "sm_all", "http://127.0.0.1:7700/x@y"])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redacted(text) == text
