"""Sums over sums: one value per block, whose mean is the ratio of the sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.stats.ratios import linearised
from steersman.stats.sequences import student_radii

pairs = st.lists(st.tuples(st.floats(-100, 100), st.floats(0.1, 100)), min_size=1, max_size=40)


@given(pairs)
def test_the_mean_is_the_ratio_of_the_sums(blocks: list[tuple[float, float]]) -> None:
    above, below = zip(*blocks, strict=True)
    assert linearised(above, below).mean() == pytest.approx(sum(above) / sum(below), abs=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=40), st.floats(0.1, 100))
def test_with_equal_denominators_it_is_the_ratio_of_each_block(above: list[float], below: float) -> None:
    assert linearised(above, [below] * len(above)) == pytest.approx(np.array(above) / below, abs=1e-9)


def test_a_ratio_over_days_of_unequal_traffic_is_missed_rarely_and_that_of_the_day_ratios_often() -> None:
    """Busy days cost less per answer; sixty daily looks from the fifteenth on, truth Σ cost / Σ answers."""
    rng = np.random.default_rng(8)
    days, runs = 60, 200
    radius = student_radii(np.arange(1, days + 1), alpha=0.05)
    missed = {"linearised": 0, "day ratios": 0}
    truth = 0.75 * 1.0 / (0.5 * 1.0 + 0.5 * 3.0) + 0.25  # quiet and busy days are equally many
    for _ in range(runs):
        busy = rng.random(days) < 0.5
        answers = np.where(busy, 3_000.0, 1_000.0) * rng.uniform(0.8, 1.2, days)
        cost = 0.75 * 1_000.0 * rng.uniform(0.7, 1.3, days) + 0.25 * answers
        for name in missed:
            values = [linearised(cost[:n], answers[:n]) if name == "linearised" else cost[:n] / answers[:n]
                      for n in range(15, days + 1)]  # fmt: skip
            missed[name] += any(abs(v.mean() - truth) > radius[v.size - 1] * v.std(ddof=1) for v in values)
    assert missed["linearised"] <= 0.05 * runs
    assert missed["day ratios"] > 0.3 * runs


def test_ratios_that_cannot_be_are_refused() -> None:
    for above, below in (([1.0], [1.0, 2.0]), ([], []), ([1.0], [0.0]), ([1.0, 1.0], [-1.0, 3.0])):
        with pytest.raises(ValueError, match=r"ratio needs|denominators"):
            linearised(above, below)
