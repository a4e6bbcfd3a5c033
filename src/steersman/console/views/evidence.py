"""The evidence of one release, step by step: what its analyses and its bake were judged on, and by which rule."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from steersman.console.views.verdicts import Evidence, SliceView, VerdictView, evidence, present_view
from steersman.decide.explaining import WHEN_UNDECIDED
from steersman.decide.steps import steps_of
from steersman.domain import spec
from steersman.domain.events import Action
from steersman.domain.release import Opened, Release
from steersman.domain.verdicts import Outcome
from steersman.ledger.entry import Entry
from steersman.loop.gathering import pairing_of
from steersman.loop.observer import Pairing
from steersman.loop.weighing import blocks_of, by_slice, checks, cohorts_of, judge_blocks, share_of_alpha, weigh
from steersman.store.records import Cohort
from steersman.store.transaction import Transaction

BAKE_UNDECIDED = "the release is finished when the labels of the bake have had their horizon too"
"""What becomes of a bake that was not decided when its time is over."""

WORST_FIRST = (Outcome.FAILED, Outcome.ERROR, Outcome.INCONCLUSIVE, Outcome.SUCCESSFUL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """Evidence of every judged step, and what was judged of the comparisons themselves."""

    evidence: tuple[Evidence, ...]
    checks: tuple[VerdictView, ...]


def judging(
    tx: Transaction, release: Release, model: spec.Model, verdicts: Sequence[VerdictView], entries: Iterable[Entry]
) -> Judging:
    """`verdicts` are those kept with the release, `entries` its part of the ledger."""
    policy = model.spec.environments.get(release.environment, spec.EnvironmentPolicy())
    if release.previous is None or release.opened is Opened.ROLLBACK:
        return Judging(evidence=(), checks=())
    begun = (entry for entry in entries if entry.action == Action.STEP_STARTED)
    started = {int(str(entry.data["step"])): entry.at for entry in begun}
    found: list[Evidence] = []
    sound: list[VerdictView] = []
    for index, step in enumerate(steps_of(policy, release)):
        if not isinstance(step, spec.Analysis | spec.Bake):
            continue
        since, until = _span(release, step, index, started)
        if since is None:
            continue
        pairing = pairing_of(release, step, since, model.spec.metrics)
        sound += [
            present_view(verdict, kind="check", name=str(verdict.because).partition(":")[0], step=index, at=since)
            for verdict in checks(tx, pairing, step)
        ]
        cohorts = {cohort.block: cohort for cohort in cohorts_of(tx, pairing) if not cohort.slice}
        told = [_told(tx, pairing, step, metric, index, until, cohorts) for metric in step.metrics]
        kept = {v.name: v for v in verdicts if v.step == index and v.kind in ("analysis", "bake")}
        found += [
            _concluded(one, kept[one.metric]) if one.metric in kept else _so_far(tx, pairing, step, one)
            for one in told
            if one is not None
        ]
    return Judging(evidence=tuple(found), checks=tuple(sound))


def _span(
    release: Release, step: spec.Analysis | spec.Bake, index: int, started: Mapping[int, datetime]
) -> tuple[datetime | None, datetime | None]:
    """When a step began to count, and when what came after it began; None where it has not."""
    if isinstance(step, spec.Bake):
        return release.promoted_at, release.closed_at
    later = [at for other, at in started.items() if other > index]
    if release.promoted_at is not None:
        later.append(release.promoted_at)
    return started.get(index), min(later, default=None)


def _told(
    tx: Transaction,
    pairing: Pairing,
    step: spec.Analysis | spec.Bake,
    metric: str,
    index: int,
    until: datetime | None,
    cohorts: Mapping[datetime, Cohort],
) -> Evidence | None:
    blocks = [block for block in blocks_of(tx, pairing, metric) if until is None or block.block < until]
    if not blocks:
        return None
    parts = by_slice(tx, pairing, metric, step)
    rule = partial(judge_blocks, metric, step, margin=step.margin, alpha=share_of_alpha(step, len(parts)))
    bakes = isinstance(step, spec.Bake)
    found = evidence(
        "bake" if bakes else "analysis",
        metric,
        blocks,
        rule,
        cohorts=cohorts,
        margin=step.margin,
        blocks_min=step.blocks_min,
        block=step.block,
        step=index,
    )
    slices = [
        SliceView(name=name, verdict=present_view(part, kind="slice", name=name, step=index, at=blocks[-1].block))
        for name, part in parts.items()
        if name
    ]
    slices.sort(key=lambda view: (WORST_FIRST.index(Outcome(view.verdict.outcome)), -(view.verdict.estimate or 0.0)))
    if isinstance(step, spec.Bake):
        ends_at, otherwise = pairing.since + step.duration, BAKE_UNDECIDED
    else:
        ends_at, otherwise = pairing.since + step.duration_max, WHEN_UNDECIDED[step.when_inconclusive]
    return replace(found, slices=tuple(slices), otherwise=otherwise, ends_at=ends_at, mode=str(pairing.mode))


def _concluded(told: Evidence, kept: VerdictView) -> Evidence:
    """With the verdict the step was concluded on, which later blocks do not change."""
    decided = kept.n if kept.n_unit in ("days", "blocks") else None
    return replace(told, verdict=kept, decided=decided, otherwise="")


def _so_far(tx: Transaction, pairing: Pairing, step: spec.Analysis | spec.Bake, told: Evidence) -> Evidence:
    """With what the step would be judged by now: its slices count too, and whether the comparison is one at all."""
    now = weigh(tx, pairing, told.metric, step)
    verdict = present_view(now, kind=told.verdict.kind, name=told.metric, step=told.verdict.step, at=told.verdict.at)
    return replace(told, verdict=verdict)
