"""What `plan` foretells, as plain calls: from traffic and spread to times and chances, and to an honest unknown."""

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.decide.forecasting import (
    Asked,
    Expected,
    Spread,
    Traffic,
    expect,
    spread_behind,
    spread_between,
    spread_in_split,
    spread_within,
)
from steersman.decide.gating import HoldoutScores, gate_paired
from steersman.domain.spec import EvidenceUnit
from steersman.domain.verdicts import Verdict

DAY = timedelta(days=1)
BUSY = Traffic(rows_per_block=900.0, windows=14, coverage=0.98, windows_matured=13)
STEADY = Spread(sd=0.01, n=14, freedom=13, source="14 blocks of release 11")


def asked(**changes: Any) -> Asked:
    known = Asked(
        step="analysis of roc_auc", metric="roc_auc", margin=0.02, alpha=0.05, unit=EvidenceUnit.BLOCK, block=DAY,
        blocks_min=5, rows_min=500, lasts=14 * DAY,
    )  # fmt: skip
    return replace(known, **changes)


def told(spread: Spread | str = STEADY, traffic: Traffic = BUSY, **changes: Any) -> Expected:
    return expect(asked(**changes), traffic=traffic, spread=spread, horizon=DAY)


def test_a_steady_metric_is_soon_decided_and_the_decision_is_mostly_right() -> None:
    found = told()
    assert found.unknown is None
    assert found.decided_after is not None
    assert 6 * DAY <= found.decided_after <= 9 * DAY  # five to eight days, and a day for the labels
    assert found.promoted_harmless is not None
    assert found.caught_harmful is not None
    assert found.promoted_harmless.value > 0.9
    assert found.caught_harmful.value > 0.9


def test_a_noisier_metric_takes_longer_and_leaves_more_undecided() -> None:
    steady, noisy = told(), told(replace(STEADY, sd=0.03))
    assert steady.undecided_harmless is not None
    assert noisy.undecided_harmless is not None
    assert noisy.undecided_harmless.value > steady.undecided_harmless.value
    assert noisy.decided_after is None or noisy.decided_after > (steady.decided_after or timedelta())


def test_the_smaller_an_arm_of_a_split_the_wider_its_blocks_lie_apart() -> None:
    groups = [[(0.01, 0.1), (-0.02, 0.1), (0.03, 0.1)]]
    tenth, half = (spread_in_split(groups, weight=weight, source="release 2") for weight in (0.1, 0.5))
    assert tenth is not None
    assert half is not None
    assert tenth.sd == pytest.approx(np.std([0.01, -0.02, 0.03], ddof=1))
    assert half.sd == pytest.approx(tenth.sd * math.sqrt(0.1 * 0.9 / 0.25))
    assert spread_in_split([], weight=0.1, source="nothing") is None


def test_a_metric_that_never_decides_says_so_with_no_time() -> None:
    found = told(replace(STEADY, sd=0.5))
    assert found.decided_after is None
    assert found.undecided_harmless is not None
    assert found.undecided_harmless.value > 0.9


def test_every_chance_lies_within_its_interval_and_the_interval_widens_with_what_is_not_known() -> None:
    sure, unsure = told(replace(STEADY, sd=0.02, n=200, freedom=199)), told(replace(STEADY, sd=0.02, n=5, freedom=4))
    for found in (sure, unsure):
        for chance in (found.promoted_harmless, found.caught_harmful, found.undecided_harmless):
            assert chance is not None
            assert 0.0 <= chance.low <= chance.value <= chance.high <= 1.0
    assert sure.promoted_harmless is not None
    assert unsure.promoted_harmless is not None
    width = unsure.promoted_harmless.high - unsure.promoted_harmless.low
    assert width > sure.promoted_harmless.high - sure.promoted_harmless.low


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"traffic": Traffic(rows_per_block=None, windows=0, coverage=None, windows_matured=0)},
            "no window of traffic",
        ),
        ({"traffic": replace(BUSY, coverage=None, windows_matured=0)}, "no window of the last 14 had its labels yet"),
        ({"traffic": replace(BUSY, rows_per_block=3.0)}, "it is no evidence"),
        ({"traffic": BUSY, "copied": 0.001}, "it is no evidence"),
        ({"spread": "no comparison has been measured yet"}, "no comparison has been measured yet"),
        ({"margin": 0.0}, "declare a margin"),
    ],
)
def test_what_is_not_known_is_told_with_its_reason_and_without_a_number(changes: dict[str, Any], why: str) -> None:
    found = told(**changes)
    assert found.unknown is not None
    assert why in found.unknown
    assert (found.decided_after, found.promoted_harmless, found.caught_harmful) == (None, None, None)


def test_rows_as_evidence_need_traffic_and_decide_on_the_first_day_where_there_is_plenty() -> None:
    found = told(Spread(sd=0.2, n=9_000, freedom=8_990, source="9000 requests"), unit=EvidenceUnit.ROW)
    assert (found.unit, found.needed) == ("requests", 500)
    assert found.decided_after is not None
    assert found.decided_after <= 4 * DAY


def test_the_same_question_has_the_same_answer() -> None:
    assert told() == told()


def test_spread_is_pooled_around_each_comparison_s_own_mean() -> None:
    found = spread_between([[0.0, 0.02, 0.04], [1.0, 1.02, 1.04], [5.0]], source="three comparisons")
    assert found is not None
    assert found.sd == pytest.approx(0.02)
    assert (found.n, found.freedom) == (6, 4)
    assert spread_between([[0.1], []], source="") is None


def test_the_interval_of_a_spread_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(1_000):
        found = spread_between([rng.normal(0.0, 2.0, 10).tolist()], source="")
        assert found is not None
        low, high = found.between
        covered += low <= 2.0 <= high
    assert 0.87 <= covered / 1_000 <= 0.93


def test_single_requests_spread_is_pooled_by_their_number() -> None:
    found = spread_within([(0.1, 101), (0.3, 301)], source="two blocks")
    assert found is not None
    assert found.sd == pytest.approx(math.sqrt((100 * 0.01 + 300 * 0.09) / 400))
    assert spread_within([(0.0, 1)], source="") is None


def test_a_gate_s_interval_gives_back_the_spread_of_its_blocks() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 2_000).astype(float)
    days = [f"2013-03-{1 + index // 200:02d}" for index in range(2_000)]
    shift = np.repeat(rng.normal(0.0, 0.4, 10), 200)
    stable = np.clip(0.5 + 0.2 * (labels - 0.5) + rng.normal(0, 0.1, 2_000), 0.02, 0.98)
    candidate = np.clip(stable + 0.05 * shift, 0.02, 0.98)
    holdout = HoldoutScores(labels=labels, candidate=candidate, production=stable, blocks=days)
    answer = gate_paired(holdout, metric="log_loss", margin=0.001, alpha=0.05).answer
    assert isinstance(answer, Verdict)
    assert answer.upper is not None
    assert answer.estimate is not None
    found = spread_behind(radius=answer.upper - answer.estimate, n=answer.n, alpha=0.05, source="the gate")

    def loss(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return -(labels * np.log(scores) + (1 - labels) * np.log(1 - scores))

    harms = (loss(candidate) - loss(stable)).reshape(10, 200).mean(axis=1)
    assert found is not None
    assert found.sd == pytest.approx(float(np.std(harms, ddof=1)), rel=1e-6)
    assert spread_behind(radius=0.0, n=10, alpha=0.05, source="") is None


@given(sd=st.floats(1e-4, 1.0), freedom=st.integers(1, 500))
def test_a_spread_always_lies_within_its_own_interval(sd: float, freedom: int) -> None:
    low, high = Spread(sd=sd, n=freedom + 1, freedom=freedom, source="").between
    assert low < sd < high
