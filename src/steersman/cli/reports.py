"""What people read about models and releases: the API's answers as a few lines that say the important thing first.

Every report ends with the command that most likely comes next. Nothing here asks anything: text is made of what the API
answered, and `--output json` shows that answer whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from steersman.cli.output import NOTHING, lines, short, table, when

Json = dict[str, Any]

DEFAULT_WORKSPACE = "default"

_UNDONE = ("Aborted", "Superseded", "RolledBack")


def reference(workspace: str, name: str) -> str:
    """A model as commands take it."""
    return name if workspace == DEFAULT_WORKSPACE else f"{workspace}/{name}"


def models(found: Sequence[Json]) -> str:
    """The fleet: one row for each model and environment, then what waits for a person."""
    if not found:
        return "no models yet\nnext: steersman init model.yaml, then steersman apply model.yaml"
    rows = [_place(model, name, place) for model in found for name, place in model["environments"].items()]
    rows += [{"model": reference(m["workspace"], m["name"])} for m in found if not m["environments"]]
    columns = ("model", "environment", "live", "since", "on its way", "phase", "open incidents")
    return "\n".join([table(rows, columns, keep_empty=True), *_waiting(found)])


def _place(model: Json, environment: str, place: Json) -> Json:
    coming = place.get("release_version")
    return {
        "model": reference(model["workspace"], model["name"]),
        "environment": environment,
        "live": None if place["live"] is None else f"version {place['live']}",
        "since": place["since"],
        "on its way": None if coming is None else f"version {coming}, release {place.get('release_number')}",
        "phase": place["phase"],
        "open incidents": place.get("open_incidents", 0),
    }


def _waiting(found: Iterable[Json]) -> list[str]:
    said = []
    for model in found:
        name = reference(model["workspace"], model["name"])
        for environment, place in model["environments"].items():
            if place["release"] is not None and place["phase"] == "Paused":
                said.append(f"\n{name} in {environment} waits for a person: {place['because']}")
                said.append(f"next: steersman releases {place['release']}")
            if place.get("held") and place["release"] is None:
                said.append(f"\n{name} in {environment}: {place['held']}")
                said.append(f"next: steersman releases {name}")
            elif place["live"] is None and place["release"] is None:
                said.append(f"\n{name} in {environment} has no version that answers")
                said.append(f'next: steersman release {name} VERSION --because "first version"')
    return said


def model(found: Json) -> str:
    """One model: where it stands, its last releases, what is wrong."""
    name = reference(found["workspace"], found["name"])
    head = [f"{name}, {found['type']}, tier {found['tier']}, owner {found['owner'] or NOTHING}", ""]
    body = [models([found]), *_standings(found["environments"]), *_open_waivers(found.get("waivers", ()))]
    if found["releases"]:
        rows = [_release_row(release) for release in reversed(found["releases"])]
        body += ["", "last releases:", _indented(table(rows))]
    if found["incidents"]:
        columns = ("id", "environment", "kind", "state", "version", "detected_at", "because")
        body += ["", "open incidents:", _indented(table(found["incidents"], columns))]
    for environment, challenger in found["challengers"].items():
        body += ["", f"challenger in {environment}: version {challenger['version']} since {when(challenger['since'])}"]
    body += [f"\nnote: {note}" for note in found.get("notes", ())]
    return "\n".join([*head, *body])


def _standings(environments: dict[str, Json]) -> list[str]:
    """What was asked for, what answers, and what is known to be good, where they are not one and the same."""
    said = []
    for environment, place in environments.items():
        three = [place.get(name) for name in ("desired", "effective", "last_good")]
        if len({*three}) > 1:
            asked, answers, good = ("none" if number is None else f"version {number}" for number in three)
            said.append(f"\n{environment}: asked for {asked}, answering {answers}, last good {good}")
    return said


def _open_waivers(waivers: Sequence[Json]) -> list[str]:
    return [
        f"\nwaiver of {w['actor']} until {when(w['expires_at'])}: version {w['version']} may skip {w['what']} on its way to "
        f"{w['environment']}: {w['because']}"
        for w in waivers
    ]


def _release_row(release: Json) -> Json:
    columns = ("number", "version", "environment", "phase", "completion", "opened_at", "opened_by", "because", "id")
    return {column: release.get(column) for column in columns}


def releases(found: Sequence[Json]) -> str:
    return table([_release_row(release) for release in found])


def release(found: Json) -> str:
    """One release: what it brings where, how far it is, on what evidence."""
    name = reference(found["workspace"], found["model"])
    previous = found.get("previous")
    facts = {
        "release": f"{found['number']} of {name} in {found['environment']}",
        "id": found["id"],
        "version": found["version"],
        "digest": found["digest"],
        "replaces": None if previous is None else f"version {previous['version']}",
        "opened": f"{when(found['opened_at'])} by {found['opened_by']} ({found['opened']})",
        "phase": found["phase"],
        "completion": found["completion"],
        "because": found["because"],
    }
    if found.get("incident"):
        facts["incident"] = found["incident"]
    if found.get("hotfix"):
        facts["hotfix"] = "yes: freezes do not hold it"
    if (proved := found.get("proved")) is not None:
        facts["proved"] = (
            f"in {proved['environment']} by release {proved['number']}, until {when(proved['verified_at'])}"
        )
    for waived in found.get("waived", ()):
        facts[f"step {waived['step']}"] = f"may be skipped, by {waived['actor']}: {waived['because']}"
    for moment in ("promoted_at", "degraded_at", "closed_at"):
        if found.get(moment):
            facts[moment.removesuffix("_at")] = when(found[moment])
    body = lines(facts)
    if found.get("steps"):
        body += ["steps:", _indented(table(found["steps"], ("step", "what", "state")))]
    if found.get("verdicts"):
        body += ["evidence:", _indented(evidence(found["verdicts"]))]
    if found.get("approvals") or found.get("approvals_required"):
        body += [f"approvals: {_given(found)} of {found['approvals_required']}"]
        body += [
            f"  {a['actor']}, {when(a['at'])}: {a['because']}"
            + (f" (counts no longer: {a['withdrawn']})" if a.get("withdrawn") else "")
            for a in found["approvals"]
        ]
    return "\n".join([*body, *(f"next: {step}" for step in next_commands(found))])


def evidence(verdicts: Sequence[Json]) -> str:
    """Verdicts as a table: what was judged, how it ended, and the sentence with the numbers."""
    rows = [
        {
            "at": verdict["at"],
            "kind": verdict["kind"],
            "outcome": verdict["body"].get("outcome"),
            "because": verdict["body"].get("because"),
        }
        for verdict in verdicts
    ]
    return table(rows)


def next_commands(found: Json) -> list[str]:
    """What a person is likely to do next with this release: one command, or a choice of two."""
    name, known = reference(found["workspace"], found["model"]), found["id"]
    phase, completion = found["phase"], found["completion"]
    if completion in _UNDONE:
        return [f'steersman retry {known} --because "…"', f"steersman history {name}"]
    if completion is not None:
        return [f"steersman history {name}"]
    if phase == "Paused" and _waits_for_approval(found):
        return [f'steersman approve {known} --because "…"', f'steersman reject {known} --because "…"']
    if phase == "Paused":
        return [f'steersman resume {known} --because "…"', f'steersman abort {known} --because "…"']
    if phase == "Verifying":
        return [f"steersman status {name}", f'steersman rollback {name} --because "…"']
    return [f"steersman releases {known}"]


def _waits_for_approval(found: Json) -> bool:
    step = next((s["what"] for s in found.get("steps", ()) if s["state"] == "active"), "")
    lacking = _given(found) < found.get("approvals_required", 0)
    return not found.get("held") and ("approval" in str(step) or (found.get("resumes") == "Pending" and lacking))


def _given(found: Json) -> int:
    return sum(not approval.get("withdrawn") for approval in found.get("approvals", ()))


def history(found: Json, *, model: str, at: str | None, environment: str | None) -> str:
    """What was live: one block for each promotion, the newest first; at a moment, one for each environment."""
    chapters = found["history"]
    if not chapters:
        where = f" in {environment}" if environment else ""
        moment = f" at {at}" if at else " yet"
        return f"nothing of {model} was live{where}{moment}\nnext: steersman releases {model}"
    return "\n\n".join(_chapter(chapter, at=at) for chapter in (chapters if at else reversed(chapters)))


def _chapter(chapter: Json, *, at: str | None) -> str:
    until = when(chapter["live_until"]) if chapter["live_until"] else "now"
    head = f"{chapter['environment']}: version {chapter['version']}" + (f" was live at {at}" if at else "")
    facts = {
        "live": f"{when(chapter['live_from'])} until {until}",
        "digest": chapter["digest"],
        "release": f"{chapter['number']} ({chapter['release']})",
        "opened by": f"{chapter['opened_by']} ({chapter['opened']})",
        "approved by": ", ".join(chapter["approved_by"]) or "nobody; none was asked for",
        "completion": chapter["completion"] or "not yet, it is verified",
        "because": chapter["because"],
        "ledger": "entries " + ", ".join(map(str, chapter["ledger"])),
    }
    if chapter["incident"]:
        facts["incident"] = chapter["incident"]
    body = lines(facts)
    if chapter["evidence"]:
        body += ["evidence:", _indented(evidence(chapter["evidence"]))]
    return "\n".join([head, *(f"  {line}" for text in body for line in text.splitlines())])


def plan(found: Json) -> str:
    """What a release would go through, before anybody opens it."""
    numbers = {
        "version": f"{found['version']}" + ("" if found["registered"] else ", not registered yet"),
        "replaces": None if found["replaces"] is None else f"version {found['replaces']}",
        "waits for": None if found["waits_for_release"] is None else f"release {found['waits_for_release']}",
        "gates": "; ".join(_gate(gate) for gate in found["gates"]) or "none",
        "steps": ", ".join(found["steps"]) or "none: all of the traffic at once",
        "approvals": f"{found['approvals_required']} needed",
        "traffic": (
            "not measured yet"
            if found["rows_a_window"] is None
            else f"{found['rows_a_window']:.0f} rows a window, n = {found['windows_measured']} windows"
        ),
        "rollback": found["rollback"],
    }
    body = lines(numbers)
    needed = [f"{e['step']}: at least {e['blocks_min']} blocks of {e['block_s'] / 3600:g} h" for e in found["evidence"]]
    return "\n".join([*body, *(f"evidence: {text}" for text in needed)])


def _gate(gate: Any) -> str:
    if not isinstance(gate, dict):
        return str(gate)
    kind = gate.get("gate", "gate")
    limit = gate.get("margin", gate.get("max_drop", gate.get("maxDrop", gate.get("floor"))))
    return f"{kind} {gate.get('metric', '')}" + ("" if limit is None else f" (limit {limit:g})")


def applied(documents: Sequence[Json]) -> str:
    """What became of each document, then what the linter says."""
    rows = [
        {
            "document": f"{d['kind']} {reference(d['workspace'], d['name'])}",
            "outcome": d["outcome"],
            "revision": d["revision"],
            "digest": short(d["digest"]),
        }
        for d in documents
    ]
    said = [f"{f['level']}: {d['name']}: {f['path']}: {f['message']}" for d in documents for f in d["findings"]]
    return "\n".join([table(rows), *said])


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
