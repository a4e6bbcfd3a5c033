"""What a list of models says of each release that is not over, or did not make it: whose look it wants, and why."""

from typing import Any

import pytest

from steersman.cli import reports
from steersman.decide.explaining import WANTS_A_LOOK, Reason
from steersman.domain.release import NOT_MADE
from steersman.loop.world import Documents
from steersman.server import answers
from steersman.store.database import Store
from steersman.testing.sample import Sample, build_sample
from steersman.testing.sample_hub import CASES, Case


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return build_sample(Store.at(tmp_path_factory.mktemp("sample")))


def line(sample: Sample, name: str) -> dict[str, Any]:
    documents = Documents()
    with sample.store.read() as tx:
        return answers.model_line(tx, documents, documents.model(tx, "hub", name), now=sample.now)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_release_that_stands_somewhere_is_told_once_with_its_reason(sample: Sample, case: Case) -> None:
    there = line(sample, case.name)["environments"]["production"]
    told = [*filter(None, [there["look_at"]]), *there["under_way"]]
    assert len({one["id"] for one in told}) == len(told)
    with sample.store.read() as tx:
        newest = tx.releases("hub", case.name, "production")[-1]
    assert newest.id in {one["id"] for one in told}
    if there["look_at"] is not None:
        reason, state = there["look_at"]["standing"]["reason"], there["look_at"]["state"]
        assert state in ("Paused", *NOT_MADE) or Reason(reason) in WANTS_A_LOOK
    for one in there["under_way"]:
        assert Reason(one["standing"]["reason"]) not in WANTS_A_LOOK


def test_what_may_never_come_by_itself_wants_a_look_before_its_time_is_over(sample: Sample) -> None:
    said = reports.models([line(sample, name) for name in ("security-wait", "runway-queue")])
    assert "hub/security-wait in production: release 2 of version 2 is Progressing and wants a look" in said
    assert "reason   split not as asked" in said
    assert "hub/runway-queue in production" not in said
