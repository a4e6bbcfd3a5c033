"""`steersman ci`: prove a version from any CI system, and end with what the system should do.

The exit code is the interface: 0 everything that applies passed, 1 something failed, 2 it could not be judged. An
installation that does not answer is the latter: no answer is no pass, and no failure of the version either.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from steersman.cli.output import print_error, report, table
from steersman.cli.reports import reference
from steersman.cli.session import connect
from steersman.client.documents import read_documents
from steersman.client.inference import split_reference
from steersman.domain.documents import encode_document
from steersman.domain.errors import BadRequest, Misconfigured, SteersmanError

EXIT_PASSED, EXIT_FAILED, EXIT_NOT_JUDGED = 0, 1, 2

Json = dict[str, Any]


def ci(arguments: argparse.Namespace) -> int:
    """Ask for a check, wait for it, print the verdicts."""
    try:
        check = _here(arguments) if arguments.here else _asked(arguments)
        if arguments.junit is not None:
            Path(arguments.junit).write_text(junit(check), encoding="utf-8")
    except Exception as error:  # whatever went wrong, an interpreter that ends with 1 would say that the version failed
        known = error if isinstance(error, SteersmanError) else _unforeseen(error)
        print_error(known, arguments.output)
        return EXIT_NOT_JUDGED
    report(check, arguments.output, lambda: told(check))
    return exit_code(check)


def _unforeseen(error: Exception) -> SteersmanError:
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return SteersmanError(f"the version was not judged: {said}", next_step="Run `steersman doctor`, then check again.")


def _asked(arguments: argparse.Namespace) -> Json:
    """The installation does it."""
    steersman = connect(arguments)
    begun = steersman.check(arguments.model, arguments.number, environment=arguments.environment)
    return steersman.wait_for_check(begun, timeout_s=arguments.wait)


def _here(arguments: argparse.Namespace) -> Json:
    """Nobody is asked: the same check on this machine, where nothing is live."""
    if arguments.registry is None:
        raise BadRequest("--here needs --registry", next_step="Name the directory that holds NAME/NUMBER/version.yaml.")
    try:
        proving = importlib.import_module("steersman.server.proving")
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"the server's package {error.name} is not installed", next_step="Run `pip install 'steersman[server]'`."
        ) from None
    found: Json = proving.prove(
        [encode_document(document) for document in read_documents(arguments.here)],
        Path(arguments.registry),
        place=split_reference(arguments.model),
        number=arguments.number,
        environment=arguments.environment,
        timeout_s=arguments.wait,
    )
    return found


def exit_code(check: Json) -> int:
    """What a CI system is told; whatever is neither a pass nor a failure was not judged."""
    return {"successful": EXIT_PASSED, "failed": EXIT_FAILED}.get(str(check["outcome"]), EXIT_NOT_JUDGED)


def told(check: Json) -> str:
    """The verdicts of a check for people, and what to do next."""
    name, version = reference(check["workspace"], check["model"]), check["version"]
    against = "no version is live there" if check["production"] is None else f"version {check['production']}"
    lines = [f"{name} version {version} against {check['environment']} ({against}): {check['outcome']}", ""]
    if check["gates"]:
        rows = [
            {"gate": g["gate"], "outcome": _outcome(g), "because": _first_line(g["because"])} for g in check["gates"]
        ]
        lines += [table(rows, ("gate", "outcome", "because")), ""]
    for gate in check["gates"]:
        if gate["applies"] and gate["outcome"] != "successful":
            lines += [f"{gate['gate']}: {gate['because']}", ""]
    lines.append(f"{check['because']}\nnext: {_next(check, name)}")
    return "\n".join(lines)


def junit(check: Json) -> str:
    """The check as JUnit XML, one test case a gate: what most CI systems show."""
    gates: Sequence[Json] = check["gates"]
    failures = sum(g["applies"] and g["outcome"] == "failed" for g in gates)
    errors = sum(g["applies"] and g["outcome"] in ("error", "inconclusive") for g in gates)
    errors += not gates
    skipped = sum(not g["applies"] for g in gates)
    suite = f"{check['workspace']}/{check['model']}"
    cases = "".join(_case(suite, gate) for gate in gates)
    if not gates:
        cases = _case(suite, {"gate": "check", "applies": True, "outcome": "error", "because": check["because"]})
    title = quoteattr(f"{suite} version {check['version']}")
    head = f'name={title} tests="{max(len(gates), 1)}"'
    counts = f'failures="{failures}" errors="{errors}" skipped="{skipped}"'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuite {head} {counts}>\n{cases}</testsuite>\n'


def _case(suite: str, gate: Json) -> str:
    said = "".join(c for c in str(gate["because"]) if c.isprintable() or c in "\n\t")
    tag = "skipped" if not gate["applies"] else {"successful": "", "failed": "failure"}.get(gate["outcome"], "error")
    inner = f"<{tag} message={quoteattr(_first_line(said))}>{escape(said)}</{tag}>" if tag else ""
    return f"<testcase classname={quoteattr(suite)} name={quoteattr(str(gate['gate']))}>{inner}</testcase>\n"


def _outcome(gate: Json) -> str:
    return str(gate["outcome"]) if gate["applies"] else "does not apply"


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _next(check: Json, name: str) -> str:
    if check["outcome"] == "successful":
        return f'steersman release {name} {check["version"]} --because "…"'
    if check["outcome"] == "failed":
        return "correct what failed, register another version, and check that one"
    return f"steersman doctor, then steersman ci {name} --version {check['version']} again"
