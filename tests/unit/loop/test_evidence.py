"""What the observer keeps of two versions that shared the traffic, and the verdicts that follow; from simulated requests."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa

from steersman.domain import spec
from steersman.domain.metrics import Direction
from steersman.domain.verdicts import Outcome, Verdict
from steersman.loop.comparing import compare_pairs
from steersman.loop.observer import Pairing, observe_pairing
from steersman.loop.weighing import blocks_of, weigh
from steersman.ports import Answers, Comparison, Measure, PairedRows, Scope, Span, SplitRows
from steersman.stats.performance import evaluate
from steersman.store import tables
from steersman.store.records import PairBlock
from steersman.testing.fakes import EPOCH, FakeMetric
from steersman.testing.story import Story

START = EPOCH + timedelta(days=60)
DAY = timedelta(days=1)
HORIZON = 20 * DAY
STABLE, CANDIDATE = "sha256:" + "a" * 64, "sha256:" + "b" * 64

Weight = Callable[[int], float]
"""The candidate's share at an hour since the start."""


@dataclass
class Requests:
    """Requests of `days` days, drawn by lot with a share that may change by the hour; each is answered rightly or not.

    `errors` gives the chance of a wrong answer by day and version, `delay` the days until a label is there by whether
    the answer was right. Everything is drawn once, from a seed: two looks see the same.
    """

    errors: Callable[[int, bool], float]
    weight: Weight = lambda _hour: 0.1
    delay: Callable[[bool], float] = lambda _right: 1.0
    missing: Callable[[bool], float] = lambda _candidate: 0.0
    days: int = 30
    rows: int = 2000
    seed: int = 7
    lot: float = 0.0
    """Added to the share by a faulty router, which goes on logging the share it was told."""
    columns: dict[str, Callable[[Any], Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        random, n = np.random.default_rng(self.seed), self.days * self.rows
        self.hour = np.sort(random.random(n)) * 24 * self.days
        self.probability = np.array([self.weight(int(hour)) for hour in self.hour])
        self.candidate = random.random(n) < self.probability + self.lot
        day = (self.hour // 24).astype(int)
        self.truth = (random.random(n) < 0.3).astype(float)
        chance = {arm: np.array([self.errors(d, arm) for d in range(self.days)])[day] for arm in (False, True)}
        luck = random.random(n)
        self.wrong = {arm: luck < chance[arm] for arm in (False, True)}
        own = np.where(self.candidate, self.wrong[True], self.wrong[False])
        waits = np.where(own, self.delay(False), self.delay(True))
        self.label_at = self.hour + 24 * random.exponential(waits)
        gone = np.where(self.candidate, self.missing(True), self.missing(False))
        self.label_at[random.random(n) < gone] = np.inf

    def rows_of(self, since: datetime, until: datetime) -> Any:
        hours = [(moment - START) / timedelta(hours=1) for moment in (since, until)]
        return np.flatnonzero((self.hour >= hours[0]) & (self.hour < hours[1]))

    def labels(self, rows: Any, as_of: datetime) -> Any:
        known = self.label_at[rows] <= (as_of - START) / timedelta(hours=1)
        return np.where(known, self.truth[rows], np.nan)

    def answers(self, wrong: Any, rows: Any) -> Answers:
        """A right answer is 0.9 sure of the truth, a wrong one of the opposite."""
        scores = np.where(self.truth[rows] != wrong, 0.9, 0.1)
        measured = {"doubled": 2.0 * scores}
        failed = np.zeros(len(rows))
        return Answers(scores=scores, failed=failed, latency_ms=np.full(len(rows), 2.0), measured=measured)

    def split(
        self, _scope: Scope, span: Span, asked: Comparison, *, as_of: datetime, drawn_since: datetime
    ) -> SplitRows:
        rows = self.rows_of(*span)
        rows = rows[(self.probability[rows] > 0) & (self.probability[rows] < 1)]
        candidate = self.candidate[rows]
        wrong = np.where(candidate, self.wrong[True][rows], self.wrong[False][rows])
        ids = [f"e{row}" for row in rows]
        return SplitRows(
            events=ids,
            units=ids,
            candidate=candidate,
            probability=self.probability[rows],
            labels=self.labels(rows, as_of),
            answers=self.answers(wrong, rows),
            slices={name: of(rows) for name, of in self.columns.items() if name in asked.slices},
        )

    def paired(self, _scope: Scope, span: Span, asked: Comparison, *, as_of: datetime) -> PairedRows:
        rows = self.rows_of(*span)
        return PairedRows(
            events=[f"e{row}" for row in rows],
            labels=self.labels(rows, as_of),
            reference=self.answers(self.wrong[False][rows], rows),
            compared=self.answers(self.wrong[True][rows], rows),
            slices={name: of(rows) for name, of in self.columns.items() if name in asked.slices},
        )


SCOPE = Scope("ops", "production", "m")
BOTH = Comparison(reference="old", compared="new")
SPLIT = spec.AnalysisMode.SPLIT
ANALYSIS = spec.Analysis(metrics=("accuracy",), mode=SPLIT, margin=0.02)
PAIRED = spec.Analysis(metrics=("accuracy",), margin=0.02)


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story.begin(tmp_path)


def verdicts(
    story: Story,
    requests: Requests,
    analysis: spec.Analysis = ANALYSIS,
    *,
    horizon: timedelta = HORIZON,
    declared: Sequence[spec.DeclaredMetric] = (),
) -> dict[str, Verdict]:
    """Looked at every day from the first to when the last block has matured; the verdicts at the end, by metric."""
    story.traffic.split = requests.split  # type: ignore[method-assign]
    story.traffic.paired = requests.paired  # type: ignore[method-assign]
    pairing = pairing_of(analysis, declared)
    end = START + requests.days * DAY + horizon
    while story.clock.now() < end:
        story.clock.move(story.clock.now() + DAY)
        observe_pairing(story.world, pairing, horizon=horizon)
    with story.store.read() as tx:
        return {metric: weigh(tx, pairing, metric, analysis) for metric in analysis.metrics}


def pairing_of(analysis: spec.Analysis, declared: Sequence[spec.DeclaredMetric] = ()) -> Pairing:
    return Pairing(
        workspace="default",
        environment="production",
        model="delay",
        reference=STABLE,
        compared=CANDIDATE,
        metrics=analysis.metrics,
        block=analysis.block,
        since=START,
        mode=analysis.mode,
        slices=analysis.slices,
        declared=tuple(declared),
    )


def equal(_day: int, _candidate: bool) -> float:
    return 0.05


def estimate(verdict: Verdict) -> float:
    assert verdict.estimate is not None
    return verdict.estimate


# --- what must not bias


def test_labels_that_come_later_for_errors_make_no_difference_of_nothing(story: Story) -> None:
    late = Requests(errors=equal, delay=lambda right: 1.0 if right else 5.0)
    verdict = verdicts(story, late)["accuracy"]
    assert verdict.outcome is not Outcome.FAILED
    assert abs(estimate(verdict)) < 0.004

    # The comparison this replaces: the candidate's labels so far, on its fifth day, against all that stable ever had.
    fifth = START + 5 * DAY
    so_far = late.rows_of(START, fifth)
    known = so_far[~np.isnan(late.labels(so_far, fifth)) & late.candidate[so_far]]
    ever = np.flatnonzero(~late.candidate)
    assert late.wrong[False][ever].mean() - late.wrong[True][known].mean() > 0.015


def test_a_ramp_of_weights_under_a_drifting_error_rate_makes_no_difference_of_nothing(story: Story) -> None:
    shares, rates = (0.05, 0.25, 0.5), (0.04, 0.06, 0.09)
    ramp = Requests(errors=lambda day, _arm: rates[day // 10], weight=lambda hour: shares[hour // 240])
    verdict = verdicts(story, ramp)["accuracy"]
    assert verdict.outcome is not Outcome.FAILED
    assert abs(estimate(verdict)) < 0.005

    pooled = ramp.wrong[True][ramp.candidate].mean() - ramp.wrong[False][~ramp.candidate].mean()
    assert pooled > 0.012, "pooled without weights the same requests say that the candidate is worse"


def test_a_candidate_that_is_worse_fails_at_any_weight(story: Story) -> None:
    worse = Requests(errors=lambda _day, candidate: 0.15 if candidate else 0.05)
    verdict = verdicts(story, worse)["accuracy"]
    assert verdict.outcome is Outcome.FAILED
    assert estimate(verdict) == pytest.approx(0.10, abs=0.02)


def test_a_block_in_which_the_weight_changed_counts_for_means_and_not_for_others(story: Story) -> None:
    at_noon = Requests(errors=equal, weight=lambda hour: 0.2 if hour < 60 else 0.5, days=6)
    analysis = asking(ANALYSIS, metrics=("accuracy", "roc_auc"))
    verdicts(story, at_noon, analysis)
    with story.store.read() as tx:
        pair = {"reference": STABLE, "compared": CANDIDATE, "since": START, "mode": "split"}
        found = {
            metric: [
                b.block.day for b in tx.evidence.pair_blocks("default", "production", "delay", metric=metric, **pair)
            ]
            for metric in analysis.metrics
        }
    days = [(START + number * DAY).day for number in range(6)]
    assert found == {"accuracy": days, "roc_auc": [day for day in days if day != days[2]]}


# --- what is no comparison


def test_an_arm_whose_labels_are_missing_is_an_error(story: Story) -> None:
    unequal = Requests(errors=equal, missing=lambda candidate: 0.3 if candidate else 0.0)
    verdict = verdicts(story, unequal)["accuracy"]
    assert verdict.outcome is Outcome.ERROR
    assert "accuracy: coverage of labels differs between arms: candidate 69.92% of" in verdict.because
    assert verdict.estimate is None


def test_a_few_answers_fewer_in_one_arm_do_not_stop_a_comparison(story: Story) -> None:
    some = Requests(errors=equal, missing=lambda candidate: 0.002 if candidate else 0.0, days=10, rows=20_000)
    assert verdicts(story, some)["accuracy"].outcome is Outcome.SUCCESSFUL


def test_few_labels_in_both_arms_decide_nothing(story: Story) -> None:
    few = Requests(errors=equal, missing=lambda _candidate: 0.7)
    assert verdicts(story, few)["accuracy"].outcome is Outcome.INCONCLUSIVE
    declared = asking(ANALYSIS, coverage_min=0.2)
    with story.store.read() as tx:
        assert weigh(tx, pairing_of(declared), "accuracy", declared).outcome is Outcome.SUCCESSFUL


def test_a_router_that_draws_other_shares_than_it_logs_is_an_error_whatever_was_measured(story: Story) -> None:
    faulty = Requests(errors=equal, lot=0.02)
    verdict = verdicts(story, faulty)["accuracy"]
    assert verdict.outcome is Outcome.ERROR
    assert "sample ratio mismatch" in verdict.because


def test_without_requests_there_is_no_verdict(story: Story) -> None:
    verdict = verdicts(story, Requests(errors=equal, weight=lambda _hour: 0.0))["accuracy"]
    assert (verdict.outcome, verdict.n) == (Outcome.INCONCLUSIVE, 0)


def test_a_declared_metric_that_could_not_be_evaluated_is_an_error(story: Story) -> None:
    lost = spec.DeclaredMetric(name="lost", expression="score * colum", direction=Direction.LOWER)
    analysis = asking(PAIRED, metrics=("lost",))
    verdict = verdicts(story, Requests(errors=equal, days=6), analysis, declared=[lost])["lost"]
    assert verdict.outcome is Outcome.ERROR
    assert verdict.because == "lost: could not be measured in any of 6 blocks, though they have scores and labels"


def test_a_slice_of_a_column_the_log_does_not_have_is_an_error(story: Story) -> None:
    analysis = asking(PAIRED, slices=("orgin",))
    verdict = verdicts(story, Requests(errors=equal, days=6), analysis)["accuracy"]
    assert verdict.outcome is Outcome.ERROR
    assert "slices of orgin cannot be judged" in verdict.because


def test_a_replays_latency_is_no_evidence(story: Story) -> None:
    analysis = asking(PAIRED, metrics=("latency_p99",))
    verdict = verdicts(story, Requests(errors=equal, days=6), analysis)["latency_p99"]
    assert verdict.outcome is Outcome.ERROR
    assert "those of the machine that replays" in verdict.because


# --- what is measured


def halves(rows: Any) -> Any:
    return np.where(rows % 2 == 0, "even", "odd")


def test_each_slice_is_judged_with_its_share_of_alpha_and_the_failed_one_is_named(story: Story) -> None:
    worse = Requests(errors=equal, days=10, columns={"half": halves})
    odd = np.arange(len(worse.hour)) % 2 == 1
    worse.wrong[True] = worse.wrong[True] | (odd & (np.random.default_rng(1).random(len(odd)) < 0.2))
    analysis = asking(PAIRED, slices=("half",), margin=0.12)
    verdict = verdicts(story, worse, analysis)["accuracy"]
    assert verdict.outcome is Outcome.FAILED
    assert verdict.because.startswith("failed slice half=odd: accuracy: harm +0.1")
    assert verdict.method is not None
    assert "98.3%" in verdict.method, "alpha 5 % over all requests and two slices"


def test_metrics_of_one_step_share_its_alpha(story: Story) -> None:
    analysis = asking(PAIRED, metrics=("accuracy", "brier"))
    found = verdicts(story, Requests(errors=equal, days=6), analysis)
    assert {str(verdict.method).rpartition(" ")[2] for verdict in found.values()} == {"97.5%"}


def test_a_slice_of_few_requests_is_not_judged_and_holds_nothing_up(story: Story) -> None:
    def rare(rows: Any) -> Any:
        return np.where(rows % 50 == 0, "rare", "usual")

    small = Requests(errors=equal, days=10, columns={"kind": rare})
    verdict = verdicts(story, small, asking(PAIRED, slices=("kind",)))["accuracy"]
    assert verdict.outcome is Outcome.SUCCESSFUL
    assert "rare" not in verdict.because


def test_agreement_and_shift_of_scores_need_no_label(story: Story) -> None:
    unlabelled = Requests(
        errors=lambda _day, candidate: 0.15 if candidate else 0.05, missing=lambda _candidate: 1.0, days=8
    )
    analysis = asking(PAIRED, metrics=("agreement", "score_shift"), margin=0.02)
    found = verdicts(story, unlabelled, analysis)
    assert estimate(found["agreement"]) == pytest.approx(0.10, abs=0.01)
    assert estimate(found["score_shift"]) == pytest.approx(0.08, abs=0.01)
    assert {verdict.outcome for verdict in found.values()} == {Outcome.FAILED}


def of_distribution(story: Story, measure: Measure) -> spec.DeclaredMetric:
    """A metric that the installation has by entry point, as a document declares it."""
    metrics = {"sharpness": FakeMetric(measure)}
    story.world = dataclasses.replace(story.world, metrics=metrics)
    return spec.DeclaredMetric(name="sharp", entry_point="sharpness", direction=Direction.HIGHER)


SHARP = {
    "paired": spec.Analysis(metrics=("sharp",), margin=0.02),
    "split": spec.Analysis(metrics=("sharp",), margin=0.02, mode=SPLIT),
}


@pytest.mark.parametrize("analysis", SHARP.values(), ids=SHARP)
def test_a_metric_of_an_installed_distribution_is_measured_block_by_block(
    story: Story, analysis: spec.Analysis
) -> None:
    declared = of_distribution(story, lambda scores, labels: np.mean((scores > 0.5) == (labels == 1)))
    worse = Requests(errors=lambda _day, candidate: 0.15 if candidate else 0.05, weight=lambda _hour: 0.3, days=12)
    verdict = verdicts(story, worse, analysis, declared=[declared])["sharp"]
    assert verdict.outcome is Outcome.FAILED
    assert estimate(verdict) == pytest.approx(0.10, abs=0.02)


@pytest.mark.parametrize("analysis", SHARP.values(), ids=SHARP)
def test_what_an_installed_metric_raises_is_an_error_that_tells_it(story: Story, analysis: spec.Analysis) -> None:
    def raises(_scores: Any, _labels: Any) -> float:
        raise ZeroDivisionError("no weight at all")

    declared = of_distribution(story, raises)
    found = verdicts(story, Requests(errors=equal, days=6), analysis, declared=[declared])["sharp"]
    assert found.outcome is Outcome.ERROR
    assert found.because == ("sharp: it raised in 6 blocks, first 2013-03-02: ZeroDivisionError: no weight at all")
    assert found.estimate is None


def test_an_infinite_number_and_writing_to_the_arrays_are_errors_and_nan_is_no_evidence(story: Story) -> None:
    def writes(scores: Any, _labels: Any) -> float:
        scores[0] = 1.0
        return 0.0

    said = {}
    for name, measure in {
        "infinite": lambda _s, _l: math.inf,
        "writes": writes,
        "nan": lambda _s, _l: math.nan,
    }.items():
        declared = of_distribution(story, measure)
        requests = Requests(errors=equal, days=2)
        rows = requests.paired(SCOPE, Span(START, START + DAY), BOTH, as_of=START + 90 * DAY)
        (one,) = compare_pairs(rows, (), {"sharp": declared.direction}, {"sharp": measure})
        said[name] = (one.raised.get("sharp"), one.contrasts)
    assert said == {
        "infinite": ("ValueError: it is infinite", {}),
        "writes": ("ValueError: assignment destination is read-only", {}),
        "nan": (None, {}),
    }


def test_a_metric_that_is_installed_no_more_is_an_error(story: Story) -> None:
    gone = spec.DeclaredMetric(name="sharp", entry_point="sharpness", direction=Direction.HIGHER)
    found = verdicts(story, Requests(errors=equal, days=6), SHARP["paired"], declared=[gone])["sharp"]
    assert found.outcome is Outcome.ERROR
    assert "MetricError: no metric 'sharpness' is installed here any more" in found.because


@pytest.mark.parametrize("analysis", [PAIRED, ANALYSIS], ids=["paired", "split"])
def test_precision_recall_and_f1_are_judged_by_the_sums_of_all_blocks(story: Story, analysis: spec.Analysis) -> None:
    """In a split whose weight changes too, while the error rate drifts: what is summed up stands for all requests."""
    ramp = Requests(
        errors=lambda day, candidate: (0.09 if candidate else 0.05) + (0.0 if day < 10 else 0.1),
        weight=lambda hour: 0.1 if hour < 240 else 0.5,
        days=20,
    )
    asked = asking(analysis, metrics=("precision", "recall", "f1"))
    found = verdicts(story, ramp, asked)
    for metric, verdict in found.items():
        ours, theirs = (
            evaluate(metric, np.where(ramp.truth != wrong, 0.9, 0.1), ramp.truth)
            for wrong in (ramp.wrong[True], ramp.wrong[False])
        )
        assert estimate(verdict) == pytest.approx(theirs - ours, abs=0.015 if analysis is ANALYSIS else 0.001), metric
        assert verdict.method == f"student mixture sequence over sums, each bound {1 - 0.05 / 3:.1%}", metric


def test_blocks_that_an_older_steersman_kept_without_sums_are_judged_by_their_days(story: Story) -> None:
    asked = asking(PAIRED, metrics=("precision",))
    verdicts(story, Requests(errors=equal, days=8), asked)
    with story.store.write() as tx:
        first = (tables.pair_block.c.block == START.isoformat(),)
        tx._connection.execute(sa.update(tables.pair_block).where(*first).values(numerator_compared=None))
    with story.store.read() as tx:
        verdict = weigh(tx, pairing_of(asked), "precision", asked)
        blocks = blocks_of(tx, pairing_of(asked), "precision")
    assert verdict.method == "student mixture sequence, each bound 95.0%"
    assert estimate(verdict) == pytest.approx(np.mean([block.harm for block in blocks]))


def test_few_requests_are_judged_where_the_document_says_so_and_the_metric_has_a_range(story: Story) -> None:
    few = Requests(errors=lambda _day, _candidate: 0.0, days=1, rows=400)
    analysis = asking(PAIRED, unit=spec.EvidenceUnit.ROW, rows_min=100, metrics=("accuracy", "log_loss"))
    found = verdicts(story, few, analysis)
    assert found["accuracy"].outcome is Outcome.SUCCESSFUL
    assert found["accuracy"].method == "empirical-Bernstein sequence over requests, each bound 98.8%"
    assert found["log_loss"].outcome is Outcome.ERROR
    assert "leave rowsMin out" in found["log_loss"].because


def test_in_a_split_few_requests_are_an_error_for_they_are_weighted(story: Story, tmp_path: Path) -> None:
    few = Requests(errors=equal, days=1, rows=400, weight=lambda _hour: 0.5)
    analysis = asking(ANALYSIS, unit=spec.EvidenceUnit.ROW, rows_min=100)
    assert verdicts(story, few, analysis)["accuracy"].outcome is Outcome.ERROR


@pytest.mark.parametrize(("direction", "sign"), [(Direction.LOWER, -1), (Direction.HIGHER, 1)])
def test_a_declared_metric_has_the_direction_that_was_declared(story: Story, direction: Direction, sign: int) -> None:
    worse = Requests(errors=lambda _day, candidate: 0.15 if candidate else 0.05, days=8)
    worse.truth[:] = 1.0
    doubled = spec.DeclaredMetric(name="doubled", expression="2 * score", direction=direction)
    analysis = asking(PAIRED, metrics=("doubled",))
    verdict = verdicts(story, worse, analysis, declared=[doubled])["doubled"]
    assert estimate(verdict) == pytest.approx(sign * 0.16, abs=0.02)


def test_rows_are_evidence_where_the_document_says_so(story: Story) -> None:
    analysis = asking(PAIRED, unit=spec.EvidenceUnit.ROW, rows_min=1000)
    verdict = verdicts(story, Requests(errors=equal, days=2), analysis)["accuracy"]
    assert (verdict.outcome, verdict.n, verdict.n_unit) == (Outcome.SUCCESSFUL, 4000, "requests")


# --- what can be argued with


def test_a_verdict_names_its_rows_and_its_code(story: Story, tmp_path: Path) -> None:
    first = verdicts(story, Requests(errors=equal, days=6), PAIRED)["accuracy"]
    again = verdicts(Story.begin(tmp_path / "again"), Requests(errors=equal, days=6), PAIRED)["accuracy"]
    assert (first.data, first.code) == (again.data, again.code)
    assert str(first.data).startswith("sha256:")
    assert str(first.code).startswith("steersman ")

    other = Requests(errors=equal, days=6)
    other.truth[3] = 1.0 - other.truth[3]
    changed = verdicts(Story.begin(tmp_path / "other"), other, PAIRED)["accuracy"]
    assert changed.data != first.data


def test_a_label_that_is_corrected_later_changes_no_evidence(story: Story) -> None:
    requests = Requests(errors=equal, days=6)
    verdicts(story, requests, PAIRED)
    before = kept(story)
    requests.truth[:] = 1.0 - requests.truth
    story.clock.move(story.clock.now() + DAY)
    observe_pairing(story.world, pairing_of(PAIRED), horizon=HORIZON)
    assert (len(before), kept(story)) == (6, before)


def kept(story: Story) -> list[PairBlock]:
    with story.store.read() as tx:
        return tx.evidence.pair_blocks(
            "default", "production", "delay", reference=STABLE, compared=CANDIDATE, metric="accuracy", since=START
        )


def asking(analysis: spec.Analysis, **changes: Any) -> spec.Analysis:
    return msgspec.structs.replace(analysis, **changes)
