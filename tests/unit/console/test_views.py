"""What the views make of the records, against the sample's year."""

import pytest

from steersman.console import judgements, views
from steersman.domain.access import Access, Grant, Kind, Principal, Role
from steersman.loop.world import Documents
from steersman.store.database import Store
from steersman.testing.sample import Sample, build_sample

READER = Access(principal=Principal(issuer="test", subject="ada", kind=Kind.HUMAN), grants=(Grant(role=Role.VIEWER),))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return build_sample(Store.at(tmp_path_factory.mktemp("sample")))


def model(sample: Sample, name: str = "flight-delay", environment: str = "") -> views.ModelTimeline:
    with sample.store.read() as tx:
        return views.model_timeline(tx, READER, Documents(), "ops", name, now=sample.now, environment=environment)


def release(sample: Sample, number: int) -> views.ReleasePage:
    with sample.store.read() as tx:
        found = tx.releases("ops", "flight-delay", "production")[number - 1]
        return views.release_page(tx, READER, Documents(), found.id, now=sample.now)


def test_the_time_axis_names_every_live_version_in_turn(sample: Sample) -> None:
    assert [span.version for span in model(sample).spans] == [1, 2, 4, 6, 8, 6, 9, 10]


def test_each_span_ends_where_the_next_begins_and_the_last_is_open(sample: Sample) -> None:
    spans = model(sample).spans
    assert [span.until for span in spans] == [*(span.since for span in spans[1:]), None]


def test_every_window_is_that_of_the_version_live_in_it(sample: Sample) -> None:
    view = model(sample)
    assert view.series is not None
    for point in view.series.points:
        middle = point.start + (point.end - point.start) / 2
        span = next(s for s in view.spans if s.since <= middle and (s.until is None or middle < s.until))
        assert span.version == point.version


def test_the_line_is_the_mean_of_the_last_seven_windows_weighted_by_labels(sample: Sample) -> None:
    view = model(sample)
    assert view.series is not None
    last = view.series.points[-7:]
    assert last[-1].n_mean == sum(point.n for point in last)
    assert last[-1].mean == pytest.approx(sum(p.value * p.n for p in last) / sum(p.n for p in last))


def test_a_model_is_shown_in_production_unless_another_environment_is_asked_for(sample: Sample) -> None:
    assert model(sample, "missed-connection").environment == "production"
    assert model(sample, "missed-connection", "staging").environment == "staging"
    assert model(sample, "missed-connection", "nowhere").environment == "production"
    assert model(sample, "missed-connection").environments == ("staging", "production")


@pytest.mark.parametrize(
    ("number", "states"),
    [
        (1, "done skipped skipped done skipped done done done"),
        (2, "done done done done done done done done"),
        (3, "failed skipped skipped skipped skipped skipped skipped skipped"),
        (5, "done done done failed skipped skipped skipped skipped"),
        (7, "done done failed skipped skipped skipped skipped skipped"),
        (9, "done done"),
        (12, "done done current ahead ahead ahead ahead ahead"),
    ],
)
def test_steps_tell_what_became_of_them(sample: Sample, number: int, states: str) -> None:
    assert [step.state for step in release(sample, number).steps] == states.split()


def test_the_shadow_and_the_bake_are_evidence_of_their_own(sample: Sample) -> None:
    page = release(sample, 2)
    assert [(evidence.part, evidence.outcome) for evidence in page.evidence] == [
        ("analysis", "successful"),
        ("bake", "successful"),
    ]
    shadow, bake = page.evidence
    assert page.release.promoted_at is not None
    assert shadow.looks[-1].at < page.release.promoted_at < bake.looks[-1].at


def test_the_last_look_is_the_verdict_that_was_kept(sample: Sample) -> None:
    page = release(sample, 7)
    kept, last = page.analyses[-1], page.evidence[0].looks[-1]
    assert kept.outcome == "failed"
    assert (last.estimate, last.lower, last.upper) == pytest.approx((kept.estimate, kept.lower, kept.upper), rel=1e-4)


def hub(sample: Sample, model: str) -> views.ReleasePage:
    with sample.store.read() as tx:
        found = tx.releases("hub", model, "production")[1]
        return views.release_page(tx, READER, Documents(), found.id, now=sample.now)


def test_a_step_under_way_shows_the_verdict_it_would_be_judged_by_and_not_only_its_harm(sample: Sample) -> None:
    (doubted,) = hub(sample, "security-wait").evidence
    assert doubted.outcome == "error"
    assert "sample ratio mismatch" in doubted.because
    assert "lies below the margin" in judgements.interval(doubted).finding  # what was measured is shown all the same
    (unlabelled,) = hub(sample, "meal-count").evidence
    assert "coverage of labels" in unlabelled.because


def test_what_happens_if_undecided_is_said_until_the_step_is_over(sample: Sample) -> None:
    assert hub(sample, "runway-queue").evidence[0].otherwise
    assert not hub(sample, "turnaround").evidence[0].otherwise


def test_a_bake_cut_short_by_the_next_release_is_told_from_one_that_stood(sample: Sample) -> None:
    bakes = {number: release(sample, number).steps[-1].state for number in (2, 4, 6)}
    with sample.store.read() as tx:
        verified = {r.number: r.verified_at is not None for r in tx.releases("ops", "flight-delay", "production")}
    assert {n: "done" if verified[n] else "skipped" for n in bakes} == bakes


def test_the_finding_of_a_chart_says_where_the_interval_lies(sample: Sample) -> None:
    assert "lies below the margin of 0.02" in judgements.interval(release(sample, 2).evidence[0]).finding
    assert "lies above the margin of 0.02" in judgements.interval(release(sample, 7).evidence[0]).finding
    assert "straddles the margin of 0.02" in judgements.interval(release(sample, 12).evidence[0]).finding


def test_a_chart_of_one_block_says_that_nothing_can_be_said_yet(sample: Sample) -> None:
    evidence = release(sample, 2).evidence[0]
    from dataclasses import replace

    chart = judgements.interval(replace(evidence, looks=evidence.looks[:1]))
    assert chart.finding == "1 block so far, at least 5 are needed before anything can be said."


def test_an_incident_is_told_from_its_finding_to_the_proof_that_it_is_over(sample: Sample) -> None:
    with sample.store.read() as tx:
        first = tx.incidents("ops", "flight-delay")[0]
        page = views.incident_page(tx, READER, Documents(), first.id)
    assert [entry.action for entry in page.entries] == [
        "incident.opened",
        "incident.triaged",
        "incident.recovered",
        "incident.closed",
    ]
    assert page.recovery == "successful"
    assert page.evidence is not None
    assert page.evidence.outcome == "successful"
    assert not page.may_accept


def test_a_measure_without_cases_is_a_dash_and_not_a_zero() -> None:
    store = Store("sqlite:///:memory:")
    from datetime import UTC, datetime

    with store.read() as tx:
        view = views.fleet(tx, READER, Documents(), now=datetime(2026, 1, 1, tzinfo=UTC))
    assert [measure.value for measure in view.measures][:3] == ["–", "–", "–"]


def test_the_sample_is_the_same_year_again() -> None:
    stories = []
    for _ in range(2):
        store = Store("sqlite:///:memory:")
        build_sample(store)
        with store.read() as tx:
            stories.append(
                [(r.number, r.completion, r.promoted_at, r.because) for r in tx.releases("ops", "flight-delay")]
            )
    assert stories[0] == stories[1]
