"""Evaluates a release's gates: both versions answer the same holdout, outside of traffic, and the numbers decide.

Nothing is taken from the training step: Steersman recomputes every metric from the two versions' answers on rows whose
labels it holds itself. Models are loaded by workers only; here are scores and labels.
"""

from datetime import datetime
from typing import Any

import msgspec

from steersman.decide.gating import (
    GateResult,
    HoldoutScores,
    NotApplicable,
    gate_floor,
    gate_max_drop,
    gate_paired,
    gate_policy,
)
from steersman.decide.rolling_out import GateFact
from steersman.domain import spec
from steersman.domain.policies import parse_policy
from steersman.domain.release import Release
from steersman.domain.verdicts import Outcome, Verdict
from steersman.domain.version import Version
from steersman.loop.datasets import dataset_source, holdout_span
from steersman.loop.world import Documents, World
from steersman.ports import Snapshot


def evaluate_gates(
    world: World,
    documents: Documents,
    model: spec.Model,
    *,
    release: Release,
    candidate: Version,
    production: Version | None,
    at: datetime,
) -> list[Any]:
    """The verdicts of all declared gates as plain data for the operation's result.

    Raises when a replica that should answer does not: that is an attempt that failed, not a verdict.
    """
    scores = None
    if any(not isinstance(gate, spec.PolicyGate) for gate in model.spec.gates):
        scores = _holdout_scores(world, model, release, candidate, production, at)
    facts = []
    for gate in model.spec.gates:
        if isinstance(scores, Verdict) and not isinstance(gate, spec.PolicyGate):
            facts.append(GateFact(gate=gate_name(gate), applies=True, verdict=scores))
            continue
        facts.append(_fact(_evaluate(gate, scores, candidate, production)))
    return [msgspec.to_builtins(fact) for fact in facts]


def gate_name(gate: spec.Gate) -> str:
    """A gate in a few words."""
    if isinstance(gate, spec.PolicyGate):
        return gate.policy
    return f"{gate.metric} on {gate.on}"


def _fact(result: GateResult) -> GateFact:
    if isinstance(result.answer, NotApplicable):
        verdict = Verdict(outcome=Outcome.INCONCLUSIVE, because=result.answer.because)
        return GateFact(gate=result.gate, applies=False, verdict=verdict)
    return GateFact(gate=result.gate, applies=True, verdict=result.answer)


def _evaluate(gate: spec.Gate, scores: Any, candidate: Version, production: Version | None) -> GateResult:
    match gate:
        case spec.PairedGate():
            return gate_paired(
                scores, metric=gate.metric, margin=gate.margin, alpha=gate.alpha, blocks_min=gate.blocks_min
            )
        case spec.DropGate():
            return gate_max_drop(scores, metric=gate.metric, max_drop=gate.max_drop)
        case spec.FloorGate():
            return gate_floor(scores, metric=gate.metric, floor=gate.floor)
        case spec.PolicyGate():
            holds = parse_policy(gate.policy).holds(_facts_of(candidate), _facts_of(production) if production else None)
            return gate_policy(gate.policy, holds, has_production=production is not None)


def _facts_of(version: Version) -> dict[str, object]:
    """What a policy may name of a version."""
    return {
        "signature": [(column.name, column.type, column.required) for column in version.signature],
        "format": str(version.format),
        "digest": version.digest,
        "output": version.output,
    }


def _holdout_scores(
    world: World,
    model: spec.Model,
    release: Release,
    candidate: Version,
    production: Version | None,
    at: datetime,
) -> HoldoutScores | Verdict:
    """Both versions' answers on the holdout, or an error verdict that says why there is none."""
    holdout = model.spec.holdout
    if holdout is None:
        return Verdict(outcome=Outcome.ERROR, because="the document declares no holdout, so nothing was measured")
    source = dataset_source(world, model, holdout.dataset)
    time_from, time_until = holdout_span(model, at)
    folder = world.jobs / f"gates-{release.id}"
    folder.mkdir(parents=True, exist_ok=True)
    snapshot = world.datasets.snapshot(
        source, known_until=at, time_from=time_from, time_until=time_until, into=folder / "holdout.parquet"
    )
    if snapshot.rows == 0:
        because = f"no labelled row between {time_from.date()} and {time_until.date()}"
        return Verdict(outcome=Outcome.ERROR, because=because, n_unit="rows")
    rows = world.datasets.read(snapshot.path, [source.label_column, source.time_column])
    return HoldoutScores(
        labels=rows[source.label_column],
        candidate=_score(world, candidate, release, snapshot),
        production=_score(world, production, release, snapshot) if production else None,
        blocks=[str(moment)[:10] for moment in rows[source.time_column].astype("datetime64[D]")],
    )


def _score(world: World, version: Version, release: Release, snapshot: Snapshot) -> Any:
    place = (release.workspace, release.environment, release.model, version.digest)
    address = next(
        (
            r.address
            for r in world.target.observe()
            if r.ready and (r.workspace, r.environment, r.model, r.digest) == place
        ),
        None,
    )
    if address is None:
        raise RuntimeError(f"no replica of version {version.number} is ready in {release.environment}")
    columns = [column.name for column in version.signature]
    return world.scorer.score(address, version.model, snapshot.path, columns)
