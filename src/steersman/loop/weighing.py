"""From kept evidence to a verdict: first whether the comparison is one at all, then harm, then each slice.

The order matters. Where the router drew other shares than it was told, or one arm's labels are missing, whatever was
measured compares two different populations: that is an error, whatever the metric says. And what nobody measured is never
a pass: an arm without labels, a column the log does not have, a metric whose expression does not fit the columns.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from steersman.decide.judging import (
    BlockEvidence,
    judge_assignment,
    judge_coverage,
    judge_evidence,
    judge_slices,
)
from steersman.decide.judging import share_of_alpha as shared
from steersman.domain import spec
from steersman.domain.measurable import needs_labels
from steersman.domain.metrics import HARM_RANGES, LATENCIES
from steersman.domain.verdicts import Doubt, NUnit, Outcome, Verdict
from steersman.loop.observer import Pairing, sums_of
from steersman.loop.provenance import code_digest
from steersman.stats.performance import BLOCK_ROWS_MIN
from steersman.store.records import Cohort, PairBlock
from steersman.store.transaction import Transaction

COVERAGE_GAP_TOLERATED = 0.005
"""Difference of coverage between the arms that is let pass: half a point. A replica that is started again leaves a few
requests without an answer, and over enough requests any difference is a sure one."""


def weigh(tx: Transaction, pairing: Pairing, metric: str, judged: spec.Analysis | spec.Bake) -> Verdict:
    """The verdict over all blocks of a pairing known by now, in one metric."""
    cohorts = cohorts_of(tx, pairing)
    whole = [cohort for cohort in cohorts if not cohort.slice]
    verdict = _doubt(pairing, metric, judged, whole) or _harm(tx, pairing, metric, judged, cohorts)
    margin = judged.margin if verdict.margin is None else verdict.margin
    data = _digest_of(cohorts, judged) if whole else None
    return replace(verdict, metric=metric, margin=margin, data=data, code=code_digest())


def cohorts_of(tx: Transaction, pairing: Pairing) -> list[Cohort]:
    """What the comparison's blocks are about, oldest first: all requests (slice ""), and each slice."""
    return tx.evidence.cohorts(
        pairing.workspace,
        pairing.environment,
        pairing.model,
        reference=pairing.reference,
        compared=pairing.compared,
        since=pairing.since,
        mode=str(pairing.mode),
    )


def _doubt(pairing: Pairing, metric: str, judged: spec.Analysis | spec.Bake, whole: Sequence[Cohort]) -> Verdict | None:
    """Why nothing may be concluded from this comparison; None where it is sound, or has not begun."""
    if pairing.mode is spec.AnalysisMode.SPLIT:
        mismatch = next((v for v in _assignments(whole) if v.outcome is Outcome.ERROR), None)
        if mismatch is not None:
            return _undecided(metric, mismatch, Doubt.SPLIT)
    if needs_labels(metric, pairing.declared):
        coverage = _coverage(whole, judged)
        if coverage is not None and coverage.outcome is not Outcome.SUCCESSFUL:
            return _undecided(metric, coverage, Doubt.LABELS)
    return None


def doubt(tx: Transaction, pairing: Pairing, judged: spec.Analysis | spec.Bake) -> Verdict | None:
    """Why nothing may be concluded by now in at least one of the step's metrics; None where nothing is in doubt."""
    whole = [cohort for cohort in cohorts_of(tx, pairing) if not cohort.slice]
    found = (_doubt(pairing, metric, judged, whole) for metric in judged.metrics)
    return next((verdict for verdict in found if verdict is not None), None)


def checks(tx: Transaction, pairing: Pairing, judged: spec.Analysis | spec.Bake) -> tuple[Verdict, ...]:
    """What is judged of the comparison itself before harm counts: shares drawn (a split), and labels of both arms."""
    whole = [cohort for cohort in cohorts_of(tx, pairing) if not cohort.slice]
    drawn = tuple(_assignments(whole)) if pairing.mode is spec.AnalysisMode.SPLIT else ()
    labelled = any(needs_labels(metric, pairing.declared) for metric in judged.metrics)
    coverage = _coverage(whole, judged) if labelled else None
    return drawn if coverage is None else (*drawn, coverage)


def _coverage(whole: Sequence[Cohort], judged: spec.Analysis | spec.Bake) -> Verdict | None:
    """Whether labels came, and came alike; None before anything matured."""
    if not any(c.matured_reference or c.matured_compared for c in whole):
        return None
    matured = {"stable": sum(c.matured_reference for c in whole), "candidate": sum(c.matured_compared for c in whole)}
    labelled = {
        "stable": sum(c.labelled_reference for c in whole),
        "candidate": sum(c.labelled_compared for c in whole),
    }
    shares = [labelled[arm] / matured[arm] for arm in matured if matured[arm]]
    if len(shares) == len(matured) and max(shares) - min(shares) <= COVERAGE_GAP_TOLERATED:
        matured, labelled = {"requests": sum(matured.values())}, {"requests": sum(labelled.values())}
    return judge_coverage(matured, labelled, coverage_min=judged.coverage_min)


def _assignments(whole: Sequence[Cohort]) -> Iterable[Verdict]:
    """The sample-ratio check, for each weight by itself: shares of different steps are never pooled."""
    for share in sorted({round(cohort.share, 6) for cohort in whole if cohort.share > 0.0}):
        drawn = [cohort for cohort in whole if round(cohort.share, 6) == share]
        yield judge_assignment(
            {"stable": sum(c.drawn_reference for c in drawn), "candidate": sum(c.drawn_compared for c in drawn)},
            {"stable": 1.0 - share, "candidate": share},
        )


def _undecided(metric: str, found: Verdict, doubt: Doubt) -> Verdict:
    """A verdict about the comparison instead of about harm: it has no estimate, so nothing can be promoted on it."""
    return Verdict(
        outcome=found.outcome,
        because=f"{metric}: {found.because}",
        metric=metric,
        n=found.n,
        n_unit="requests",
        method=found.method,
        doubt=doubt,
    )


def _harm(
    tx: Transaction, pairing: Pairing, metric: str, judged: spec.Analysis | spec.Bake, cohorts: Sequence[Cohort]
) -> Verdict:
    whole = [cohort for cohort in cohorts if not cohort.slice]
    slices, missing = _slices(pairing, metric, judged, cohorts)
    if missing:
        because = f"{metric}: slices of {', '.join(missing)} cannot be judged, the log has no such input column"
        return Verdict(outcome=Outcome.ERROR, because=because, metric=metric)
    raised = _raised(tx, pairing, metric, slices)
    if raised is not None:
        return Verdict(outcome=Outcome.ERROR, because=f"{metric}: {raised}", metric=metric)
    blocks = blocks_of(tx, pairing, metric)
    ripe = sum(min(c.labelled_reference, c.labelled_compared) >= BLOCK_ROWS_MIN for c in whole)
    if not blocks and metric in LATENCIES and ripe:
        because = f"{metric}: not measured, a replay's latencies are those of the machine that replays"
        return Verdict(outcome=Outcome.ERROR, because=because, metric=metric)
    if not blocks and ripe >= judged.blocks_min:
        because = f"{metric}: could not be measured in any of {ripe} blocks, though they have scores and labels"
        return Verdict(outcome=Outcome.ERROR, because=because, metric=metric)
    parts = _parts(tx, pairing, metric, judged, slices)
    return judge_slices(parts, metric=metric) if slices else parts[""]


def _raised(tx: Transaction, pairing: Pairing, metric: str, slices: Sequence[str]) -> str | None:
    """What a metric of an installed distribution raised where it is judged; such a block is never measured again."""
    if not any(one.name == metric and one.entry_point is not None for one in pairing.declared):
        return None
    found = tx.evidence.unmeasured(
        pairing.workspace,
        pairing.environment,
        pairing.model,
        reference=pairing.reference,
        compared=pairing.compared,
        metric=metric,
        since=pairing.since,
        mode=str(pairing.mode),
    )
    judged = [one for one in found if one.slice in ("", *slices)]
    if not judged:
        return None
    first, blocks = judged[0], len({one.block for one in judged})
    where = f" ({first.slice})" if first.slice else ""
    times = "in one block" if blocks == 1 else f"in {blocks} blocks, first"
    return f"it raised {times} {first.block.date().isoformat()}{where}: {first.because}"


def by_slice(tx: Transaction, pairing: Pairing, metric: str, judged: spec.Analysis | spec.Bake) -> dict[str, Verdict]:
    """Harm over all requests ("") and in each slice that has rows enough, as `weigh` judges them."""
    slices, _ = _slices(pairing, metric, judged, cohorts_of(tx, pairing))
    return _parts(tx, pairing, metric, judged, slices)


def share_of_alpha(judged: spec.Analysis | spec.Bake, parts: int) -> float:
    """What each bound of one metric in one of `parts` (all requests, and each slice) may be wrong with."""
    return shared(judged.alpha, metrics=len(judged.metrics), parts=parts)


def _parts(
    tx: Transaction, pairing: Pairing, metric: str, judged: spec.Analysis | spec.Bake, slices: Sequence[str]
) -> dict[str, Verdict]:
    alpha = share_of_alpha(judged, 1 + len(slices))
    slice_margin = judged.margin if judged.slice_margin is None else judged.slice_margin
    parts = {}
    for name in ("", *slices):
        margin = slice_margin if name else judged.margin
        parts[name] = judge_blocks(metric, judged, blocks_of(tx, pairing, metric, name), margin=margin, alpha=alpha)
    return parts


def _slices(
    pairing: Pairing, metric: str, judged: spec.Analysis | spec.Bake, cohorts: Sequence[Cohort]
) -> tuple[list[str], list[str]]:
    """Slices with enough rows to be judged, and columns that were declared and are in no row."""
    labelled = needs_labels(metric, pairing.declared)
    split = pairing.mode is spec.AnalysisMode.SPLIT
    rows: dict[str, int] = {}
    for cohort in cohorts:
        ours = cohort.labelled_compared if labelled else cohort.matured_compared
        theirs = cohort.labelled_reference if labelled else cohort.matured_reference
        rows[cohort.slice] = rows.get(cohort.slice, 0) + (ours + theirs if split else min(ours, theirs))
    found = {column: [name for name in rows if name.startswith(f"{column}=")] for column in judged.slices}
    missing = [column for column, names in found.items() if not names and rows.get("", 0)]
    rows_min = judged.slice_rows_min or spec.ROWS_MIN_DEFAULT
    enough = [name for names in found.values() for name in sorted(names) if rows[name] >= rows_min]
    return enough, missing


def judge_blocks(
    metric: str, judged: spec.Analysis | spec.Bake, blocks: Sequence[PairBlock], *, margin: float, alpha: float
) -> Verdict:
    """Harm over some blocks, by the rule of the step that asks."""
    evidence = [BlockEvidence(harm=block.harm, n=block.n, spread=block.spread, sums=sums_of(block)) for block in blocks]
    # Weighted requests of a split have no range that would help.
    split = isinstance(judged, spec.Analysis) and judged.mode is spec.AnalysisMode.SPLIT
    n_unit: NUnit = "days" if judged.block.days == 1 else "blocks"
    return judge_evidence(
        evidence,
        metric=metric,
        margin=margin,
        unit=judged.unit,
        blocks_min=judged.blocks_min,
        rows_min=judged.rows_min or spec.ROWS_MIN_DEFAULT,
        harm_range=None if split else HARM_RANGES.get(metric),
        alpha=alpha,
        n_unit=n_unit,
    )


def blocks_of(tx: Transaction, pairing: Pairing, metric: str, slice_of: str = "") -> list[PairBlock]:
    """The comparison's blocks in one metric, oldest first: of all requests, or of one slice."""
    return tx.evidence.pair_blocks(
        pairing.workspace,
        pairing.environment,
        pairing.model,
        reference=pairing.reference,
        compared=pairing.compared,
        metric=metric,
        since=pairing.since,
        mode=str(pairing.mode),
        slice_of=slice_of,
    )


def _digest_of(cohorts: Sequence[Cohort], judged: spec.Analysis | spec.Bake) -> str:
    """Over the digests of the blocks it rests on, in order; slices are parts of the same rows."""
    named = [c for c in cohorts if not c.slice or c.slice.partition("=")[0] in judged.slices]
    text = "\n".join(f"{cohort.block.isoformat()} {cohort.slice} {cohort.digest}" for cohort in named)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
