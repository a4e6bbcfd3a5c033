"""What people read about models and releases: the API's answers as a few lines that say the important thing first.

Every report ends with the command that most likely comes next. Nothing here asks anything: text is made of what the API
answered, and `--output json` shows that answer whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from steersman.cli.output import NOTHING, lines, short, table, when
from steersman.domain.release import Completion, Phase

Json = dict[str, Any]

DEFAULT_WORKSPACE = "default"


def reference(workspace: str, name: str) -> str:
    """A model as commands take it."""
    return name if workspace == DEFAULT_WORKSPACE else f"{workspace}/{name}"


def models(found: Sequence[Json]) -> str:
    """The fleet: one row for each model and environment, then what waits for a person."""
    if not found:
        return "no models yet\nnext: steersman init model.yaml, then steersman apply model.yaml"
    rows = [_place(model, name, place) for model in found for name, place in model["environments"].items()]
    rows += [{"model": reference(m["workspace"], m["name"])} for m in found if not m["environments"]]
    columns = ("model", "environment", "live", "since", "on its way", "phase", "reason", "incidents")
    return "\n".join([table(rows, columns, keep_empty=True), *_waiting(found)])


def _place(model: Json, environment: str, place: Json) -> Json:
    coming = place.get("release_version")
    open_ones = [
        one for one in (place.get("look_at"), *place.get("under_way", ())) if one and one["id"] == place["release"]
    ]
    queued = sum(one["state"] == "Pending" and one["id"] != place["release"] for one in place.get("under_way", ()))
    behind = f", {queued} queued" if queued else ""
    return {
        "model": reference(model["workspace"], model["name"]),
        "environment": environment,
        "live": None if place["live"] is None else f"version {place['live']}",
        "since": place["since"],
        "on its way": None if coming is None else f"version {coming}, release {place.get('release_number')}{behind}",
        "phase": place["phase"],
        "reason": open_ones[0]["standing"]["reason"] if open_ones else None,
        "incidents": place.get("open_incidents", 0),
    }


def _waiting(found: Iterable[Json]) -> list[str]:
    """What a person should look at: releases that wait or did not make it, and places where nothing answers."""
    said = []
    for model in found:
        name = reference(model["workspace"], model["name"])
        for environment, place in model["environments"].items():
            if (seen := place.get("look_at")) is not None:
                said.append(
                    f"\n{name} in {environment}: release {seen['number']} of version {seen['version']} {_verb(seen)}"
                )
                said += _standing(seen)
            elif place.get("held") and place["release"] is None:
                said.append(f"\n{name} in {environment}: {place['held']}")
            elif place["live"] is None and place["release"] is None:
                said.append(f"\n{name} in {environment} has no version that answers")
                said.append(f'next: steersman release {name} VERSION --because "first version"')
    return said


def _verb(seen: Json) -> str:
    if seen["state"] == Phase.PAUSED:
        return "waits for a person"
    return f"ended as {seen['state']}" if seen["state"] in {*Completion} else f"is {seen['state']} and wants a look"


def _standing(seen: Json) -> list[str]:
    """Why a release stands where it stands, what that means, and each command that may come next with what it does."""
    told = seen["standing"]
    facts = {"reason": told["reason"], "because": seen["because"], "means": told["means"], "do": told["advice"]}
    return [*lines(facts), *_next(told["choices"])]


def _next(choices: Sequence[Json]) -> list[str]:
    """Lines that can be pasted whole: what a command does stands behind it as the shell's comment."""
    width = max((len(choice["command"]) for choice in choices), default=0)
    return [f"next: {choice['command'].ljust(width)}  # {choice['does']}" for choice in choices]


def model(found: Json) -> str:
    """One model: where it stands, its last releases, what is wrong."""
    name = reference(found["workspace"], found["name"])
    head = [f"{name}, {found['type']}, tier {found['tier']}, owner {found['owner'] or NOTHING}", ""]
    body = [models([found]), *_under_way(name, found["environments"])]
    body += [*_standings(found["environments"]), *_open_waivers(found.get("waivers", ()))]
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


def _under_way(name: str, environments: dict[str, Json]) -> list[str]:
    """Releases that wait for no person: for what they wait, and what a person may do about it all the same."""
    said = []
    for environment, place in environments.items():
        for seen in place.get("under_way", ()):
            said.append(f"\n{name} in {environment}: release {seen['number']} of version {seen['version']}")
            said += _standing(seen)
    return said


def waits_for(found: Json) -> str:
    """For what a release waits while somebody waits for it, in one line."""
    head = f"release {found['number']} of version {found['version']} is {found['phase']}"
    told = found.get("standing")
    return head if told is None else f"{head}, {told['reason']}: {told['means']}"


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
    columns = (
        "number", "version", "environment", "phase", "completion", "cause", "opened_at", "opened_by", "because", "id"
    )  # fmt: skip
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
    told = found.get("standing")
    if told is not None:
        facts |= {"reason": told["reason"], "means": told["means"], "do": told["advice"]}
    body = lines(facts)
    if found.get("steps"):
        body += ["steps:", _indented(table(found["steps"], ("step", "what", "state")))]
    if found.get("verdicts"):
        body += ["evidence:", _indented(verdicts(found["verdicts"]))]
    if found.get("checks"):
        body += ["checked before:", _indented(verdicts(found["checks"]))]
    if found.get("approvals") or found.get("approvals_required"):
        body += [f"approvals: {_given(found)} of {found['approvals_required']}"]
        body += [
            f"  {a['actor']}, {when(a['at'])}: {a['because']}"
            + (f" (counts no longer: {a['withdrawn']})" if a.get("withdrawn") else "")
            for a in found["approvals"]
        ]
    return "\n".join([*body, *(_next(told["choices"]) if told else [f"next: steersman releases {found['id']}"])])


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


def verdicts(found: Sequence[Json]) -> str:
    """Every verdict with its numbers in a table, and below it the sentences, whole."""
    rows = [_verdict_row(verdict) for verdict in found]
    return "\n".join(
        [
            table(rows),
            *dict.fromkeys(_said(verdict, str(row["what"])) for verdict, row in zip(found, rows, strict=True)),
        ]
    )


def _said(verdict: Json, what: str) -> str:
    because = str(verdict["body"].get("because"))
    head = verdict["kind"] if because.startswith(what) else f"{verdict['kind']} {what}"
    method = verdict["body"].get("method")
    return f"{head}: {because}" + (f" ({method})" if method else "")


def _verdict_row(verdict: Json) -> Json:
    body = verdict["body"]
    bounds = [_signed(body.get(name)) for name in ("lower", "upper")]
    return {
        "at": verdict["at"],
        "kind": verdict["kind"],
        "what": body.get("name") or body.get("metric"),
        "outcome": body.get("outcome"),
        "estimate": None if body.get("estimate") is None else _signed(body["estimate"]),
        "interval": None if bounds == [NOTHING, NOTHING] else f"{bounds[0]} to {bounds[1]}",
        "limit": body.get("margin"),
        "n": None if not body.get("n") else f"{body['n']} {body.get('n_unit') or ''}".strip(),
        "still_needed": body.get("needed"),
    }


def _signed(value: Any) -> str:
    """A number that may be kept as text, as in the ledger; always with its sign."""
    return NOTHING if value is None else f"{float(value):+.4f}"


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
    approvals = [f"{found['approvals_required']} before the first step"] if found["approvals_required"] else []
    if approvals:
        approvals = [f"{approvals[0]}, by {' or '.join(found['approvals_by'])}"]
    facts = {
        "version": f"{found['version']}" + ("" if found["registered"] else ", not registered yet"),
        "replaces": None if found["replaces"] is None else f"version {found['replaces']}",
        "waits for": None if found["waits_for_release"] is None else f"release {found['waits_for_release']}",
        "frozen": found["frozen"] or "no",
        **_budgets(found["budgets"]),
        **_order(found),
        "gates": "; ".join(_gate(gate) for gate in found["gates"]) or "none",
        "steps": ", ".join(found["steps"]),
        "approvals": "; ".join([*approvals, *found["approval_steps"]]) or "none",
        "traffic": _traffic(found["traffic"]),
        "rollback": _rollback(found["rollback"]),
    }
    body = lines(facts)
    if found["changes"]:
        body += ["changes:", _indented(table(found["changes"], ("what", "from", "to"), keep_empty=True))]
    if found["first"]:
        body += ["evidence: none is asked for, nothing answers yet that it could be compared with"]
    for one in found["evidence"]:
        body += _forecast(one, found["when_undecided"])
    body += _lasts(found["duration"])
    place = "" if found["environment"] == "production" else f" --environment {found['environment']}"
    name = reference(found["workspace"], found["model"])
    return "\n".join(
        [*body, *_refused(found, name), f'next: steersman release {name} {found["version"]}{place} --because "…"']
    )


def _budgets(budgets: Sequence[Json]) -> Json:
    """The error budgets without which no release goes on, where the document has any."""
    told = []
    for one in budgets:
        state = "never read; it is once a release is open"
        if one["read_at"] is not None:
            held = "; a release would wait" if one["outcome"] == "failed" else ""
            state = f"{one['because'].removeprefix('error budget: ')}, read {when(one['read_at'])}{held}"
        told.append(f"{one['objective']} over {_span(one['period_s'])}: {state}")
    return {"error budget": "; ".join(told)} if told else {}


def _order(found: Json) -> Json:
    """The environment that comes before, where one does, and whether the version has been through it."""
    after = found.get("after")
    if after is None:
        return {}
    if after["proved_by"] is not None:
        told = f"stood its bake there with release {after['proved_by']}, until {when(after['verified_at'])}"
    elif after["waived_by"] is not None:
        told = f"may be skipped once, waived by {after['waived_by']}"
    else:
        told = "has not stood its bake there; a release would be refused"
    return {"after": f"{after['environment']}: {told}"}


def _refused(found: Json, name: str) -> list[str]:
    """What comes first where a release would be refused."""
    after = found.get("after")
    if after is None or after["proved_by"] is not None or after["waived_by"] is not None:
        return []
    before, version = after["environment"], found["version"]
    return [f'next: steersman release {name} {version} --environment {before} --because "…"  # first through {before}']


def _traffic(told: Json) -> str:
    if not told["windows"]:
        return f"unknown: {told['unknown']}"
    low, high = told["rows_between"]
    covered = "labels: none had their time yet"
    if told["coverage"] is not None:
        covered = f"{100 * told['coverage']:.1f} % of them labelled (n = {told['windows_matured']} windows)"
    rows = f"{told['rows_a_window']:.0f} requests in {_span(told['window_s'])} ({low} to {high}, n = {told['windows']} windows)"
    return f"{rows}, {covered}"


def _rollback(told: Json) -> str:
    if not told["possible"]:
        return "none: it would be the first version"
    cold = "cold: how long a worker takes from start to ready is unknown, none runs that was measured"
    if told["cold_start_s"] is not None:
        n = told["replicas_measured"]
        cold = f"cold: {told['cold_start_s']:g} s from start to ready, the slowest of {n} running worker{'' if n == 1 else 's'}"
    return f"warm until the next promotion: within 3 s; {cold}" if told["warm"] else cold


def _forecast(one: Json, when_undecided: Json) -> list[str]:
    """What an analysis or a bake asks for in one metric, and how it will probably come out."""
    head = f"{one['step']}: {one['metric']}, margin {one['margin']:g}"
    facts = {"evidence needed": f"at least {one['needed']} {one['unit']}"}
    if one.get("parts", 1) > 1:
        facts["slices"] = (
            f"{one['parts'] - 1}, judged beside the whole; each bound may be wrong with {one['alpha']:.2%}"
        )
    spread = one["spread"]
    if spread is not None:
        facts["spread of harm"] = f"{spread['sd']:.4g} (n = {spread['n']}, {spread['source']})"
    if one["unknown"]:
        facts["forecast"] = f"unknown: {one['unknown']}"
    else:
        facts["verdict"] = _decided(one)
        facts["harmless promoted"] = _chance(one["promoted_harmless"])
        facts["harmful caught"] = f"{_chance(one['caught_harmful'])}, when worse by {2 * one['margin']:g}"
        facts["left undecided"] = _chance(one["undecided_harmless"])
        facts["simulated"] = f"{one['runs']} releases each"
    if one["step"] in when_undecided:
        facts["if undecided"] = when_undecided[one["step"]]
    return [head, *(f"  {line}" for text in lines(facts) for line in text.splitlines())]


def _decided(one: Json) -> str:
    low, high = (None if at is None else _iso_span(at) for at in one["decided_between"])
    if one["decided_after"] is None:
        return f"more than half of harmless candidates stay undecided within {one['blocks_max']} blocks"
    between = f"{low or 'not'} to {high or 'not within its time'}"
    return f"half of harmless candidates within {_iso_span(one['decided_after'])} of the step ({between})"


def _chance(told: Json) -> str:
    return f"{100 * told['value']:.0f} % ({100 * told['low']:.0f} to {100 * told['high']:.0f} %)"


def _lasts(told: Json | None) -> list[str]:
    if told is None:
        return []
    if told["unknown"]:
        return [f"expected time: unknown: {told['unknown']}"]
    return [f"expected time: promoted after {_span(told['to_promotion_s'])}, finished after {_span(told['to_end_s'])}"]


def _span(seconds: float) -> str:
    days = seconds / 86_400
    return f"{days:g} d" if days >= 1 else f"{seconds / 3_600:g} h" if seconds >= 3_600 else f"{seconds:g} s"


def _iso_span(text: str) -> str:
    """A duration as the API writes it (`P8D`, `PT36000S`)."""
    found = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:([\d.]+)S)?)?", text)
    return text if found is None else _span(86_400 * int(found[1] or 0) + float(found[2] or 0))


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
