"""What the API answers: records of the store as plain data, and the few questions that join them.

Records go out under the names they have in `domain/`; a reader of the API and of the code meets the same words.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from steersman.decide.approving import approvals_required
from steersman.decide.kpis import measure
from steersman.decide.rolling_out import step_name, steps_of
from steersman.decide.routing import in_progress, live, live_at, standing_of
from steersman.domain import spec
from steersman.domain.errors import NotFound, SteersmanError
from steersman.domain.events import Action
from steersman.domain.release import Release
from steersman.ledger.entry import parse_entry
from steersman.loop.gathering import approvals_of
from steersman.loop.monitors import MonitorState
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


def model_line(tx: Transaction, model: spec.Model) -> Json:
    """One model in a list: who owns it, what is live, what is on its way."""
    workspace, name = model.metadata.workspace, model.metadata.name
    releases = tx.releases(workspace, name)
    incidents = tx.incidents(workspace, name, open_only=True)
    environments = {}
    for environment in in_order(tx, workspace, model.spec.environments):
        there = [r for r in releases if r.environment == environment]
        serving, coming = live(there), in_progress(there)
        stands = standing_of(there)
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


def model_status(tx: Transaction, model: spec.Model) -> Json:
    """`model_line` with the newest release of each environment, open incidents and the challenger."""
    workspace, name = model.metadata.workspace, model.metadata.name
    challengers = {e: tx.challenger(workspace, name, e) for e in model.spec.environments}
    return {
        **model_line(tx, model),
        "releases": [plain(r) for r in tx.releases(workspace, name)[-5:]],
        "incidents": [plain(i) for i in tx.incidents(workspace, name, open_only=True)],
        "challengers": {e: plain(c) for e, c in challengers.items() if c is not None},
        "waivers": [plain(w) for w in tx.agreements.waivers(workspace, name) if w.used_by is None],
    }


def release_status(tx: Transaction, documents: Documents, release: Release) -> Json:
    """One release with its steps, verdicts and approvals."""
    document = documents.revision(tx, release.document)
    policy = document.spec.environments.get(release.environment, spec.EnvironmentPolicy())
    steps = []
    for index, step in enumerate(steps_of(policy, release)):
        state = "done" if index < release.step else "active" if index == release.step and release.entered else "to come"
        steps.append({"step": index, "what": step_name(step), "state": state})
    return {
        **plain(release),
        "steps": steps,
        "verdicts": [plain(v) for v in tx.verdicts(release.id)],
        "approvals": [plain(a) for a in tx.approvals(release.id)],
        "approvals_required": approvals_of(tx, release, document),
    }


def plan(tx: Transaction, model: spec.Model, *, version: int, environment: str) -> Json:
    """What a release would go through, before anybody opens it."""
    if environment not in model.spec.environments:
        raise NotFound(f"model {model.metadata.name} declares no environment {environment!r}")
    workspace, name = model.metadata.workspace, model.metadata.name
    policy = model.spec.environments[environment]
    releases = tx.releases(workspace, name, environment)
    serving, coming = live(releases), in_progress(releases)
    known = tx.version(workspace, name, version)
    windows = tx.windows(workspace, environment, name)[-14:]
    rows = sum(w.rows for w in windows) / len(windows) if windows else None
    warm = [r.version for r in releases if r.promoted_at is not None and r.degraded_at is None]
    return {
        "version": version,
        "registered": known is not None,
        "replaces": serving.version if serving else None,
        "waits_for_release": coming.number if coming else None,
        "gates": [plain(gate) if not isinstance(gate, spec.PolicyGate) else gate.policy for gate in model.spec.gates],
        "steps": [step_name(step) for step in policy.strategy.steps],
        "approvals_required": approvals_required(policy, model.spec.tier),
        "rows_a_window": rows,
        "windows_measured": len(windows),
        "evidence": [_needed(step) for step in policy.strategy.steps if isinstance(step, spec.Analysis | spec.Bake)],
        "rollback": "warm, within seconds" if model.spec.serving.keep_warm and warm else "cold: the start of a worker",
    }


def _needed(step: spec.Analysis | spec.Bake) -> Json:
    return {
        "step": step_name(step),
        "metrics": list(step.metrics),
        "margin": step.margin,
        "blocks_min": step.blocks_min,
        "block_s": step.block.total_seconds(),
    }


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
        "approved_by": [a.actor for a in tx.approvals(release.id)],
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
