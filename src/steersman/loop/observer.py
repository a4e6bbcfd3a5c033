"""Looks at what was answered and what turned out true, once per closed block, and keeps the evidence.

Evidence is written once: a block (a day, as a rule) is judged when it is over and its labels have had their horizon; a
label corrected later changes tables, not verdicts already given. Which comparisons are needed follows from the releases
and monitors of the moment, so a crash between two blocks loses nothing: the next look finds the same blocks missing.
What one block says is `steersman.loop.comparing`.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from steersman.domain import spec
from steersman.domain.metrics import LATENCIES
from steersman.domain.release import Release
from steersman.loop.comparing import Compared, compare_pairs, compare_split
from steersman.loop.world import World
from steersman.ports import Comparison, Measure, MetricError, Scope, Span
from steersman.stats.performance import BlockDifferences
from steersman.stats.ratios import Sums, judged_harms
from steersman.store.records import Cohort, PairBlock, Unmeasured
from steersman.store.transaction import Transaction

BLOCKS_PER_LOOK_MAX = 400
"""Most blocks one look catches up on: a year of days after a long standstill; the next look takes the rest."""


NAME_MAX = 160
"""Longest name of a kept state, as its column is wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Two versions compared from `since` on; harm is that of `compared` against `reference`.

    `mode` says how they met, `slices` name input columns each value of which is judged by itself, `declared` are the
    document's own metrics.
    """

    workspace: str
    environment: str
    model: str
    reference: str
    compared: str
    metrics: tuple[str, ...]
    block: timedelta
    since: datetime
    mode: spec.AnalysisMode = spec.AnalysisMode.PAIRED
    slices: tuple[str, ...] = ()
    declared: tuple[spec.DeclaredMetric, ...] = field(default=())


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Start of the newest block or window that was looked at."""

    until: datetime


def reading_key(release: Release) -> str:
    """Under which monitor name a release's guardrail readings are kept."""
    return f"guardrails/{release.id}"


def blocks_between(since: datetime, until: datetime, block: timedelta) -> Iterator[datetime]:
    """Starts of whole blocks within [since, until), aligned to midnight UTC so that every comparison cuts alike."""
    origin = datetime(2000, 1, 1, tzinfo=UTC)
    index = -((origin - since) // block)
    start = origin + index * block
    while start < since:
        start += block
    while start + block <= until:
        yield start
        start += block


def observe_pairing(world: World, pairing: Pairing, *, horizon: timedelta) -> bool:
    """Judge the pairing's blocks that have matured and were not judged yet; True if evidence was added."""
    now = world.clock.now()
    with world.store.read() as tx:
        mark = tx.monitor_state(pairing.workspace, pairing.model, pairing.environment, _name(pairing), Mark)
    added = False
    for count, start in enumerate(blocks_between(pairing.since, now - horizon, pairing.block)):
        if count >= BLOCKS_PER_LOOK_MAX:
            break
        if mark is not None and start <= mark.until:
            continue
        found = _judge(world, pairing, start, now)
        with world.store.write() as tx:
            _keep(tx, pairing, start, found)
            tx.put_monitor_state(
                pairing.workspace, pairing.model, pairing.environment, _name(pairing), Mark(until=start)
            )
        added = True
    return added


def _name(pairing: Pairing) -> str:
    """Under which name it is kept how far a comparison has come; what it compares is part of it."""
    pair = f"pair/{pairing.reference[7:23]}/{pairing.compared[7:23]}/{','.join(pairing.metrics)}"
    if pairing.mode is spec.AnalysisMode.PAIRED and not pairing.slices and len(pair) <= NAME_MAX:
        return pair
    what = "/".join((pair, pairing.mode, *pairing.slices))
    return f"pair/{hashlib.sha256(what.encode()).hexdigest()}"


def _keep(tx: Transaction, pairing: Pairing, start: datetime, found: Sequence[Compared]) -> None:
    """Write what is not there yet: another comparison of the same versions may have measured some of it."""
    names = ("workspace", "environment", "model", "reference", "compared")
    pair: dict[str, str] = {name: getattr(pairing, name) for name in names}
    mode = str(pairing.mode)
    cohorts = {c.slice for c in tx.evidence.cohorts(**pair, since=start, mode=mode) if c.block == start}
    for one in found:
        if one.slice not in cohorts:
            tx.evidence.add_cohort(
                Cohort(
                    **pair,
                    block=start,
                    mode=mode,
                    slice=one.slice,
                    matured_reference=one.counts.matured_reference,
                    matured_compared=one.counts.matured_compared,
                    labelled_reference=one.counts.labelled_reference,
                    labelled_compared=one.counts.labelled_compared,
                    drawn_reference=one.counts.drawn_reference,
                    drawn_compared=one.counts.drawn_compared,
                    share=one.counts.share,
                    digest=one.counts.digest,
                )
            )
        for metric, contrast in one.contrasts.items():
            known = tx.evidence.pair_blocks(**pair, metric=metric, since=start, mode=mode, slice_of=one.slice)
            if any(block.block == start for block in known):
                continue
            tx.evidence.add_pair_block(
                PairBlock(
                    **pair,
                    metric=metric,
                    block=start,
                    mode=mode,
                    slice=one.slice,
                    harm=contrast.harm,
                    value_reference=contrast.reference,
                    value_compared=contrast.candidate,
                    n=contrast.n,
                    spread=contrast.spread,
                    n_reference=contrast.n_reference,
                    n_compared=contrast.n_candidate,
                    numerator_reference=contrast.sums.numerator_reference if contrast.sums else None,
                    denominator_reference=contrast.sums.denominator_reference if contrast.sums else None,
                    numerator_compared=contrast.sums.numerator if contrast.sums else None,
                    denominator_compared=contrast.sums.denominator if contrast.sums else None,
                )
            )
        for metric, because in one.raised.items():
            failed = tx.evidence.unmeasured(**pair, metric=metric, since=start, mode=mode)
            if not any(other.block == start and other.slice == one.slice for other in failed):
                tx.evidence.add_unmeasured(
                    Unmeasured(**pair, metric=metric, block=start, mode=mode, slice=one.slice, because=because)
                )


def _judge(world: World, pairing: Pairing, start: datetime, now: datetime) -> Sequence[Compared]:
    """What the block says. A replay's latencies are those of the machine that replays: they are no evidence."""
    scope = Scope(pairing.workspace, pairing.environment, pairing.model)
    named = [metric for metric in pairing.metrics if not (world.clock.replay and metric in LATENCIES)]
    declared = [one for one in pairing.declared if one.name in named]
    directions = {one.name: one.direction for one in declared}
    measures = {one.name: one.expression for one in declared if one.expression is not None}
    installed = {one.name: _installed(world, one.entry_point) for one in declared if one.entry_point is not None}
    span = Span(start, start + pairing.block)
    asked = Comparison(reference=pairing.reference, compared=pairing.compared, slices=pairing.slices, measures=measures)
    if pairing.mode is spec.AnalysisMode.SPLIT:
        split = world.log.split(scope, span, asked, as_of=now, drawn_since=pairing.since)
        return compare_split(split, named, directions, installed)
    pairs = world.log.paired(scope, span, asked, as_of=now)
    return compare_pairs(pairs, named, directions, installed)


def _installed(world: World, name: str) -> Measure:
    """What an entry point offers. One that is gone, or fails to import, raises where it would measure."""
    try:
        if name not in world.metrics:
            raise MetricError(f"no metric {name!r} is installed here any more")
        return world.metrics[name].load()
    except MetricError as error:
        missing = error

        def raises(_scores: object, _labels: object, /) -> float:
            raise missing

        return raises


def sums_of(block: PairBlock) -> Sums | None:
    """What a stored block adds to a ratio; None where its metric is none, or no sums were kept yet."""
    if block.numerator_compared is None or block.denominator_compared is None:
        return None
    if block.numerator_reference is None or block.denominator_reference is None:
        return None
    return Sums(
        numerator=block.numerator_compared,
        denominator=block.denominator_compared,
        numerator_reference=block.numerator_reference,
        denominator_reference=block.denominator_reference,
        share=(block.n_compared or 0) / block.n if block.mode == spec.AnalysisMode.SPLIT else None,
    )


def differences(metric: str, blocks: Sequence[PairBlock]) -> BlockDifferences:
    """Stored blocks in the shape the judging functions take."""
    judged = judged_harms(metric, [block.harm for block in blocks], [sums_of(block) for block in blocks])
    return BlockDifferences(
        metric=metric,
        blocks=tuple(block.block.date().isoformat() for block in blocks),
        harms=judged.values,
        counted=judged.counted,
        candidate=tuple(block.value_compared for block in blocks),
        reference=tuple(block.value_reference for block in blocks),
        rows=tuple(block.n for block in blocks),
        skipped=(),
    )
