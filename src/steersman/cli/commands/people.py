"""Commands about who may do what: people and tokens."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from steersman.cli import EXIT_DONE
from steersman.cli.output import say, show
from steersman.cli.session import connect
from steersman.domain.access import EVERY_WORKSPACE, Role
from steersman.domain.durations import parse_duration
from steersman.domain.errors import BadRequest


def user(arguments: argparse.Namespace) -> int:
    """List people, set grants, disable one, or make a login code."""
    steersman = connect(arguments)
    if arguments.action == "list":
        found = steersman.users()
        rows = [{**user, "roles": [_granted(grant) for grant in user.get("grants", ())]} for user in found]
        columns = ("subject", "roles", "created_at", "disabled_at")
        show(found if arguments.output == "json" else rows, arguments.output, columns)
        return EXIT_DONE
    if not arguments.name:
        raise BadRequest(f"user {arguments.action} needs a name")
    if arguments.action == "disable":
        show(steersman.disable_user(arguments.name), arguments.output)
    elif arguments.action == "login-code":
        show(steersman.login_code(arguments.name), arguments.output)
    else:
        if not arguments.roles:
            raise BadRequest("user set needs at least one --role")
        grants = [_grant(text) for text in arguments.roles]
        show(steersman.set_user(arguments.name, grants), arguments.output)
    return EXIT_DONE


def token(arguments: argparse.Namespace) -> int:
    """List, issue or revoke tokens."""
    steersman = connect(arguments)
    if arguments.action == "list":
        show(steersman.tokens(), arguments.output)
        return EXIT_DONE
    if not arguments.name:
        raise BadRequest(f"token {arguments.action} needs {'a subject' if arguments.action == 'issue' else 'an id'}")
    if arguments.action == "revoke":
        steersman.revoke_token(arguments.name)
        show({"revoked": arguments.name}, arguments.output)
        return EXIT_DONE
    if not arguments.roles:
        raise BadRequest("token issue needs at least one --role")
    try:
        life = None if arguments.life is None else parse_duration(arguments.life)
    except ValueError as error:
        raise BadRequest(f"--life {error}") from None
    answer = steersman.issue_token(
        arguments.name,
        roles=arguments.roles,
        service=arguments.service,
        workspace=arguments.workspace,
        permissions=arguments.scopes,
        life=life,
    )
    show(answer, arguments.output)
    say("The secret is shown only now; only its hash is kept.", arguments.output)
    return EXIT_DONE


def _granted(grant: Mapping[str, str]) -> str:
    """A grant as `user set --role` takes it."""
    return grant["role"] if grant["workspace"] == EVERY_WORKSPACE else f"{grant['role']}@{grant['workspace']}"


def _grant(text: str) -> tuple[str, str]:
    role, _, workspace = text.partition("@")
    if role not in set(Role):
        raise BadRequest(f"there is no role {role!r}", next_step=f"Roles are {', '.join(Role)}.")
    return role, workspace or EVERY_WORKSPACE
