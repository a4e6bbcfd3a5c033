"""Looks at what was answered and what turned out true, once per closed block, and keeps the evidence.

Evidence is written once: a block (a day, as a rule) is judged when it is over and its labels have had their horizon; a
label corrected later changes tables, not verdicts already given. Which comparisons are needed follows from the releases
and monitors of the moment, so a crash between two blocks loses nothing: the next look finds the same blocks missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from steersman.domain.release import Release
from steersman.loop.world import World
from steersman.stats.performance import BlockDifferences, paired_blocks
from steersman.store.records import PairBlock
from steersman.store.transaction import Transaction

BLOCKS_PER_LOOK_MAX = 400
"""Most blocks one look catches up on: a year of days after a long standstill; the next look takes the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Two versions that answered the same requests from `since` on; harm is that of `compared` against `reference`."""

    workspace: str
    environment: str
    model: str
    reference: str
    compared: str
    metrics: tuple[str, ...]
    block: timedelta
    since: datetime


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
        known = {metric: _known(tx, pairing, metric) for metric in pairing.metrics}
        mark = tx.monitor_state(pairing.workspace, pairing.model, pairing.environment, _name(pairing), Mark)
    added = False
    for count, start in enumerate(blocks_between(pairing.since, now - horizon, pairing.block)):
        if count >= BLOCKS_PER_LOOK_MAX:
            break
        if mark is not None and start <= mark.until:
            continue
        blocks = [b for b in _judge(world, pairing, start, now) if start not in known[b.metric]]
        with world.store.write() as tx:
            for block in blocks:
                tx.add_pair_block(block)
            tx.put_monitor_state(
                pairing.workspace, pairing.model, pairing.environment, _name(pairing), Mark(until=start)
            )
        added = True
    return added


def _name(pairing: Pairing) -> str:
    return f"pair/{pairing.reference[7:23]}/{pairing.compared[7:23]}/{','.join(pairing.metrics)}"


def _known(tx: Transaction, pairing: Pairing, metric: str) -> set[datetime]:
    blocks = tx.pair_blocks(
        pairing.workspace,
        pairing.environment,
        pairing.model,
        reference=pairing.reference,
        compared=pairing.compared,
        metric=metric,
        since=pairing.since,
    )
    return {block.block for block in blocks}


def _judge(world: World, pairing: Pairing, start: datetime, now: datetime) -> Sequence[PairBlock]:
    rows = world.log.paired(
        pairing.workspace,
        pairing.environment,
        pairing.model,
        since=start,
        until=start + pairing.block,
        as_of=now,
        reference=pairing.reference,
        compared=pairing.compared,
    )
    judged = []
    for metric in pairing.metrics:
        ids = [start.isoformat()] * len(rows.labels)
        found = paired_blocks(metric, rows.compared, rows.reference, rows.labels, ids) if ids else None
        if found is None or not found.n:
            continue  # a block without enough labelled rows of both classes is no evidence
        judged.append(
            PairBlock(
                workspace=pairing.workspace,
                environment=pairing.environment,
                model=pairing.model,
                reference=pairing.reference,
                compared=pairing.compared,
                metric=metric,
                block=start,
                harm=found.harms[0],
                value_reference=found.reference[0],
                value_compared=found.candidate[0],
                n=found.rows[0],
            )
        )
    return judged


def differences(metric: str, blocks: Sequence[PairBlock]) -> BlockDifferences:
    """Stored blocks in the shape the judging functions take."""
    return BlockDifferences(
        metric=metric,
        blocks=tuple(block.block.date().isoformat() for block in blocks),
        harms=tuple(block.harm for block in blocks),
        candidate=tuple(block.value_compared for block in blocks),
        reference=tuple(block.value_reference for block in blocks),
        rows=tuple(block.n for block in blocks),
        skipped=(),
    )
