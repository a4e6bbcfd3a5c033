"""Real flights, a candidate that is worse at one airport only, and the release machinery from document to verdict.

The candidate is production's own model whose pipeline mixed up half of Newark's rows: there every second flight of a day
gets the score of another one. At JFK and LaGuardia it is the same to the bit. Over all flights it looks tolerable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from flights import ORIGINS, load_flights, sample_flights
from year import FIRST, Year

from steersman.domain.release import Completion, Phase, Release
from steersman.ports import Answers, Comparison, PairedRows, Scope, Span
from steersman.testing.story import Story, model_document

NEW_YEAR = datetime(2013, 1, 1, tzinfo=UTC)
MIXED_UP = 0.5
SEED = 4


@dataclass
class Flights:
    """A spring of flights as the log would have them: every request met both versions, a label counts once it arrived."""

    year: Year
    scores: dict[str, Any] = field(default_factory=dict)

    def paired(self, _scope: Scope, span: Span, asked: Comparison, *, as_of: datetime) -> PairedRows:
        at = self.year.predicted_at
        rows = np.flatnonzero((at >= _day(span.since)) & (at < _day(span.until)))
        known = self.year.label_at[rows] <= _day(as_of)
        names = np.array(ORIGINS.split())[self.year.features[rows, 1].astype(int)]
        return PairedRows(
            events=self.year.flight_id[rows].tolist(),
            labels=np.where(known, self.year.labels[rows], np.nan),
            reference=_answers(self.scores[asked.reference][rows]),
            compared=_answers(self.scores[asked.compared][rows]),
            slices={"origin": names} if "origin" in asked.slices else {},
        )


def _day(moment: datetime) -> float:
    return (moment - NEW_YEAR) / timedelta(days=1)


def _answers(scores: Any) -> Answers:
    return Answers(scores=scores, failed=np.zeros(len(scores)), latency_ms=np.full(len(scores), 2.0))


@pytest.fixture(scope="module")
def spring() -> Year:
    """Half of the flights until mid-April: enough days, and a training of a second."""
    flights = load_flights().filter(pl.col("flight_id") < "2013-04-15")
    return Year.of(sample_flights(flights, 0.5))


def released(folder: Path, year: Year, **asked: Any) -> tuple[Story, Release]:
    """Version 1 answers, version 2 (mixed up at Newark) is in the shadow, judged as `asked`."""
    analysis = {"metrics": ["roc_auc"], "margin": 0.06, "critical": True, "maxDuration": "28d", **asked}
    steps = [
        {"mirror": {"percent": 100}},
        {"analysis": {**analysis, "onInconclusive": "rollback"}},
        {"setWeight": 100},
        {"pause": {}},
        {"promote": {}},
    ]
    story = Story.begin(folder)
    story.apply(
        model_document(
            groundTruth={"column": "late", "horizon": "1d13h"},
            environments={"production": {"strategy": {"canary": {"steps": steps}}}},
        )
    )
    flights = Flights(year)
    story.traffic.paired = flights.paired  # type: ignore[method-assign]
    story.release(1)
    good = year.train(float(FIRST)).scores
    story.registry.add(2)
    story.commands.register("default", "delay", 2, actor="ann")
    flights.scores = {story.digest(1): good, story.digest(2): mixed_up(year, good)}
    return story, story.release(2)


def mixed_up(year: Year, scores: Any) -> Any:
    random, worse = np.random.default_rng(SEED), scores.copy()
    for number in range(FIRST, int(year.predicted_at.max()) + 1):
        day = year.day(number)
        rows = np.arange(day.start, day.stop)
        newark = rows[year.features[rows, 1] == ORIGINS.split().index("EWR")]
        hit = newark[random.random(newark.size) < MIXED_UP]
        worse[hit] = scores[random.permutation(hit)]
    return worse


def test_a_candidate_that_is_worse_at_one_airport_is_caught_there_and_the_airport_is_named(
    tmp_path: Path, spring: Year
) -> None:
    story, release = released(tmp_path, spring, slices=["origin"])
    story.days(20)
    stopped = story.reread(release)
    assert stopped.completion is Completion.ABORTED
    assert "failed slice origin=EWR: roc_auc: harm +0.1" in stopped.because
    assert "JFK" not in stopped.because
    assert story.router.answered_ever == {"1"}


def test_over_all_flights_alone_the_same_candidate_passes(tmp_path: Path, spring: Year) -> None:
    story, release = released(tmp_path, spring)
    story.days(20)
    passed = story.reread(release)
    assert (passed.phase, passed.weight_pct) == (Phase.PAUSED, 100.0)
