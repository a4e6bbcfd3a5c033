"""What every installed metric keeps, whoever wrote it: inherit the suite and say how to get one.

    class TestMyMetric(MetricContract):
        direction = Direction.HIGHER
        def make_metric(self): return my_metric

It is a function of the scores and labels of one block's requests. Its rows here are those of a binary model; give others
with `make_rows`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pytest

from steersman.domain.metrics import Direction
from steersman.ports import Measure
from steersman.stats.performance import BLOCK_ROWS_MIN


class MetricContract(ABC):
    """One number, the same for the same rows, better for better answers, from arrays it leaves alone."""

    direction: Direction
    """Which way it is good, as documents that name it declare."""

    @abstractmethod
    def make_metric(self) -> Measure: ...

    def make_rows(self, rows: int) -> tuple[Any, Any, Any]:
        """Scores of a good version, of a useless one, and the labels; of any number of rows."""
        random = np.random.default_rng(rows)
        labels = (np.arange(rows) % 2).astype(np.float64)
        good = np.clip(labels * 0.6 + random.uniform(0.0, 0.4, rows), 0.0, 1.0)
        return good, random.permutation(good), labels

    @pytest.fixture
    def metric(self) -> Measure:
        return self.make_metric()

    @pytest.mark.parametrize("rows", [BLOCK_ROWS_MIN, 500])
    def test_it_gives_a_finite_number_from_the_fewest_rows_of_a_block_on(self, metric: Measure, rows: int) -> None:
        good, _, labels = self.make_rows(rows)
        assert math.isfinite(float(metric(good, labels)))

    def test_better_answers_are_better_in_the_declared_direction(self, metric: Measure) -> None:
        good, useless, labels = self.make_rows(500)
        gained = metric(good, labels) - metric(useless, labels)
        assert gained > 0 if self.direction is Direction.HIGHER else gained < 0

    def test_the_same_rows_give_the_same_number_in_any_order(self, metric: Measure) -> None:
        good, _, labels = self.make_rows(200)
        order = np.random.default_rng(1).permutation(200)
        first = metric(good, labels)
        assert metric(good, labels) == first
        assert metric(good[order], labels[order]) == pytest.approx(first)

    def test_it_does_not_write_to_what_it_is_given(self, metric: Measure) -> None:
        good, _, labels = self.make_rows(200)
        for array in (good, labels):
            array.flags.writeable = False
        metric(good, labels)

    @pytest.mark.parametrize("label", [0.0, 1.0])
    def test_where_it_is_undefined_it_gives_nan_and_does_not_raise(self, metric: Measure, label: float) -> None:
        good, _, _ = self.make_rows(200)
        assert not math.isinf(float(metric(good, np.full(200, label))))
