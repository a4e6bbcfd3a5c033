"""Rules that judge a simulated release, looking after every single request: ours, and two that are in use elsewhere.

Ours are the product's own functions: bounds of all looks come from `row_bounds` and `aipw_scores` at once, and the look
at which they first decide is then put to `judge_evidence` itself, as is the look before it. If the two disagree the
benchmark stops.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from simulating.worlds import BASE, MARGIN, RATIO_MARGIN, Floats, Signs, Split
from steersman.decide.judging import (
    BLOCKS_MIN,
    ROWS_MIN,
    BlockEvidence,
    judge_assignment,
    judge_evidence,
    judge_paired,
    row_bounds,
)
from steersman.domain.metrics import HARM_RANGES
from steersman.domain.spec import EvidenceUnit
from steersman.domain.verdicts import Outcome, Verdict
from steersman.stats.bounded import log_wealth_below
from steersman.stats.ratios import Sums
from steersman.stats.sequences import SPREAD_FLOOR, asymptotic_radii
from steersman.stats.splitting import aipw_scores, design_spread, split_block

METRIC = "accuracy"
SCORE = "brier"
BLOCK = 500
"""Requests of a block where requests are judged as rows, and between two looks of the rules of others."""

ROWS_FEW = 100
"""`rowsMin` where few requests are judged: the smallest a document may ask for."""

ALPHA = 0.05
ASSIGNMENT_LOOKS = 500
THRESHOLD_LOOKS = 10
"""Looks after which the fixed threshold promotes."""

Z = 1.96


@dataclass(slots=True)
class Decisions:
    """What became of releases: by outcome, and at which n (requests or days) the decided ones were."""

    outcomes: list[Outcome] = field(default_factory=list)
    looks: list[int] = field(default_factory=list)
    cap: int = 0

    def add(self, outcome: Outcome, look: int) -> None:
        self.outcomes.append(outcome)
        self.looks.append(look)

    def extend(self, other: Decisions) -> None:
        self.outcomes += other.outcomes
        self.looks += other.looks
        self.cap = max(self.cap, other.cap)

    def count(self, outcome: Outcome) -> int:
        return self.outcomes.count(outcome)

    @property
    def n(self) -> int:
        return len(self.outcomes)

    @property
    def median(self) -> int | None:
        """Median n at the decision, undecided releases later than all others; None if most are undecided."""
        undecided = (Outcome.INCONCLUSIVE, Outcome.ERROR)
        looks = sorted(
            self.cap + 1 if outcome in undecided else look
            for outcome, look in zip(self.outcomes, self.looks, strict=True)
        )
        middle = looks[(len(looks) - 1) // 2]
        return middle if middle <= self.cap else None


def sequence_over_pairs(harms: Signs) -> Decisions:
    """Paired shadow, requests as rows."""
    n = np.arange(1, harms.shape[1] + 1)
    total = np.cumsum(harms, axis=1, dtype=np.int32)
    squares = np.cumsum(np.abs(harms), axis=1, dtype=np.int32)  # of −1, 0 and 1
    mean = total / n
    sd = np.sqrt(np.maximum(squares - n * mean**2, 0.0) / np.maximum(n - 1, 1))

    def evidence(release: int, n: int) -> list[BlockEvidence]:
        return [_pair_block(harms[release, start : min(start + BLOCK, n)]) for start in range(0, n, BLOCK)]

    return _decide(n, mean, sd, evidence)


def _pair_block(harms: Signs | Floats) -> BlockEvidence:
    return BlockEvidence(
        harm=float(harms.mean()), n=len(harms), spread=float(harms.std(ddof=1)) if len(harms) > 1 else 0.0
    )


def sequence_over_split(seen: Split) -> Decisions:
    """Split, requests as rows, scored with the logged probabilities; the sample ratio is checked first."""
    wrong = seen.wrong.astype(np.float64)
    n = np.arange(1, wrong.shape[1] + 1)
    scores = aipw_scores(wrong, seen.candidate, seen.weight)
    mean = np.cumsum(scores, axis=1) / n
    seen_sd = np.sqrt(np.maximum(np.cumsum(scores**2, axis=1) - n * mean**2, 0.0) / np.maximum(n - 1, 1))
    rate = np.cumsum(wrong, axis=1) / n
    inflation = np.cumsum(design_spread(1.0, seen.weight) ** 2) / n
    sd = np.maximum(seen_sd, np.sqrt((rate - rate**2) * inflation))

    def evidence(release: int, n: int) -> list[BlockEvidence]:
        block = split_block(wrong[release, :n], seen.candidate[release, :n], seen.weight[:n])
        return [BlockEvidence(harm=block.harm, n=block.n, spread=block.spread)]

    decided = _decide(n, mean, sd, evidence)
    for release in range(len(wrong)):
        if _mismatched(seen, release, decided.looks[release]):
            decided.outcomes[release] = Outcome.ERROR
    return decided


def _mismatched(seen: Split, release: int, until: int) -> bool:
    """Whether the sample-ratio check ever complained before the decision, each stretch of constant weight by itself."""
    edges = [0, *(np.flatnonzero(np.diff(seen.weight)) + 1).tolist(), until]
    for start, end in itertools.pairwise(edges):
        share = float(seen.weight[start])
        arms = np.cumsum(seen.candidate[release, start : min(end, until)])
        for n in (*range(ASSIGNMENT_LOOKS, len(arms), ASSIGNMENT_LOOKS), len(arms)):
            if n and ratio_mismatch(int(arms[n - 1]), n, share):
                return True
    return False


def ratio_mismatch(candidate: int, n: int, share: float) -> bool:
    counts = {"candidate": candidate, "stable": n - candidate}
    return judge_assignment(counts, {"candidate": share, "stable": 1.0 - share}).outcome is Outcome.ERROR


def _decide(
    n: NDArray[np.int64], mean: Floats, sd: Floats, evidence: Callable[[int, int], list[BlockEvidence]]
) -> Decisions:
    lower, upper = row_bounds(n, mean, sd, metric=METRIC, margin=MARGIN)
    return _put(n, upper < MARGIN, lower > MARGIN, evidence, _judge)


def sequence_over_few(harms: Floats) -> Decisions:
    """Paired shadow, requests as rows of a score within 0..1, judged from `ROWS_FEW` of them on."""
    n, mean, sd = _sums(harms)
    low, high = HARM_RANGES[SCORE]
    limit = -math.log(ALPHA / 2)
    better = log_wealth_below(n, mean, sd, MARGIN, low=low, high=high) >= limit
    worse = log_wealth_below(n, -mean, sd, -MARGIN, low=-high, high=-low) >= limit
    lower, upper = row_bounds(n, mean, sd, metric=SCORE, margin=MARGIN, alpha=ALPHA / 2)
    few, seen = n < ROWS_MIN, n >= ROWS_FEW

    def evidence(release: int, n: int) -> list[BlockEvidence]:
        return [_pair_block(harms[release, start : min(start + BLOCK, n)]) for start in range(0, n, BLOCK)]

    def judge(blocks: Sequence[BlockEvidence]) -> Verdict:
        return judge_evidence(
            blocks,
            metric=SCORE,
            margin=MARGIN,
            unit=EvidenceUnit.ROW,
            rows_min=ROWS_FEW,
            harm_range=HARM_RANGES[SCORE],
            alpha=ALPHA,
        )

    passed = np.where(few, better & seen, upper < MARGIN)
    return _put(n, passed, np.where(few, worse & seen, lower > MARGIN), evidence, judge)


def asymptotic_over_few(harms: Floats) -> Decisions:
    """The asymptotic sequence alone, from `ROWS_FEW` requests on."""
    n, mean, sd = _sums(harms)
    radius = asymptotic_radii(n, alpha=ALPHA, sides=1) * np.maximum(sd, SPREAD_FLOOR * MARGIN)
    radius = np.where(n >= ROWS_FEW, radius, np.inf)
    found = Decisions(cap=int(n[-1]))
    passed, failed = mean + radius < MARGIN, mean - radius > MARGIN
    for release, column in enumerate(_first(passed | failed).tolist()):
        decided = Outcome.SUCCESSFUL if passed[release, column] else Outcome.FAILED
        found.add(decided if column >= 0 else Outcome.INCONCLUSIVE, int(n[column]))
    return found


def _sums(harms: Floats) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Running count, mean and standard deviation of each release."""
    n = np.arange(1, harms.shape[1] + 1)
    mean = np.cumsum(harms, axis=1) / n
    sd = np.sqrt(np.maximum(np.cumsum(harms**2, axis=1) - n * mean**2, 0.0) / np.maximum(n - 1, 1))
    return n, mean, sd


def sequence_over_sums(days: NDArray[np.int64]) -> tuple[Decisions, Decisions]:
    """Precision by the sums of all days, and by the mean of the days' own ratios; looked at after each day."""
    by_sums, by_days = Decisions(cap=days.shape[1]), Decisions(cap=days.shape[1])
    for release in days.tolist():
        blocks = [
            BlockEvidence(
                harm=theirs / max(of, 1) - hits / max(named, 1),
                n=named + of,
                spread=None,
                sums=Sums(numerator=hits, denominator=named, numerator_reference=theirs, denominator_reference=of),
            )
            for hits, named, theirs, of in release
            if named or of
        ]
        for found, known in ((by_sums, blocks), (by_days, [replace(block, sums=None) for block in blocks])):
            outcome, look = Outcome.INCONCLUSIVE, len(known)
            for n in range(BLOCKS_MIN, len(known) + 1):
                outcome = judge_evidence(known[:n], metric="precision", margin=RATIO_MARGIN, alpha=ALPHA).outcome
                if outcome is not Outcome.INCONCLUSIVE:
                    look = n
                    break
            found.add(outcome, look)
    return by_sums, by_days


def _put(
    n: NDArray[np.int64],
    passed: NDArray[np.bool_],
    failed: NDArray[np.bool_],
    evidence: Callable[[int, int], list[BlockEvidence]],
    judge: Callable[[Sequence[BlockEvidence]], Verdict],
) -> Decisions:
    """The deciding look of each release and the one before it, put to the product's own judge."""
    first = _first(passed | failed)
    found = Decisions(cap=int(n[-1]))
    for release, column in enumerate(first.tolist()):
        look = int(n[column]) if column >= 0 else int(n[-1])
        verdict = judge(evidence(release, look))
        expected = Outcome.INCONCLUSIVE
        if column >= 0:
            expected = Outcome.SUCCESSFUL if passed[release, column] else Outcome.FAILED
            before = judge(evidence(release, look - 1)).outcome
            _agree(before in (Outcome.INCONCLUSIVE, Outcome.ERROR), release, look - 1, before)
        _agree(verdict.outcome in (expected, Outcome.ERROR), release, look, verdict.outcome)
        found.add(verdict.outcome, look)
    return found


def _judge(evidence: Sequence[BlockEvidence]) -> Verdict:
    return judge_evidence(evidence, metric=METRIC, margin=MARGIN, unit=EvidenceUnit.ROW)


def _agree(agreed: bool, release: int, n: int, outcome: Outcome) -> None:
    if not agreed:
        raise AssertionError(f"release {release} at n={n}: judge_evidence says {outcome}, its bounds say otherwise")


def _first(decided: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The first column that is true, −1 where none is."""
    return np.where(decided.any(axis=1), np.argmax(decided, axis=1), -1)


def sequence_over_days(harms: Sequence[Sequence[float]], *, margin: float = MARGIN, metric: str = METRIC) -> Decisions:
    """One row of day harms a release, judged by `judge_paired` after each day."""
    found = Decisions()
    for days in harms:
        found.cap = max(found.cap, len(days))
        outcome, look = Outcome.INCONCLUSIVE, len(days)
        for n in range(BLOCKS_MIN, len(days) + 1):
            outcome = judge_paired(days[:n], margin=margin, metric=metric).outcome
            if outcome is not Outcome.INCONCLUSIVE:
                look = n
                break
        found.add(outcome, look)
    return found


def days_of_pairs(harms: Signs, a_day: int) -> list[list[float]]:
    means: list[list[float]] = harms.reshape(len(harms), -1, a_day).mean(axis=2).tolist()
    return means


def days_of_split(seen: Split, a_day: int) -> list[list[float]]:
    scores = aipw_scores(seen.wrong.astype(np.float64), seen.candidate, seen.weight)
    means: list[list[float]] = scores.reshape(len(scores), -1, a_day).mean(axis=2).tolist()
    return means


def rows_declared_independent(harms: Signs, a_day: int) -> Decisions:
    """Requests judged as rows although those of a day share a shock; looked at after each day."""
    found = Decisions(cap=harms.shape[1])
    for release in harms:
        blocks: list[BlockEvidence] = []
        outcome = Outcome.INCONCLUSIVE
        for start in range(0, len(release), a_day):
            blocks.append(_pair_block(release[start : start + a_day]))
            outcome = _judge(blocks).outcome
            if outcome is not Outcome.INCONCLUSIVE:
                break
        found.add(outcome, len(blocks) * a_day)
    return found


def fixed_threshold(candidate: Floats, stable: Floats, every: int = BLOCK) -> Decisions:
    """Error rates of each look's own requests: any look with more than the margin between them rolls back, ten promote."""
    over = (candidate[:, :THRESHOLD_LOOKS] - stable[:, :THRESHOLD_LOOKS]) > MARGIN
    first = _first(over)
    found = Decisions(cap=THRESHOLD_LOOKS * every)
    for look in first.tolist():
        if look >= 0:
            found.add(Outcome.FAILED, (look + 1) * every)
        else:
            found.add(Outcome.SUCCESSFUL, found.cap)
    return found


def repeated_z(difference: Floats, error: Floats, every: int = BLOCK) -> Decisions:
    """A 95 % interval of one look, at every look: rolls back when it lies above zero, promotes when below the margin."""
    worse, good = difference - Z * error > 0, difference + Z * error < MARGIN
    first = _first(worse | good)
    found = Decisions(cap=difference.shape[1] * every)
    for release, look in enumerate(first.tolist()):
        if look < 0:
            found.add(Outcome.INCONCLUSIVE, found.cap)
        else:
            found.add(Outcome.FAILED if worse[release, look] else Outcome.SUCCESSFUL, (look + 1) * every)
    return found


def others_on_pairs(harms: Signs, base: float = BASE) -> tuple[Decisions, Decisions]:
    """The fixed threshold on a shadow's differences, and repeated z-tests on them."""
    looks = harms.shape[1] // BLOCK
    by_look = harms[:, : looks * BLOCK].reshape(len(harms), looks, BLOCK)
    mean = by_look.mean(axis=2, dtype=np.float64)
    n = BLOCK * np.arange(1, looks + 1)
    total = np.cumsum(mean, axis=1) * BLOCK / n
    squares = np.cumsum(np.abs(by_look).sum(axis=2), axis=1)
    error = np.sqrt(np.maximum(squares / n - total**2, 1.0 / n) / n)
    return fixed_threshold(mean + base, np.full_like(mean, base)), repeated_z(total, error)


def others_on_split(seen: Split) -> tuple[Decisions, Decisions]:
    """The fixed threshold on the arms' error rates, and repeated z-tests on all requests so far, pooled over steps."""
    looks = seen.wrong.shape[1] // BLOCK
    shape = (len(seen.wrong), looks, BLOCK)
    wrong, mine = (array[:, : looks * BLOCK].reshape(shape) for array in (seen.wrong, seen.candidate))
    counts = [arm.sum(axis=2).astype(np.float64) for arm in (mine, ~mine)]
    errors = [(wrong & arm).sum(axis=2).astype(np.float64) for arm in (mine, ~mine)]
    rates = [e / np.maximum(c, 1.0) for e, c in zip(errors, counts, strict=True)]
    pooled_n = [np.maximum(np.cumsum(c, axis=1), 1.0) for c in counts]
    pooled = [np.cumsum(e, axis=1) / n for e, n in zip(errors, pooled_n, strict=True)]
    error = np.sqrt(sum(np.maximum(p * (1 - p), 1.0 / n) / n for p, n in zip(pooled, pooled_n, strict=True)))
    return fixed_threshold(rates[0], rates[1]), repeated_z(pooled[0] - pooled[1], error)


def labels_so_far(seen: Split, delays_days: NDArray[np.float32], a_day: int, base: float) -> Decisions:
    """The candidate's error rate among the labels that have come against the stable version's known one."""
    looks = seen.wrong.shape[1] // BLOCK
    arrived = np.arange(seen.wrong.shape[1]) / a_day
    difference, error = np.zeros((len(seen.wrong), looks)), np.full((len(seen.wrong), looks), np.inf)
    for look in range(looks):
        until = (look + 1) * BLOCK
        known = seen.candidate[:, :until] & (arrived[:until] + delays_days[:, :until] <= until / a_day)
        n = np.maximum(known.sum(axis=1), 1)
        rate = (known & seen.wrong[:, :until]).sum(axis=1) / n
        difference[:, look] = rate - base
        error[:, look] = np.sqrt(np.maximum(rate * (1 - rate), 1.0 / n) / n)
    return repeated_z(difference, error)
