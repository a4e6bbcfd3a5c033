"""Guardrails: errors, latency and budgets, from the first request on and at every look."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.decide.guardrails import (
    BURN_WINDOWS,
    Burn,
    judge_burn_rate,
    judge_error_rate,
    judge_latency,
    judge_latency_ratio,
)
from steersman.domain.verdicts import Outcome


def test_no_requests_are_inconclusive() -> None:
    verdict = judge_error_rate(errors=0, requests=0, limit=0.001, requests_min=30)
    assert (verdict.outcome, verdict.needed) == (Outcome.INCONCLUSIVE, 30)
    assert verdict.because == "error rate unknown, no requests yet; need 30 requests"


def test_few_requests_are_inconclusive_rather_than_good() -> None:
    assert judge_error_rate(errors=0, requests=9, limit=0.01, requests_min=100).outcome is Outcome.INCONCLUSIVE


def test_a_version_that_always_raises_fails_within_three_requests() -> None:
    assert judge_error_rate(errors=3, requests=3, limit=0.001, requests_min=30).outcome is Outcome.FAILED


def test_one_error_among_few_requests_is_no_proof() -> None:
    assert judge_error_rate(errors=1, requests=100, limit=0.001, requests_min=30).outcome is Outcome.INCONCLUSIVE


def test_a_clean_version_keeps_its_limit() -> None:
    assert judge_error_rate(errors=0, requests=30, limit=0.001, requests_min=30).outcome is Outcome.SUCCESSFUL


@given(errors=st.integers(0, 300), more=st.integers(0, 3_000), limit=st.floats(0, 1))
def test_more_errors_never_improve_the_verdict(errors: int, more: int, limit: float) -> None:
    rank = {Outcome.SUCCESSFUL: 0, Outcome.INCONCLUSIVE: 1, Outcome.FAILED: 2}
    requests = errors + more + 1
    fewer = judge_error_rate(errors=errors, requests=requests, limit=limit, requests_min=30)
    worse = judge_error_rate(errors=errors + 1, requests=requests, limit=limit, requests_min=30)
    assert rank[fewer.outcome] <= rank[worse.outcome]


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"errors must lie in 0\.\.requests, got 3 of 2"):
        judge_error_rate(errors=3, requests=2, limit=0.1, requests_min=1)
    with pytest.raises(ValueError, match="fraction"):
        judge_error_rate(errors=0, requests=2, limit=5, requests_min=1)


def test_a_much_slower_candidate_fails_and_an_equal_one_does_not() -> None:
    rng = np.random.default_rng(5)
    stable, equal = rng.lognormal(1, 0.4, 4_000), rng.lognormal(1, 0.4, 4_000)
    assert judge_latency_ratio(equal, stable, ratio_limit=1.2).outcome is not Outcome.FAILED
    assert judge_latency_ratio(equal * 3, stable, ratio_limit=1.2).outcome is Outcome.FAILED
    assert judge_latency_ratio(equal / 2, stable, ratio_limit=1.2).outcome is Outcome.SUCCESSFUL


def test_latency_of_few_requests_is_inconclusive_and_impossible_latency_an_error() -> None:
    assert judge_latency_ratio([], [1.0], ratio_limit=1.2).outcome is Outcome.INCONCLUSIVE
    assert judge_latency_ratio([math.nan] * 400, [1.0] * 400, ratio_limit=1.2).outcome is Outcome.ERROR
    with pytest.raises(ValueError, match="positive"):
        judge_latency_ratio([], [], ratio_limit=0)


def test_looked_at_after_every_fifty_requests_an_equal_p99_is_rarely_taken_for_a_slower_one() -> None:
    """Ratio limit 1 and equal versions: the edge, where a wrong verdict is most likely."""
    failed = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        stable, candidate = rng.lognormal(1, 0.4, (2, 2_000))
        verdicts = (
            judge_latency_ratio(candidate[:n], stable[:n], ratio_limit=1.0).outcome for n in range(300, 2_001, 100)
        )
        failed += Outcome.FAILED in verdicts
    assert failed <= 5


def test_a_p99_surely_beyond_its_limit_fails_before_the_requests_it_needs_to_pass() -> None:
    verdict = judge_latency([400.0] * 100, limit_ms=250, requests_min=300)
    assert verdict.outcome is Outcome.FAILED
    assert verdict.because == "latency p99 400.0 ms [400.0, inf], limit 250 ms, n=100"


def test_a_p99_passes_when_it_keeps_its_limit_over_enough_requests() -> None:
    assert judge_latency([100.0] * 300, limit_ms=250).outcome is Outcome.SUCCESSFUL
    few = judge_latency([100.0] * 299, limit_ms=250)
    assert (few.outcome, few.needed) == (Outcome.INCONCLUSIVE, 1)


def test_one_slow_request_among_many_proves_nothing() -> None:
    assert judge_latency([100.0] * 30 + [900.0], limit_ms=250, requests_min=30).outcome is Outcome.INCONCLUSIVE
    straddling = judge_latency([100.0] * 300 + [900.0] * 6, limit_ms=250)
    assert straddling.outcome is Outcome.INCONCLUSIVE
    assert "straddles" in straddling.because


def test_latency_without_requests_or_of_impossible_values_is_never_a_pass() -> None:
    assert judge_latency([], limit_ms=250).outcome is Outcome.INCONCLUSIVE
    assert judge_latency([-1.0] * 400, limit_ms=250).outcome is Outcome.ERROR
    with pytest.raises(ValueError, match="positive"):
        judge_latency([1.0], limit_ms=0)


def _burns(errors: int, requests: int, *, short_share: float = 0.1, short_errors: int | None = None) -> list[Burn]:
    shorter = round(errors * short_share) if short_errors is None else short_errors
    return [
        Burn(
            long=long,
            short=short,
            factor=factor,
            errors_long=errors,
            requests_long=requests,
            errors_short=shorter,
            requests_short=round(requests * short_share),
        )
        for long, short, factor in BURN_WINDOWS
    ]


def test_a_budget_that_burns_fast_in_both_windows_fails_and_says_where() -> None:
    verdict = judge_burn_rate(_burns(200, 10_000), budget=0.001, requests_min=100)
    assert verdict.outcome is Outcome.FAILED
    assert "burns 20.0 times its rate over 3 d" in verdict.because


def test_a_burn_that_is_over_is_no_failure() -> None:
    assert judge_burn_rate(_burns(200, 10_000, short_errors=0), budget=0.001, requests_min=100).outcome is (
        Outcome.SUCCESSFUL
    )


def test_one_error_among_few_requests_burns_no_budget() -> None:
    verdict = judge_burn_rate(_burns(1, 20, short_share=1.0), budget=0.001, requests_min=100)
    assert (verdict.outcome, verdict.needed) == (Outcome.INCONCLUSIVE, 80)


def test_a_budget_without_requests_is_unknown() -> None:
    assert judge_burn_rate(_burns(0, 0), budget=0.001, requests_min=100).outcome is Outcome.INCONCLUSIVE
    assert judge_burn_rate([], budget=0.001, requests_min=100).outcome is Outcome.INCONCLUSIVE


def test_budgets_and_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="fraction"):
        judge_burn_rate([], budget=1.0, requests_min=1)
    with pytest.raises(ValueError, match="errors must lie"):
        judge_burn_rate(_burns(3, 2), budget=0.1, requests_min=1)
