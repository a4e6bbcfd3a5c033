"""Forecasts agree with the judge, with arithmetic where there is some, and with themselves."""

import time

import numpy as np
import pytest

from steersman.decide.judging import BlockEvidence, judge_evidence
from steersman.domain.spec import EvidenceUnit
from steersman.domain.verdicts import Outcome
from steersman.stats.power import forecast
from steersman.stats.sequences import needed_n


def test_without_noise_harmless_is_promoted_and_harmful_caught_at_the_first_look_that_counts() -> None:
    told = forecast(sd=0.0, margin=0.02, blocks_max=14, runs=50)
    assert (told.promoted_harmless, told.caught_harmful) == (1.0, 1.0)
    assert told.blocks_median == told.blocks_median_harmful == 5
    assert told.promoted_harmless_between[0] > 0.9


@pytest.mark.parametrize(
    ("unit", "rows", "rows_min", "sd"),
    [
        (EvidenceUnit.BLOCK, 200, 500, 0.025),
        (EvidenceUnit.ROW, 200, 500, 0.025),
        (EvidenceUnit.ROW, 60, 100, 0.06 / 60**0.5),
    ],
    ids=["blocks", "rows", "few rows"],
)
def test_it_says_what_the_judge_does(unit: EvidenceUnit, rows: int, rows_min: int, sd: float) -> None:
    """The same releases, forecast and judged look by look."""
    margin, runs, days = 0.02, 150, 10
    row_sd = sd * rows**0.5 if unit is EvidenceUnit.ROW else sd
    told = forecast(
        sd=row_sd,
        margin=margin,
        blocks_max=days,
        unit=unit,
        n_per_block=rows,
        rows_min=rows_min,
        harm_range=(-1.0, 1.0),
        seed=3,
        runs=runs,
    )
    noise = np.random.default_rng(3).standard_normal((runs, days)) * sd
    outcomes = []
    for run in noise:
        outcome = Outcome.INCONCLUSIVE
        for n in range(1, days + 1):
            blocks = [BlockEvidence(harm=harm, n=rows, spread=row_sd) for harm in run[:n]]
            outcome = judge_evidence(
                blocks, metric="brier", margin=margin, unit=unit, rows_min=rows_min, harm_range=(-1.0, 1.0)
            ).outcome
            if outcome is not Outcome.INCONCLUSIVE:
                break
        outcomes.append(outcome)
    assert told.promoted_harmless == pytest.approx(outcomes.count(Outcome.SUCCESSFUL) / runs, abs=0.02)


def test_few_requests_of_a_metric_without_a_range_are_not_forecast_to_decide_anything() -> None:
    asked = {"sd": 0.02, "margin": 0.02, "unit": EvidenceUnit.ROW, "n_per_block": 100, "rows_min": 100}
    with_range = forecast(blocks_max=4, harm_range=(-1.0, 1.0), **asked)  # type: ignore[arg-type]
    without = forecast(blocks_max=4, **asked)  # type: ignore[arg-type]
    assert (with_range.promoted_harmless, without.promoted_harmless) == (1.0, 0.0)


def test_the_median_is_near_the_blocks_needed_without_noise_in_the_estimate() -> None:
    told = forecast(sd=0.02, margin=0.02, blocks_max=60)
    needed = needed_n(0.02, 0.02, sides=1)
    assert told.blocks_median is not None
    assert needed is not None
    assert 0.5 * needed <= told.blocks_median <= 1.5 * needed


def test_too_little_time_leaves_it_undecided_and_without_a_median() -> None:
    told = forecast(sd=0.1, margin=0.02, blocks_max=7)
    assert told.blocks_median is None
    assert told.undecided_harmless > 0.9
    assert told.promoted_harmful_between[1] <= 0.05


def test_a_forecast_can_be_repeated_and_takes_less_than_a_second() -> None:
    began = time.process_time()
    first = forecast(sd=0.03, margin=0.02, blocks_max=28, seed=5)
    assert time.process_time() - began < 1.0
    assert forecast(sd=0.03, margin=0.02, blocks_max=28, seed=5) == first
    assert forecast(sd=0.03, margin=0.02, blocks_max=28, seed=6) != first


def test_forecasts_of_nothing_are_refused() -> None:
    for arguments in ({"sd": -1.0}, {"margin": float("nan")}, {"blocks_max": 0}, {"runs": 0}):
        with pytest.raises(ValueError, match="must be"):
            forecast(**{"sd": 0.1, "margin": 0.1, "blocks_max": 5, **arguments})  # type: ignore[arg-type]
