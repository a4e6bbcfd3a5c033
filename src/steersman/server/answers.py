"""What the API answers: records of the store as plain data, and the few questions that join them.

Records go out under the names they have in `domain/`; a reader of the API and of the code meets the same words.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from steersman.decide.explaining import WANTS_A_LOOK
from steersman.decide.kpis import measure
from steersman.decide.routing import in_progress, live, live_at, standing_of
from steersman.decide.steps import step_name, steps_of
from steersman.domain import spec
from steersman.domain.errors import SteersmanError
from steersman.domain.events import Action
from steersman.domain.release import NOT_MADE, Phase, Release
from steersman.ledger.entry import parse_entry
from steersman.loop.checking import newest_check
from steersman.loop.gathering import approvals_of
from steersman.loop.monitors import MonitorState
from steersman.loop.standing import standing
from steersman.loop.world import Documents, in_order
from steersman.ports import Registry, RunningReplica
from steersman.server.milestones import milestones
from steersman.store.ledger_log import LedgerRow
from steersman.store.transaction import Transaction

Json = dict[str, Any]


def plain(record: object) -> Any:
    """Plain data with ISO times; floats as they are."""
    return msgspec.to_builtins(record)


def registries(known: Mapping[str, Registry]) -> Json:
    """Each registry by name: what answers there, or why nothing does. Waits as long as their time-outs."""
    found = {}
    for name, registry in known.items():
        try:
            found[name] = {"ok": True, "found": registry.check()}
        except SteersmanError as error:
            found[name] = {"ok": False, "found": error.message}
    return found


def unwalled(replicas: Sequence[RunningReplica], workspace: str, model: str) -> list[str]:
    """What a person must know about a model whose workers run without the wall that keeps files from model files."""
    open_ones = [r for r in replicas if (r.workspace, r.model, r.sandbox) == (workspace, model, "none")]
    if not open_ones:
        return []
    return [
        f"{len(open_ones)} of its workers run without file walls (sandbox: none): this kernel has no Landlock, so what a "
        "model file makes a worker do could read what this user can read; use Linux 5.13 or later"
    ]


def sandbox(replicas: Sequence[RunningReplica]) -> Json:
    """Workers by the wall they run behind; `none` counts those that have none."""
    return dict(Counter(r.sandbox for r in replicas if r.sandbox is not None))


def model_line(tx: Transaction, documents: Documents, model: spec.Model, *, now: datetime) -> Json:
    """One model in a list: who owns it, what is live, what is on its way, and what a person should look at.

    `look_at` is the release that waits for a person or wants a look, or the newest one where it did not make it, with its
    standing; `under_way` are the others that are not over yet, with theirs, the one that goes on first before those queued
    behind."""
    workspace, name = model.metadata.workspace, model.metadata.name
    releases = tx.releases(workspace, name)
    incidents = tx.incidents(workspace, name, open_only=True)
    environments = {}
    for environment in in_order(tx, workspace, model.spec.environments):
        there = [r for r in releases if r.environment == environment]
        serving, coming = live(there), in_progress(there)
        stands = standing_of(there)
        told = coming
        if coming is not None and coming.phase is not Phase.PAUSED:
            told = coming if standing(tx, documents, coming, now=now).reason in WANTS_A_LOOK else None
        elif coming is None and there and there[-1].completion in NOT_MADE:
            told = there[-1]
        environments[environment] = {
            "desired": stands.desired.version if stands.desired else None,
            "effective": stands.effective.version if stands.effective else None,
            "last_good": stands.last_good.version if stands.last_good else None,
            "held": stands.held,
            "live": serving.version if serving else None,
            "since": plain(serving.promoted_at) if serving else None,
            "release": coming.id if coming else None,
            "release_number": coming.number if coming else None,
            "release_version": coming.version if coming else None,
            "phase": str(coming.phase) if coming else (str(serving.phase) if serving else None),
            "because": coming.because if coming else None,
            "open_incidents": sum(incident.environment == environment for incident in incidents),
            "look_at": None if told is None else _brief(tx, documents, told, now),
            "under_way": [_brief(tx, documents, r, now) for r in there if r.completion is None and r != told],
        }
    return {
        "workspace": workspace,
        "name": name,
        "owner": model.metadata.owner,
        "tier": model.spec.tier,
        "type": str(model.spec.type),
        "environments": environments,
        "open_incidents": len(incidents),
    }


def _brief(tx: Transaction, documents: Documents, release: Release, now: datetime) -> Json:
    return {
        "id": release.id,
        "number": release.number,
        "version": release.version,
        "state": str(release.completion or release.phase),
        "because": release.because,
        "standing": plain(standing(tx, documents, release, now=now)),
    }


def model_status(tx: Transaction, documents: Documents, model: spec.Model, *, now: datetime) -> Json:
    """`model_line` with the newest release of each environment, open incidents and the challenger."""
    workspace, name = model.metadata.workspace, model.metadata.name
    challengers = {e: tx.challenger(workspace, name, e) for e in model.spec.environments}
    return {
        **model_line(tx, documents, model, now=now),
        "releases": [plain(r) for r in tx.releases(workspace, name)[-5:]],
        "incidents": [plain(i) for i in tx.incidents(workspace, name, open_only=True)],
        "challengers": {e: plain(c) for e, c in challengers.items() if c is not None},
        "waivers": [plain(w) for w in tx.agreements.waivers(workspace, name) if w.used_by is None],
    }


def release_status(tx: Transaction, documents: Documents, release: Release, *, now: datetime) -> Json:
    """One release with its steps, verdicts and approvals, why it stands where it stands, and what may come next."""
    document = documents.revision(tx, release.document)
    policy = document.spec.environments.get(release.environment, spec.EnvironmentPolicy())
    steps = [
        {"step": index, "what": step_name(step), "state": _step_state(release, index)}
        for index, step in enumerate(steps_of(policy, release))
    ]
    return {
        **plain(release),
        "steps": steps,
        "verdicts": [plain(v) for v in tx.verdicts(release.id)],
        "checks": [plain(v) for v in newest_check(tx, release)],
        "approvals": [plain(a) for a in tx.agreements.approvals(release.id)],
        "approvals_required": approvals_of(tx, release, document),
        "standing": plain(standing(tx, documents, release, now=now)),
    }


def _step_state(release: Release, index: int) -> str:
    """In the order of a release's life: done, active or waiting, to come; in one that did not make it, failed and not reached."""
    before = release.phase is Phase.PENDING or release.resumes is Phase.PENDING
    if index < release.step:
        return "done"
    if release.degraded_at is not None:
        return "failed" if index == release.step else "not reached"
    if index > release.step or before:
        return "to come"
    if release.phase is Phase.PAUSED:
        return "waiting"
    return "active" if release.entered else "to come"


def history(tx: Transaction, model: spec.Model, *, environment: str | None, at: datetime | None) -> list[Json]:
    """What was live, since when, by which release, on what evidence, and who approved; at one moment, or all of it."""
    workspace, name = model.metadata.workspace, model.metadata.name
    told = []
    for place in [environment] if environment else in_order(tx, workspace, model.spec.environments):
        releases = tx.releases(workspace, name, place)
        if at is not None:
            serving = live_at(releases, at)
            if serving is not None:
                told.append(_chapter(tx, serving, releases))
            continue
        told += [_chapter(tx, release, releases) for release in releases if release.promoted_at is not None]
    return told


def _chapter(tx: Transaction, release: Release, releases: list[Release]) -> Json:
    later = [
        r.promoted_at for r in releases if r.promoted_at and release.promoted_at and r.promoted_at > release.promoted_at
    ]
    ended = [moment for moment in (release.degraded_at, *later) if moment is not None]
    entries = tx.ledger.rows_about(release.workspace, _ledger_name(release))
    return {
        "environment": release.environment,
        "version": release.version,
        "digest": release.digest,
        "release": release.id,
        "number": release.number,
        "live_from": plain(release.promoted_at),
        "live_until": plain(min(ended)) if ended else None,
        "completion": release.completion,
        "opened": str(release.opened),
        "opened_by": release.opened_by,
        "incident": release.incident,
        "because": release.because,
        "approved_by": [a.actor for a in tx.agreements.approvals(release.id) if a.withdrawn is None],
        "evidence": [plain(v) for v in tx.verdicts(release.id)],
        "milestones": {str(milestone): plain(at) for milestone, at in milestones(tx, release, entries).items()},
        "ledger": [row.index for row in entries],
    }


def _ledger_name(release: Release) -> str:
    return f"{release.model}/{release.environment}/{release.number}"


def monitors(tx: Transaction, model: spec.Model) -> list[Json]:
    """Every monitor with what it last said about the version that answers."""
    workspace, name = model.metadata.workspace, model.metadata.name
    told = []
    for environment in in_order(tx, workspace, model.spec.environments):
        for monitor in model.spec.monitors:
            state = tx.monitor_state(workspace, name, environment, monitor.name, MonitorState)
            told.append(
                {
                    "environment": environment,
                    "name": monitor.name,
                    "kind": type(monitor).__name__.removesuffix("Monitor").lower(),
                    "outcome": state.outcome if state else "not measured yet",
                    "because": state.because if state else "",
                    "finding_open": bool(state and state.open),
                    "until": plain(state.until) if state else None,
                }
            )
    return told


def ledger_entry(row: LedgerRow) -> Json:
    """An entry with its index, as it stands in the ledger."""
    return {"index": row.index, **msgspec.json.decode(row.body)}


def kpis(tx: Transaction, models: list[spec.Model], *, since: datetime, until: datetime) -> Json:
    """The measures of the product over a span of event time, each with its n."""
    releases = [r for m in models for r in tx.releases(m.metadata.workspace, m.metadata.name)]
    incidents = [i for m in models for i in tx.incidents(m.metadata.workspace, m.metadata.name)]
    trainings = [t for m in models for t in tx.trainings(m.metadata.workspace, m.metadata.name)]
    manual = sum(parse_entry(row.body).action == Action.MANUAL_CHANGE_OBSERVED for row in tx.ledger.rows())
    measured = measure(
        releases=releases, manual_changes=manual, incidents=incidents, trainings=trainings, since=since, until=until
    )
    share = measured.automated
    return {
        "automated_share": {
            "value": share.value,
            "promoted": share.part,
            "of": share.whole,
            "interval": share.interval,
        },
        "time_to_detect": plain(measured.detect),
        "time_to_resolve": plain(measured.resolve),
        "retrainings": plain(measured.retrainings),
    }
