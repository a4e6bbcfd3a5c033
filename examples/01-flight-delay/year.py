"""The year as arrays: train a version on what was known at some moment, and see how it would have done on every day.

`simulate.py` and `ceiling.py` stand on this. It replays decisions, not traffic: a version is scored on all rows at once,
so a whole year of releases takes a minute.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from flights import FEATURES
from train import Rows, fit, scramble

MONTHS = tuple(f"2013-{month:02d}" for month in range(3, 13))
"""The months of the replay; January and February are history."""

FIRST, LAST = 59, 365
"""Midnight (UTC) before 1 March and after 31 December, in days since New Year."""

DAYS = 366
"""Days of the year, and one: New Year's Eve's last flights leave on 1 January, UTC."""

HOUR = 1 / 24


def roc_auc(scores: Rows, labels: Rows) -> float:
    """Chance that a late flight scores above a punctual one, ties counting half; NaN where one kind is missing."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    late = labels == 1
    n_late, n_punctual = int(late.sum()), int((~late).sum())
    if not n_late or not n_punctual:
        return float("nan")
    return float((ranks[late].sum() - n_late * (n_late + 1) / 2) / (n_late * n_punctual))


def log_loss(scores: Rows, labels: Rows) -> float:
    """Mean negative log-likelihood in nats; a certain wrong answer is cut at 36."""
    p = np.clip(scores, np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)
    return float(-np.mean(labels * np.log(p) + (1 - labels) * np.log1p(-p)))


METRICS = {"roc_auc": roc_auc, "log_loss": log_loss}


@dataclass(frozen=True, eq=False)
class Version:
    """A trained version: what it says about each flight after those it learnt from, and its metrics by UTC day.

    NaN: a flight it may have learnt from, a day with too few flights.
    """

    trained_at: float
    trained_until: float
    scores: Rows
    _year: "Year"
    _daily: dict[str, Rows] = field(default_factory=dict)

    def daily(self, metric: str) -> Rows:
        if metric not in self._daily:
            self._daily[metric] = self._year.by_day(metric, self.scores, first=math.ceil(self.trained_until))
        return self._daily[metric]


@dataclass(frozen=True, eq=False)
class Year:
    """All flights in order. Times are days since New Year, UTC: 59.0 is midnight before 1 March."""

    features: Rows
    labels: Rows
    predicted_at: Rows
    label_at: Rows
    month: npt.NDArray[Any]
    flight_id: npt.NDArray[Any]
    seed: int = 0
    rows_min: int = 30
    _versions: dict[tuple[float, float, bool], Version] = field(default_factory=dict)

    @classmethod
    def of(cls, flights: pl.DataFrame, *, seed: int = 0) -> Self:
        def days(column: str) -> Rows:
            start = pl.datetime(2013, 1, 1, time_unit="us", time_zone="UTC")
            since = (pl.col(column) - start).dt.total_seconds() / 86_400
            return flights.select(since).to_series().to_numpy()

        return cls(
            features=np.ascontiguousarray(flights.select(pl.col(FEATURES).cast(pl.Float64)).to_numpy()),
            labels=flights["late"].cast(pl.Float64).to_numpy(),
            predicted_at=days("predicted_at"),
            label_at=days("label_at"),
            month=flights["flight_id"].str.slice(0, 7).to_numpy(),
            flight_id=flights["flight_id"].to_numpy(),
            seed=seed,
        )

    def day(self, number: int) -> slice:
        """The rows of one UTC day."""
        first, last = np.searchsorted(self.predicted_at, (number, number + 1))
        return slice(int(first), int(last))

    def rows_of(self, number: int) -> int:
        rows = self.day(number)
        return int(rows.stop) - int(rows.start)

    def train(self, at: float, *, holdout: float = 0.0, broken: bool = False) -> Version:
        """A version trained at moment `at`: only labels that had arrived, only flights before the holdout's days."""
        until = at - holdout
        key = (at, until, broken)
        if key not in self._versions:
            known = (self.label_at <= at) & (self.predicted_at < until)
            features = self.features[known]
            booster = fit(scramble(features, self.seed) if broken else features, self.labels[known], seed=self.seed)
            later = int(np.searchsorted(self.predicted_at, until))
            scores = np.full(len(self.labels), np.nan)
            scores[later:] = booster.predict(self.features[later:], num_threads=1)
            self._versions[key] = Version(at, until, scores, self)
        return self._versions[key]

    def by_day(self, metric: str, scores: Rows, *, first: int) -> Rows:
        """The metric of each UTC day from `first` on."""
        values = np.full(DAYS, np.nan)
        for number in range(first, DAYS):
            rows = self.day(number)
            if self.rows_of(number) >= self.rows_min:
                values[number] = METRICS[metric](scores[rows], self.labels[rows])
        return values

    def by_month(self, metric: str, scores: Rows) -> dict[str, float]:
        """The metric of each month of the replay, months by the local date of departure."""
        return {m: METRICS[metric](scores[self.month == m], self.labels[self.month == m]) for m in MONTHS}

    def start_of(self, month: str) -> float:
        """Local midnight before a month's first day, in New York's winter time; no flight leaves within that hour."""
        first = pl.Series([month + "-01"]).str.to_date().dt.ordinal_day()[0] - 1
        return float(first) + 5 * HOUR
