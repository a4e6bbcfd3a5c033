"""What `steersman plan MODEL --version N` foretells, over the sample's year."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from steersman.cli import reports
from steersman.domain.errors import NotFound
from steersman.loop.world import Documents
from steersman.ports import RunningReplica
from steersman.server.planning import plan
from steersman.store.database import Store
from steersman.testing.sample import BEGINS, Sample, build_sample


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return build_sample(Store.at(tmp_path_factory.mktemp("sample")))


def planned(
    sample: Sample, model: str = "flight-delay", version: int = 11, replicas: Sequence[RunningReplica] = ()
) -> dict[str, Any]:
    documents = Documents()
    workspace = {"baggage-load": "ground", "runway-queue": "hub", "ramp-staff": "hub", "late-passenger": "hub"}.get(
        model, "ops"
    )
    with sample.store.read() as tx:
        document = documents.model(tx, workspace, model)
        return plan(
            tx, documents, document, version=version, environment="production", now=sample.now, replicas=replicas
        )


def replica(ready_after_s: float | None) -> RunningReplica:
    return RunningReplica(
        id="r", workspace="ops", environment="production", model="flight-delay", digest="sha256:1", address="", ready=True,
        pid=1, ready_after_s=ready_after_s,
    )  # fmt: skip


def test_it_names_traffic_labels_and_the_windows_they_rest_on(sample: Sample) -> None:
    told = planned(sample)["traffic"]
    assert (told["windows"], told["windows_matured"], told["window_s"]) == (14, 14, 86_400.0)
    assert told["rows_between"][0] <= told["rows_a_window"] <= told["rows_between"][1]
    assert 0.98 < told["coverage"] < 1.0


def test_it_forecasts_each_judged_step_from_the_evidence_of_releases_before(sample: Sample) -> None:
    analysis, bake = planned(sample)["evidence"]
    assert (analysis["step"], bake["step"]) == ("analysis of roc_auc", "bake 14d")
    assert analysis["unknown"] is None
    assert analysis["spread"]["source"].startswith("blocks of release ")
    assert 0.5 < analysis["promoted_harmless"]["value"] <= 1.0
    assert 0.5 < analysis["caught_harmful"]["value"] <= 1.0
    assert planned(sample)["duration"]["to_promotion_s"] > timedelta(days=5).total_seconds()


def test_a_split_is_forecast_from_the_splits_before_at_the_share_it_will_have(sample: Sample) -> None:
    (analysis,) = planned(sample, "runway-queue", version=2)["evidence"]
    assert (analysis["unknown"], analysis["spread"]["source"]) == (None, "split blocks of release 2")
    assert 0.0 < analysis["promoted_harmless"]["value"] <= 1.0
    assert planned(sample, "runway-queue", version=2)["duration"]["to_promotion_s"] is not None


def test_metrics_and_slices_share_alpha_in_the_forecast_as_in_the_verdict(sample: Sample) -> None:
    analysis, bake = planned(sample, "late-passenger", version=2)["evidence"]
    assert (analysis["parts"], analysis["alpha"]) == (4, 0.05 / 4)  # all requests, and three terminals
    assert (bake["parts"], bake["alpha"]) == (1, 0.05)
    told = reports.plan(msgspec.json.decode(msgspec.json.encode(planned(sample, "late-passenger", version=2))))
    assert "3, judged beside the whole; each bound may be wrong with 1.25%" in told


def test_the_environment_before_is_named_with_whether_the_version_has_been_through_it(sample: Sample) -> None:
    proved, unproved = (planned(sample, "missed-connection", version=n) for n in (2, 1))
    assert (proved["after"]["environment"], proved["after"]["proved_by"]) == ("staging", 1)
    assert unproved["after"]["proved_by"] is None
    assert planned(sample)["after"] is None
    said = [reports.plan(msgspec.json.decode(msgspec.json.encode(found))) for found in (proved, unproved)]
    assert "after      staging: stood its bake there with release 1" in said[0]
    assert "a release would be refused" in said[1]
    assert "next: steersman release ops/missed-connection 1 --environment staging" in said[1]
    assert "--environment staging" not in said[0]


def test_an_error_budget_that_would_hold_the_release_is_told_as_last_read(sample: Sample) -> None:
    found = planned(sample, "ramp-staff", version=2)
    [budget] = found["budgets"]
    assert (budget["objective"], budget["period_s"], budget["outcome"]) == ("99.9%", 30 * 86_400.0, "failed")
    said = reports.plan(msgspec.json.decode(msgspec.json.encode(found)))
    assert "99.9% over 30 d: 191 errors of 139200 requests in 30 d, 139.2 allowed, read 2013-12-11" in said
    assert "; a release would wait" in said
    found["budgets"] = [budget | {"read_at": None, "outcome": None, "because": None}]
    assert "99.9% over 30 d: never read; it is once a release is open" in reports.plan(found)
    assert planned(sample)["budgets"] == []
    assert "error budget" not in reports.plan(msgspec.json.decode(msgspec.json.encode(planned(sample))))


def test_it_says_what_the_new_version_and_the_document_change(sample: Sample) -> None:
    changed = {change["what"] for change in planned(sample)["changes"]}
    assert {"digest", "size_bytes", "trained_until"} <= changed


def test_a_metric_nobody_compared_is_unknown_with_its_reason(sample: Sample) -> None:
    found = planned(sample, "missed-connection", version=2)
    (analysis,) = found["evidence"]
    assert analysis["unknown"] == "no comparison in this metric has been measured yet"
    assert analysis["promoted_harmless"] is None
    assert found["approvals_required"] == 1
    assert "no comparison in this metric" in found["duration"]["unknown"]


def test_the_first_version_has_nothing_to_be_compared_with(sample: Sample) -> None:
    with pytest.raises(NotFound, match="declares no environment"):
        planned(sample, "baggage-load", version=1)
    early = build_sample(Store("sqlite:///:memory:"), until=BEGINS)
    found = planned(early, version=1)
    assert (found["first"], found["evidence"], found["duration"]) == (True, [], None)
    assert found["traffic"]["unknown"] == "no window of traffic was measured yet"
    assert "nothing answers yet that it could be compared with" in reports.plan(found)


def test_a_cold_rollback_takes_what_the_slowest_running_worker_took_and_is_unknown_without_one(sample: Sample) -> None:
    assert planned(sample, replicas=[replica(1.21), replica(2.24)])["rollback"] == {
        "possible": True, "warm": True, "cold_start_s": 2.3, "replicas_measured": 2,
    }  # fmt: skip
    assert planned(sample, replicas=[replica(None)])["rollback"]["cold_start_s"] is None


def test_the_plan_is_told_in_lines_that_say_unknown_where_it_is(sample: Sample) -> None:
    said = reports.plan(msgspec.json.decode(msgspec.json.encode(planned(sample, replicas=[replica(1.21)]))))
    assert "rollback   warm until the next promotion: within 3 s; cold: 1.3 s from start to ready" in said
    assert "analysis of roc_auc: roc_auc, margin 0.02" in said
    assert "evidence needed    at least 5 days" in said
    assert "of the step (" in said
    assert "expected time: promoted after" in said
    unknown = reports.plan(msgspec.json.decode(msgspec.json.encode(planned(sample, "missed-connection", version=2))))
    assert "unknown: no comparison in this metric has been measured yet" in unknown
