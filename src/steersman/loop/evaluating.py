"""Evaluates gates: both versions answer the same holdout, outside of traffic, and the numbers decide.

Nothing is taken from the training step: Steersman recomputes every metric from the two versions' answers on rows whose
labels it holds itself. Models are loaded by workers only; here are scores and labels. What was judged once is not judged
again: a verdict is kept under the digests of the two versions, of the rows, of the gate and of the code that judges, so that
a repeated release, or one after `steersman ci`, asks no worker.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from steersman.decide.gating import (
    GateResult,
    HoldoutScores,
    NotApplicable,
    gate_ceiling,
    gate_floor,
    gate_max_drop,
    gate_paired,
    gate_policy,
    gate_slices,
)
from steersman.decide.inspecting import gate_documented, gate_latency, gate_schema, gate_size
from steersman.decide.rolling_out import GateFact
from steersman.domain import spec
from steersman.domain.decoding import encode
from steersman.domain.documentation import parse_requirement
from steersman.domain.durations import format_duration
from steersman.domain.policies import parse_policy
from steersman.domain.verdicts import Outcome, Verdict
from steersman.domain.version import Version
from steersman.loop.datasets import dataset_source, holdout_span
from steersman.loop.provenance import code_digest
from steersman.loop.world import World
from steersman.ports import DatasetSource, Snapshot

PAPER_BYTES_MAX = 256 * 1024
"""A longer file of a version is no documentation."""

BLOCKS_ORIGIN = np.datetime64("2000-01-01", "us")
"""Blocks are cut from here, so that every comparison cuts alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """A version that is to prove itself, and the one it is compared with; where a replica of each answers.

    `name` is the folder the rows are cut into, one for each release or check.
    """

    model: spec.Model
    candidate: Version
    production: Version | None
    candidate_in: str
    production_in: str
    name: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The holdout, pinned under its digest."""

    source: DatasetSource
    snapshot: Snapshot


def evaluate_gates(world: World, contest: Contest) -> list[Any]:
    """The verdicts of all declared gates, in their order, as plain data for the operation's result.

    Raises when a replica that should answer does not: that is an attempt that failed, not a verdict.
    """
    gates = contest.model.spec.gates
    on_rows = [gate for gate in gates if isinstance(gate, spec.MetricGate | spec.LatencyGate)]
    rows = cut_holdout(world, contest) if on_rows else None
    compared = [gate for gate in gates if isinstance(gate, spec.MetricGate)]
    known = _measured(world, contest, compared, rows) if isinstance(rows, Rows) else {}
    facts = []
    for gate in gates:
        if isinstance(rows, Verdict) and isinstance(gate, spec.MetricGate | spec.LatencyGate):
            facts.append(GateFact(gate=gate_name(gate), applies=True, verdict=rows))
        elif isinstance(gate, spec.MetricGate):
            facts.append(known[_key(contest, gate, rows)])
        else:
            facts.append(_inspected(world, contest, gate, rows))
    return [msgspec.to_builtins(fact) for fact in facts]


def gate_name(gate: spec.Gate) -> str:
    """A gate in a few words."""
    match gate:
        case spec.PolicyGate():
            return gate.policy
        case spec.SchemaGate():
            return f"schema {gate.schema}"
        case spec.SizeGate():
            return f"size at most {gate.max_size_mb:g} MB"
        case spec.LatencyGate():
            return f"p{gate.percentile:g} latency at most {format_duration(gate.max_latency)}"
        case spec.DocumentedGate():
            return f"documented: {', '.join(gate.documented)}"
        case _:
            return f"{gate.metric} on {gate.on}"


# --- on the holdout


def cut_holdout(world: World, contest: Contest) -> Rows | Verdict:
    """The holdout as it is known now, pinned under its digest; or an error verdict that says why there is none."""
    holdout = contest.model.spec.holdout
    if holdout is None:
        return Verdict(outcome=Outcome.ERROR, because="the document declares no holdout, so nothing was measured")
    source = dataset_source(world, contest.model, holdout.dataset)
    time_from, time_until = holdout_span(contest.model, contest.at)
    folder = world.jobs / contest.name
    folder.mkdir(parents=True, exist_ok=True)
    snapshot = world.datasets.snapshot(
        source, known_until=contest.at, time_from=time_from, time_until=time_until, into=folder / "holdout.parquet"
    )
    if snapshot.rows == 0:
        because = f"no labelled row between {time_from.date()} and {time_until.date()}"
        return Verdict(outcome=Outcome.ERROR, because=because, n_unit="rows")
    return Rows(source=source, snapshot=snapshot)


def _measured(world: World, contest: Contest, gates: Sequence[spec.MetricGate], rows: Rows) -> dict[str, GateFact]:
    """Each gate's fact under its key: as it was kept, else measured now and kept."""
    keys = {_key(contest, gate, rows): gate for gate in gates}
    with world.store.read() as tx:
        kept = {key: body for key in keys if (body := tx.gates.kept(key)) is not None}
    facts = {key: msgspec.json.decode(body, type=GateFact) for key, body in kept.items()}
    missing = {key: gate for key, gate in keys.items() if key not in facts}
    if not missing:
        return facts
    scores, times = _scores(world, contest, list(missing.values()), rows)
    for key, gate in missing.items():
        facts[key] = _fact(_judge(gate, scores, times), data=rows.snapshot.digest, code=code_digest())
    with world.store.write() as tx:
        for key in missing:
            tx.gates.keep(key, msgspec.json.encode(facts[key]).decode())
    return facts


def _key(contest: Contest, gate: spec.MetricGate, rows: object) -> str:
    assert isinstance(rows, Rows)
    production = contest.production.digest if contest.production else None
    parts = (
        code_digest(),
        contest.candidate.digest,
        production,
        rows.snapshot.digest,
        rows.source.label_column,
        rows.source.time_column,
        encode(gate, defaults=True),
        type(gate).__name__,
    )
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _scores(world: World, contest: Contest, gates: Sequence[spec.MetricGate], rows: Rows) -> tuple[HoldoutScores, Any]:
    """What both versions say about the holdout, with the columns the gates slice by, and the rows' times."""
    source, path = rows.source, rows.snapshot.path
    sliced = {name for gate in gates if not isinstance(gate, spec.DropGate) for name in gate.slices}
    read = world.datasets.read(path, [source.label_column, source.time_column, *sorted(sliced)])
    production = contest.production
    scores = HoldoutScores(
        labels=read[source.label_column],
        candidate=_score(world, contest.candidate, contest.candidate_in, rows.snapshot),
        production=_score(world, production, contest.production_in, rows.snapshot) if production else None,
        blocks=(),
        slices={name: read[name] for name in sliced},
    )
    return scores, read[source.time_column]


def _judge(gate: spec.MetricGate, scores: HoldoutScores, times: Any) -> GateResult:
    if isinstance(gate, spec.DropGate):
        days = replace(scores, blocks=block_names(times, timedelta(days=1)))
        return gate_max_drop(days, metric=gate.metric, max_drop=gate.max_drop)

    def judge(rows: HoldoutScores, alpha: float) -> GateResult:
        match gate:
            case spec.PairedGate():
                return gate_paired(
                    rows, metric=gate.metric, margin=gate.margin, alpha=alpha, blocks_min=gate.blocks_min
                )
            case spec.FloorGate():
                return gate_floor(
                    rows,
                    metric=gate.metric,
                    floor=gate.floor,
                    alpha=alpha,
                    unit=gate.unit,
                    blocks_min=gate.blocks_min,
                )
            case spec.CeilingGate():
                return gate_ceiling(
                    rows,
                    metric=gate.metric,
                    ceiling=gate.ceiling,
                    alpha=alpha,
                    unit=gate.unit,
                    blocks_min=gate.blocks_min,
                )

    return gate_slices(
        judge,
        replace(scores, blocks=block_names(times, gate.block)),
        columns=gate.slices,
        rows_min=gate.slice_rows_min,
        alpha=gate.alpha,
        higher_is_worse=not isinstance(gate, spec.FloorGate),
    )


def block_names(times: Any, block: timedelta) -> list[str]:
    """The block each row's time lies in, by the block's start: a date where blocks are days, else a moment of UTC."""
    since = np.asarray(times).astype("datetime64[us]") - BLOCKS_ORIGIN
    length = np.timedelta64(block // timedelta(microseconds=1), "us")
    starts = BLOCKS_ORIGIN + (since // length) * length
    whole_days = block % timedelta(days=1) == timedelta()
    return [str(start)[:10] if whole_days else str(start)[:23] for start in starts]


def _score(world: World, version: Version, environment: str, snapshot: Snapshot) -> Any:
    columns = [column.name for column in version.signature]
    return world.scorer.score(replica_address(world, version, environment), version.model, snapshot.path, columns)


def replica_address(world: World, version: Version, environment: str) -> str:
    """Where a ready replica of the version answers. Raises RuntimeError where there is none."""
    place = (version.workspace, environment, version.model, version.digest)
    for replica in world.target.observe():
        if replica.ready and (replica.workspace, replica.environment, replica.model, replica.digest) == place:
            return replica.address
    raise RuntimeError(f"no replica of version {version.number} is ready in {environment}")


# --- on the version itself


def _inspected(world: World, contest: Contest, gate: spec.Gate, rows: Rows | Verdict | None) -> GateFact:
    candidate, production = contest.candidate, contest.production
    match gate:
        case spec.SchemaGate():
            return _fact(gate_schema(candidate, production, compatibility=gate.schema))
        case spec.SizeGate():
            return _fact(gate_size(candidate, max_size_mb=gate.max_size_mb))
        case spec.DocumentedGate():
            return _fact(gate_documented(gate.documented, _papers(world, candidate, gate)))
        case spec.LatencyGate():
            assert isinstance(rows, Rows)
            return _timed(world, contest, gate, rows)
        case spec.PolicyGate():
            holds = parse_policy(gate.policy).holds(_facts_of(candidate), _facts_of(production) if production else None)
            return _fact(gate_policy(gate.policy, holds, has_production=production is not None))
        case _:
            raise TypeError(f"{type(gate).__name__} is judged on the holdout")


def _timed(world: World, contest: Contest, gate: spec.LatencyGate, rows: Rows) -> GateFact:
    """Single predictions on the candidate's own worker. A replay's are those of the replaying machine: they decide nothing."""
    candidate = contest.candidate
    latencies = world.scorer.latencies(
        replica_address(world, candidate, contest.candidate_in),
        candidate.model,
        rows.snapshot.path,
        [column.name for column in candidate.signature],
        requests=gate.requests,
    )
    limit = gate.max_latency / timedelta(milliseconds=1)
    result = gate_latency(latencies, max_latency_ms=limit, percentile=gate.percentile)
    fact = _fact(result, data=rows.snapshot.digest)
    if world.clock.replay:
        return replace(fact, applies=False, recorded_as="measured on this machine, decides nothing in a replay")
    said = f"{fact.verdict.outcome}, measured on this machine; the numbers are with the release"
    return replace(fact, recorded_as=said)


def _papers(world: World, version: Version, gate: spec.DocumentedGate) -> dict[str, str | None]:
    """The files a gate names, as text; None where there is no such regular file, or one too long to be read."""
    tree = world.artifacts.path(version.digest).resolve()
    found: dict[str, str | None] = {}
    for name in {parse_requirement(text).file for text in gate.documented}:
        path = tree / name
        readable = path.is_file() and not path.is_symlink() and path.resolve().is_relative_to(tree)
        short = readable and path.stat().st_size <= PAPER_BYTES_MAX
        found[name] = path.read_text("utf-8", "replace") if short else None
    return found


def _facts_of(version: Version) -> dict[str, object]:
    """What a policy may name of a version."""
    return {
        "signature": [(column.name, column.type, column.required) for column in version.signature],
        "format": str(version.format),
        "digest": version.digest,
        "output": version.output,
    }


def _fact(result: GateResult, *, data: str | None = None, code: str | None = None) -> GateFact:
    if isinstance(result.answer, NotApplicable):
        verdict = Verdict(outcome=Outcome.INCONCLUSIVE, because=result.answer.because)
        return GateFact(gate=result.gate, applies=False, verdict=verdict)
    return GateFact(gate=result.gate, applies=True, verdict=replace(result.answer, data=data, code=code))
