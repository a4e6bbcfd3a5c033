"""Commands about releases: opening one, looking at one, deciding about one, and going back."""

from __future__ import annotations

import argparse
import re
from typing import Any

from steersman.cli import EXIT_BLOCKED, EXIT_DONE, EXIT_ERROR, reports
from steersman.cli.output import report, say, show
from steersman.cli.session import connect
from steersman.client.steersman import Json, Steersman
from steersman.domain.release import Completion, Phase

_BLOCKED = (Completion.ABORTED, Completion.SUPERSEDED, Completion.ROLLED_BACK)


def release(arguments: argparse.Namespace) -> int:
    """Open a release; with --wait, stay until it is decided."""
    steersman = connect(arguments)
    answer = steersman.release(
        arguments.model,
        arguments.version,
        environment=arguments.environment,
        because=arguments.because,
        hotfix=arguments.hotfix,
    )
    return _followed(steersman, answer, arguments)


def releases(arguments: argparse.Namespace) -> int:
    """The releases of a model, or one release."""
    steersman = connect(arguments)
    if is_identifier(arguments.what, "rel"):
        found = steersman.release_status(arguments.what)
        report(found, arguments.output, lambda: reports.release(found))
    else:
        listed = steersman.releases(arguments.what)[: arguments.limit]
        nothing = f'no releases yet\nnext: steersman release {arguments.what} VERSION --because "…"'
        report(listed, arguments.output, lambda: reports.releases(listed) if listed else nothing)
    return EXIT_DONE


def decide(arguments: argparse.Namespace) -> int:
    """Approve, withdraw, reject, pause, resume, abort or retry."""
    steersman = connect(arguments)
    answer: Json = getattr(steersman, arguments.command)(arguments.release, because=arguments.because)
    if arguments.wait is None or arguments.command == "pause":
        report(answer, arguments.output, lambda: reports.release(answer))
        return EXIT_DONE
    return _followed(steersman, answer, arguments)


def promote(arguments: argparse.Namespace) -> int:
    """Go on past the step it stands at, or with --full past all analyses and pauses."""
    steersman = connect(arguments)
    answer = steersman.promote(arguments.release, because=arguments.because, full=arguments.full)
    return _followed(steersman, answer, arguments)


def waive(arguments: argparse.Namespace) -> int:
    """Let one version skip a step, or the environment before."""
    waiver = connect(arguments).waive(
        arguments.model,
        arguments.version,
        skip=arguments.skip,
        environment=arguments.environment,
        because=arguments.because,
        expires=arguments.expires,
    )
    show(waiver, arguments.output)
    used = waiver.get("used_by")
    then = (
        f"steersman releases {used}"
        if used
        else (
            f"steersman release {arguments.model} {arguments.version} --environment {arguments.environment} --because …"
        )
    )
    say(f"next: {then}", arguments.output)
    return EXIT_DONE


def rollback(arguments: argparse.Namespace) -> int:
    """Bring back what answered before."""
    steersman = connect(arguments)
    answer = steersman.rollback(arguments.model, environment=arguments.environment, because=arguments.because)
    return _followed(steersman, answer, arguments)


def retire(arguments: argparse.Namespace) -> int:
    """Drain a version and never release it again."""
    retired = connect(arguments).retire(arguments.model, arguments.version, because=arguments.because)
    show(retired, arguments.output)
    say(f"next: steersman versions {arguments.model}", arguments.output)
    return EXIT_DONE


def is_identifier(text: str, prefix: str) -> bool:
    """Whether it is an id such as `rel-0198…`, and not a model that happens to begin so."""
    return re.fullmatch(rf"{prefix}-[0-9a-f]{{8}}-[0-9a-f-]{{27}}", text) is not None


def _followed(steersman: Steersman, answer: Json, arguments: argparse.Namespace) -> int:
    state = _state(answer)
    if arguments.wait is not None and state.get("id"):
        answer = steersman.wait(
            str(state["id"]),
            timeout_s=arguments.wait,
            told=lambda waiting: say(reports.waits_for(waiting), arguments.output),
        )
        state = _state(answer)
    report(answer, arguments.output, lambda: reports.release(state))
    if answer.get("blocked") or state.get("phase") == Phase.PAUSED:
        return EXIT_BLOCKED
    return EXIT_ERROR if state.get("completion") in _BLOCKED else EXIT_DONE


def _state(answer: Json) -> dict[str, Any]:
    inner = answer.get("release")
    return inner if isinstance(inner, dict) else answer
