"""Guardrails: errors, latency and budgets, from the first request on and at every look."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.decide.guardrails import judge_error_rate, judge_latency_ratio
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
