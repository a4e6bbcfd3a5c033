"""Commands about who may do what: users and tokens."""

from __future__ import annotations

import argparse
from typing import Any

from steersman.cli import EXIT_DONE
from steersman.cli.output import say, show
from steersman.cli.session import connect
from steersman.domain.durations import parse_duration
from steersman.domain.errors import BadRequest


def user(arguments: argparse.Namespace) -> int:
    steersman = connect(arguments)
    if arguments.action == "list":
        show(steersman.users(), arguments.output)
        return EXIT_DONE
    if not arguments.name or not arguments.roles:
        raise BadRequest("user add needs a name and at least one --role")
    wanted: dict[str, Any] = {"name": arguments.name, "roles": arguments.roles}
    if arguments.workspace is not None:
        wanted["workspace"] = arguments.workspace
    show(steersman.add_user(**wanted), arguments.output)
    return EXIT_DONE


def token(arguments: argparse.Namespace) -> int:
    steersman = connect(arguments)
    if arguments.action == "list":
        show(steersman.tokens(), arguments.output)
        return EXIT_DONE
    if not arguments.name:
        raise BadRequest(f"token {arguments.action} needs {'a user' if arguments.action == 'issue' else 'an id'}")
    if arguments.action == "revoke":
        steersman.revoke_token(arguments.name)
        show({"revoked": arguments.name}, arguments.output)
        return EXIT_DONE
    try:
        lifetime = parse_duration(arguments.expires)
    except ValueError as error:
        raise BadRequest(f"--expires {error}") from None
    wanted = {"user": arguments.name, "expiresS": int(lifetime.total_seconds())}
    if arguments.scopes:
        wanted["scopes"] = arguments.scopes
    show(steersman.issue_token(**wanted), arguments.output)
    say("The secret is shown only now; only its hash is kept.", arguments.output)
    return EXIT_DONE
