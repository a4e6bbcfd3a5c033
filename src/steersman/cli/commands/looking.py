"""Commands that look: status, versions, history, incidents, monitors, trainings."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from steersman.cli import EXIT_DONE, reports
from steersman.cli.commands.releases import is_identifier
from steersman.cli.output import report, show
from steersman.cli.session import connect
from steersman.domain.errors import BadRequest


def status(arguments: argparse.Namespace) -> int:
    steersman = connect(arguments)
    if arguments.model is None:
        fleet = steersman.models()
        report(fleet, arguments.output, lambda: reports.models(fleet))
    else:
        found = steersman.status(arguments.model)
        report(found, arguments.output, lambda: reports.model(found))
    return EXIT_DONE


def versions(arguments: argparse.Namespace) -> int:
    steersman = connect(arguments)
    if arguments.register is not None:
        show(steersman.register(arguments.model, arguments.register), arguments.output)
    else:
        columns = ("number", "digest", "format", "registered_at", "registered_by", "retired_at")
        found = steersman.versions(arguments.model)[: arguments.limit]
        nothing = f"no versions yet\nnext: steersman versions {arguments.model} --register NUMBER"
        show(found, arguments.output, columns, nothing=nothing)
    return EXIT_DONE


def history(arguments: argparse.Namespace) -> int:
    at = None if arguments.at is None else moment(arguments.at)
    found = connect(arguments).history(arguments.model, environment=arguments.environment, at=at)
    report(
        found,
        arguments.output,
        lambda: reports.history(found, model=arguments.model, at=arguments.at, environment=arguments.environment),
    )
    return EXIT_DONE


def incidents(arguments: argparse.Namespace) -> int:
    steersman = connect(arguments)
    one = is_identifier(arguments.what, "inc")
    if arguments.accept:
        if not one or not arguments.because:
            raise BadRequest("--accept needs the id of an incident and --because")
        show(steersman.accept(arguments.what, because=arguments.because), arguments.output)
    elif one:
        show(steersman.incident(arguments.what), arguments.output)
    else:
        columns = ("id", "kind", "state", "environment", "version", "detected_at", "resolved_at", "remedy", "because")
        found = steersman.incidents(arguments.what)[: arguments.limit]
        show(found, arguments.output, columns, nothing=f"no incidents of {arguments.what}")
    return EXIT_DONE


def monitors(arguments: argparse.Namespace) -> int:
    steersman = connect(arguments)
    rows = steersman.windows(arguments.model) if arguments.windows else steersman.monitors(arguments.model)
    show(rows[: arguments.limit], arguments.output, nothing=f"nothing is watched of {arguments.model} yet")
    return EXIT_DONE


def trainings(arguments: argparse.Namespace) -> int:
    rows = connect(arguments).trainings(arguments.model)[: arguments.limit]
    if arguments.output != "json":
        rows = [{**row, "because": (row.get("record") or {}).get("because")} for row in rows]
    columns = ("started_at", "environment", "purpose", "outcome", "version", "rows", "known_until", "because")
    show(rows, arguments.output, columns, nothing=f"{arguments.model} was not trained here yet")
    return EXIT_DONE


def moment(text: str) -> datetime:
    """A time as people write it: a day, or RFC 3339; without a zone it is UTC."""
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadRequest(f"{text!r} is not a time", next_step="Write 2026-03-01 or 2026-03-01T12:00:00Z.") from None
