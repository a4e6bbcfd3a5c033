"""Tables in the documentation come from the code: phases, events, permissions, fields of documents, metrics.

A page marks a place with `<!-- begin NAME -->` and `<!-- end NAME -->`. `python tests/docs/test_tables_are_rendered.py`
writes what belongs between them; the test compares, so that nobody edits there by hand and nobody forgets.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import pytest

from steersman.cli import reports
from steersman.dataplane import metrics
from steersman.decide.explaining import ENDED, PAUSED, REASONS, Circumstances, Reason, explain
from steersman.domain import spec
from steersman.domain.access import HUMAN_ONLY, PERMISSIONS, ROLE_PERMISSIONS, Role
from steersman.domain.events import ACTIONS
from steersman.domain.release import COMPLETIONS, PHASES, TRANSITIONS, Arm, Cause, Opened, Phase, Release
from steersman.domain.schema import json_schema
from steersman.domain.verdicts import Outcome

DOCS = Path(__file__).parents[2] / "docs"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *[list(row) for row in rows]]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(names: Iterable[object]) -> str:
    """Names in the order given, each as code; a dash for none."""
    return ", ".join(f"`{name}`" for name in names) or "–"


def phases() -> str:
    rows = ((f"`{p}`", said, code(q for q in Phase if q in TRANSITIONS[p])) for p, said in PHASES.items())
    return table(("phase", "meaning", "may become"), rows)


def completions() -> str:
    rows = ((f"`{c}`", code(p for p in Phase if p in of), said) for c, (of, said) in COMPLETIONS.items())
    return table(("completion", "reached from", "meaning"), rows)


def causes() -> str:
    def named(reason: Reason | None) -> str:
        return "–" if reason is None else str(reason)

    rows = ((f"`{cause}`", named(PAUSED.get(cause)), named(ENDED.get(cause))) for cause in Cause)
    return table(("cause", "reason while it is paused", "reason when it has ended"), rows)


def steps() -> str:
    found = []
    for step in spec.Step.__args__:
        fields = (f.encode_name for f in msgspec.structs.fields(step))
        found.append((f"`{step.__struct_config__.tag}`", " ".join((step.__doc__ or "").split()), code(fields)))
    return table(("step", "what it does", "fields"), found)


OUTCOMES = {
    Outcome.SUCCESSFUL: "measured, and within what is asked",
    Outcome.FAILED: "measured, and not",
    Outcome.INCONCLUSIVE: "measured, and the data cannot tell: too few labels, or the interval straddles the limit",
    Outcome.ERROR: "not measured; never counts as successful",
}


def outcomes() -> str:
    return table(("outcome", "meaning"), ((f"`{outcome}`", OUTCOMES[outcome]) for outcome in Outcome))


def events() -> str:
    return table(("action", "meaning"), ((f"`{action}`", said) for action, said in ACTIONS.items()))


def permissions() -> str:
    rows = []
    for permission, said in PERMISSIONS.items():
        mark = " ¹" if permission in HUMAN_ONLY else ""
        held = ("yes" if permission in ROLE_PERMISSIONS[role] else "" for role in Role)
        rows.append((f"`{permission}`{mark}", said, *held))
    return table(("permission", "allows to", *map(str, Role)), rows)


def reasons() -> str:
    """How a release may stand, what that means and what is typed next; places in braces stand for its own names."""

    def readable(text: str, **more: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: {**NAMED, **more}[found[1]], text)

    rows = (
        (
            f"**{reason}**",
            readable(f"{row.means} {row.advice}"),
            "; ".join(
                f"`{readable(choice.command, version='VERSION')}` {readable(choice.does)}" for choice in row.choices
            ),
        )
        for reason, row in REASONS.items()
    )
    return table(("reason", "what it means and what to do", "what may come next"), rows)


NAMED = {
    "release": "RELEASE", "model": "MODEL", "place": "", "environment": "the environment", "version": "*N*",
    "previous": "the version before", "step": "that it stands at", "waits_for": "*M*", "frozen": "*the reason of the freeze*",
    "exhausted": "*says how far it is used up*", "doubted": "*the numbers*",
    "lacking": "*some* more approvals", "roles": "the role *R*", "ends_at": "*a time*",
    "traffic": "the share of requests it answers stays as it is", "fallback": "the version before answers",
}  # fmt: skip
"""What stands in the table for what differs from release to release."""


def standing() -> str:
    """A release that waits for a person, as the command line prints it."""
    asks = spec.Analysis(metrics=("roc_auc",), max_duration=timedelta(days=14))
    at = datetime(2013, 12, 4, 6, tzinfo=UTC)
    waits = Release(
        id="rel-01a20935-4273-7a02-b659-b1c5b3ab13d6", workspace="ops", model="flight-delay", environment="production",
        number=12, version=11, digest="sha256:b", previous=Arm(release="rel-1", version=10, digest="sha256:a"),
        document="sha256:d", phase=Phase.PAUSED, step=1, step_started_at=at, entered=True, opened=Opened.COMMAND,
        opened_at=at, opened_by="ada", resumes=Phase.PROGRESSING,
        cause=Cause.ANALYSIS_UNDECIDED,
        because="undecided after 14 d (roc_auc: harm +0.0133 [-0.0021, +0.0287], straddling the margin 0.02, 12 days); "
        "onInconclusive is pause",
    )  # fmt: skip
    told = explain(Circumstances(release=waits, step=asks))
    place = {
        "live": 10, "since": None, "release": waits.id, "release_number": 12, "release_version": 11, "phase": "Paused",
        "look_at": {
            "id": waits.id, "number": 12, "version": 11, "state": "Paused", "because": waits.because,
            "standing": msgspec.to_builtins(told),
        },
    }  # fmt: skip
    said = reports.models([{"workspace": "ops", "name": "flight-delay", "environments": {"production": place}}])
    return f"```text\n{said.partition(chr(10) * 2)[2]}\n```"


def all_metrics() -> str:
    rows = ((f"`{one.name}`", one.kind, code(one.labels), one.help) for one in metrics.METRICS)
    return table(("metric", "kind", "labels beside `process`", "meaning"), rows)


def fields() -> str:
    parts, seen = [], set()
    for kind in ("Model", "Dataset", "Environment"):
        schema = json_schema(kind)
        for name, definition in schema["$defs"].items():
            if name not in seen:
                seen.add(name)
                parts.append(_definition(name, definition))
    return "\n\n".join(parts)


def _definition(name: str, definition: dict[str, Any]) -> str:
    head = f"### {name}\n\n{' '.join(definition.get('description', '').split())}"
    if "enum" in definition:
        return head + "\n\n" + "\n".join(_members(name))
    needed = set(definition.get("required", []))
    rows = []
    for field, what in definition.get("properties", {}).items():
        default = "*needed*" if field in needed else _default(what)
        rows.append((f"`{field}`", _kind(what), default, " ".join(what.get("description", "").split())))
    return head if not rows else head + "\n\n" + table(("field", "is", "default", "meaning"), rows)


def _members(name: str) -> Iterator[str]:
    """The values of an enum, each with the docstring under it, which Python does not keep."""
    enum: type[Enum] = getattr(spec, name)
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(enum))).body
    assert isinstance(body, ast.ClassDef)
    following = dict(zip(body.body, [*body.body[1:], None], strict=True))
    for statement, after in following.items():
        if isinstance(statement, ast.Assign):
            value = ast.literal_eval(statement.value)
            said = ast.get_docstring(ast.Module([after], [])) if isinstance(after, ast.Expr) else None
            yield f"- `{value}`" + (f": {' '.join(said.split())}" if said else "")


def _default(what: dict[str, Any]) -> str:
    default = what.get("default")
    if default is None or default in ({}, [], ""):
        return "–"
    return (
        "see there" if isinstance(default, dict) else code([default if isinstance(default, list) else _text(default)])
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _kind(what: dict[str, Any]) -> str:
    """A field's type in a few words."""
    if "$ref" in what:
        name = what["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in what:
        options = [_kind(option) for option in what["anyOf"] if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(options))
    if "const" in what:
        return code([what["const"]])
    if what.get("type") == "array":
        return f"list of {_kind(what['items'])}" if isinstance(what.get("items"), dict) else "list"
    if what.get("type") == "object" and len(what.get("required", [])) == 1:
        (key,) = what["required"]  # a step or strategy: a mapping with one key
        return f"`{key}`: {_kind(what['properties'][key])}"
    if "enum" in what:
        return "a metric" if "roc_auc" in what["enum"] else f"one of {code(what['enum'])}"
    if "5m" in what.get("examples", []):
        return "duration"
    if "agreement" in what.get("examples", []):
        return "a metric, of ours or declared"
    if what.get("format") == "date-time":
        return "time, RFC 3339"
    if what.get("type") == "object":
        return f"mapping of name to {_kind(what['additionalProperties'])}"
    return _bounded({"string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}, what)


def _bounded(names: dict[str, str], what: dict[str, Any]) -> str:
    name = names[what["type"]]
    low = what.get("minimum", what.get("exclusiveMinimum"))
    high = what.get("maximum")
    if low is None and high is None:
        return name
    return f"{name} from {low:g}" if high is None else f"{name}, {low:g} to {high:,}"


RENDERED: dict[str, tuple[str, Callable[[], str]]] = {
    "phases": ("releases.md", phases),
    "completions": ("releases.md", completions),
    "causes": ("releases.md", causes),
    "steps": ("releases.md", steps),
    "outcomes": ("releases.md", outcomes),
    "standing": ("howto/read-a-verdict.md", standing),
    "reasons": ("howto/read-a-verdict.md", reasons),
    "events": ("events.md", events),
    "permissions": ("permissions.md", permissions),
    "fields": ("documents.md", fields),
    "metrics": ("metrics.md", all_metrics),
}
"""Every rendered place: its page, and what belongs there."""


def place(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- begin {name} -->\n)(.*?)(<!-- end {name} -->)", re.DOTALL)


@pytest.mark.parametrize("name", RENDERED)
def test_a_rendered_table_says_what_the_code_says(name: str) -> None:
    page, render = RENDERED[name]
    found = place(name).search((DOCS / page).read_text())
    assert found is not None, f"{page} has no place for {name}"
    assert found[2] == render() + "\n", "run `python tests/docs/test_tables_are_rendered.py`"


def test_every_marked_place_is_rendered() -> None:
    marked = {
        (str(p.relative_to(DOCS)), n)
        for p in DOCS.rglob("*.md")
        for n in re.findall(r"<!-- begin (\w+) -->", p.read_text())
    }
    assert marked == {(page, name) for name, (page, _) in RENDERED.items()}


def write() -> None:
    for name, (page, render) in RENDERED.items():
        text = (DOCS / page).read_text()
        written = render()
        (DOCS / page).write_text(place(name).sub(lambda m, w=written: f"{m[1]}{w}\n{m[3]}", text))


if __name__ == "__main__":
    write()
