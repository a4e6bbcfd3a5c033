"""What a release would go through, before anybody opens it: the answer behind `steersman plan MODEL --version N`.

Gates, steps and approvals stand in the document. How long it takes and how sure it is follows from what was measured:
traffic from the last closed windows, the spread of harm from the evidence of releases before, or, where there is none,
from the blocks of the holdout behind a gate's interval. What was never measured is said to be unknown, with the reason.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from steersman.decide.approving import approvals_required
from steersman.decide.explaining import WHEN_UNDECIDED
from steersman.decide.forecasting import (
    Asked,
    Expected,
    Spread,
    Traffic,
    expect,
    spread_behind,
    spread_between,
    spread_in_split,
    spread_within,
)
from steersman.decide.freezing import frozen
from steersman.decide.routing import in_progress, live
from steersman.decide.steps import step_name
from steersman.domain import spec
from steersman.domain.errors import NotFound
from steersman.domain.measurable import needs_labels
from steersman.domain.release import Release
from steersman.domain.version import Version
from steersman.loop.datasets import horizon
from steersman.loop.gathering import Budget, holding_budgets
from steersman.loop.proving import proved_before
from steersman.loop.weighing import share_of_alpha
from steersman.loop.world import Documents, environment_of
from steersman.ports import RunningReplica
from steersman.store.records import Cohort, PairBlock
from steersman.store.transaction import Transaction

Json = dict[str, Any]

WINDOWS_LOOKED_AT = 14
"""Closed windows the traffic of today is taken from: two weeks of days, so that every weekday counts twice."""

COMPARISONS_LOOKED_AT = 5
"""Newest comparisons the spread of harm is taken from; older versions spread as older versions did."""

CHANGES_SHOWN_MAX = 40
"""Changed fields of the document that are listed; more are counted."""


def plan(
    tx: Transaction,
    documents: Documents,
    model: spec.Model,
    *,
    version: int,
    environment: str,
    now: datetime,
    replicas: Sequence[RunningReplica],
) -> Json:
    """Raises NotFound for an environment the document does not declare. `replicas` run now."""
    if environment not in model.spec.environments:
        raise NotFound(
            f"model {model.metadata.name} declares no environment {environment!r}",
            next_step="Add it under spec.environments and apply the document.",
        )
    workspace, name = model.metadata.workspace, model.metadata.name
    policy = model.spec.environments[environment]
    releases = tx.releases(workspace, name, environment)
    serving, coming = live(releases), in_progress(releases)
    known = tx.version(workspace, name, version)
    approvals = policy.approvals or spec.Approvals()
    expected = _expected(tx, model, policy, releases, environment) if serving is not None else []
    return {
        "workspace": workspace,
        "model": name,
        "version": version,
        "environment": environment,
        "registered": known is not None,
        "replaces": serving.version if serving else None,
        "waits_for_release": coming.number if coming else None,
        "frozen": frozen(policy, environment_of(tx, workspace, environment), now),
        "budgets": [_budget(rule, read) for rule, read in holding_budgets(tx, workspace, name, environment, policy)],
        "after": _after(tx, policy, known, environment, now),
        "changes": _changes(tx, documents, model, serving, known),
        "gates": [_gate(gate) for gate in model.spec.gates],
        "steps": [step_name(step) for step in policy.strategy.steps],
        "approvals_required": approvals_required(policy, model.spec.tier, environment=environment),
        "approvals_by": list(approvals.roles),
        "approval_steps": [step_name(step) for step in policy.strategy.steps if isinstance(step, spec.Approval)],
        "traffic": _traffic_told(tx, workspace, environment, name),
        "evidence": [_plain(one) for one in expected],
        "when_undecided": _when_undecided(policy),
        "first": serving is None,
        "duration": _durations(policy, expected, horizon(model)) if serving is not None else None,
        "rollback": _rollback(model, environment, serving, replicas),
    }


def _budget(rule: spec.BurnRate, read: Budget | None) -> Json:
    """An error budget that holds releases, as it was last read: that is done while a release is under way."""
    return {
        "objective": rule.objective,
        "period_s": rule.period.total_seconds(),
        "read_at": None if read is None else _plain(read.at),
        "outcome": None if read is None else read.verdict.outcome.value,
        "because": None if read is None else read.verdict.because,
    }


def _after(
    tx: Transaction, policy: spec.EnvironmentPolicy, version: Version | None, environment: str, now: datetime
) -> Json | None:
    """The environment a version must have stood its bake in before, by which release it did, and who waived that; None
    where there is none before."""
    if policy.after is None:
        return None
    proof = None if version is None else proved_before(tx, version, policy.after)
    waivers = [] if version is None else tx.agreements.waivers(version.workspace, version.model)
    waived = [
        w.actor
        for w in waivers
        if version is not None
        and w.skips == policy.after
        and w.usable(digest=version.digest, environment=environment, now=now)
    ]
    return {
        "environment": policy.after,
        "proved_by": None if proof is None else proof.number,
        "verified_at": None if proof is None else _plain(proof.verified_at),
        "waived_by": waived[0] if waived else None,
    }


def _plain(record: object) -> Any:
    return msgspec.to_builtins(record)


def _gate(gate: spec.Gate) -> Any:
    return gate.policy if isinstance(gate, spec.PolicyGate) else _plain(gate)


def _when_undecided(policy: spec.EnvironmentPolicy) -> Json:
    steps = [step for step in policy.strategy.steps if isinstance(step, spec.Analysis)]
    return {step_name(step): WHEN_UNDECIDED[step.when_inconclusive] for step in steps}


# --- what would be different


def _changes(
    tx: Transaction, documents: Documents, model: spec.Model, serving: Release | None, candidate: Version | None
) -> list[Json]:
    """What the version that is live and this one differ in, then what the document says otherwise since that release."""
    if serving is None:
        return []
    workspace, name = model.metadata.workspace, model.metadata.name
    present = tx.version(workspace, name, serving.version)
    found = [] if present is None or candidate is None else _version_changes(present, candidate)
    before, after = _plain(documents.revision(tx, serving.document)), _plain(model)
    written: list[Json] = []
    _differing("document", before, after, written)
    if len(written) > CHANGES_SHOWN_MAX:
        more = len(written) - CHANGES_SHOWN_MAX
        written = [*written[:CHANGES_SHOWN_MAX], {"what": f"{more} more fields of the document", "from": "", "to": ""}]
    return found + written


def _version_changes(present: Version, candidate: Version) -> list[Json]:
    facts = ("digest", "format", "size_bytes", "trained_until", "registered_by", "output")
    told = [
        {"what": name, "from": _plain(getattr(present, name)), "to": _plain(getattr(candidate, name))}
        for name in facts
        if getattr(present, name) != getattr(candidate, name)
    ]
    columns = [{c.name: c for c in v.signature} for v in (present, candidate)]
    gone, new = sorted(columns[0].keys() - columns[1].keys()), sorted(columns[1].keys() - columns[0].keys())
    other = sorted(n for n in columns[0].keys() & columns[1].keys() if columns[0][n] != columns[1][n])
    for what, names in (("inputs taken out", gone), ("inputs added", new), ("inputs of another type", other)):
        if names:
            told.append({"what": what, "from": "", "to": ", ".join(names)})
    return told


def _differing(path: str, before: Any, after: Any, into: list[Json]) -> None:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            _differing(f"{path}.{key}", before.get(key), after.get(key), into)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            _differing(f"{path}[{index}]", old, new, into)
    elif before != after:
        into.append({"what": path, "from": before, "to": after})


# --- traffic and spread


def _traffic_told(tx: Transaction, workspace: str, environment: str, name: str) -> Json:
    windows = tx.evidence.windows(workspace, environment, name)[-WINDOWS_LOOKED_AT:]
    if not windows:
        return {"windows": 0, "unknown": "no window of traffic was measured yet"}
    matured = [w for w in windows if w.labelled and w.rows]
    return {
        "windows": len(windows),
        "window_s": (windows[-1].end - windows[-1].start).total_seconds(),
        "rows_a_window": sum(w.rows for w in windows) / len(windows),
        "rows_between": [min(w.rows for w in windows), max(w.rows for w in windows)],
        "coverage": sum(w.labelled for w in matured) / sum(w.rows for w in matured) if matured else None,
        "windows_matured": len(matured),
    }


def _traffic(tx: Transaction, workspace: str, environment: str, name: str, block: timedelta) -> Traffic:
    told = _traffic_told(tx, workspace, environment, name)
    if not told["windows"]:
        return Traffic(rows_per_block=None, windows=0, coverage=None, windows_matured=0)
    rows = told["rows_a_window"] * block.total_seconds() / told["window_s"]
    return Traffic(
        rows_per_block=rows,
        windows=told["windows"],
        coverage=told["coverage"],
        windows_matured=told["windows_matured"],
    )


def _expected(
    tx: Transaction,
    model: spec.Model,
    policy: spec.EnvironmentPolicy,
    releases: Sequence[Release],
    environment: str,
) -> list[Expected]:
    workspace, name = model.metadata.workspace, model.metadata.name
    copied, weight, found = 1.0, 0.0, []
    for step in policy.strategy.steps:
        if isinstance(step, spec.Mirror):
            copied = step.percent / 100
        if isinstance(step, spec.SetWeight):
            weight = step.weight_pct / 100
        if not isinstance(step, spec.Analysis | spec.Bake):
            continue
        split = isinstance(step, spec.Analysis) and step.mode is spec.AnalysisMode.SPLIT
        parts = 1 + _slices_seen(tx, releases, step, split=split)
        for metric in step.metrics:
            asked = Asked(
                step=step_name(step),
                metric=metric,
                margin=step.margin,
                alpha=share_of_alpha(step, parts),
                parts=parts,
                unit=step.unit,
                block=step.block,
                blocks_min=step.blocks_min,
                rows_min=step.rows_min or spec.ROWS_MIN_DEFAULT,
                lasts=step.duration if isinstance(step, spec.Bake) else step.duration_max,
                needs_labels=needs_labels(metric, model.spec.metrics),
                copied=1.0 if split or isinstance(step, spec.Bake) else copied,
            )
            spread = (
                _spread_in_split(tx, releases, step, metric, weight)
                if split
                else _spread(tx, model, releases, step, metric)
            )
            traffic = _traffic(tx, workspace, environment, name, step.block)
            found.append(expect(asked, traffic=traffic, spread=spread, horizon=horizon(model)))
    return found


def _spread(
    tx: Transaction, model: spec.Model, releases: Sequence[Release], step: spec.Analysis | spec.Bake, metric: str
) -> Spread | str:
    """From the comparisons of releases before; else from a gate's interval; else why it is not known."""
    comparisons = [(release, _blocks(tx, release, metric)) for release in releases if release.previous is not None]
    told = [(release, blocks) for release, blocks in comparisons if blocks][-COMPARISONS_LOOKED_AT:]
    source = "blocks of release " + ", ".join(str(release.number) for release, _ in told)
    if step.unit is spec.EvidenceUnit.ROW:
        single = [(block.spread, block.n) for _, blocks in told for block in blocks if block.spread is not None]
        within = spread_within([(sd, n) for sd, n in single if sd is not None], source=source)
        return within or "no comparison in this metric has kept the spread of single requests yet"
    between = spread_between([[block.harm for block in blocks] for _, blocks in told], source=source)
    return between or _gate_spread(tx, model, releases, metric) or "no comparison in this metric has been measured yet"


def _spread_in_split(
    tx: Transaction, releases: Sequence[Release], step: spec.Analysis | spec.Bake, metric: str, weight: float
) -> Spread | str:
    """From the splits of releases before, at whatever weight; else why it is not known."""
    if not 0.0 < weight < 1.0:
        return "it is judged on a split, and no step before it gives the candidate a share below 100 %"
    told = []
    for release in releases:
        if release.previous is None:
            continue
        shares = {cohort.block: cohort.share for cohort in _cohorts(tx, release, "split") if not cohort.slice}
        blocks = [(b, shares.get(b.block, 0.0)) for b in _blocks(tx, release, metric, mode="split")]
        if blocks := [(block, share) for block, share in blocks if 0.0 < share < 1.0]:
            told.append((release, blocks))
    told = told[-COMPARISONS_LOOKED_AT:]
    source = "split blocks of release " + ", ".join(str(release.number) for release, _ in told)
    if step.unit is spec.EvidenceUnit.ROW:
        single = [
            (block.spread * math.sqrt(share * (1.0 - share) / (weight * (1.0 - weight))), block.n)
            for _, blocks in told
            for block, share in blocks
            if block.spread is not None
        ]
        return spread_within(single, source=source) or "no split in this metric has kept the spread of requests yet"
    groups = [[(block.harm, share) for block, share in blocks] for _, blocks in told]
    return spread_in_split(groups, weight=weight, source=source) or "no split in this metric has been measured yet"


def _slices_seen(tx: Transaction, releases: Sequence[Release], step: spec.Analysis | spec.Bake, *, split: bool) -> int:
    """How many values the step's slices had in the newest comparison that had any; before one, they are not counted."""
    for release in reversed(releases) if step.slices else ():
        if release.previous is None:
            continue
        names = {c.slice for c in _cohorts(tx, release, "split" if split else "paired")}
        if seen := sum(name.partition("=")[0] in step.slices for name in names):
            return seen
    return 0


def _cohorts(tx: Transaction, release: Release, mode: str) -> list[Cohort]:
    assert release.previous is not None
    return tx.evidence.cohorts(
        release.workspace,
        release.environment,
        release.model,
        reference=release.previous.digest,
        compared=release.digest,
        since=release.opened_at,
        mode=mode,
    )


def _blocks(tx: Transaction, release: Release, metric: str, *, mode: str = "paired") -> list[PairBlock]:
    assert release.previous is not None
    return tx.evidence.pair_blocks(
        release.workspace,
        release.environment,
        release.model,
        reference=release.previous.digest,
        compared=release.digest,
        metric=metric,
        since=release.opened_at,
        mode=mode,
    )


def _gate_spread(tx: Transaction, model: spec.Model, releases: Sequence[Release], metric: str) -> Spread | None:
    gate = next((g for g in model.spec.gates if isinstance(g, spec.PairedGate) and g.metric == metric), None)
    if gate is None:
        return None
    for release in reversed(releases):
        for stored in reversed(tx.verdicts(release.id, kind="gate")):
            body = stored.body
            named = str(body.get("name", "")).startswith(f"{metric} paired")
            if not named or body.get("upper") is None or body.get("estimate") is None:
                continue
            radius = float(body["upper"]) - float(body["estimate"])
            source = f"holdout blocks behind the gate of release {release.number}"
            return spread_behind(radius=radius, n=int(body.get("n") or 0), alpha=gate.alpha, source=source)
    return None


# --- how long, and the way back


def _durations(policy: spec.EnvironmentPolicy, expected: Sequence[Expected], after_bake: timedelta) -> Json:
    """From the first step to the promotion and to the end, for a harmless candidate that half of the time is faster.

    Steps add up; metrics of one step run side by side. Starts of workers, gates and people are not in it.
    """
    total, finished, why = timedelta(), timedelta(), None
    for step in policy.strategy.steps:
        if isinstance(step, spec.Pause):
            total += step.duration or timedelta()
            why = why or ("it pauses until a person resumes it" if step.duration is None else None)
        elif isinstance(step, spec.Approval):
            why = why or "it waits for an approval"
        elif isinstance(step, spec.Analysis):
            of_step = [one for one in expected if one.step == step_name(step)]
            unknown = next((one.unknown for one in of_step if one.unknown), None)
            times = [one.decided_after for one in of_step]
            why = why or (f"{step_name(step)}: {unknown}" if unknown else None)
            # Undecided to the end: then the document's onInconclusive speaks, at the end of the step's time.
            total += max((step.duration_max if at is None else at for at in times), default=timedelta())
        elif isinstance(step, spec.Bake):
            finished += step.duration + after_bake
    if why is not None:
        return {"to_promotion_s": None, "to_end_s": None, "unknown": why}
    return {
        "to_promotion_s": total.total_seconds(),
        "to_end_s": (total + finished).total_seconds(),
        "unknown": None,
    }


def _rollback(model: spec.Model, environment: str, serving: Release | None, replicas: Sequence[RunningReplica]) -> Json:
    """Warm where the version that answers now stays running; else the start to ready, as last measured."""
    place = (model.metadata.workspace, environment, model.metadata.name)
    times = [
        r.ready_after_s
        for r in replicas
        if (r.workspace, r.environment, r.model) == place and r.ready_after_s is not None
    ]
    return {
        "possible": serving is not None,
        "warm": bool(serving is not None and model.spec.serving.keep_warm),
        "cold_start_s": math.ceil(10 * max(times)) / 10 if times else None,
        "replicas_measured": len(times),
    }
