"""Few requests, and ratios of rare things: where a short run looks better than it is."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from steersman.decide.judging import ROWS_MIN, BlockEvidence, judge_evidence, row_bounds, share_of_alpha
from steersman.domain.spec import EvidenceUnit
from steersman.domain.verdicts import Outcome, Verdict
from steersman.stats.bounded import log_wealth_below
from steersman.stats.ratios import Sums
from steersman.stats.sequences import asymptotic_radii

MARGIN = 0.02
ROWS_FEW = 100
"""`rowsMin` of these analyses: the smallest a document may ask for."""

Floats = NDArray[np.float64]


def judged(rows: Floats, *, metric: str = "brier", harm_range: tuple[float, float] | None = (-1.0, 1.0)) -> Verdict:
    """Requests cut into days of 200, as they are kept."""
    parts = [rows[start : start + 200] for start in range(0, len(rows), 200)]
    blocks = [BlockEvidence(harm=float(p.mean()), n=len(p), spread=float(p.std(ddof=1))) for p in parts]
    return judge_evidence(
        blocks, metric=metric, margin=MARGIN, unit=EvidenceUnit.ROW, rows_min=ROWS_FEW, harm_range=harm_range
    )


def promoted(rows: Floats) -> NDArray[np.int64]:
    """For each release (a row) after how many requests it is promoted, looked at after each one; 0 where it never is.

    Bounds of all looks at once; the deciding look and the one before it are put to `judge_evidence`, which must agree.
    """
    n = np.arange(1, rows.shape[1] + 1)
    mean = np.cumsum(rows, axis=1) / n
    sd = np.sqrt(np.maximum(np.cumsum(rows**2, axis=1) - n * mean**2, 0.0) / np.maximum(n - 1, 1))
    few = n < ROWS_MIN
    passed = log_wealth_below(n, mean, sd, MARGIN, low=-1, high=1) >= -math.log(0.025)
    _, upper = row_bounds(n, mean, sd, metric="brier", margin=MARGIN, alpha=0.025)
    passed = np.where(few, passed & (n >= ROWS_FEW), upper < MARGIN)
    first = np.where(passed.any(axis=1), np.argmax(passed, axis=1) + 1, 0)
    for release in np.flatnonzero(first)[:20]:
        now, before = (judged(rows[release, :until]) for until in (first[release], first[release] - 1))
        assert (now.outcome, before.outcome) == (Outcome.SUCCESSFUL, Outcome.INCONCLUSIVE)
    return first


def by_the_central_limit(rows: Floats) -> float:
    """Share of releases that the asymptotic sequence alone would promote before 500 requests: what this replaces."""
    n = np.arange(1, ROWS_MIN)
    rows = rows[:, : ROWS_MIN - 1]
    mean = np.cumsum(rows, axis=1) / n
    sd = np.sqrt(np.maximum(np.cumsum(rows**2, axis=1) - n * mean**2, 0.0) / np.maximum(n - 1, 1))
    upper = mean + asymptotic_radii(n, alpha=0.05, sides=1) * np.maximum(sd, 0.25 * MARGIN)
    return float(((upper < MARGIN) & (n >= ROWS_FEW)).any(axis=1).mean())


def test_harm_at_the_margin_that_comes_rarely_passes_within_alpha_although_every_request_is_looked_at() -> None:
    """One request in fifty is as wrong as can be, and 500 others are just alike."""
    rows = (np.random.default_rng(20).random((500, 600)) < MARGIN).astype(np.float64)
    assert np.mean(promoted(rows) > 0) <= 0.05
    assert by_the_central_limit(rows) > 0.12


def test_harm_of_twice_the_margin_hardly_ever_passes() -> None:
    rows = (np.random.default_rng(21).random((500, 600)) < 2 * MARGIN).astype(np.float64)
    assert np.mean(promoted(rows) > 0) <= 0.01


def test_a_good_candidate_passes_with_few_requests() -> None:
    rows = np.random.default_rng(22).choice([-1.0, 0.0, 1.0], p=[0.005, 0.99, 0.005], size=(300, ROWS_MIN - 1))
    found = promoted(rows)
    assert np.mean(found > 0) > 0.4
    assert found.max() < ROWS_MIN


def test_a_terrible_candidate_is_caught_with_few_requests() -> None:
    rows = (np.random.default_rng(23).random(150) < 0.3).astype(np.float64)
    verdict = judged(rows)
    assert verdict.outcome is Outcome.FAILED
    assert verdict.method == "empirical-Bernstein sequence over requests, each bound 97.5%"


def test_from_five_hundred_requests_on_the_method_is_the_asymptotic_one_with_the_other_half_of_alpha() -> None:
    rows = np.random.default_rng(24).normal(0, 0.05, 600)
    assert judged(rows).method == "asymptotic mixture sequence over requests, each bound 97.5%"


def test_few_requests_of_a_metric_without_a_range_are_an_error_that_says_what_to_do() -> None:
    rows = np.random.default_rng(25).normal(0, 0.05, 600)
    few = judged(rows[:300], metric="log_loss", harm_range=None)
    assert few.outcome is Outcome.ERROR
    assert few.because == (
        "log_loss: 300 requests, and below 500 nothing is known of the spread of values without a known range; "
        "leave rowsMin out, or use unit block"
    )
    assert judged(rows, metric="log_loss", harm_range=None).outcome is Outcome.SUCCESSFUL


def test_an_undecided_verdict_over_few_requests_says_how_many_more_it_will_take() -> None:
    rows = np.random.default_rng(26).normal(-0.005, 0.02, 499)
    verdict = judged(rows[:110])
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.needed is not None
    assert 20 < verdict.needed < ROWS_MIN - 110
    assert judged(rows[: 110 + verdict.needed + 60]).outcome is Outcome.SUCCESSFUL


# --- ratios


def days(draw: Callable[[np.random.Generator], tuple[int, int, int, int]], seed: int, count: int = 40) -> list[Sums]:
    rng = np.random.default_rng(seed)
    return [
        Sums(numerator=hit, denominator=named, numerator_reference=theirs, denominator_reference=of)
        for hit, named, theirs, of in (draw(rng) for _ in range(count))
    ]


def by_sums(sums: list[Sums], margin: float) -> Verdict:
    return judge_evidence(evidence(sums), metric="precision", margin=margin)


def evidence(sums: list[Sums]) -> list[BlockEvidence]:
    def share(part: float, whole: float) -> float:
        return part / whole if whole else 0.0

    return [
        BlockEvidence(
            harm=share(s.numerator_reference, s.denominator_reference) - share(s.numerator, s.denominator),
            n=300,
            spread=None,
            sums=s,
        )
        for s in sums
    ]


def rarely_named(rng: np.random.Generator) -> tuple[int, int, int, int]:
    """The candidate names half as many, as precisely."""
    named, of = int(rng.poisson(1.5)), int(rng.poisson(3.0))
    return int(rng.binomial(named, 0.7)), named, int(rng.binomial(of, 0.7)), of


def test_a_ratio_is_compared_by_the_sums_of_all_days_and_not_by_the_mean_of_their_ratios() -> None:
    """On a day on which nothing is named there is no precision; its 0 must not count against whoever names less."""
    sums = days(rarely_named, seed=30, count=2_000)
    own = float(np.mean([one.harm for one in evidence(sums)]))
    verdict = by_sums(sums, 0.1)
    hits, named = sum(s.numerator for s in sums), sum(s.denominator for s in sums)
    theirs, of = sum(s.numerator_reference for s in sums), sum(s.denominator_reference for s in sums)
    assert verdict.estimate == pytest.approx(theirs / of - hits / named)
    assert abs(own - 0.12) < 0.03  # 0.7 (P(none of 1.5) - P(none of 3)), a difference of nothing
    assert abs(verdict.estimate or 0.0) < 0.03
    assert verdict.method == "student mixture sequence over sums, each bound 95.0%"


def test_an_imprecise_candidate_that_names_much_hardly_ever_passes() -> None:
    """The mean of the day ratios would promote it in a fifth of releases at the margin, for naming something every day."""

    def much_named(rng: np.random.Generator) -> tuple[int, int, int, int]:
        named, of = int(rng.poisson(3.0)), int(rng.poisson(1.5))
        return int(rng.binomial(named, 0.6)), named, int(rng.binomial(of, 0.7)), of

    wrong = 0
    for seed in range(60):
        sums = days(much_named, seed)
        wrong += any(by_sums(sums[:n], 0.1).outcome is Outcome.SUCCESSFUL for n in range(5, 41, 5))
    assert wrong <= 5


def test_no_miss_among_a_handful_of_hits_is_no_proof() -> None:
    """Ten hits in ten say little of a precision that may be 95 %, although the days do not differ at all."""
    sums = [Sums(numerator=2, denominator=2, numerator_reference=2, denominator_reference=2)] * 5
    assert by_sums(sums, 0.05).outcome is Outcome.INCONCLUSIVE


def test_days_on_which_one_version_names_nothing_do_not_count_towards_the_fewest() -> None:
    told = Sums(numerator=9, denominator=10, numerator_reference=9, denominator_reference=10)
    silent = Sums(numerator=0, denominator=0, numerator_reference=9, denominator_reference=10)
    verdict = by_sums([told] * 3 + [silent] * 9, 0.5)
    assert (verdict.outcome, verdict.n, verdict.needed) == (Outcome.INCONCLUSIVE, 3, 2)
    assert "one version has something to divide by in 3 days only, need at least 5" in verdict.because


def test_a_comparison_with_days_from_before_sums_were_kept_goes_on_by_its_days() -> None:
    sums = days(rarely_named, seed=30, count=20)
    older = [*evidence(sums)[:-1], BlockEvidence(harm=0.1, n=300, spread=None)]
    verdict = judge_evidence(older, metric="precision", margin=0.1)
    assert verdict.estimate == pytest.approx(np.mean([one.harm for one in older]))
    assert verdict.method == "student mixture sequence, each bound 95.0%"


def test_metrics_and_slices_share_the_alpha_of_their_step() -> None:
    assert share_of_alpha(0.05, metrics=2, parts=5) == pytest.approx(0.005)
    with pytest.raises(ValueError, match="at least one"):
        share_of_alpha(0.05, metrics=0, parts=1)
