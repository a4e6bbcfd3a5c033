"""Real A/A releases: two models of the same algorithm on the year of flights, compared day by day.

The models learn from the same two months, each from its own draw of the rows, so that none is better than another for a
reason. Every pair of them, from every second Monday on, is a release that a shadow judges for four weeks.
"""

from __future__ import annotations

import itertools
import sys
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from measuring.report import ROOT
from steersman.stats.performance import evaluate

sys.path.insert(0, str(ROOT / "examples" / "01-flight-delay"))
from flights import FEATURES, load_flights
from train import fit

LEARNED_UNTIL = date(2013, 3, 1)
STARTS_EVERY = 14
DAYS = 28
METRIC = "roc_auc"


def day_metrics(models: int, seed: int) -> list[list[float]]:
    """The metric of each model on each day from March to December."""
    flights = load_flights().with_columns(day=pl.col("flight_id").str.slice(0, 10).str.to_date()).sort("day")
    learned = flights.filter(pl.col("day") < LEARNED_UNTIL)
    met = flights.filter(pl.col("day") >= LEARNED_UNTIL)
    edges = np.cumsum(met.group_by("day", maintain_order=True).len()["len"].to_numpy())[:-1]
    labels = np.split(_floats(met, "late").ravel(), edges)
    features, late, inputs = _floats(learned, *FEATURES), _floats(learned, "late").ravel(), _floats(met, *FEATURES)
    found = []
    for number in range(models):
        rows = np.random.default_rng([seed, number]).choice(len(late), len(late))
        booster = fit(features[rows], late[rows], seed=number)
        scores = np.split(np.asarray(booster.predict(inputs, num_threads=1)), edges)
        found.append([evaluate(METRIC, *day) for day in zip(scores, labels, strict=True)])
    return found


def _floats(flights: pl.DataFrame, *columns: str) -> NDArray[np.float64]:
    return flights.select(pl.col(columns).cast(pl.Float64)).to_numpy()


def releases(metrics: list[list[float]]) -> list[list[float]]:
    """Harm by day of every pair of models, both ways round, from every start on."""
    days = len(metrics[0])
    starts = range(0, days - DAYS + 1, STARTS_EVERY)
    return [
        [
            stable - candidate
            for candidate, stable in zip(one[start : start + DAYS], other[start : start + DAYS], strict=True)
        ]
        for one, other in itertools.permutations(metrics, 2)
        for start in starts
    ]
